"""Match anchors (or proposals) to ground truth: best object, its IoU, and whether the anchor is the object's best.

The CPU counterpart of targets.match_specification, without the (A, G) matrix of overlaps ever being in memory.
"""

import numpy as np
from numba import njit, prange


@njit(cache=True)
def _iou(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    w = min(ax2, bx2) - max(ax1, bx1)
    h = min(ay2, by2) - max(ay1, by1)
    if w <= 0 or h <= 0:
        return ax1 * 0
    inter = w * h
    return inter / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter)


@njit(cache=True)
def _match_image(anchors, boxes, real, crowd, best, which, best_of_object, covered):
    largest = np.zeros(len(boxes), anchors.dtype)  # each object's best IoU with any anchor
    for a in range(len(anchors)):
        x1, y1, x2, y2 = anchors[a, 0], anchors[a, 1], anchors[a, 2], anchors[a, 3]
        for g in range(len(boxes)):
            if real[g]:
                iou = _iou(x1, y1, x2, y2, boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3])
                if iou > best[a]:
                    best[a] = iou
                    which[a] = g
                largest[g] = max(largest[g], iou)
            elif crowd[g]:
                w = min(x2, boxes[g, 2]) - max(x1, boxes[g, 0])
                h = min(y2, boxes[g, 3]) - max(y1, boxes[g, 1])
                if w > 0 and h > 0:
                    covered[a] = max(covered[a], w * h / ((x2 - x1) * (y2 - y1)))
    for a in range(len(anchors)):
        if best[a] > 0:
            for g in range(len(boxes)):
                if real[g] and largest[g] > 0 and best[a] >= largest[g]:
                    iou = _iou(
                        anchors[a, 0], anchors[a, 1], anchors[a, 2], anchors[a, 3],
                        boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3],
                    )  # fmt: skip
                    if iou == largest[g]:
                        best_of_object[a] = True


@njit(cache=True, parallel=True, nogil=True)
def match(anchors, boxes, real, crowd, best, which, best_of_object, covered):
    """anchors (N, A, 4), boxes (N, G, 4), real and crowd (N, G); fills best, which, best_of_object, covered (N, A)."""
    for n in prange(len(anchors)):
        _match_image(anchors[n], boxes[n], real[n], crowd[n], best[n], which[n], best_of_object[n], covered[n])


def warm_up():
    """Call the kernel once."""
    f, flags = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.bool_)
    match(f, f, flags, flags, f[..., 0].copy(), np.zeros((1, 1), np.int64), flags.copy(), f[..., 0].copy())
