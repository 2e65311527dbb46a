"""FCN: a class for each pixel, and no objects. Long et al. 2015, sections 3 and 4; slide T05.

    C3, C4, C5 -> 1x1 convolution: class scores at strides 4, 8, 16 (with the published stem at 8, 16, 32)
    scores of C5, upsampled twice + scores of C4 = more detail; the same again with C3; then up to the image

Upsampling is a transposed convolution that begins as bilinear interpolation and is trained further. The network says
what a pixel shows, not which object it belongs to: two cats that touch are one region (T05, T07). Its best reading as
objects, connected regions of one class, is what `detect` returns.

Simplified: the body is ours instead of VGG-16; there are no two extra 4096-wide layers; all three levels are trained
together instead of one after the other ("all at once" in Shelhamer et al. 2017, the journal version).
"""

import numpy as np

from minimask import functional as F
from minimask import nn
from minimask.image import resize_bilinear
from minimask.systems.pixels import PixelSystem, components, pixel_class_loss, semantic_map


class FCN(PixelSystem):
    """The system: `segment(batch)` gives the class of each pixel, `detect(batch)` its connected regions."""

    def __init__(self, num_classes, **groups):
        super().__init__(num_classes, **groups)
        channels = self.backbone.body.out_channels[1:]  # of C3, C4, C5
        self.scores = nn.ModuleList([nn.Conv2d(c, num_classes, 1) for c in channels])
        for layer in self.scores:
            layer.weight.data[...] = 0  # the paper's start: every class is equally likely
        self.upsample = nn.ModuleList([bilinear_upsampling(num_classes) for _ in channels[1:]])

    def pixel_scores(self, levels):
        """Class scores of each pixel of the image, a Tensor (N, H, W, C), from the body's levels."""
        c3, c4, c5 = (layer(level) for layer, level in zip(self.scores, levels[1:]))
        x = self.upsample[1](c5) + c4
        x = self.upsample[0](x) + c3
        stride = self.backbone.body.strides[1]
        return resize_bilinear(x, (x.shape[1] * stride, x.shape[2] * stride))

    def pixel_losses(self, levels, batch):
        """{"loss_pixels"}: cross-entropy, averaged over the pixels."""
        return {"loss_pixels": pixel_class_loss(self.pixel_scores(levels), semantic_map(batch))}

    def segment(self, batch):
        """The class of each pixel of the padded images: (N, H, W) int."""
        with self.inference():
            return self.pixel_scores(self.levels(batch.to(self.device))).data.argmax(axis=3)

    def objects(self, levels, batch):
        probabilities = F.softmax_array(self.pixel_scores(levels).data)  # (N, H, W, C)
        labels, scores = probabilities.argmax(axis=3), probabilities.max(axis=3)
        return components(labels, scores, self.system.smallest_area, batch)


def bilinear_upsampling(channels):
    """A transposed 4x4 convolution of stride 2 that begins as bilinear interpolation, one channel at a time."""
    layer = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
    line = np.array([1, 3, 3, 1]) / 4  # the weight of a pixel falls linearly with its distance
    layer.weight.data[...] = line[:, None, None, None] * line[None, :, None, None] * np.eye(channels)
    return layer
