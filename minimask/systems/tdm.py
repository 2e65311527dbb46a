"""TDM, top-down modulation: coarse maps tell fine ones what they show, and one fine map is read.

Shrivastava et al. 2016 ("Beyond Skip Connections"), section 3; slide T16. A feature pyramid adds a 1x1 convolution of
each level to the enlarged map above it, and all levels are read. TDM learns how to join the two, and one level is read:

    lateral     L = relu(3x3 convolution of C4)          what the body saw at this level
    top-down    T = relu(3x3 convolution of [enlarged T of the level above, L])
                the same with C3, ...; the RPN and the heads read the last T after a 1x1 convolution

Simplified: Faster R-CNN with masks on our ResNet. The map that is read has stride 4 on small scenes (the "fine" stem).
"""

from dataclasses import dataclass

from minimask import functional as F
from minimask import image, nn
from minimask.backbone import resnet
from minimask.mask_rcnn import MaskRCNN
from minimask.presets import PRESETS
from minimask.run.settings import Settings, setting


@dataclass(frozen=True, repr=False)
class TDMSettings(Settings):
    """TDM's own settings."""

    owner = "system."
    level: int = setting(3, "the level that is read, 2 to 4 for C2 to C4", least=2, most=4)
    lateral_channels: int = setting(64, "channels of each lateral convolution", least=1, most=2048)
    channels: int = setting(64, "channels of the top-down maps and of the map that is read", least=1, most=2048)


class TopDown(nn.Module):
    """[C_level, ..., C5] -> the map at the stride of the first, a Tensor (N, H, W, channels).

    in_channels: of the levels, from fine to coarse.
    """

    def __init__(self, in_channels, lateral_channels, channels):
        *finer, coarsest = in_channels
        self.top = nn.Conv2d(coarsest, channels, 3, padding=1, relu=True)
        self.lateral = nn.ModuleList([nn.Conv2d(c, lateral_channels, 3, padding=1, relu=True) for c in finer])
        both = channels + lateral_channels
        self.join = nn.ModuleList([nn.Conv2d(both, channels, 3, padding=1, relu=True) for _ in finer])
        self.out = nn.Conv2d(channels, channels, 1, relu=True)

    def forward(self, levels):
        x = self.top(levels[-1])
        for i in reversed(range(len(levels) - 1)):
            enlarged = image.resize_nearest(x, levels[i].shape[1:3])
            x = self.join[i](F.concatenate([enlarged, self.lateral[i](levels[i])], axis=3))
        return self.out(x)


class TDM(MaskRCNN):
    """Mask R-CNN that reads one map, made by top-down modulation."""

    Settings = TDMSettings
    groups = ("backbone", "rpn", "roi", "heads", "detection", "transform", "conventions")
    preset = PRESETS["toy_c5"]  # one map, without the pyramid of fpn.py

    def __init__(self, num_classes, system=None, **groups):
        self.system = TDMSettings.of(system)
        super().__init__(num_classes, **groups)

    def _add_backbone(self, settings):
        """Add body and TDM; returns the channels of the map that the RPN and the heads read."""
        body = resnet(stride_in_1x1=self.conventions["stride_in_1x1"], **settings.body())  # C5 is not dilated
        first = self.system.level - 2
        self.backbone = nn.Module()
        self.backbone.body = body
        self.backbone.tdm = TopDown(body.out_channels[first:], self.system.lateral_channels, self.system.channels)
        self.roi_strides = body.strides[first : first + 1]
        return self.system.channels

    def features(self, images):
        """Images, a Tensor (N, H, W, 3) -> the one map that the RPN and the heads read, in a list."""
        return [self.backbone.tdm(self.backbone.body(images)[self.system.level - 2 :])]
