"""RoIPool on the GPU, and the rounding of RoIWarp; see roi_pool.cu."""

import numpy as np

from minimask import device
from minimask.device import array_module
from minimask.kernels.cuda import blocks_for, channel_threads, launch
from minimask.kernels.roi_align_cuda import contiguous, group_size, places, pyramid, tile_blocks


def forward(features, boxes, image_index, levels, scales, size):
    """-> out (R, size, size, C), and chosen, int32 of that shape: the cell y * W + x of each value, -1 without cells.

    Arguments as in `minimask.roi_pool.roi_pool_specification`, arrays float32 and int64.
    """
    xp, channels = array_module(boxes), features[0].shape[3]
    out = xp.empty((len(boxes), size, size, channels), np.float32)
    chosen = xp.empty(out.shape, np.int32)
    if out.size:
        vector, threads = channel_threads(channels)
        blocks = blocks_for(len(boxes) * size * size, threads[1])
        where = *pyramid(features, scales), *places(features, boxes, image_index, levels), len(boxes), size
        launch("roi_pool", f"forward<{vector}>", blocks, threads, *where, out, chosen)
    return out, chosen


def backward(gy, chosen, features, boxes, image_index, levels, scales, size):
    """Gradient gy of `out` -> list of gradients like `features`.

    With `device.deterministic` each cell gathers what it gets, in the order of the boxes; else boxes add atomically.
    """
    xp = array_module(gy)
    make = xp.empty if device.deterministic else xp.zeros
    gfeatures = [make(feature.shape, np.float32) for feature in features]
    vector, _ = channel_threads(gy.shape[3])
    where = *pyramid(gfeatures, scales), *places(features, boxes, image_index, levels), len(boxes), size
    results = contiguous(gy), chosen
    if device.deterministic:
        table = 2 * size * 8  # bytes of a box's bins
        blocks, group = tile_blocks(gfeatures, vector), group_size(table)
        launch("roi_pool", f"backward<{vector}>", blocks, 256, *where, group, *results, shared=group * table)
    elif gy.size:
        blocks, threads = blocks_for(len(boxes) * size * size, 8), (32, 8)
        launch("roi_pool", "backward_atomic", blocks, threads, *where, *results)
    return gfeatures


def round_boxes(boxes, levels, scales):
    """Boxes (R, 4) in pixels -> (R, 4) in pixels: each box's cells from edge to edge, at least one."""
    rounded = array_module(boxes).empty(boxes.shape, np.float32)
    if len(boxes):
        table = pyramid([None] * len(scales), scales)
        arguments = *table, contiguous(boxes), array_module(boxes).ascontiguousarray(levels), len(boxes), rounded
        launch("roi_pool", "round_boxes", blocks_for(len(boxes), 128), 128, *arguments)
    return rounded
