"""Winograd's convolution on the CPU, float32: 3x3, stride 1, with a quarter of the multiplications.

A tile of 4x4 output pixels depends on 6x6 input pixels d and the 3x3 weights w. Written out, it takes 4*4*9 = 144
multiplications for each pair of channels. Winograd's identity takes 6*6 = 36:

    Y = A^T [ (G w G^T) * (B^T d B) ] A        (* element by element)

The transforms B, G, A cost additions and multiplications by constants, once for each channel, not for each pair. For
many tiles and channels, each of the 36 products is a matrix product (tiles, Cin) @ (Cin, Cout), done by the same
register-blocked kernel as the direct convolution. The gradients follow from the identity:

    gd = B [ (G w G^T) * (A gY A^T) ] B^T      is a convolution with the mirrored weights, so it is done as one
    gw = G^T [ sum over tiles of (B^T d B) * (A gY A^T) ] G

Rounding errors are about ten times those of the direct sum (the constants go up to 8): some 1e-5 of the typical result.
Source: Lavin and Gray 2015, F(4x4, 3x3).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from minimask.device import threads
from minimask.kernels.parallel import elements, flat, run
from minimask.kernels.simd import LANES, ROWS, WIDTH, copy, linear_map, multiply

B_T = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
A_T = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)

times_b_t = linear_map(B_T)
times_g = linear_map(G)
times_a_t = linear_map(A_T)
times_a = linear_map(tuple(zip(*A_T)))

FEWEST_TILES = 32  # below, transforming the weights costs more than it saves
MOST_CHANNELS = 256  # above, the 36 matrices of weights do not stay in the cache
BLOCK_NUMBERS = 131072  # transformed pixels and products of a block of tiles: half a megabyte


class Tiling(NamedTuple):
    """What is read and written: ints only, so that a kernel can take them."""

    images: int
    height: int  # of the map that is read
    width: int
    inner: int  # its channels
    outer: int  # channels of the result
    start_y: int  # row of the map that the window's first row meets at row 0 of the result: -padding
    start_x: int
    rows: int  # of the result
    columns: int
    down: int  # tiles of an image
    across: int
    block: int  # tiles transformed at a time: a multiple of ROWS
    relu: bool


FIELDS = len(Tiling._fields)


# -------------------------------------------------------------------------------------------- shares of one thread


@njit(cache=True)
def transform_weights_part(t, parts, arrays, numbers):
    """panels (36, count, inner, WIDTH) = G w G^T, for the input channels of thread t.

    The weight (i, j, c, o) is w[start + i step_i + j step_j + c step_c + o step_o]: that can mirror and transpose.
    """
    w, panels = arrays[:2]
    inner, outer, start, step_i, step_j, step_c, step_o = numbers[:7]
    count = (outer + WIDTH - 1) // WIDTH
    taps, half = np.empty(9 * LANES, np.float32), np.empty(18 * LANES, np.float32)
    for c in range(t * inner // parts, (t + 1) * inner // parts):
        for o in range(0, outer, LANES):
            for i in range(3):
                for j in range(3):
                    of = start + i * step_i + j * step_j + c * step_c + o * step_o
                    for lane in range(LANES):
                        taps[(i * 3 + j) * LANES + lane] = w[of + lane * step_o]
            for j in range(3):
                times_g(taps, j * LANES, 3 * LANES, half, j * LANES, 3 * LANES)  # (6, 3)
            to = (o // WIDTH * inner + c) * WIDTH + o % WIDTH
            matrix = count * inner * WIDTH
            for i in range(6):
                times_g(half, i * 3 * LANES, LANES, panels, i * 6 * matrix + to, matrix)  # (6, 6)


@njit(cache=True)
def patch(x, height, width, channels, image, top, left, size, buffer):
    """buffer (size, size, channels) = the pixels of the map from (top, left) on; 0 outside."""
    for i in range(size):
        for j in range(size):
            y, z, to = top + i, left + j, (i * size + j) * channels
            if 0 <= y < height and 0 <= z < width:
                copy(buffer, to, x, ((image * height + y) * width + z) * channels, channels)
            else:
                buffer[to : to + channels] = 0


@njit(cache=True)
def place(g, tile):
    """Image, row and column of the first pixel of a tile in the result."""
    return tile // (g.down * g.across), tile // g.across % g.down * 4, tile % g.across * 4


@njit(cache=True)
def transform_pixels(x, g, first, count, buffer, scratch, pixels):
    """pixels (36, block, inner) = B^T d B for the 6x6 patches d of the tiles first .. first + count - 1."""
    inner = g.inner
    for k in range(count):
        image, row, column = place(g, first + k)
        top, left = row + g.start_y, column + g.start_x
        if top < 0 or left < 0 or top + 6 > g.height or left + 6 > g.width:
            patch(x, g.height, g.width, inner, image, top, left, 6, buffer)
            source, at, line = buffer, 0, 6 * inner
        else:
            source, at, line = x, ((image * g.height + top) * g.width + left) * inner, g.width * inner
        for c in range(0, inner, LANES):
            for j in range(6):
                times_b_t(source, at + j * inner + c, line, scratch, j * LANES, 6 * LANES)  # columns of B^T d
            for i in range(6):
                to = (i * 6 * g.block + k) * inner + c
                times_b_t(scratch, i * 6 * LANES, LANES, pixels, to, g.block * inner)  # rows of B^T d B


@njit(cache=True)
def transform_result(products, padded, block, k, outer, scratch, result):
    """result (4, 4, outer) = A^T m A for the products m (36, block, padded) of tile k of the block."""
    step = block * padded
    for c in range(0, outer, LANES):
        for j in range(6):
            times_a_t(products, (j * block + k) * padded + c, 6 * step, scratch, j * LANES, 6 * LANES)  # (4, 6)
        for i in range(4):
            times_a_t(scratch, i * 6 * LANES, LANES, result, i * 4 * outer + c, outer)  # (4, 4)


@njit(cache=True)
def finish(result, g, tile, bias, residual, out):
    """out = relu(result + bias + residual) for the pixels of a tile that lie in the map."""
    outer = g.outer
    image, top, left = place(g, tile)
    run = min(4, g.columns - left) * outer  # numbers of a row of the tile: they lie side by side
    for i in range(min(4, g.rows - top)):
        at = ((image * g.rows + top + i) * g.columns + left) * outer
        sums, y = result[i * 4 * outer : i * 4 * outer + run], out[at : at + run]
        for c in range(run):
            y[c] = sums[c] + bias[c]
        if residual.size > 0:
            other = residual[at : at + run]
            for c in range(run):
                y[c] += other[c]
        if g.relu:
            for c in range(run):
                y[c] = max(y[c], np.float32(0))


@njit(cache=True)
def forward_part(t, parts, arrays, numbers):
    """The blocks of tiles of thread t. bias: four times in a row, for the four pixels of a row of a tile."""
    x, panels, bias, residual, out = arrays[:5]
    g = Tiling(*numbers[:FIELDS])
    inner, outer, block = g.inner, g.outer, g.block
    tiles = g.images * g.down * g.across
    blocks = (tiles + block - 1) // block
    count = (outer + WIDTH - 1) // WIDTH
    padded = count * WIDTH
    pixels = np.empty(36 * block * inner, np.float32)
    products = np.empty(36 * block * padded, np.float32)
    buffer, scratch = np.empty(36 * inner, np.float32), np.empty(36 * LANES, np.float32)
    result = np.empty(16 * outer, np.float32)
    for q in range(t * blocks // parts, (t + 1) * blocks // parts):
        first = q * block
        n = min(block, tiles - first)
        transform_pixels(x, g, first, n, buffer, scratch, pixels)
        for e in range(36):
            for r in range(count):
                panel, to = (e * count + r) * inner * WIDTH, e * block * padded + r * WIDTH
                wide = outer - r * WIDTH
                multiply(pixels, e * block * inner, inner, 1, panels, panel, products, to, padded, n, wide, inner, 0)
        for k in range(n):
            transform_result(products, padded, block, k, outer, scratch, result)
            finish(result, g, first + k, bias, residual, out)


@njit(cache=True)
def transform_gradient(gy, g, first, count, buffer, scratch, gradients):
    """gradients (36, panels, block, WIDTH) = A gY A^T for the tiles first .. first + count - 1."""
    outer = g.outer
    matrix = (outer + WIDTH - 1) // WIDTH * g.block * WIDTH
    for k in range(count):
        image, top, left = place(g, first + k)
        if top + 4 > g.rows or left + 4 > g.columns:
            patch(gy, g.rows, g.columns, outer, image, top, left, 4, buffer)
            source, at, line = buffer, 0, 4 * outer
        else:
            source, at, line = gy, ((image * g.rows + top) * g.columns + left) * outer, g.columns * outer
        for c in range(0, outer, LANES):
            for j in range(4):
                times_a(source, at + j * outer + c, line, scratch, j * LANES, 4 * LANES)  # (6, 4)
            to = (c // WIDTH * g.block + k) * WIDTH + c % WIDTH
            for i in range(6):
                times_a(scratch, i * 4 * LANES, LANES, gradients, i * 6 * matrix + to, matrix)  # (6, 6)


@njit(cache=True)
def weights_part(t, parts, arrays, numbers):
    """sums[t] (36, panels, tall, WIDTH): what the tiles of thread t add to the gradient of the transformed weights."""
    x, gy, sums = arrays[:3]
    g = Tiling(*numbers[:FIELDS])
    inner, outer, block = g.inner, g.outer, g.block
    tiles = g.images * g.down * g.across
    blocks = (tiles + block - 1) // block
    count = (outer + WIDTH - 1) // WIDTH
    tall = (inner + ROWS - 1) // ROWS * ROWS
    pixels = np.zeros(36 * block * inner + ROWS, np.float32)
    gradients = np.zeros(36 * block * count * WIDTH, np.float32)
    buffer, scratch = np.empty(36 * max(inner, outer), np.float32), np.empty(36 * LANES, np.float32)
    for q in range(t * blocks // parts, (t + 1) * blocks // parts):
        first = q * block
        n = min(block, tiles - first)
        transform_pixels(x, g, first, n, buffer, scratch, pixels)
        transform_gradient(gy, g, first, n, buffer, scratch, gradients)
        add = q > t * blocks // parts
        for e in range(36):
            for r in range(count):
                of, to = (e * count + r) * block * WIDTH, ((t * 36 + e) * count + r) * tall * WIDTH
                wide = outer - r * WIDTH
                multiply(pixels, e * block * inner, 1, inner, gradients, of, sums, to, WIDTH, inner, wide, n, add)


# -------------------------------------------------------------------------------------------- on arrays


def fits(images, inner, outer, window, result):
    """Whether this convolution of `images` maps with this result (height, width) can be done so, and is faster so."""
    if window.kernel != (3, 3) or window.stride != (1, 1) or window.dilation != (1, 1) or window.groups != 1:
        return False
    tiles = images * -(-result[0] // 4) * -(-result[1] // 4)
    wasted = tiles * 16 > 2 * images * result[0] * result[1]  # tiles that reach over the border of small maps
    channels = inner % 16 == 0 and outer % 16 == 0 and max(inner, outer) <= MOST_CHANNELS
    return channels and tiles >= FEWEST_TILES and not wasted


def convolve(x, w, window, size, b=None, residual=None, relu=False):
    """See `minimask.convolution.convolve`; where `fits` says so."""
    return _forward(x, w, window.padding, size, b, residual, relu)


def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """See `minimask.convolution.convolve_backward_data`: the weights are mirrored, and in and out exchanged."""
    mirrored = w[::-1, ::-1].transpose(0, 1, 3, 2)  # (3, 3, Cout, Cin)
    padding = tuple(2 - p for p in window.padding)
    return _forward(gy, mirrored, padding, size, b, None, relu)


def _forward(x, w, padding, size, b, residual, relu):
    """The convolution of x (N, H, W, inner) with w (3, 3, inner, outer)."""
    inner, outer = w.shape[2:]
    panels = np.zeros(36 * inner * -(-outer // WIDTH) * WIDTH, np.float32)
    memory, start, steps = elements(w)
    run(transform_weights_part, (memory, panels), (inner, outer, start, *steps))
    bias = np.zeros(4 * outer, np.float32) if b is None else np.tile(b, 4)
    out = np.empty((len(x), *size, outer), np.float32)
    run(forward_part, (flat(x), panels, bias, flat(residual), flat(out)), _tiling(x, outer, padding, size, relu))
    return out


def convolve_backward_weights(x, gy, window):
    """See `minimask.convolution.convolve_backward_weights`; where `fits` says so."""
    inner, outer = x.shape[3], gy.shape[3]
    tall, panels = -(-inner // ROWS) * ROWS, -(-outer // WIDTH)
    sums = np.zeros((threads(), 36, panels, tall, WIDTH), np.float32)
    tiling = _tiling(x, outer, window.padding, gy.shape[1:3])
    run(weights_part, (flat(x), flat(gy), flat(sums)), tiling)
    sums = sums.sum(axis=0).reshape(36, -1)
    g = np.kron(G, G).astype(np.float32)  # (36, 9): both sides of G^T ... G at once
    gw = (g.T @ sums).reshape(9, panels, tall, WIDTH).transpose(0, 2, 1, 3)  # (9, tall, panels, WIDTH)
    return np.ascontiguousarray(gw.reshape(3, 3, tall, panels * WIDTH)[:, :, :inner, :outer])


def _tiling(x, outer, padding, size, relu=False):
    """The Tiling of a convolution of x, with blocks that give each thread the same number of blocks."""
    down, across = -(-size[0] // 4), -(-size[1] // 4)
    tiles, parts = len(x) * down * across, threads()
    largest = max(2 * ROWS, BLOCK_NUMBERS // (36 * (x.shape[3] + outer)) // ROWS * ROWS)
    rounds = -(-tiles // (largest * parts))
    block = -(-tiles // (rounds * parts * ROWS)) * ROWS
    return Tiling(*x.shape, outer, -padding[0], -padding[1], *size, down, across, block, relu)


def warm_up():
    """Compile the kernels (or load them from the cache)."""
    from minimask.convolution import Window

    x, w = np.zeros((1, 4, 4, 16), np.float32), np.zeros((3, 3, 16, 16), np.float32)
    window = Window("warm_up", w, padding=1)
    convolve(x, w, window, (4, 4))
    convolve_backward_weights(x, x, window)
