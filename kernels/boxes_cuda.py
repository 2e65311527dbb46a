"""Boxes to deltas and back on the GPU; see boxes.cu."""

import numpy as np

from minimask.boxes import LARGEST_LOG_SCALE, SMALLEST_SIDE
from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, float32_arrays, launch

THREADS = 256


@takes(
    lambda boxes, anchors, *_, **__: (
        float32_arrays(boxes, anchors) and boxes.shape == anchors.shape and boxes.shape[-1:] == (4,)
    )
)
def encode(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """See `minimask.boxes.encode`."""
    xp = array_module(boxes)
    boxes, anchors = xp.ascontiguousarray(boxes), xp.ascontiguousarray(anchors)
    deltas, count = xp.empty(boxes.shape, np.float32), boxes.size // 4
    if count:
        blocks, weights = blocks_for(count, THREADS), map(float, weights)
        launch("boxes", "encode", blocks, THREADS, boxes, anchors, count, *weights, SMALLEST_SIDE, deltas)
    return deltas


@takes(lambda deltas, anchors, *_, **__: float32_arrays(deltas, anchors))
def predicted(deltas, anchors, sizes, weights=(1.0, 1.0, 1.0, 1.0), side=0.0):
    """See `minimask.boxes.predicted`."""
    xp = array_module(deltas)
    deltas, anchors = xp.ascontiguousarray(deltas), xp.ascontiguousarray(anchors)
    sizes = xp.ascontiguousarray(sizes, np.int64)
    boxes, large = xp.empty(deltas.shape, np.float32), xp.empty(deltas.shape[:-1], bool)
    if large.size:
        blocks, (_, anchors_per_image, classes, _) = blocks_for(large.size, THREADS), deltas.shape
        counts = large.size, anchors_per_image * classes, classes
        scales = *map(float, weights), LARGEST_LOG_SCALE, float(side)
        launch("boxes", "predicted", blocks, THREADS, deltas, anchors, sizes, *counts, *scales, boxes, large)
    return boxes, large
