"""Winograd's convolution on the CPU, float32: 3x3 with stride 1, with a quarter of the multiplications.

A tile of 4x4 output pixels depends on a patch d of 6x6 input pixels and on the 3x3 weights w. Computed directly, it
takes 4*4*9 = 144 multiplications per pair of channels. Winograd's identity needs only 6*6 = 36:

    Y = A^T [ (G w G^T) * (B^T d B) ] A        (* element by element)

The transforms by B, G and A cost additions and multiplications by constants, but once per channel, not once per pair of
channels. For many tiles and channels, each of the 36 products is a matrix product (tiles, Cin) @ (Cin, Cout), computed
by the same register-blocked kernel as the direct convolution. The gradients follow from the identity:

    gd = B [ (G w G^T) * (A gY A^T) ] B^T      is a convolution with the mirrored weights, and is computed as one
    gw = G^T [ sum over tiles of (B^T d B) * (A gY A^T) ] G

Rounding errors are about ten times those of the direct sum, because the constants go up to 8: about 1e-5 of the typical
result. Launched by `parallel.run`: once for the weights, once for the tiles. Moves x 36 / 16 times (mostly from the
cache), the result and the residual once; the transformed weights take 36 / 9 of the weights' memory.
Source: Lavin and Gray 2015, F(4x4, 3x3).
"""

import numpy as np
from numba import njit

from minimask.convolution import Window
from minimask.kernels.conv_tiles import Steps, mirrored, upright
from minimask.kernels.conv_winograd_tiles import (
    A_T,
    FIELDS,
    G,
    Tiling,
    apart,
    place,
    prefetch_tile,
    tiles_ahead,
    tiling,
    transform_pixels,
)
from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import LANES, WIDTH, copy, linear_map, multiply, scratch
from minimask.machine.threads import threads

# Every block of tiles reads all weights once. If no cache holds them all, a block has at least one tile per this many
# weights. 512 channels in blocks of 28 or 64 tiles: 8.5 or 7.5 ms. With 256, which fit, larger blocks are slower.
WEIGHTS_PER_TILE = 4096

times_g = linear_map(G)
times_a_t = linear_map(A_T)


# -------------------------------------------------------------------------------------------- the work of one thread


@njit(cache=True)
def transform_weights_part(t, parts, arrays, numbers):
    """panels (36, count, inner, WIDTH) = G w G^T for the input channels of thread t."""
    w, panels = arrays[:2]
    inner, outer = numbers[:2]
    steps = Steps(*numbers[2:8])
    matrix = apart((outer + WIDTH - 1) // WIDTH * inner * WIDTH)
    taps, half = scratch(9 * LANES), scratch(18 * LANES)

    for o in range(0, outer, LANES):
        for c in range(t * inner // parts, (t + 1) * inner // parts):
            for tap in range(9):
                of = steps.start + tap // 3 * steps.i + tap % 3 * steps.j + c * steps.c + o * steps.o
                for lane in range(LANES):
                    taps[tap * LANES + lane] = w[of + lane * steps.o]
            for j in range(3):
                times_g(taps, j * LANES, 3 * LANES, half, j * LANES, 3 * LANES)  # (6, 3)
            to = (o // WIDTH * inner + c) * WIDTH + o % WIDTH
            for i in range(6):
                times_g(half, i * 3 * LANES, LANES, panels, i * 6 * matrix + to, matrix)  # (6, 6)


@njit(cache=True)
def transform_result(products, padded, block, k, outer, columns, result, at, line):
    """result[at + i line ...] = A^T m A, 4x4 pixels, from the products m (36, block, padded) of tile k of the block."""
    matrix = apart(block * padded)
    for c in range(0, outer, LANES):
        for j in range(6):
            times_a_t(products, j * matrix + k * padded + c, 6 * matrix, columns, j * LANES, 6 * LANES)  # (4, 6)
        for i in range(4):
            times_a_t(columns, i * 6 * LANES, LANES, result, at + i * line + c, outer)  # (4, 4)


@njit(cache=True)
def finish(g, tile, bias, residual, relu, out):
    """out = relu(out + bias + residual) for the pixels of a tile that lie inside the map."""
    image, top, left = place(g, tile)
    run = min(4, g.columns - left) * g.outer  # numbers in a row of the tile, side by side in memory
    for i in range(min(4, g.rows - top)):
        at = ((image * g.rows + top + i) * g.columns + left) * g.outer
        y = out[at : at + run]
        for c in range(run):
            y[c] += bias[c]
        if residual.size > 0:
            other = residual[at : at + run]
            for c in range(run):
                y[c] += other[c]
        if relu:
            for c in range(run):
                y[c] = max(y[c], np.float32(0))


@njit(cache=True)
def forward_part(t, parts, arrays, numbers):
    """Compute the tiles of thread t. bias: repeated four times, for the four pixels of a tile's row; or empty."""
    x, panels, bias, residual, out = arrays[:5]
    g = Tiling(*numbers[:FIELDS])
    relu = numbers[FIELDS]
    inner, outer, block = g.inner, g.outer, g.block
    tiles = g.images * g.down * g.across
    count = (outer + WIDTH - 1) // WIDTH
    padded = count * WIDTH
    matrices = apart(count * inner * WIDTH), apart(block * inner), apart(block * padded)  # of panels, pixels, products
    pixels, products = scratch(36 * matrices[1]), scratch(36 * matrices[2])
    buffer, columns, result = scratch(36 * inner), scratch(36 * LANES), scratch(16 * outer)
    ahead, end = tiles_ahead(g), (t + 1) * tiles // parts

    for first in range(t * tiles // parts, end, block):
        n = min(block, end - first)
        transform_pixels(x, g, first, n, buffer, columns, pixels)

        for e in range(36):
            for k in range(e * ahead // 36, (e + 1) * ahead // 36):  # fetch the next block during the arithmetic
                prefetch_tile(out, g.rows, g.columns, outer, *place(g, first + k), 1)
                image, row, column = place(g, first + block + k)
                prefetch_tile(x, g.height, g.width, inner, image, row + g.start_y + 1, column + g.start_x + 1, 0)
            for r in range(count):
                panel, of, to = e * matrices[0] + r * inner * WIDTH, e * matrices[1], e * matrices[2] + r * WIDTH
                wide = outer - r * WIDTH
                multiply(pixels, of, inner, 1, panels, panel, products, to, padded, n, wide, inner, 0)

        for k in range(n):
            image, top, left = place(g, first + k)
            at, line = ((image * g.rows + top) * g.columns + left) * outer, g.columns * outer
            if ahead > 0 and top + 4 <= g.rows and left + 4 <= g.columns:  # the whole tile lies in the map, and near
                transform_result(products, padded, block, k, outer, columns, out, at, line)
            else:
                transform_result(products, padded, block, k, outer, columns, result, 0, 4 * outer)
                for i in range(min(4, g.rows - top)):
                    copy(out, at + i * line, result, i * 4 * outer, min(4, g.columns - left) * outer)
            if bias.size > 0:
                finish(g, first + k, bias, residual, relu, out)


# -------------------------------------------------------------------------------------------- on arrays


def convolve(x, w, window, size, b=None, residual=None, relu=False):
    """See `minimask.convolution.convolve`; where `conv_winograd_tiles.fits` says so."""
    return _forward(x, flat(w), upright(w), w.shape[2:], window.padding, size, b, residual, relu)


def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """See `minimask.convolution.convolve_backward_data`; here it is a convolution with the mirrored weights."""
    padding = tuple(2 - p for p in window.padding)
    return _forward(gy, flat(w), mirrored(w), w.shape[:1:-1], padding, size, b, None, relu)


def _forward(x, w, steps, channels, padding, size, b, residual, relu):
    """The convolution of x (N, H, W, inner) with w (3, 3, inner, outer); channels: (inner, outer); steps: `Steps`."""
    inner, outer = channels
    panels = scratch(36 * apart(inner * -(-outer // WIDTH) * WIDTH))
    run(transform_weights_part, (w, panels), (inner, outer, *steps))

    plain = b is None and residual is None and not relu
    bias = np.zeros(0 if plain else 4 * outer, np.float32) if b is None else np.tile(b, 4)
    out = np.empty((len(x), *size, outer), np.float32)
    numbers = *tiling(x.shape, outer, padding, size, threads(), inner * outer // WEIGHTS_PER_TILE), relu
    run(forward_part, (flat(x), panels, bias, flat(residual), flat(out)), numbers)
    return out


def warm_up():
    """Compile the kernels, or load them from the cache."""
    x, w = np.zeros((1, 4, 4, 16), np.float32), np.zeros((3, 3, 16, 16), np.float32)
    convolve(x, w, Window((3, 3), padding=1), (4, 4))
