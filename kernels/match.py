"""Match anchors (or proposals) to ground truth: best object, its IoU, and whether the anchor is the object's best.

The CPU counterpart of targets.match_specification, without the (A, G) matrix of overlaps ever being in memory.
"""

import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def _match_image(anchors, boxes, real, crowd, best, which, best_of_object, covered):
    """One image, object by object. The loops over anchors have no branches, so that they become vector instructions."""
    corners = anchors.T.copy()  # (4, A)
    x1, y1, x2, y2 = corners[0], corners[1], corners[2], corners[3]
    zero = best.dtype.type(0)
    iou = np.empty(best.size, best.dtype)  # of the object at hand with each anchor
    for g in range(len(boxes)):
        u1, v1, u2, v2 = boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3]
        if real[g]:
            own = (u2 - u1) * (v2 - v1)
            for a in range(iou.size):
                w = max(min(x2[a], u2) - max(x1[a], u1), zero)
                h = max(min(y2[a], v2) - max(y1[a], v1), zero)
                shared = w * h
                share = shared / ((x2[a] - x1[a]) * (y2[a] - y1[a]) + own - shared)
                iou[a] = share if shared > 0 else zero  # two boxes of no area: 0, not 0 / 0
                which[a] = g if iou[a] > best[a] else which[a]
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
def match(anchors, boxes, real, crowd, best, which, best_of_object, covered):
    """anchors (N, A, 4), boxes (N, G, 4), real and crowd (N, G); fills best, which, best_of_object, covered (N, A)."""
    for n in prange(len(anchors)):
        _match_image(anchors[n], boxes[n], real[n], crowd[n], best[n], which[n], best_of_object[n], covered[n])


def warm_up():
    """Call the kernel once."""
    f, flags = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.bool_)
    match(f, f, flags, flags, f[..., 0].copy(), np.zeros((1, 1), np.int64), flags.copy(), f[..., 0].copy())
