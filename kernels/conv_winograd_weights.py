"""The gradient of a convolution's weights by Winograd's identity, on the CPU, float32; see `conv_winograd`.

    gw = G^T [ sum over tiles of (B^T d B) * (A gY A^T) ] G

Each thread sums over its own tiles. The threads' sums are then added in the order of the threads, and transformed.
Launched by `parallel.run`, twice. Moves x and gy once (x 36 / 16 times from the cache). The sums, four times as large
as the weights, are read and written once per block of tiles.
"""

import numpy as np
from numba import njit

from minimask.convolution import Window
from minimask.kernels.conv_winograd_tiles import (
    A_T,
    FIELDS,
    G,
    Tiling,
    apart,
    patch,
    place,
    prefetch_tile,
    tiles_ahead,
    tiling,
    transform_pixels,
)
from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import LANES, WIDTH, copy, linear_map, multiply, scratch
from minimask.machine.threads import threads

times_a = linear_map(tuple(zip(*A_T)))
times_g_t = linear_map(tuple(zip(*G)))

# Every block of tiles reads and writes all sums once. With many channels that takes longer than the arithmetic, so a
# block has at least one tile per this many sums. 256 channels, 200 x 272 pixels, blocks of 28 or 224 tiles: 67 or 55
# ms.
SUMS_PER_TILE = 300
TOGETHER = 8  # input channels whose sums are read together, which makes long runs of memory


@njit(cache=True)
def transform_gradient(gy, g, first, count, buffer, columns, gradients):
    """gradients (36, panels, block, WIDTH) = A gY A^T for the tiles first .. first + count - 1."""
    outer = g.outer
    matrix = apart((outer + WIDTH - 1) // WIDTH * g.block * WIDTH)
    for k in range(count):
        image, top, left = place(g, first + k)
        if top + 4 > g.rows or left + 4 > g.columns:
            patch(gy, g.rows, g.columns, outer, image, top, left, 4, buffer)
            source, at, line = buffer, 0, 4 * outer
        else:
            source, at, line = gy, ((image * g.rows + top) * g.columns + left) * outer, g.columns * outer
        for c in range(0, outer, LANES):
            for j in range(4):
                times_a(source, at + j * outer + c, line, columns, j * LANES, 4 * LANES)  # (6, 4)
            to = (c // WIDTH * g.block + k) * WIDTH + c % WIDTH
            for i in range(6):
                times_a(columns, i * 4 * LANES, LANES, gradients, i * 6 * matrix + to, matrix)  # (6, 6)


@njit(cache=True)
def weights_part(t, parts, arrays, numbers):
    """sums[t] = what the tiles of thread t add to the transformed weights' gradient: (36, panels, inner, WIDTH)."""
    x, gy, sums = arrays[:3]
    g = Tiling(*numbers[:FIELDS])
    inner, outer, block = g.inner, g.outer, g.block
    tiles = g.images * g.down * g.across
    count = (outer + WIDTH - 1) // WIDTH
    # Distances between the 36 matrices of pixels, of gradients, and of sums.
    matrices = apart(block * inner), apart(block * count * WIDTH), apart(count * inner * WIDTH)
    pixels, gradients = scratch(36 * matrices[0]), scratch(36 * matrices[1])
    buffer, columns = scratch(36 * max(inner, outer)), scratch(36 * LANES)
    ahead, begin, end = tiles_ahead(g), t * tiles // parts, (t + 1) * tiles // parts
    if begin == end:
        sums[t * 36 * matrices[2] : (t + 1) * 36 * matrices[2]] = 0

    for first in range(begin, end, block):
        n = min(block, end - first)
        transform_pixels(x, g, first, n, buffer, columns, pixels)
        transform_gradient(gy, g, first, n, buffer, columns, gradients)

        for e in range(36):
            for k in range(e * ahead // 36, (e + 1) * ahead // 36):  # fetch what the next block reads
                image, row, column = place(g, first + block + k)
                prefetch_tile(gy, g.rows, g.columns, outer, image, row, column, 0)
                prefetch_tile(x, g.height, g.width, inner, image, row + g.start_y + 1, column + g.start_x + 1, 0)
            for r in range(count):
                of, panel = e * matrices[0], e * matrices[1] + r * block * WIDTH
                to, wide = (t * 36 + e) * matrices[2] + r * inner * WIDTH, outer - r * WIDTH
                multiply(pixels, of, 1, inner, gradients, panel, sums, to, WIDTH, inner, wide, n, first > begin)


@njit(cache=True)
def total_part(t, parts, arrays, numbers):
    """gw (3, 3, inner, outer) = G^T (sum of all threads' sums) G for the input channels of thread t."""
    sums, gw = arrays[:2]
    inner, outer = numbers[:2]
    matrix = apart((outer + WIDTH - 1) // WIDTH * inner * WIDTH)
    line, end = TOGETHER * WIDTH, (t + 1) * inner // parts
    total, half = scratch(36 * line), scratch(18 * LANES)

    for o in range(0, outer, WIDTH):
        for c in range(t * inner // parts, end, TOGETHER):
            count = min(TOGETHER, end - c) * WIDTH
            for e in range(36):
                at = e * matrix + (o // WIDTH * inner + c) * WIDTH
                copy(total, e * line, sums, at, count)
                own = total[e * line : e * line + count]
                for other in range(1, parts):
                    values = sums[at + other * 36 * matrix : at + other * 36 * matrix + count]
                    for i in range(count):
                        own[i] += values[i]

            for at in range(0, count, LANES):
                if o + at % WIDTH >= outer:
                    continue
                for j in range(6):
                    times_g_t(total, j * line + at, 6 * line, half, j * LANES, 6 * LANES)  # (3, 6)
                to = (c + at // WIDTH) * outer + o + at % WIDTH
                for i in range(3):
                    times_g_t(half, i * 6 * LANES, LANES, gw, i * 3 * inner * outer + to, inner * outer)  # (3, 3)


def convolve_backward_weights(x, gy, window):
    """See `minimask.convolution.convolve_backward_weights`; where `conv_winograd_tiles.fits` says so."""
    inner, outer = x.shape[3], gy.shape[3]
    sums = scratch(threads() * 36 * apart(-(-outer // WIDTH) * inner * WIDTH))
    least = inner * outer // SUMS_PER_TILE
    g = tiling(x.shape, outer, window.padding, gy.shape[1:3], threads(), least)
    run(weights_part, (flat(x), flat(gy), sums), g)

    gw = np.empty((3, 3, inner, outer), np.float32)
    run(total_part, (sums, flat(gw)), (inner, outer))
    return gw


def warm_up():
    """Compile the kernels, or load them from the cache."""
    x = np.zeros((1, 4, 4, 16), np.float32)
    convolve_backward_weights(x, x, Window((3, 3), padding=1))
