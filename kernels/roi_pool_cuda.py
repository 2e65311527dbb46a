"""RoIPool on the GPU, and the rounding of RoIWarp; see roi_pool.cu."""

import numpy as np

from minimask import device
from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, channel_threads, launch
from minimask.kernels.roi_align_cuda import contiguous, group_size, places, pyramid, tile_blocks


@takes(lambda features, *_, **__: all(feature.dtype == np.float32 for feature in features))
def roi_pool_forward(features, boxes, image_index, levels, scales, size=7):
    """See `minimask.roi_pool.roi_pool_forward`."""
    xp, channels = array_module(boxes), features[0].shape[3]
    out = xp.empty((len(boxes), size, size, channels), np.float32)
    chosen = xp.empty(out.shape, np.int32)
    if out.size:
        vector, threads = channel_threads(channels)
        blocks = blocks_for(len(boxes) * size * size, threads[1])
        where = *pyramid(features, scales), *places(features, boxes, image_index, levels), len(boxes), size
        launch("roi_pool", f"forward<{vector}>", blocks, threads, *where, out, chosen)
    return out, chosen


@takes(lambda gy, chosen, features, *_, **__: all(feature.dtype == np.float32 for feature in features))
def roi_pool_backward(gy, chosen, features, boxes, image_index, levels, scales, size=7):
    """See `minimask.roi_pool.roi_pool_backward`.

    With `device.deterministic` each cell gathers its gradient, box by box in a fixed order; otherwise the boxes add to
    the cells atomically.
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


@takes(lambda boxes, *_, **__: boxes.dtype == np.float32)
def round_boxes(boxes, levels, scales):
    """See `minimask.roi_pool.round_boxes`."""
    rounded = array_module(boxes).empty(boxes.shape, np.float32)
    if len(boxes):
        table = pyramid([None] * len(scales), scales)
        arguments = *table, contiguous(boxes), array_module(boxes).ascontiguousarray(levels), len(boxes), rounded
        launch("roi_pool", "round_boxes", blocks_for(len(boxes), 128), 128, *arguments)
    return rounded
