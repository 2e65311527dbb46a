"""Max pooling on the CPU, float32: the largest value under each window, and which place of the window held it.

The threads share the rows of the result (forward) or of the map (backward): in backward each pixel of the map collects
from the windows over it, so that no two threads write to one place. Moves x once and y with the winners (a byte each)
once; backward the same the other way.
"""

import numpy as np
from numba import njit

from minimask.kernels.parallel import flat, run


@njit(cache=True)
def forward_part(t, parts, arrays, numbers):
    """y = the largest number under the window, winner = its place i * kw + j (the first of equals; NaN is largest)."""
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
def backward_part(t, parts, arrays, numbers):
    """gx = the sum of gy over the windows that this pixel won."""
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


def forward(x, size, stride, padding, result):
    """y (N, OH, OW, C) and the winners of x (N, H, W, C); size has at most 256 places.

    The winners are one byte for each number of y, in a flat float32 array, for `run` takes no other: `backward` wants
    it back, `.view(np.uint8)[: y.size]` shows them.
    """
    shape = (len(x), *result, x.shape[3])
    y = np.empty(shape, np.float32)
    winner = np.empty(-(-y.size // 4), np.float32)
    run(forward_part, (flat(x), flat(y), winner), (*x.shape, *size, *stride, *padding, *result))
    return y, winner


def backward(gy, winner, shape, size, stride, padding):
    """gx (of `shape`) from gy and the winners that `forward` gave."""
    gx = np.empty(shape, np.float32)
    run(backward_part, (flat(gy), flat(gx), winner), (*shape, *size, *stride, *padding, *gy.shape[1:3]))
    return gx


def warm_up():
    """Compile the kernels (or load them from the cache)."""
    y, winner = forward(np.ones((1, 2, 2, 1), np.float32), (2, 2), (2, 2), (0, 0), (1, 1))
    backward(y, winner, (1, 2, 2, 1), (2, 2), (2, 2), (0, 0))
