"""Position-sensitive pooling on the GPU; see position_sensitive.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, channel_threads, launch


@takes(lambda maps, *_: maps.dtype == np.float32)
def position_sensitive_forward(maps, cells, image_index, parts):
    """See `minimask.systems.position_sensitive.position_sensitive_forward`."""
    size, depth = cells.shape[2], maps.shape[3] // parts**2
    out = array_module(maps).empty((len(cells), size, size, depth), np.float32)
    _launch("forward", maps, maps.shape, cells, image_index, parts, out, rows=len(cells) * size * size)
    return out


@takes(lambda gy, *_: gy.dtype == np.float32)
def position_sensitive_backward(gy, cells, image_index, parts, shape):
    """See `minimask.systems.position_sensitive.position_sensitive_backward`."""
    gmaps = array_module(gy).empty(shape, np.float32)
    images, height, width, _ = shape
    _launch("backward", gy, shape, cells, image_index, parts, gmaps, rows=images * height * width * parts**2)
    return gmaps


def _launch(kernel, read, shape, cells, image_index, parts, written, rows):
    """Launch a kernel with `rows` rows of threads; shape: that of the maps."""
    if written.size:
        xp, (images, height, width, channels) = array_module(read), shape
        depth, size = channels // parts**2, cells.shape[2]
        vector, threads = channel_threads(depth)
        boxes = xp.ascontiguousarray(cells), xp.ascontiguousarray(image_index), len(cells), size
        arguments = xp.ascontiguousarray(read), images, height, width, parts, depth, *boxes, written
        launch("position_sensitive", f"{kernel}<{vector}>", blocks_for(rows, threads[1]), threads, *arguments)
