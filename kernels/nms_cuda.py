"""Non-maximum suppression on the GPU; see nms.cu."""

import numpy as np

from minimask.device import array_module
from minimask.kernels.cuda import launch
from minimask.kernels.top_k_cuda import sort

SHARES = 16  # blocks an image, each with the groups whose number modulo 16 is its own
THREADS = 1024


def nms(boxes, scores, valid, threshold, keep, groups, one_group):
    """Indices (N, keep) int64 and valid (N, keep) bool; see boxes.nms.

    boxes (N, R, 4), scores (N, R) float32; threshold: np.float32, rounded down; groups (N, R) int32;
    one_group: all are equal.
    """
    xp = array_module(boxes)
    images, count = scores.shape
    kept, kept_valid = xp.zeros((images, keep), np.int64), xp.zeros((images, keep), bool)
    if kept.size:
        order = sort(scores, valid)
        shares = 1 if one_group else SHARES
        kept_boxes = xp.empty((images, shares, keep, 4), np.float32)
        kept_groups = xp.empty((images, shares, keep), np.int32)
        alive = xp.zeros(scores.shape, bool)
        launch(
            "nms", "suppress", (shares, images), THREADS, xp.ascontiguousarray(boxes), xp.ascontiguousarray(groups),
            order, count, keep,
            threshold, kept_boxes, kept_groups, alive,
        )  # fmt: skip
        launch("nms", "keep_first", images, THREADS, alive, order, count, keep, kept, kept_valid)
    return kept, kept_valid
