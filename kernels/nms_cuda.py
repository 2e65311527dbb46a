"""Non-maximum suppression on the GPU; see nms.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import float32_arrays, launch
from minimask.kernels.rounding import round_down
from minimask.kernels.top_k_cuda import sort

SHARES = 16  # blocks per image; block i takes the groups g with g % 16 == i
THREADS = 1024


@takes(lambda boxes, scores, *_, **__: float32_arrays(boxes, scores))
def nms(boxes, scores, valid, threshold, max_kept=None, groups=None):
    """See `minimask.boxes.nms`."""
    xp = array_module(boxes)
    images, count = scores.shape
    max_kept = count if max_kept is None else min(max_kept, count)
    one_group = groups is None
    groups = xp.zeros(scores.shape, xp.int32) if one_group else groups.astype(xp.int32)
    threshold = round_down(threshold, boxes.dtype)
    kept, kept_valid = xp.zeros((images, max_kept), np.int64), xp.zeros((images, max_kept), bool)
    if kept.size:
        order = sort(scores, valid)
        shares = 1 if one_group else SHARES
        kept_boxes = xp.empty((images, shares, max_kept, 4), np.float32)
        kept_groups = xp.empty((images, shares, max_kept), np.int32)
        alive = xp.zeros(scores.shape, bool)
        inputs = xp.ascontiguousarray(boxes), xp.ascontiguousarray(groups), order
        scratch = kept_boxes, kept_groups, alive
        launch("nms", "suppress", (shares, images), THREADS, *inputs, count, max_kept, threshold, *scratch)
        launch("nms", "keep_first", images, THREADS, alive, order, count, max_kept, kept, kept_valid)
    return kept, kept_valid
