"""G-RMI: Faster R-CNN on an Inception-ResNet, whose blocks look at several sizes at once.

Huang et al. 2017 (the detector), Szegedy et al. 2017 (Inception-ResNet-v2, figures 10 and 16); slide T16. A ResNet
block is one path of convolutions beside the shortcut. An Inception-ResNet block has three, which see 1x1, 3x3 and 5x5
pixels of the map. A 1x1 convolution without activation joins them, and a small factor scales the sum; without it the
authors' widest networks died early in training:

    y = relu(x + 0.2 join([1x1,  1x1 -> 3x3,  1x1 -> 3x3 -> 3x3]))

A reduction between two stages also has parallel branches: pooling, a 3x3 convolution of the stride, and 3x3 -> 3x3.
RoIs are cropped by "crop and resize": 14 x 14 bilinear samples, then the largest of each 2 x 2.

Simplified: one kind of block instead of three, small channels, two fully connected layers as the head instead of the
body's last stage, and a single model instead of an ensemble.
"""

import dataclasses

from minimask import functional as F
from minimask import nn
from minimask.backbone import ResNet, conv_norm, make_norm
from minimask.convolution import max_pool2d
from minimask.mask_rcnn import MaskRCNN
from minimask.presets import PRESETS
from minimask.roi_align import roi_align
from minimask.run.settings import Settings, setting


class ConvNorm(nn.Module):
    """A convolution, its normalization, and ReLU; the map keeps its size if the stride is 1."""

    def __init__(self, in_channels, channels, size, norm, stride=1, dilation=1):
        padding = dilation * (size // 2)
        self.conv = nn.Conv2d(in_channels, channels, size, stride, padding, dilation, bias=False)
        self.norm = make_norm(norm, channels, relu=True)

    def forward(self, x):
        return conv_norm(self.conv, self.norm, x)


class Block(nn.Module):
    """y = relu(x + scale join(branches(x))), each (N, H, W, channels)."""

    def __init__(self, channels, norm, dilation, scale):
        width = max(channels // 4, 1)
        first = [ConvNorm(channels, width, 1, norm) for _ in range(3)]
        middle = ConvNorm(width, width, 3, norm, dilation=dilation)
        self.branches = nn.ModuleList(
            [
                first[0],
                nn.Sequential(first[1], ConvNorm(width, width, 3, norm, dilation=dilation)),
                nn.Sequential(first[2], middle, ConvNorm(width, 2 * width, 3, norm, dilation=dilation)),
            ]
        )
        self.join = nn.Conv2d(4 * width, channels, 1)
        self.scale = scale

    def forward(self, x):
        y = self.join(F.concatenate([branch(x) for branch in self.branches], axis=3))
        return F.relu(x + y * self.scale)


class Reduction(nn.Module):
    """From one stage to the next: another number of channels and, with stride 2, half the size."""

    def __init__(self, in_channels, channels, norm, stride):
        quarter = max(channels // 4, 1)
        self.pooled = ConvNorm(in_channels, channels - 2 * quarter, 1, norm)
        self.short = ConvNorm(in_channels, quarter, 3, norm, stride)
        narrow = ConvNorm(in_channels, quarter, 1, norm)
        self.long = nn.Sequential(
            narrow, ConvNorm(quarter, quarter, 3, norm), ConvNorm(quarter, quarter, 3, norm, stride)
        )
        self.stride = stride

    def forward(self, x):
        pooled = self.pooled(max_pool2d(x, 3, self.stride, padding=1))
        return F.concatenate([pooled, self.short(x), self.long(x)], axis=3)


class InceptionResNet(ResNet):
    """Images (N, H, W, 3) -> [C2, C3, C4, C5] as a ResNet has them; arguments as there, scale: see `Block`."""

    def __init__(self, channels, layers=(1, 2, 2, 1), norm="batch", stem="fine", dilate_c5=False, scale=0.2):
        size, padding = (7, 3) if stem == "large" else (3, 1)
        self.stem = stem
        self.conv1 = nn.Conv2d(3, channels[0], size, stride=2, padding=padding, bias=False)
        self.bn1 = make_norm(norm, channels[0], relu=True)
        width, total = channels[0], 4 if stem == "large" else 2
        self.out_channels, self.strides = [], []
        for i in range(4):
            stride = 1 if i == 0 and stem != "small" else 2
            stride, dilation = (1, 2) if i == 3 and dilate_c5 else (stride, 1)
            blocks = [Block(channels[i], norm, dilation, scale) for _ in range(layers[i])]
            setattr(self, f"layer{i + 1}", nn.Sequential(Reduction(width, channels[i], norm, stride), *blocks))
            width, total = channels[i], total * stride
            self.out_channels.append(width)
            self.strides.append(total)


def crop_and_resize(features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=True):
    """2 size x 2 size bilinear samples, and the largest of each 2 x 2: arguments as in `roi_align`."""
    return roi_align(features, boxes, image_index, levels, scales, size, 2, aligned, pooling="max")


@dataclasses.dataclass(frozen=True, repr=False)
class GRMISettings(Settings):
    """G-RMI's own settings."""

    owner = "system."
    layers: tuple[int, int, int, int] = setting((1, 2, 2, 1), "blocks in the four stages", least=0, most=100)
    scale: float = setting(0.2, "what the branches of a block are multiplied by", above=0)


class GRMI(MaskRCNN):
    """Faster R-CNN with an Inception-ResNet; backbone.name and the layers of the backbone have no effect."""

    Settings = GRMISettings
    groups = ("backbone", "rpn", "roi", "heads", "detection", "transform", "conventions")
    preset = {**PRESETS["toy_faster_rcnn_c5"], "roi": PRESETS["toy"]["roi"]}

    def __init__(self, num_classes, system=None, **groups):
        self.system = GRMISettings.of(system)
        super().__init__(num_classes, **groups)
        self.roi = dataclasses.replace(self.roi, pooling=crop_and_resize)

    def _body(self, settings, stages):
        of_body = settings.channels, self.system.layers, settings.norm, settings.stem
        return InceptionResNet(*of_body, dilate_c5=True, scale=self.system.scale)
