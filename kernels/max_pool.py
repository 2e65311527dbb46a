"""Max pooling on the CPU, float32: the largest value under each window, and which place of the window holds it.

Launched by `parallel.run`: the threads share the rows of the result in the forward direction, those of the map in the
backward one, where each pixel collects from the windows above it, so that no two threads write to the same place. Moves
x, y and the winners (a byte each) once; the backward direction moves gy, gx and the winners once.
"""

import numpy as np
from numba import njit

from minimask.convolution import Window
from minimask.device import takes
from minimask.kernels.parallel import flat, run


@njit(cache=True)
def max_pool_part(t, parts, arrays, numbers):
    """y = the largest number under the window, winner = its place i * kw + j; of equals the first; NaN is largest."""
    x, y = arrays[:2]
    winner = arrays[2].view(np.uint8)
    images, height, width, channels, kh, kw, sy, sx, py, px, rows, columns = numbers[:12]
    for r in range(t * images * rows // parts, (t + 1) * images * rows // parts):
        image, top = r // rows, r % rows * sy - py
        for column in range(columns):
            left = column * sx - px
            at = (r * columns + column) * channels
            best, place = y[at : at + channels], winner[at : at + channels]
            for c in range(channels):
                best[c] = -np.inf
                place[c] = 0
            for i in range(max(0, -top), min(kh, height - top)):
                for j in range(max(0, -left), min(kw, width - left)):
                    pixel = ((image * height + top + i) * width + left + j) * channels
                    values = x[pixel : pixel + channels]
                    own = np.uint8(i * kw + j)
                    for c in range(channels):
                        better = values[c] > best[c] or values[c] != values[c]
                        best[c] = values[c] if better else best[c]
                        place[c] = own if better else place[c]


@njit(cache=True)
def max_pool_backward_part(t, parts, arrays, numbers):
    """gx = the sum of gy over the windows that the pixel won."""
    gy, gx = arrays[:2]
    winner = arrays[2].view(np.uint8)
    images, height, width, channels, kh, kw, sy, sx, py, px, rows, columns = numbers[:12]
    for r in range(t * images * height // parts, (t + 1) * images * height // parts):
        image, y = r // height, r % height + py
        for x in range(px, width + px):
            at = (r * width + x - px) * channels
            total = gx[at : at + channels]
            for c in range(channels):
                total[c] = 0
            for row in range(max(0, (y - kh) // sy + 1), min(rows, y // sy + 1)):
                for column in range(max(0, (x - kw) // sx + 1), min(columns, x // sx + 1)):
                    pixel = ((image * rows + row) * columns + column) * channels
                    values, place = gy[pixel : pixel + channels], winner[pixel : pixel + channels]
                    own = np.uint8((y - row * sy) * kw + x - column * sx)
                    for c in range(channels):
                        total[c] += values[c] if place[c] == own else np.float32(0)


@takes(lambda x, window: x.dtype == np.float32 and window.kernel[0] * window.kernel[1] <= 256)
def max_pool(x, window):
    """See `minimask.convolution.max_pool`; a winner is one byte."""
    size = window.output_size(x.shape[1:3])
    y = np.empty((len(x), *size, x.shape[3]), np.float32)
    winner = np.empty(-(-y.size // 4), np.float32)  # `run` takes no bytes: room for four in each number
    run(max_pool_part, (flat(x), flat(y), winner), (*x.shape, *_settings(window), *size))
    return y, winner.view(np.uint8)[: y.size].reshape(y.shape)


@takes(lambda gy, winner, size, window: gy.dtype == np.float32 and winner.dtype == np.uint8)
def max_pool_backward(gy, winner, size, window):
    """See `minimask.convolution.max_pool_backward`."""
    gx = np.empty((len(gy), *size, gy.shape[3]), np.float32)
    missing = -winner.size % 4  # bytes up to a multiple of four
    winner = np.append(winner, np.zeros(missing, np.uint8)) if missing else np.ascontiguousarray(winner).reshape(-1)
    arrays = flat(gy), flat(gx), winner.view(np.float32)
    run(max_pool_backward_part, arrays, (*gx.shape, *_settings(window), *gy.shape[1:3]))
    return gx


def _settings(window):
    return *window.kernel, *window.stride, *window.padding


def warm_up():
    """Compile the kernels, or load them from the cache."""
    window = Window((2, 2), (2, 2))
    y, winner = max_pool(np.ones((1, 2, 2, 1), np.float32), window)
    max_pool_backward(y, winner, (2, 2), window)
