"""Match anchors (or proposals) to objects on the CPU, without a table of all overlaps in memory.

Reads the anchors of an image once per object (16 A bytes) and updates three arrays of A numbers. One thread per image.
Same arithmetic as the array code of `targets.match`.
"""

import numpy as np
from numba import njit, prange

from minimask.device import takes
from minimask.targets import CROWD_COVER


@njit(cache=True, error_model="numpy")
def match_image(anchors, boxes, real, crowd, best, matched, best_of_object, covered):
    """One image, object by object. The loops over anchors have no branches, so they compile to vector instructions.

    Fills, for each of the A anchors, its best IoU, the index of that object, whether it is the best anchor of an
    object, and the largest part of it inside a crowd; all zero before the call.
    """
    corners = anchors.T.copy()  # (4, A)
    x1, y1, x2, y2 = corners[0], corners[1], corners[2], corners[3]
    zero = best.dtype.type(0)
    iou = np.empty(best.size, best.dtype)  # of the current object with each anchor
    for g in range(len(boxes)):
        u1, v1, u2, v2 = boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3]
        if real[g]:
            own = (u2 - u1) * (v2 - v1)
            for a in range(iou.size):
                w = max(min(x2[a], u2) - max(x1[a], u1), zero)
                h = max(min(y2[a], v2) - max(y1[a], v1), zero)
                shared = w * h
                share = shared / ((x2[a] - x1[a]) * (y2[a] - y1[a]) + own - shared)
                iou[a] = share if shared > 0 else zero  # two boxes without an area: 0, not 0 / 0
                matched[a] = g if iou[a] > best[a] else matched[a]
                best[a] = max(best[a], iou[a])
            largest = iou.max() if iou.size else zero
            if largest > 0:
                for a in range(iou.size):
                    best_of_object[a] |= iou[a] == largest
        elif crowd[g]:
            for a in range(iou.size):
                w = max(min(x2[a], u2) - max(x1[a], u1), zero)
                h = max(min(y2[a], v2) - max(y1[a], v1), zero)
                share = w * h / ((x2[a] - x1[a]) * (y2[a] - y1[a]))
                covered[a] = max(covered[a], share if w * h > 0 else zero)


@njit(cache=True, parallel=True, nogil=True)
def match_batch(anchors, boxes, real, crowd, best, matched, best_of_object, covered):
    """anchors (N, A, 4), boxes (N, G, 4), real and crowd (N, G); fills the four arrays (N, A), see `match_image`."""
    for n in prange(len(anchors)):
        match_image(anchors[n], boxes[n], real[n], crowd[n], best[n], matched[n], best_of_object[n], covered[n])


@takes(lambda anchors, *_, **__: anchors.dtype in (np.float32, np.float64))
def match(anchors, boxes, real, crowd, low, high, allow_low_quality=False):
    """See `minimask.targets.match`."""
    shape = len(boxes), anchors.shape[1]
    anchors = np.ascontiguousarray(np.broadcast_to(anchors, (*shape, 4)))
    boxes = np.ascontiguousarray(boxes, anchors.dtype)
    best, covered = np.zeros(shape, anchors.dtype), np.zeros(shape, anchors.dtype)
    matched, best_of_object = np.zeros(shape, np.int64), np.zeros(shape, bool)
    match_batch(anchors, boxes, real, crowd, best, matched, best_of_object, covered)

    labels = np.where(best >= high, 1, np.where(best < low, 0, -1)).astype(np.int8)
    if allow_low_quality:
        labels[best_of_object] = 1
    labels[(labels == 0) & (covered >= CROWD_COVER)] = -1
    return labels, matched


def warm_up():
    """Compile (or load from the disk cache) what training uses."""
    boxes, flags = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.bool_)
    match(boxes, boxes, flags, flags, 0.3, 0.7)
