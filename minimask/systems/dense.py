"""A head that predicts numbers for each pixel from all levels of the body; slides T05, T07.

Deep watershed, PFN and InstanceCut read coarse maps for what an object is and fine maps for where it ends. All of them
join the levels in the same way: enlarge, concatenate, convolve.
"""

from minimask import functional as F
from minimask import nn
from minimask.image import resize_bilinear


class DenseHead(nn.Module):
    """[C2..C5] -> a map (N, h, w, outputs) at the stride of C2.

    in_channels: of the levels. width: channels of the hidden maps. outputs: channels of the result.
    """

    def __init__(self, in_channels, width, outputs):
        # A 1x1 convolution of concatenated maps is the sum of 1x1 convolutions of each, which come before enlarging:
        # the result is the same, and there is less to compute.
        self.reduce = nn.ModuleList([nn.Conv2d(channels, width, 1) for channels in in_channels])
        self.mix = nn.Conv2d(width, width, 3, padding=1, relu=True)
        self.out = nn.Conv2d(width, outputs, 1)

    def forward(self, levels):
        size = levels[0].shape[1:3]
        x = self.reduce[0](levels[0])
        for layer, level in zip(self.reduce[1:], levels[1:]):
            x = x + resize_bilinear(layer(level), size)
        return self.out(self.mix(F.relu(x)))


def to_image(x, batch):
    """A map (N, h, w, C), interpolated to the size of the padded images: (N, H, W, C)."""
    return resize_bilinear(x, batch.images.shape[1:3])
