"""RoIPool and RoIWarp, the ancestors of RoIAlign, which round boxes to whole cells.

RoIPool (Girshick 2015, section 2.1) rounds twice: the box to cells of the feature map, and then each bin to cells
again, of which it takes the largest value. RoIWarp (Dai et al. 2016) interpolates inside the box, but only after
rounding it as RoIPool does (He et al. 2017, section 3). At stride 16 rounding moves a box by up to 8 pixels, which
hurts masks more than classes: slides T10, L05, L08. Both are called in the same way as `roi_align`, so that one can
replace another.
"""

import numpy as np

from minimask.device import accelerated, array_module
from minimask.roi_align import check_rois, roi_align
from minimask.tensor import Function, Tensor


def roi_pool(features, boxes, image_index, levels, scales, size=7, sampling_ratio=None, aligned=None):
    """The largest value in each of size x size bins of whole cells, as a Tensor (R, size, size, C).

    Takes the arguments of `roi_align`; sampling_ratio and aligned have no effect. A bin without cells, outside the map,
    is 0. If several cells share the maximum, the first one receives the gradient. Boxes receive none: rounding has no
    useful derivative.
    """
    boxes = boxes.data if isinstance(boxes, Tensor) else boxes
    image_index, levels = check_rois("roi_pool", features, boxes, image_index, levels, scales)
    return RoIPool(boxes, image_index, levels, scales, size)(*features)


def roi_warp(features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=None, pooling="average"):
    """Bilinear samples inside the box after rounding it to whole cells, as a Tensor (R, size, size, C).

    Takes the arguments of `roi_align`; aligned has no effect, because the rounded box always reaches from the outer
    edge of its first cell to that of its last one. Boxes receive no gradient.
    """
    boxes = boxes.data if isinstance(boxes, Tensor) else boxes
    image_index, levels = check_rois("roi_warp", features, boxes, image_index, levels, scales)
    rounded = round_boxes(boxes, levels, scales)
    return roi_align(features, rounded, image_index, levels, scales, size, sampling_ratio, True, pooling)


class RoIPool(Function):
    """Inputs: the features of each level. y[r, i, j] = the largest cell of bin (i, j), and that cell receives gy."""

    def __init__(self, *settings):
        self.settings = settings  # as in `roi_pool`, from boxes on

    def forward(self, *features):
        self.features = features
        y, self.chosen = roi_pool_forward(features, *self.settings)
        return y

    def backward(self, gy):
        return tuple(roi_pool_backward(gy, self.chosen, self.features, *self.settings))


@accelerated("roi_pool")
def roi_pool_forward(features, boxes, image_index, levels, scales, size=7):
    """RoIPool of raw arrays, box by box. Arguments as in `roi_pool`.

    Returns the result (R, size, size, C) and the cell, y * W + x, that each of its values comes from (same shape), -1
    where a bin has no cells.
    """
    xp = array_module(boxes)
    out = xp.zeros((len(boxes), size, size, features[0].shape[3]), features[0].dtype)
    chosen = xp.full(out.shape, -1, np.int64)
    real = out.dtype.type

    for r, (box, image, level) in enumerate(zip(boxes.astype(out.dtype), image_index, levels)):
        feature = features[level][image]
        height, width, channels = feature.shape

        # Round the box to cells, then each bin to cells.
        (x1, y1), (x2, y2) = (corner.tolist() for corner in round_to_cells(box, real(scales[level])))
        rows = bins_of_cells(y1, y2, size, height, real)
        columns = bins_of_cells(x1, x2, size, width, real)

        # The largest cell of each bin, channel by channel.
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                if top < bottom and left < right:
                    cells = feature[top:bottom, left:right].reshape(-1, channels)
                    which = cells.argmax(0)  # (C,)
                    out[r, i, j] = cells.max(0)
                    chosen[r, i, j] = (top + which // (right - left)) * width + left + which % (right - left)
    return out, chosen


@accelerated("roi_pool")
def roi_pool_backward(gy, chosen, features, boxes, image_index, levels, scales, size=7):
    """The gradient of the feature maps, a list of arrays like `features`: gy goes to the chosen cells."""
    xp = array_module(gy)
    gfeatures = [xp.zeros_like(feature) for feature in features]
    channel = xp.arange(gy.shape[3])
    for r, (image, level) in enumerate(zip(image_index, levels)):
        cells = gfeatures[level][image].reshape(-1, gy.shape[3])  # (H * W, C)
        xp.add.at(cells, (xp.maximum(chosen[r], 0), channel), xp.where(chosen[r] >= 0, gy[r], 0))
    return gfeatures


def round_to_cells(boxes, scale):
    """The first and the last cell of each box: boxes (..., 4) in pixels -> two (..., 2) int64, x and y.

    Halves are rounded away from 0. Worked number: (112, 45, 219, 213) at scale 1/16 is 7.0, 2.8, 13.7, 13.3, so cells 7
    to 14 along x and 3 to 13 along y; in the image they cover (112, 48, 240, 224).
    """
    xp = array_module(boxes)
    cells = xp.nan_to_num(boxes * scale).clip(-1e9, 1e9)
    whole = xp.floor(abs(cells))
    whole = (xp.sign(cells) * (whole + (abs(cells) - whole >= 0.5))).astype(np.int64)
    return whole[..., :2], whole[..., 2:]


@accelerated("roi_pool")
def round_boxes(boxes, levels, scales):
    """Boxes (R, 4) in pixels, grown to the outer edges of the cells they are rounded to, in pixels again: (R, 4)."""
    xp = array_module(boxes)
    scale = xp.asarray(scales, dtype=boxes.dtype)[levels][:, None]  # (R, 1)
    first, last = round_to_cells(boxes, scale)
    return xp.concatenate([first, xp.maximum(last, first) + 1], axis=1).astype(boxes.dtype) / scale


def bins_of_cells(first, last, size, cells, real=np.float64):
    """Divide the cells `first` to `last` of a box, along one axis, into `size` bins: (start, stop) cells of each bin.

    real: the float type to compute in. In float64 the seventh of 7 bins of 29 / 7 cells ends at 29.000000000000004,
    which adds a 30th cell to it; in float32 it ends at 29.
    """
    step = real(max(last - first + 1, 1)) / real(size)
    edges = [(first + int(np.floor(real(b) * step)), first + int(np.ceil(real(b + 1) * step))) for b in range(size)]
    return [(min(max(start, 0), cells), min(max(stop, 0), cells)) for start, stop in edges]
