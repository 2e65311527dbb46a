"""ResNet and ResNeXt: the deep network whose feature maps C2..C5 everything else reads (slides T13, L09).

He et al. 2016 (ResNet), Xie et al. 2017 (ResNeXt). Parameter names are torchvision's (`conv1`, `layer1.0.conv2`, ...).
A level Ck has stride 2^k: one of its pixels stands for 2^k x 2^k pixels of the image.
"""

from minimask import nn
from minimask.convolution import conv2d, max_pool2d

# name: (block, blocks in each stage, groups, channels in each group)
RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64),
    "resnet34": ("basic", (3, 4, 6, 3), 1, 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64),
    "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 32, 8),
}


def make_norm(kind, channels, relu=False):
    """The normalization `kind`: "batch", "frozen" (batch norm with constant statistics) or "group"."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, relu=relu)
    if kind == "frozen":
        return nn.FrozenBatchNorm2d(channels, relu=relu)
    if kind == "group":
        return nn.GroupNorm(channels, groups=min(8, channels), relu=relu)
    raise ValueError(f'norm must be "batch", "frozen" or "group", got {kind!r}')


def conv_norm(conv, norm, x, residual=None):
    """norm(conv(x)) + residual, then the norm's ReLU, if it has one.

    Where the norm's statistics are constants, normalizing is a scale and a shift of each output channel. Both go into
    the convolution: conv(x, w) scale + shift = conv(x, w scale) + shift. Then all of it is one pass over memory.
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

    The stride sits in the 3x3 convolution (torchvision); `stride_in_1x1` puts it into the first 1x1 (the paper).
    """

    expansion = 4

    def __init__(self, in_channels, channels, stride, norm, dilation=1, groups=1, group_width=64, stride_in_1x1=False):
        width = channels * group_width // 64 * groups
        stride1, stride3 = (stride, 1) if stride_in_1x1 else (1, stride)
        out = channels * self.expansion
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
    """A projection `downsample.{0,1}` where input and output of the block differ in shape; else the identity."""
    if stride != 1 or in_channels != out_channels:
        conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        block.downsample = nn.Sequential(conv, make_norm(norm, out_channels))


def shortcut(block, x):
    """What the block adds to its result."""
    return conv_norm(block.downsample[0], block.downsample[1], x) if hasattr(block, "downsample") else x


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Image (N, H, W, 3) -> [C2, C3, C4, C5], each (N, H / stride, W / stride, channels), strides 4, 8, 16, 32.

    stem "large" is the published one (7x7 / 2 and a 3x3 / 2 max pooling); "small" is a 3x3 / 2 convolution after
    which stage 1 halves again: half the work, for small images; "fine" is the same but stage 1 does not halve, so that
    the strides are 2, 4, 8, 16: the outlines of small objects survive. `channels` are those of the four stages before a
    bottleneck multiplies them by 4. `dilate_c5` keeps C5 at stride 16 and dilates its 3x3 convolutions instead.
    `stages` may be 3, for a model that pools its RoIs from C4. `norm_eps` is added to the normalizations' variances.
    """

    def __init__(
        self, block="bottleneck", layers=(3, 4, 6, 3), channels=(64, 128, 256, 512), stem="large", norm="frozen",
        groups=1, group_width=64, stride_in_1x1=False, dilate_c5=False, stages=4, norm_eps=1e-5,
    ):  # fmt: skip
        if stem not in ("large", "small", "fine"):
            raise ValueError(f'ResNet: stem must be "large", "small" or "fine", got {stem!r}')
        self.stem = stem
        self.conv1 = nn.Conv2d(3, channels[0], *((7, 2, 3) if stem == "large" else (3, 2, 1)), bias=False)
        self.bn1 = make_norm(norm, channels[0], relu=True)
        width = channels[0]
        self.out_channels, self.strides, stride_so_far = [], [], 4 if stem == "large" else 2
        for i in range(stages):
            stride = 1 if i == 0 and stem != "small" else 2
            dilation = 1
            if i == 3 and dilate_c5:
                stride, dilation = 1, 2
            stage = nn.Sequential()
            for j in range(layers[i]):
                stage.append(
                    BLOCKS[block](
                        width, channels[i], stride if j == 0 else 1, norm, dilation=dilation,
                        groups=groups, group_width=group_width, stride_in_1x1=stride_in_1x1,
                    )
                )  # fmt: skip
                width = channels[i] * BLOCKS[block].expansion
            setattr(self, f"layer{i + 1}", stage)
            stride_so_far *= stride
            self.out_channels.append(width)
            self.strides.append(stride_so_far)
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


def resnet(name, norm="frozen", **settings):
    """A ResNet by name: resnet18, resnet34, resnet50, resnet101, resnext50_32x4d or resnext101_32x8d."""
    if name not in RESNETS:
        raise ValueError(f"backbone must be one of {', '.join(RESNETS)}, got {name!r}")
    block, layers, groups, group_width = RESNETS[name]
    return ResNet(**{**dict(block=block, layers=layers, groups=groups, group_width=group_width, norm=norm), **settings})
