"""Non-maximum suppression on the CPU: one sweep over each image's boxes.

Reads R boxes once (20 R bytes per image) and computes at most R^2 / 2 overlaps. The inner loop has no branch, so it
compiles to vector instructions. Serial: 6,000 boxes take about 3 ms. Same arithmetic as the array code of `boxes.nms`.
"""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels import top_k
from minimask.kernels.rounding import round_down


@njit(cache=True, error_model="numpy")
def nms_image(corners, groups, count, threshold, kept, valid):
    """One image: corners (4, R) are x1, y1, x2, y2 in descending order of score; the first `count` boxes take part.

    Writes the positions of the kept boxes to `kept` (K,) and sets as many leading entries of `valid` (K,) to True.
    """
    x1, y1, x2, y2 = corners[0, :count], corners[1, :count], corners[2, :count], corners[3, :count]
    area = (x2 - x1) * (y2 - y1)
    suppressed = np.zeros(count, np.uint8)
    zero = area.dtype.type(0)
    found = 0
    for i in range(count):
        if found == kept.shape[0]:
            return
        if suppressed[i]:
            continue
        kept[found] = i
        valid[found] = True
        found += 1
        a, b, c, d, own_area, group = x1[i], y1[i], x2[i], y2[i], area[i], groups[i]
        # Views that start at i + 1, so that the indices start at 0 and need no check for negative ones.
        later_x1, later_y1, later_x2, later_y2 = x1[i + 1 :], y1[i + 1 :], x2[i + 1 :], y2[i + 1 :]
        later_area, later_group, later = area[i + 1 :], groups[i + 1 : count], suppressed[i + 1 :]
        for j in range(later.size):
            w = max(min(c, later_x2[j]) - max(a, later_x1[j]), zero)
            h = max(min(d, later_y2[j]) - max(b, later_y1[j]), zero)
            overlap = w * h
            union = own_area + later_area[j] - overlap
            later[j] |= (overlap / union > threshold) & (later_group[j] == group)


@njit(cache=True, error_model="numpy", nogil=True)
def nms_batch(corners, groups, counts, threshold, kept, valid):
    """corners (N, 4, R) float in descending order of score, groups (N, R) int32, counts (N,) int64 that take part.

    Fills kept (N, K) int64 (positions in the sorted order) and valid (N, K) bool, both zero before the call.
    """
    for n in range(corners.shape[0]):
        nms_image(corners[n], groups[n], counts[n], threshold, kept[n], valid[n])


@takes(lambda boxes, scores, *_, **__: boxes.dtype == scores.dtype and boxes.dtype in (np.float32, np.float64))
def nms(boxes, scores, valid, threshold, max_kept=None, groups=None):
    """See `minimask.boxes.nms`: sort, sweep, and translate positions in the sorted order back to indices."""
    images, count = scores.shape
    max_kept = count if max_kept is None else min(max_kept, count)
    counts = valid.sum(1)
    order = descending(scores, valid, int(counts.max(initial=0)))
    corners = np.take_along_axis(boxes, order[..., None], 1).transpose(0, 2, 1)  # (N, 4, R)
    if groups is None:
        groups = np.zeros(order.shape, np.int32)
    else:
        groups = np.take_along_axis(groups.astype(np.int32), order, 1)

    kept, kept_valid = np.zeros((images, max_kept), np.int64), np.zeros((images, max_kept), bool)
    threshold = round_down(threshold, boxes.dtype)
    nms_batch(np.ascontiguousarray(corners), groups, counts, threshold, kept, kept_valid)
    indices = np.take_along_axis(order, kept, 1) if order.size else kept
    return np.where(kept_valid, indices, 0), kept_valid


def descending(scores, valid, count):
    """Indices (N, count) of the best scores in descending order; equal scores by index, those not valid last."""
    lowest = np.finfo(scores.dtype).min  # NaN and -inf rank below all other scores, but above what is not valid
    keys = np.where(valid, np.fmax(scores, lowest), -np.inf)
    if keys.dtype == np.float32:
        return top_k.top_k(keys, count)
    return np.argsort(-keys, axis=1, kind="stable")[:, :count]


def warm_up():
    """Compile (or load from the disk cache) what training and inference use."""
    corners = np.zeros((1, 4, 2), np.float32)
    groups = np.zeros((1, 2), np.int32)
    kept, valid = np.zeros((1, 2), np.int64), np.zeros((1, 2), bool)
    nms_batch(corners, groups, np.zeros(1, np.int64), np.float32(0.5), kept, valid)
