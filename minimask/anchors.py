"""Anchors: at each place of each pyramid level, a few boxes of that level's size from which proposals start.

Ren et al. 2015, section 3.1.1; one size a level as in feature pyramid networks (Lin et al. 2017, section 4.1);
slides T04, L06.
"""

import math

import numpy as np


def cell_anchors(sizes, ratios, rounding="pixels", stride=None):
    """Anchors around the origin: for each ratio, each size. -> (len(ratios) * len(sizes), 4) float32.

    sizes: one side or several, in pixels; ratios: height / width. All ratios of a size have the area size^2:
    width = size / sqrt(ratio), height = size sqrt(ratio). Worked number: size 32, ratio 0.5 is 45.3 x 22.6 pixels,
    half of which rounds to (-23, -11, 23, 11). rounding: "pixels", "none", or "cells" of `stride` pixels, see
    conventions.py.
    """
    sizes = np.atleast_1d(np.asarray(sizes, np.float32))
    ratios = np.atleast_1d(np.asarray(ratios, np.float32))
    heights = np.sqrt(ratios)  # of an anchor of size 1
    widths = 1 / heights
    if sizes.ndim != 1 or heights.ndim != 1 or (sizes <= 0).any() or not (heights > 0).all():
        raise ValueError(f"cell_anchors: sizes and ratios must be positive numbers, got {sizes} and {ratios}")
    if rounding == "cells":
        widths = np.round(stride * widths)
        heights = np.round(widths * ratios) / stride
        widths = widths / stride
    width = (widths[:, None] * sizes).reshape(-1)  # (ratios * sizes,)
    height = (heights[:, None] * sizes).reshape(-1)
    anchors = np.stack([-width, -height, width, height], axis=1) / 2
    if rounding == "cells":
        return anchors + np.float32(stride / 2)
    return np.round(anchors) if rounding == "pixels" else anchors


def grid_anchors(cell, feature_shape, stride):
    """`cell` (P, 4) moved to each place of a feature map (h, w): -> (h * w * P, 4) float32, by y, then x, then anchor.

    stride: (pixels down, pixels right) from one place to the next. Place (y, x) puts its anchors around the pixel
    corner (x * stride, y * stride).
    """
    (h, w), (down, right) = feature_shape, stride
    y, x = np.meshgrid(np.arange(h) * down, np.arange(w) * right, indexing="ij")  # (h, w) each
    shifts = np.stack([x, y, x, y], axis=-1).astype(np.float32)  # (h, w, 4)
    return (shifts[:, :, None] + cell).reshape(-1, 4)  # (h, w, P, 4) -> (h * w * P, 4)


class AnchorGenerator:
    """Anchors of all levels of a pyramid, kept for each shape they were asked for.

    sizes: for each level its anchor sizes in pixels; ratios: for each level its heights / widths, or one tuple for
    all levels. rounding: of cell_anchors. per_location: how many anchors each place of each level has.
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
        """Anchors of each level: list of (h * w * P, 4) float32, x1, y1, x2, y2 in pixels of the padded image.

        feature_shapes: (h, w) of each level's map; padded_size: (H, W) of the image; xp: numpy or cupy, whose arrays
        are wanted. Rounded to pixels, the stride is padded_size // feature_shape, level by level: 800 // 13 = 61 where
        one might expect 64; else the nearest power of two, 64. The arrays are shared between calls: do not write to
        them.
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
            cell = max(padded_size[0] / shape[0], padded_size[1] / shape[1])  # a single cell may be cut off
            stride = (2 ** round(math.log2(cell)),) * 2
        return grid_anchors(cell_anchors(size, ratio, self.rounding, stride[0]), shape, stride)
