"""Match anchors to objects on the GPU; see match.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, float32_arrays, launch
from minimask.targets import CROWD_COVER

THREADS = 256


@takes(lambda anchors, *_, **__: float32_arrays(anchors))
def match(anchors, boxes, real, crowd, low, high, allow_low_quality=False):
    """See `minimask.targets.match`."""
    xp = array_module(anchors)
    boxes = boxes.astype(np.float32, copy=False)
    anchors, boxes, real, crowd = (xp.ascontiguousarray(x) for x in (anchors, boxes, real, crowd))
    (images, objects), count = real.shape, anchors.shape[1]
    labels, matched = xp.empty((images, count), np.int8), xp.empty((images, count), np.int64)
    if labels.size:
        best, covered = xp.empty(labels.shape, np.float32), xp.empty(labels.shape, np.float32)
        largest = xp.zeros((images, objects), np.float32)  # the best IoU of each object
        grid = blocks_for(count, THREADS, most=2**31 - 1), images
        inputs, shared_anchors = (boxes, real, crowd, count, objects), len(anchors) == 1
        launch(
            "match", "best_objects", grid, THREADS, anchors, shared_anchors, *inputs, best, matched, covered, largest
        )
        overlaps, limits = (best, covered, largest), (float(low), float(high), allow_low_quality, CROWD_COVER)
        launch(
            "match", "label", grid, THREADS, anchors, shared_anchors, boxes, *overlaps, count, objects, *limits, labels
        )
    return labels, matched
