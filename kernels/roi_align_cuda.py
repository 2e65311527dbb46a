"""RoIAlign on the GPU; see roi_align.cu."""

import numpy as np

from minimask import device
from minimask.device import array_module, takes
from minimask.kernels.cuda import NULL, blocks_for, channel_threads, launch

LEVELS, TILE = 5, 8  # as in common.cuh


@takes(lambda features, *_, **__: all(feature.dtype == np.float32 for feature in features))
def roi_align_forward(
    features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=False, pooling="average"
):
    """See `minimask.roi_align.roi_align_forward`."""
    xp, channels, maximum = array_module(boxes), features[0].shape[3], pooling == "max"
    out = xp.empty((len(boxes), size, size, channels), np.float32)
    chosen = xp.empty(out.shape, np.int32) if maximum else None
    if out.size:
        vector, threads = channel_threads(channels)
        blocks = blocks_for(len(boxes) * size * size, threads[1])
        where = *pyramid(features, scales), *places(features, boxes, image_index, levels), len(boxes), size
        results = out, chosen if maximum else NULL
        name = _name("forward", vector, maximum)
        launch("roi_align", name, blocks, threads, *where, sampling_ratio, aligned, *results)
    return out, chosen


@takes(lambda gy, chosen, features, *_, **__: all(feature.dtype == np.float32 for feature in features))
def roi_align_backward(
    gy, chosen, features, boxes, image_index, levels, scales, size, sampling_ratio, aligned, pooling, to_boxes=False
):
    """See `minimask.roi_align.roi_align_backward`.

    With `device.deterministic` each cell gathers its gradient, box by box in a fixed order; otherwise the boxes add to
    the cells atomically.
    """
    xp, channels, maximum = array_module(gy), gy.shape[3], pooling == "max"
    gy, chosen = contiguous(gy), chosen if maximum else NULL
    make = xp.empty if device.deterministic else xp.zeros
    gfeatures = [make(feature.shape, np.float32) for feature in features]
    vector, _ = channel_threads(channels)
    where = *pyramid(gfeatures, scales), *places(features, boxes, image_index, levels), len(boxes), size
    settings = sampling_ratio, aligned
    if device.deterministic:
        table = 2 * size * TILE * 4  # bytes of a box's weights
        group = group_size(table)
        name, blocks = _name("backward", vector, maximum), tile_blocks(gfeatures, vector)
        launch("roi_align", name, blocks, 256, *where, *settings, group, gy, chosen, shared=group * table)
    elif gy.size:
        blocks, threads = blocks_for(len(boxes) * size * size, 8), (32, 8)
        name = f"backward_atomic<{str(maximum).lower()}>"
        launch("roi_align", name, blocks, threads, *where, *settings, gy, chosen)
    if not to_boxes:
        return gfeatures, None

    gboxes = xp.empty((len(boxes), 4), np.float32)
    if len(boxes):
        where = *pyramid(features, scales), *places(features, boxes, image_index, levels), size
        name = f"backward_to_boxes<{str(maximum).lower()}>"
        launch("roi_align", name, len(boxes), 256, *where, *settings, gy, chosen, gboxes)
    return gfeatures, gboxes.astype(boxes.dtype, copy=False)


@takes(lambda boxes, *_, **__: boxes.dtype == np.float32)
def assign_levels(boxes, first_level=2, levels=4, canonical_size=224, canonical_level=4):
    """See `minimask.roi_align.assign_levels`."""
    xp = array_module(boxes)
    assigned, count = xp.empty(boxes.shape[:-1], np.int64), boxes.size // 4
    if count:
        numbers = count, first_level, levels, float(canonical_size), float(canonical_level)
        launch("roi_align", "assign_levels", blocks_for(count, 128), 128, contiguous(boxes), *numbers, assigned)
    return assigned


def pyramid(maps, scales):
    """The kernels' arguments LEVELS: array, height, width and scale of each level; a map that is None is left out."""
    if len(maps) > LEVELS:
        raise ValueError(f"the GPU kernels take at most {LEVELS} pyramid levels, got {len(maps)}")
    arguments = []
    for x, scale in zip(maps, scales):
        arguments += (NULL, 0, 0) if x is None else (contiguous(x), *x.shape[1:3])
        arguments.append(float(scale))
    return *arguments, *(NULL, 0, 0, 0.0) * (LEVELS - len(maps))


def places(features, boxes, image_index, levels):
    """The kernels' arguments images, channels, boxes, image_index, levels."""
    xp, (images, _, _, channels) = array_module(boxes), features[0].shape
    return images, channels, contiguous(boxes), xp.ascontiguousarray(image_index), xp.ascontiguousarray(levels)


def group_size(table):
    """How many boxes a block prepares at once: 8, or as many as fit into 32 KiB with tables of this many bytes."""
    return max(1, min(8, (32 << 10) // table))


def tile_blocks(maps, vector):
    """The grid of a kernel whose blocks own a tile of 8 x 8 cells and 32 * vector channels of one of the maps."""
    tiles = sum(x.shape[0] * -(-x.shape[1] // TILE) * -(-x.shape[2] // TILE) for x in maps)
    return tiles, -(-maps[0].shape[3] // (32 * vector))


def contiguous(x):
    """`x` as the kernels read it: float32 and contiguous."""
    return array_module(x).ascontiguousarray(x, dtype=np.float32)


def _name(kernel, vector, maximum):
    return f"{kernel}<{vector}, {str(maximum).lower()}>"
