"""RoIPool on the CPU: the largest value in each bin of whole cells, and its gradient.

Layout: feature (N, H, W, C), out and chosen (R, bins, bins, C), rois (R, 6): x1, y1, x2, y2 in image pixels, image,
level. A part works on one pyramid level. chosen is the cell y * W + x that won, -1 in a bin without cells. Each cell of
a box is read about once. Forward, threads share the boxes; backward, they share the channels, as in `roi_align.py`.
"""

import math

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import run
from minimask.kernels.roi_align import FLOATS, join


@takes(lambda features, *_, **__: features[0].dtype in FLOATS)
def roi_pool_forward(features, boxes, image_index, levels, scales, size=7):
    """See `minimask.roi_pool.roi_pool_forward`; the chosen cells are floats here."""
    rois = join(boxes, image_index, levels, features[0].dtype)
    out = np.empty((len(rois), size, size, features[0].shape[3]), rois.dtype)
    chosen = np.empty_like(out)
    for level, (feature, scale) in enumerate(zip(features, scales)):
        _run(forward_part, np.ascontiguousarray(feature), rois, level, scale, out, chosen)
    return out, chosen


@takes(lambda gy, *_, **__: gy.dtype in FLOATS)
def roi_pool_backward(gy, chosen, features, boxes, image_index, levels, scales, size=7):
    """See `minimask.roi_pool.roi_pool_backward`."""
    rois = join(boxes, image_index, levels, gy.dtype)
    gy = np.ascontiguousarray(gy)
    gfeatures = [np.zeros(feature.shape, gy.dtype) for feature in features]
    for level, (gfeature, scale) in enumerate(zip(gfeatures, scales)):
        _run(backward_part, gfeature, rois, level, scale, gy, chosen)
    return gfeatures


def _run(part, feature, rois, level, scale, out, chosen):
    arrays = (*(x.reshape(-1) for x in (feature, rois, out, chosen)), np.array([scale], feature.dtype))
    numbers = (*feature.shape, len(rois), out.shape[1], level)
    if feature.dtype == np.float32:
        run(part, arrays, numbers)
    else:
        part(0, 1, arrays, numbers)


@njit(cache=True, error_model="numpy")
def round_half_up(x):
    """The nearest integer; halves are rounded away from 0."""
    if not abs(x) < 1e9:  # NaN, or farther away than any map reaches
        return 0
    whole = math.floor(abs(x))
    whole += abs(x) - whole >= 0.5
    return int(whole) if x >= 0 else -int(whole)


@njit(cache=True, error_model="numpy")
def bin_cells(first, last, scale, bins, b, cells):
    """The cells start .. stop - 1 of bin b along an axis: both ends of the box and of the bin are rounded outwards."""
    real = type(scale)
    start, end = round_half_up(first * scale), round_half_up(last * scale)
    step = real(max(end - start + 1, 1)) / real(bins)
    begin = start + int(math.floor(real(b) * step))
    stop = start + int(math.ceil(real(b + 1) * step))
    return min(max(begin, 0), cells), min(max(stop, 0), cells)


@njit(cache=True, error_model="numpy")
def forward_part(t, parts, arrays, numbers):
    """Every parts-th box, from box t on."""
    feature, rois, out, chosen, scale = arrays[:5]
    images, height, width, channels, count, bins, level = numbers[:7]
    feature = feature.reshape((images, height, width, channels))
    rois = rois.reshape((count, 6))
    out = out.reshape((count, bins, bins, channels))
    chosen = chosen.reshape((count, bins, bins, channels))
    for r in range(t, count, parts):
        if rois[r, 5] != level:
            continue
        image = feature[int(rois[r, 4])]
        for i in range(bins):
            top, bottom = bin_cells(rois[r, 1], rois[r, 3], scale[0], bins, i, height)
            for j in range(bins):
                left, right = bin_cells(rois[r, 0], rois[r, 2], scale[0], bins, j, width)
                largest, which = out[r, i, j], chosen[r, i, j]
                for k in range(channels):
                    largest[k] = 0
                    which[k] = -1
                for y in range(top, bottom):
                    for x in range(left, right):
                        row = image[y, x]
                        for k in range(channels):
                            if which[k] < 0 or row[k] > largest[k]:
                                largest[k] = row[k]
                                which[k] = y * width + x


@njit(cache=True, error_model="numpy")
def backward_part(t, parts, arrays, numbers):
    """All boxes, for the t-th range of channels."""
    gfeature, rois, gy, chosen, _ = arrays[:5]
    images, height, width, channels, count, bins, level = numbers[:7]
    gfeature = gfeature.reshape((images, height * width, channels))
    rois = rois.reshape((count, 6))
    gy = gy.reshape((count, bins * bins, channels))
    chosen = chosen.reshape((count, bins * bins, channels))
    for r in range(count):
        if rois[r, 5] == level:
            image = gfeature[int(rois[r, 4])]
            for b in range(bins * bins):
                for k in range(channels * t // parts, channels * (t + 1) // parts):
                    if chosen[r, b, k] >= 0:
                        image[int(chosen[r, b, k]), k] += gy[r, b, k]
