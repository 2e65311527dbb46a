"""Anchors: at each place of each pyramid level, a few boxes of a size that suits the level. Proposals start from them.

Ren et al. 2015, section 3.1.1; one size per level as in feature pyramid networks (Lin et al. 2017, section 4.1);
slides T04, L06.
"""

import math

import numpy as np


def cell_anchors(sizes, ratios, rounding="pixels", stride=None):
    """Anchors around the origin, one for each ratio and size: (P, 4) float32, ordered by ratio, then by size.

    The anchors of a size have the same area, size^2: width = size / sqrt(ratio), height = size sqrt(ratio).
    Worked number: size 32 with ratio 0.5 is 45.3 x 22.6 pixels, half of which rounds to (-23, -11, 23, 11).

    sizes: one side or several, in pixels. ratios: height / width, one or several.
    rounding: "pixels", "none", or "cells" of `stride` pixels; see conventions.py.
    """
    sizes = np.atleast_1d(np.asarray(sizes, np.float32))
    ratios = np.atleast_1d(np.asarray(ratios, np.float32))
    heights = np.sqrt(ratios)  # for an anchor of size 1
    widths = 1 / heights
    if sizes.ndim != 1 or heights.ndim != 1 or (sizes <= 0).any() or not (heights > 0).all():
        raise ValueError(f"cell_anchors: sizes and ratios must be positive numbers, got {sizes} and {ratios}")

    if rounding == "cells":
        widths = np.round(stride * widths)
        heights = np.round(widths * ratios) / stride
        widths = widths / stride

    width = (widths[:, None] * sizes).reshape(-1)  # (ratios, sizes) -> (P,)
    height = (heights[:, None] * sizes).reshape(-1)
    anchors = np.stack([-width, -height, width, height], axis=1) / 2
    if rounding == "cells":
        return anchors + np.float32(stride / 2)
    return np.round(anchors) if rounding == "pixels" else anchors


def grid_anchors(cell, feature_shape, stride):
    """The anchors `cell` (P, 4) at each place of a feature map: (h * w * P, 4) float32, by y, then x, then anchor.

    feature_shape: (h, w). stride: (pixels down, pixels right) from one place to the next. The anchors of place (y, x)
    lie around the corner of a pixel, (x * stride, y * stride).
    """
    (h, w), (down, right) = feature_shape, stride
    y, x = np.meshgrid(np.arange(h) * down, np.arange(w) * right, indexing="ij")  # (h, w) each
    shifts = np.stack([x, y, x, y], axis=-1).astype(np.float32)  # (h, w, 4)
    return (shifts[:, :, None] + cell).reshape(-1, 4)  # (h, w, P, 4) -> (h * w * P, 4)


class AnchorGenerator:
    """The anchors of all levels of a pyramid. They are computed once for each shape.

    sizes: for each level its anchor sizes in pixels. rounding: see cell_anchors.
    ratios: height / width, one tuple for all levels or one for each level.
    per_location: the number of anchors at a place of each level.
    """

    def __init__(self, sizes=((32,), (64,), (128,), (256,), (512,)), ratios=(0.5, 1.0, 2.0), rounding="pixels"):
        if not isinstance(ratios[0], (tuple, list)):
            ratios = (ratios,) * len(sizes)
        if len(sizes) != len(ratios):
            raise ValueError(f"AnchorGenerator: {len(sizes)} levels of sizes but {len(ratios)} of ratios")
        self.sizes, self.ratios, self.rounding = sizes, ratios, rounding
        self.per_location = [len(cell_anchors(size, ratio)) for size, ratio in zip(sizes, ratios)]
        self._kept = {}

    def __call__(self, feature_shapes, padded_size, xp=np):
        """The anchors of each level: a list of (h * w * P, 4) float32, x1, y1, x2, y2 in pixels of the padded image.

        With rounding "pixels" the stride of a level is padded_size // feature_shape: 800 // 13 = 61, where one might
        expect 64. Otherwise it is the nearest power of two, 64.

        feature_shapes: (h, w) of the map of each level. padded_size: (H, W) of the image.
        xp: the module whose arrays to return, numpy or cupy. Calls share the arrays: do not write to them.
        """
        if len(feature_shapes) != len(self.sizes):
            raise ValueError(f"AnchorGenerator: made for {len(self.sizes)} levels, got {len(feature_shapes)} shapes")
        key = (tuple(map(tuple, feature_shapes)), tuple(padded_size), xp.__name__)
        if key not in self._kept:
            self._kept[key] = [
                xp.asarray(self._level(size, ratio, shape, padded_size))
                for size, ratio, shape in zip(self.sizes, self.ratios, feature_shapes)
            ]
        return list(self._kept[key])

    def _level(self, size, ratio, shape, padded_size):
        if self.rounding == "pixels":
            stride = padded_size[0] // shape[0], padded_size[1] // shape[1]
        else:
            cell = max(padded_size[0] / shape[0], padded_size[1] / shape[1])  # the last cell may be cut off
            stride = (2 ** round(math.log2(cell)),) * 2
        return grid_anchors(cell_anchors(size, ratio, self.rounding, stride[0]), shape, stride)
