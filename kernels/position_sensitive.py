"""Position-sensitive pooling on the CPU: forward, and the gradient of the maps.

Layout: maps (N, H, W, parts * parts, D), cells (R, 2, m, 2): start and stop of each bin along y and x, images (R,), out
(R, m, m, D). The D numbers of a part lie side by side, and the inner loops run over them. Forward, threads share the
boxes. Backward, they share the D channels of each part, so no two threads add to the same number, and the result does
not depend on how many there are. Each bin reads, or adds to, its cells once.
"""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import run

FLOATS = np.float32, np.float64


@takes(lambda maps, *_: maps.dtype in FLOATS)
def position_sensitive_forward(maps, cells, image_index, parts):
    """See `minimask.systems.position_sensitive.position_sensitive_forward`."""
    size, depth = cells.shape[2], maps.shape[3] // parts**2
    out = np.empty((len(cells), size, size, depth), maps.dtype)
    _run(forward_part, np.ascontiguousarray(maps), cells, image_index, parts, out)
    return out


@takes(lambda gy, *_: gy.dtype in FLOATS)
def position_sensitive_backward(gy, cells, image_index, parts, shape):
    """See `minimask.systems.position_sensitive.position_sensitive_backward`."""
    gmaps = np.zeros(shape, gy.dtype)
    _run(backward_part, gmaps, cells, image_index, parts, np.ascontiguousarray(gy))
    return gmaps


def _run(part, maps, cells, image_index, parts, out):
    arrays = maps, cells.astype(maps.dtype), image_index.astype(maps.dtype), out
    numbers = (*maps.shape[:3], len(cells), parts, *out.shape[2:])
    if maps.dtype == np.float32:
        run(part, tuple(x.reshape(-1) for x in arrays), numbers)
    else:
        part(0, 1, tuple(x.reshape(-1) for x in arrays), numbers)


@njit(cache=True, error_model="numpy")
def forward_part(t, threads, arrays, numbers):
    """Every threads-th box, from box t on."""
    maps, cells, images, out = arrays[:4]
    n, height, width, count, parts, size, depth = numbers[:7]
    maps = maps.reshape((n, height, width, parts * parts, depth))
    cells = cells.reshape((count, 2, size, 2))
    out = out.reshape((count, size, size, depth))
    for r in range(t, count, threads):
        image = maps[int(images[r])]
        for i in range(size):
            top, bottom = int(cells[r, 0, i, 0]), int(cells[r, 0, i, 1])
            for j in range(size):
                left, right = int(cells[r, 1, j, 0]), int(cells[r, 1, j, 1])
                part = i * parts // size * parts + j * parts // size
                y = out[r, i, j]
                for k in range(depth):
                    y[k] = 0
                for a in range(top, bottom):
                    for b in range(left, right):
                        row = image[a, b, part]
                        for k in range(depth):
                            y[k] += row[k]
                share = out.dtype.type(1) / max((bottom - top) * (right - left), 1)
                for k in range(depth):
                    y[k] *= share


@njit(cache=True, error_model="numpy")
def backward_part(t, threads, arrays, numbers):
    """All boxes, for the t-th range of the channels of each part."""
    gmaps, cells, images, gy = arrays[:4]
    n, height, width, count, parts, size, depth = numbers[:7]
    gmaps = gmaps.reshape((n, height, width, parts * parts, depth))
    cells = cells.reshape((count, 2, size, 2))
    gy = gy.reshape((count, size, size, depth))
    for r in range(count):
        image = gmaps[int(images[r])]
        for i in range(size):
            top, bottom = int(cells[r, 0, i, 0]), int(cells[r, 0, i, 1])
            for j in range(size):
                left, right = int(cells[r, 1, j, 0]), int(cells[r, 1, j, 1])
                part = i * parts // size * parts + j * parts // size
                g = gy[r, i, j]
                share = gy.dtype.type(1) / max((bottom - top) * (right - left), 1)
                for a in range(top, bottom):
                    for b in range(left, right):
                        row = image[a, b, part]
                        for k in range(depth * t // threads, depth * (t + 1) // threads):
                            row[k] += share * g[k]
