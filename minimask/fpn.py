"""Feature pyramid network: give the fine maps the meaning of the coarse ones. Lin et al. 2017, section 3; slide T13.

A 1x1 convolution brings each level C2..C5 to the same number of channels. From coarse to fine, each map is the map
above it, enlarged, plus its own 1x1 convolution; a 3x3 convolution then smooths what enlarging left behind. The results
are P2..P5, and P6 is every second pixel of P5.
"""

from minimask import image, nn


class FPN(nn.Module):
    """[C2..C5] -> [P2..P5, P6 if `pool`], each (N, H_l, W_l, channels). Parameter names are torchvision's."""

    def __init__(self, in_channels, channels=256, pool=True):
        rng = nn.init_rng()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, channels, 1)) for c in in_channels)
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in in_channels
        )
        for block in [*self.inner_blocks, *self.layer_blocks]:
            weight = block[0].weight
            kh, kw, c, _ = weight.shape
            weight.data[...] = nn.kaiming_uniform(rng, weight.shape, fan=kh * kw * c)
        self.pool = pool

    def forward(self, levels):
        top_down, pyramid = None, []
        for i in reversed(range(len(levels))):
            lateral, smooth = self.inner_blocks[i][0], self.layer_blocks[i][0]
            if top_down is not None:
                top_down = image.resize_nearest(top_down, levels[i].shape[1:3])
            top_down = lateral(levels[i], residual=top_down)  # the convolution adds the residual
            pyramid.insert(0, smooth(top_down))
        if self.pool:
            pyramid.append(pyramid[-1][:, ::2, ::2])
        return pyramid
