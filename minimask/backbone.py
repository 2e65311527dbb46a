"""ResNet and ResNeXt: the deep network whose feature maps C2..C5 everything else reads (slides T13, L09).

He et al. 2016 (ResNet), Xie et al. 2017 (ResNeXt). Parameter names are torchvision's (`conv1`, `layer1.0.conv2`, ...).
Level Ck has stride 2^k: one of its pixels stands for 2^k x 2^k pixels of the image.
"""

from minimask import nn
from minimask.convolution import conv2d, max_pool2d

# name: (block, blocks per stage, groups, channels per group)
RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64),
    "resnet34": ("basic", (3, 4, 6, 3), 1, 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64),
    "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 32, 8),
}


def make_norm(kind, channels, relu=False):
    """A normalization layer. kind: "batch", "frozen" (batch norm with constant statistics) or "group"."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, relu=relu)
    if kind == "frozen":
        return nn.FrozenBatchNorm2d(channels, relu=relu)
    if kind == "group":
        return nn.GroupNorm(channels, groups=min(8, channels), relu=relu)
    raise ValueError(f'norm must be "batch", "frozen" or "group", got {kind!r}')


def conv_norm(conv, norm, x, residual=None):
    """norm(conv(x)) + residual, then the norm's ReLU, if it has one.

    If the norm's statistics are constants, normalizing is a scale and a shift of each output channel. Both move into
    the convolution, conv(x, w) scale + shift = conv(x, w scale) + shift, and everything is one pass over memory.
    """
    if isinstance(norm, nn.GroupNorm) or (isinstance(norm, nn.BatchNorm2d) and norm.training):
        return norm(conv(x), residual=residual)
    scale, shift = norm.scale_and_shift()
    return conv2d(x, conv.weight * scale, shift, residual=residual, relu=norm.relu, **conv.settings)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels, channels, stride, norm, dilation=1, **_):
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = make_norm(norm, channels, relu=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = make_norm(norm, channels, relu=True)
        add_shortcut(self, in_channels, channels, stride, norm)

    def forward(self, x):
        y = conv_norm(self.conv1, self.bn1, x)
        return conv_norm(self.conv2, self.bn2, y, residual=shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1 to fewer channels, 3x3 (in groups: ResNeXt), 1x1 back to four times as many, and a shortcut.

    The stride is in the 3x3 convolution (torchvision) or, with `stride_in_1x1`, in the first 1x1 (the paper).
    """

    expansion = 4

    def __init__(self, in_channels, channels, stride, norm, dilation=1, groups=1, group_width=64, stride_in_1x1=False):
        width = channels * group_width // 64 * groups
        out = channels * self.expansion
        stride1, stride3 = (stride, 1) if stride_in_1x1 else (1, stride)

        self.conv1 = nn.Conv2d(in_channels, width, 1, stride1, bias=False)
        self.bn1 = make_norm(norm, width, relu=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride3, dilation, dilation, groups, bias=False)
        self.bn2 = make_norm(norm, width, relu=True)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = make_norm(norm, out, relu=True)
        add_shortcut(self, in_channels, out, stride, norm)

    def forward(self, x):
        y = conv_norm(self.conv1, self.bn1, x)
        y = conv_norm(self.conv2, self.bn2, y)
        return conv_norm(self.conv3, self.bn3, y, residual=shortcut(self, x))


def add_shortcut(block, in_channels, out_channels, stride, norm):
    """Give a block whose output differs from its input in shape a projection, `downsample.{0,1}`."""
    if stride != 1 or in_channels != out_channels:
        conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        block.downsample = nn.Sequential(conv, make_norm(norm, out_channels))


def shortcut(block, x):
    """What a block adds to its result: its input, projected if it has a projection."""
    return conv_norm(block.downsample[0], block.downsample[1], x) if hasattr(block, "downsample") else x


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Images (N, H, W, 3) -> [C2, C3, C4, C5], each (N, H / stride, W / stride, channels).

    block: "basic" or "bottleneck".
    layers: blocks per stage.
    channels: of the four stages, before a bottleneck multiplies them by 4.
    stem: "large" is the published one, a 7x7 convolution and a 3x3 max pooling, both of stride 2: the levels have
        strides 4, 8, 16, 32. "small" is a 3x3 convolution of stride 2, and stage 1 halves the map once more: the same
        strides for half the work, for small images. "fine" is "small" without that: strides 2, 4, 8, 16, which keep
        the outlines of small objects.
    norm: "batch", "frozen" or "group".  norm_eps: what the normalization adds to variances.
    groups, group_width, stride_in_1x1: see `Bottleneck`.
    dilate_c5: keep C5 at the stride of C4 and dilate its 3x3 convolutions instead.
    stages: 4, or 3 for a model that pools its RoIs from C4.

    `out_channels` and `strides` have one number per level.
    """

    def __init__(
        self,
        block="bottleneck",
        layers=(3, 4, 6, 3),
        channels=(64, 128, 256, 512),
        stem="large",
        norm="frozen",
        groups=1,
        group_width=64,
        stride_in_1x1=False,
        dilate_c5=False,
        stages=4,
        norm_eps=1e-5,
    ):
        if stem not in ("large", "small", "fine"):
            raise ValueError(f'ResNet: stem must be "large", "small" or "fine", got {stem!r}')
        self.stem = stem
        size, padding = (7, 3) if stem == "large" else (3, 1)
        self.conv1 = nn.Conv2d(3, channels[0], size, stride=2, padding=padding, bias=False)
        self.bn1 = make_norm(norm, channels[0], relu=True)

        settings = dict(norm=norm, groups=groups, group_width=group_width, stride_in_1x1=stride_in_1x1)
        width, total_stride = channels[0], 4 if stem == "large" else 2
        self.out_channels, self.strides = [], []
        for i in range(stages):
            stride, dilation = 1 if i == 0 and stem != "small" else 2, 1
            if i == 3 and dilate_c5:
                stride, dilation = 1, 2
            stage = make_stage(BLOCKS[block], layers[i], width, channels[i], stride, dilation=dilation, **settings)
            setattr(self, f"layer{i + 1}", stage)

            width, total_stride = channels[i] * BLOCKS[block].expansion, total_stride * stride
            self.out_channels.append(width)
            self.strides.append(total_stride)

        for module in self.modules():
            if hasattr(module, "eps"):
                module.eps = norm_eps

    def forward(self, images):
        x = conv_norm(self.conv1, self.bn1, images)
        if self.stem == "large":
            x = max_pool2d(x, 3, stride=2, padding=1)
        levels = []
        for i in range(len(self.out_channels)):
            x = getattr(self, f"layer{i + 1}")(x)
            levels.append(x)
        return levels


def make_stage(block, count, in_channels, channels, stride, **settings):
    """`count` blocks one after the other; the first has the stride."""
    first = block(in_channels, channels, stride, **settings)
    return nn.Sequential(first, *(block(channels * block.expansion, channels, 1, **settings) for _ in range(count - 1)))


def resnet(name, norm="frozen", **settings):
    """A ResNet by name: resnet18, resnet34, resnet50, resnet101, resnext50_32x4d or resnext101_32x8d.

    settings: other arguments of `ResNet`, or replacements for those of the name.
    """
    if name not in RESNETS:
        raise ValueError(f"backbone must be one of {', '.join(RESNETS)}, got {name!r}")
    block, layers, groups, group_width = RESNETS[name]
    named = dict(block=block, layers=layers, groups=groups, group_width=group_width, norm=norm)
    return ResNet(**{**named, **settings})
