"""Nearest-neighbor resizing on the CPU, float32: on its way down, the feature pyramid doubles the side of each map.

Forward, each pixel of the result is read once and written once. Backward, each pixel of gx sums the gradients of the
pixels that copied it. Threads share the rows that are written.
"""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import flat, run


@njit(cache=True)
def nearest_part(t, parts, arrays, numbers):
    """y[i, j] = x[i H // H', j W // W'] for the rows of thread t."""
    x, y = arrays[:2]
    images, height, width, channels, high, wide = numbers[:6]
    for row in range(t * images * high // parts, (t + 1) * images * high // parts):
        source = (row // high * height + row % high * height // high) * width
        for j in range(wide):
            at, to = (source + j * width // wide) * channels, (row * wide + j) * channels
            pixel, result = x[at : at + channels], y[to : to + channels]
            for c in range(channels):
                result[c] = pixel[c]


@njit(cache=True)
def nearest_backward_part(t, parts, arrays, numbers):
    """gx[y, x] = the sum of gy over the places that copied x[y, x], for the rows of thread t."""
    gy, gx = arrays[:2]
    images, height, width, channels, high, wide = numbers[:6]
    for row in range(t * images * height // parts, (t + 1) * images * height // parts):
        image, y = row // height, row % height
        for x in range(width):
            to = (row * width + x) * channels
            result = gx[to : to + channels]
            result[:] = 0
            for i in range(first_copy(y, height, high), first_copy(y + 1, height, high)):
                for j in range(first_copy(x, width, wide), first_copy(x + 1, width, wide)):
                    at = ((image * high + i) * wide + j) * channels
                    gradient = gy[at : at + channels]
                    for c in range(channels):
                        result[c] += gradient[c]


@njit(cache=True)
def first_copy(place, size, result):
    """The first of `result` pixels that copies pixel `place` of `size` or a later one: i size >= place result."""
    return (place * result + size - 1) // size


@takes(lambda x, size: x.dtype == np.float32)
def nearest(x, size):
    """See `minimask.image.nearest`."""
    y = np.empty((len(x), *size, x.shape[3]), np.float32)
    run(nearest_part, (flat(x), flat(y)), (*x.shape, *size))
    return y


@takes(lambda gy, shape: gy.dtype == np.float32)
def nearest_backward(gy, shape):
    """See `minimask.image.nearest_backward`."""
    gx = np.empty(shape, np.float32)
    run(nearest_backward_part, (flat(gy), flat(gx)), (*shape, *gy.shape[1:3]))
    return gx


def warm_up():
    """Compile the kernels, or load them from the cache."""
    x = np.zeros((1, 1, 1, 1), np.float32)
    nearest_backward(nearest(x, (2, 2)), x.shape)
