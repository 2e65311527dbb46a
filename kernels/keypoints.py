"""Keypoints on the CPU: the largest value of each map, stretched to the pixels of its box.

A map of H x W cells is first stretched along x, to H rows of as many pixels as the box is wide. Each row of the box is
then a weighted sum of four of them, compared with the largest value so far in each column. So a keypoint takes
4 (H + height) * width multiplications, all on contiguous rows, and memory for H + 2 rows, however large the box is.
Threads share the maps. The arithmetic is that of `keypoint_head.find_peaks`, with sums in another order.
"""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import flat, run


@takes(lambda logits, *_, **__: logits.dtype == np.float32)
def find_peaks(logits, pixels):
    """See `minimask.keypoint_head.find_peaks`."""
    r, h, w, k = logits.shape
    maps = np.ascontiguousarray(logits.transpose(0, 3, 1, 2))  # (R, K, H, W)
    peaks = np.zeros((r, k, 3), np.float32)
    run(part, (flat(maps), flat(pixels), peaks.reshape(-1)), (r * k, k, h, w))
    return peaks


@njit(cache=True, error_model="numpy")
def taps(i, pixels, cells, index, weight):
    """The four cells around pixel i, when `cells` are stretched to `pixels`, and their cubic weights, a = -0.75."""
    position = (i + 0.5) * (cells / pixels) - 0.5
    low = int(np.floor(position))
    for t in range(4):
        d = abs(position - (low - 1 + t))
        near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
        index[t] = min(max(low - 1 + t, 0), cells - 1)
        weight[t] = near if d <= 1 else far


@njit(cache=True, error_model="numpy")
def peak(cells, width, height, result):
    """result (3,) = x, y, value of the peak of `cells` (H, W) stretched to height x width; of equals the first."""
    rows = np.empty((cells.shape[0], width), np.float32)
    best, where = np.empty(width, np.float32), np.zeros(width, np.int32)  # of each column: value and row
    index, weight = np.empty(4, np.int64), np.empty(4, np.float32)
    for x in range(width):
        taps(x, width, cells.shape[1], index, weight)
        for y in range(cells.shape[0]):
            row = cells[y]
            value = row[index[0]] * weight[0] + row[index[1]] * weight[1]
            rows[y, x] = value + row[index[2]] * weight[2] + row[index[3]] * weight[3]
    for y in range(height):
        taps(y, height, cells.shape[0], index, weight)
        a, b, c, d = rows[index[0]], rows[index[1]], rows[index[2]], rows[index[3]]
        wa, wb, wc, wd = weight
        for x in range(width):
            value = a[x] * wa + b[x] * wb + c[x] * wc + d[x] * wd
            higher = (value > best[x]) | (y == 0)
            best[x] = value if higher else best[x]
            where[x] = y if higher else where[x]
    column = 0
    for x in range(1, width):
        if best[x] > best[column] or (best[x] == best[column] and where[x] < where[column]):
            column = x
    result[0], result[1], result[2] = column, where[column], best[column]


@njit(cache=True, error_model="numpy", nogil=True)
def part(t, parts, arrays, numbers):
    """Maps t, t + parts, ... of arrays[0] (R * K, H, W); arrays[1]: width and height of each box, arrays[2]: result."""
    maps, keypoints, h, w = numbers[:4]
    for i in range(t, maps, parts):
        box = i // keypoints
        width, height = int(arrays[1][2 * box]), int(arrays[1][2 * box + 1])
        cells = arrays[0][i * h * w : (i + 1) * h * w].reshape(h, w)
        peak(cells, width, height, arrays[2][3 * i : 3 * i + 3])
