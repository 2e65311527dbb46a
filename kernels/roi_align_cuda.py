"""RoIAlign on the GPU; see roi_align.cu."""

import numpy as np

from minimask import device
from minimask.device import array_module
from minimask.kernels.cuda import NULL, blocks_for, channel_threads, launch

LEVELS, TILE = 5, 8  # as in common.cuh


def forward(features, boxes, image_index, levels, scales, size, sampling_ratio, aligned, pooling):
    """-> out (R, size, size, C), and for maximum pooling the number of each chosen sample, int32 of that shape.

    Arguments as in `minimask.roi_align.roi_align_specification`, arrays float32 and int64.
    """
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


def backward(
    gy, chosen, needs, features, boxes, image_index, levels, scales, size, sampling_ratio, aligned, pooling
):
    """Gradient gy of `out` -> list of gradients like `features`, None where `needs` is False.

    With `device.deterministic` each cell gathers what it gets, in the order of the boxes; else boxes add atomically.
    """
    xp, channels, maximum = array_module(gy), gy.shape[3], pooling == "max"
    make = xp.empty if device.deterministic else xp.zeros
    gfeatures = [make(feature.shape, np.float32) if needed else None for feature, needed in zip(features, needs)]
    if not any(needs):
        return gfeatures
    vector, _ = channel_threads(channels)
    where = *pyramid(gfeatures, scales), *places(features, boxes, image_index, levels), len(boxes), size
    arguments = *where, sampling_ratio, aligned
    results = contiguous(gy), chosen if maximum else NULL
    if device.deterministic:
        table = 2 * size * TILE * 4  # bytes of a box's weights
        group = group_size(table)
        launch(
            "roi_align", _name("backward", vector, maximum), tile_blocks(gfeatures, vector), 256,
            *arguments, group, *results, shared=group * table,
        )  # fmt: skip
    elif gy.size:
        blocks, threads = blocks_for(len(boxes) * size * size, 8), (32, 8)
        launch("roi_align", f"backward_atomic<{str(maximum).lower()}>", blocks, threads, *arguments, *results)
    return gfeatures


def backward_to_boxes(gy, chosen, features, boxes, image_index, levels, scales, size, sampling_ratio, aligned, pooling):
    """Gradient gy of `out` -> gradient (R, 4) of the boxes."""
    xp, maximum = array_module(gy), pooling == "max"
    gboxes = xp.empty((len(boxes), 4), np.float32)
    if len(boxes):
        where = *pyramid(features, scales), *places(features, boxes, image_index, levels), size
        results = contiguous(gy), chosen if maximum else NULL, gboxes
        name = f"backward_to_boxes<{str(maximum).lower()}>"
        launch("roi_align", name, len(boxes), 256, *where, sampling_ratio, aligned, *results)
    return gboxes


def assign_levels(boxes, first_level, levels, canonical_size, canonical_level):
    """The level of each box (..., 4), counted from 0: (...) int64; see `minimask.roi_align.assign_levels`."""
    xp = array_module(boxes)
    assigned, count = xp.empty(boxes.shape[:-1], np.int64), boxes.size // 4
    if count:
        numbers = count, first_level, levels, float(canonical_size), float(canonical_level)
        launch("roi_align", "assign_levels", blocks_for(count, 128), 128, contiguous(boxes), *numbers, assigned)
    return assigned


def pyramid(maps, scales):
    """The kernels' arguments LEVELS: array, height, width and scale of each level; None: a level that is left out."""
    if len(maps) > LEVELS:
        raise ValueError(f"the kernels for the GPU take at most {LEVELS} pyramid levels, got {len(maps)}")
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
    """How many boxes a block prepares at once: 8, or as many as their tables of so many bytes fit into 32 KiB."""
    return max(1, min(8, (32 << 10) // table))


def tile_blocks(maps, vector):
    """The grid of a kernel whose blocks own a tile of 8 x 8 cells and 32 * vector channels of one of the maps."""
    maps = [x for x in maps if x is not None]
    tiles = sum(x.shape[0] * -(-x.shape[1] // TILE) * -(-x.shape[2] // TILE) for x in maps)
    return tiles, -(-maps[0].shape[3] // (32 * vector))


def contiguous(x):
    """`x` as the kernels read it: float32, one number after another."""
    return array_module(x).ascontiguousarray(x, dtype=np.float32)


def _name(kernel, vector, maximum):
    return f"{kernel}<{vector}, {str(maximum).lower()}>"
