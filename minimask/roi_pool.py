"""RoIPool and RoIWarp: the ancestors of RoIAlign, which round boxes to whole cells.

RoIPool (Girshick 2015, section 2.1) rounds twice: the box to cells of the feature map, and each bin to cells again,
of which it takes the largest value. RoIWarp (Dai et al. 2016) interpolates inside, but of a box that is rounded like
RoIPool's (He et al. 2017, section 3). At stride 16 rounding moves a box by up to 8 pixels, which costs masks more than
classes: slides T10, L05, L08. Both are called as `roi_align` is, so that one can stand in place of the other.
"""

import numpy as np

from minimask.device import array_module, fits_gpu_kernel, kernels
from minimask.roi_align import check, has_kernel, roi_align
from minimask.tensor import Function, Tensor


def roi_pool(
    features, boxes, image_index, levels, scales, size=7, sampling_ratio=None, aligned=None, pooling="max"
):
    """The largest value in each of size x size bins of whole cells: -> Tensor (R, size, size, C).

    Arguments as in `roi_align.roi_align`; sampling_ratio, aligned and pooling have no meaning here. A bin without
    cells (outside the map) is 0. Of equal values the first has the gradient; boxes have none, for rounding has none.
    """
    boxes = boxes.data if isinstance(boxes, Tensor) else boxes
    image_index, levels = check("roi_pool", features, boxes, image_index, levels, scales)
    return RoIPool(boxes, image_index, levels, scales, size)(*features)


def roi_warp(
    features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=None, pooling="average"
):
    """Bilinear samples inside the box rounded to whole cells: -> Tensor (R, size, size, C).

    Arguments as in `roi_align.roi_align`; aligned has no meaning here: the rounded box spans its cells from edge to
    edge. Boxes have no gradient.
    """
    boxes = boxes.data if isinstance(boxes, Tensor) else boxes
    image_index, levels = check("roi_warp", features, boxes, image_index, levels, scales)
    if fits_gpu_kernel(boxes):
        rounded = kernels("roi_pool", boxes).round_boxes(boxes, levels, scales)
    else:
        rounded = round_boxes(boxes, levels, scales)
    return roi_align(
        features, rounded, image_index, levels, scales, size, sampling_ratio, aligned=True, pooling=pooling
    )


def round_to_cells(boxes, scale):
    """The first and last cell of each box: boxes (..., 4) in pixels -> two (..., 2) int64, x and y; halves away from 0.

    Worked number: (112, 45, 219, 213) at scale 1/16 is 7.0, 2.8, 13.7, 13.3: cells 7 to 14 and 3 to 13, which is the
    box (112, 48, 240, 224) of the picture.
    """
    xp = array_module(boxes)
    cells = xp.nan_to_num(boxes * scale).clip(-1e9, 1e9)
    whole = xp.floor(abs(cells))
    whole = (xp.sign(cells) * (whole + (abs(cells) - whole >= 0.5))).astype(np.int64)
    return whole[..., :2], whole[..., 2:]


def round_boxes(boxes, levels, scales):
    """Boxes (R, 4) in pixels -> (R, 4) in pixels: each box's cells from edge to edge, at least one."""
    xp = array_module(boxes)
    scale = xp.asarray(scales, dtype=boxes.dtype)[levels][:, None]  # (R, 1)
    first, last = round_to_cells(boxes, scale)
    return xp.concatenate([first, xp.maximum(last, first) + 1], axis=1).astype(boxes.dtype) / scale


def bins_of_cells(first, last, size, cells, real=np.float64):
    """Along one axis: a box from cell `first` to `last` cut into `size` bins -> for each bin its cells start, stop.

    real: the type in which to compute. In float64, 7 bins of 29 / 7 cells end after 29.000000000000004, in a 30th cell.
    """
    step = real(max(last - first + 1, 1)) / real(size)
    edges = [(first + int(np.floor(real(b) * step)), first + int(np.ceil(real(b + 1) * step))) for b in range(size)]
    return [(min(max(start, 0), cells), min(max(stop, 0), cells)) for start, stop in edges]


def roi_pool_specification(features, boxes, image_index, levels, scales, size=7):
    """`roi_pool` forward on raw arrays, box by box: -> (R, size, size, C), and the cell y * W + x each value is from.

    The cell is -1 where the bin has none.
    """
    xp = array_module(boxes)
    out = xp.zeros((len(boxes), size, size, features[0].shape[3]), features[0].dtype)
    chosen = xp.full(out.shape, -1, np.int64)
    for r, (box, image, level) in enumerate(zip(boxes.astype(out.dtype), image_index, levels)):
        feature = features[level][image]
        height, width, channels = feature.shape
        (x1, y1), (x2, y2) = (corner.tolist() for corner in round_to_cells(box, box.dtype.type(scales[level])))
        for i, (top, bottom) in enumerate(bins_of_cells(y1, y2, size, height, out.dtype.type)):
            for j, (left, right) in enumerate(bins_of_cells(x1, x2, size, width, out.dtype.type)):
                if top < bottom and left < right:
                    cells = feature[top:bottom, left:right].reshape(-1, channels)
                    which = cells.argmax(0)  # (C,)
                    out[r, i, j] = cells.max(0)
                    chosen[r, i, j] = (top + which // (right - left)) * width + left + which % (right - left)
    return out, chosen


def roi_pool_backward_specification(gy, features, chosen, image_index, levels):
    """Gradient gy (R, size, size, C) of the result -> list of gradients like `features`: all to the chosen cell."""
    xp = array_module(gy)
    gfeatures = [xp.zeros_like(feature) for feature in features]
    channel = xp.arange(gy.shape[3])
    for r, (image, level) in enumerate(zip(image_index, levels)):
        cells = gfeatures[level][image].reshape(-1, gy.shape[3])  # (H * W, C)
        xp.add.at(cells, (xp.maximum(chosen[r], 0), channel), xp.where(chosen[r] >= 0, gy[r], 0))
    return gfeatures


class RoIPool(Function):
    """Inputs: the features of each level. y[r, i, j] = the largest cell of bin (i, j);  that cell gets gy."""

    def __init__(self, boxes, image_index, levels, scales, size):
        self.settings = boxes, image_index, levels, scales, size

    def forward(self, *features):
        self.features = features
        if has_kernel(features):
            out, self.chosen = kernels("roi_pool", features[0]).forward(features, *self.settings)
        else:
            out, self.chosen = roi_pool_specification(features, *self.settings)
        return out

    def backward(self, gy):
        if has_kernel(self.features):
            return tuple(kernels("roi_pool", gy).backward(gy, self.chosen, self.features, *self.settings))
        _, image_index, levels, *_ = self.settings
        return tuple(roi_pool_backward_specification(gy, self.features, self.chosen, image_index, levels))
