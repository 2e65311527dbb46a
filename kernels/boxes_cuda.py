"""Boxes to what the network should predict, and back, on the GPU; see boxes.cu."""

import numpy as np

from minimask.device import array_module
from minimask.kernels.cuda import blocks_for, launch

THREADS = 256


def encode(boxes, anchors, weights, side):
    """Deltas of boxes.encode: boxes and anchors float32 of one shape (..., 4); side: of boxes that have none."""
    xp = array_module(boxes)
    boxes, anchors = xp.ascontiguousarray(boxes), xp.ascontiguousarray(anchors)
    deltas, count = xp.empty(boxes.shape, np.float32), boxes.size // 4
    if count:
        weights = map(float, weights)
        launch("boxes", "encode", blocks_for(count, THREADS), THREADS, boxes, anchors, count, *weights, side, deltas)
    return deltas


def decode(deltas, anchors, sizes, weights, largest_log_scale, side):
    """Boxes (N, R, C, 4) and whether they are large enough (N, R, C); see boxes.predicted."""
    xp = array_module(deltas)
    deltas, anchors = xp.ascontiguousarray(deltas), xp.ascontiguousarray(anchors)
    sizes = xp.ascontiguousarray(sizes, np.int64)
    boxes, large = xp.empty(deltas.shape, np.float32), xp.empty(deltas.shape[:-1], bool)
    if large.size:
        _, for_image, for_anchor, _ = deltas.shape
        launch(
            "boxes", "decode", blocks_for(large.size, THREADS), THREADS, deltas, anchors, sizes, large.size,
            for_image * for_anchor, for_anchor, *map(float, weights), largest_log_scale, float(side), boxes, large,
        )  # fmt: skip
    return boxes, large
