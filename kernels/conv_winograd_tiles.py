"""What Winograd's convolution and its gradients share: the matrices, and the transform of a tile's pixels.

See `conv_winograd`. All of this runs inside of its kernels.
"""

from functools import lru_cache
from typing import NamedTuple

from numba import njit

from minimask.kernels.simd import LANES, LINE, ROWS, copy, linear_map, prefetch_to_read, prefetch_to_write

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

FEWEST_TILES = 32  # with fewer, transforming the weights costs more than it saves
MOST_CHANNELS = 512  # nothing above was measured
BLOCK_NUMBERS = 131072  # transformed pixels and products of a block of tiles: half a megabyte


class Tiling(NamedTuple):
    """What a convolution reads and writes; ints only, so that it can be passed to a kernel."""

    images: int
    height: int  # of the map that is read
    width: int
    inner: int  # its channels
    outer: int  # channels of the result
    start_y: int  # row of the map under the window's first row, at row 0 of the result: -padding
    start_x: int
    rows: int  # of the result
    columns: int
    down: int  # tiles per image
    across: int
    block: int  # tiles that are transformed at a time


FIELDS = len(Tiling._fields)


# -------------------------------------------------------------------------------------------- the work of one thread


@njit(cache=True)
def apart(size):
    """Distance, in numbers, between the 36 matrices of `size` numbers each.

    It is not a power of two, because multiples of one fall into the same few places of a cache and push each other out.
    """
    return size + LANES


@njit(cache=True)
def patch(x, height, width, channels, image, top, left, size, buffer):
    """buffer (size, size, channels) = the pixels of the map from (top, left) on; 0 outside the map."""
    for i in range(size):
        for j in range(size):
            y, z, to = top + i, left + j, (i * size + j) * channels
            if 0 <= y < height and 0 <= z < width:
                copy(buffer, to, x, ((image * height + y) * width + z) * channels, channels)
            else:
                buffer[to : to + channels] = 0


@njit(cache=True)
def place(g, tile):
    """Image, row and column of a tile's first pixel in the result."""
    return tile // (g.down * g.across), tile // g.across % g.down * 4, tile % g.across * 4


@njit(cache=True)
def tiles_ahead(g):
    """How many tiles of the next block to fetch in advance: all, or none if they would not stay in the cache."""
    return g.block if g.block * 16 * (g.inner + g.outer) <= BLOCK_NUMBERS else 0


@njit(cache=True)
def prefetch_tile(x, height, width, channels, image, top, left, write):
    """Begin to fetch 4x4 pixels of a map into the cache; write: they are about to be written."""
    for row in range(max(top, 0), min(top + 4, height)):
        at = ((image * height + row) * width + max(left, 0)) * channels
        end = min(at + (min(left + 4, width) - max(left, 0)) * channels, x.size)
        for line in range(at, end, LINE):
            if write:
                prefetch_to_write(x, line)
            else:
                prefetch_to_read(x, line)


@njit(cache=True)
def transform_pixels(x, g, first, count, buffer, columns, pixels):
    """pixels (36, block, inner) = B^T d B for the 6x6 patches d of the tiles first .. first + count - 1."""
    inner, matrix = g.inner, apart(g.block * g.inner)
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
                times_b_t(source, at + j * inner + c, line, columns, j * LANES, 6 * LANES)  # columns of B^T d
            for i in range(6):
                to = i * 6 * matrix + k * inner + c
                times_b_t(columns, i * 6 * LANES, LANES, pixels, to, matrix)  # rows of B^T d B


# -------------------------------------------------------------------------------------------- on shapes


def fits(images, inner, outer, window, result):
    """Whether Winograd's algorithm can compute this convolution of `images` maps, and is faster than the direct sum.

    inner, outer: channels read and written.  window: a `Window`.  result: height and width of the result.
    """
    if window.kernel != (3, 3) or window.stride != (1, 1) or window.dilation != (1, 1) or window.groups != 1:
        return False
    tiles = images * -(-result[0] // 4) * -(-result[1] // 4)
    wasted = tiles * 16 > 2 * images * result[0] * result[1]  # by tiles that reach beyond small maps
    channels = inner % 16 == 0 and outer % 16 == 0 and max(inner, outer) <= MOST_CHANNELS
    return channels and tiles >= FEWEST_TILES and not wasted


@lru_cache(maxsize=1024)
def tiling(shape, outer, padding, size, parts, least):
    """The `Tiling` of a convolution of a map of `shape`, with blocks of about the same size for each thread.

    least: a block has at least about this many tiles, even if it then exceeds the second-level cache.
    parts: number of threads.
    """
    down, across = -(-size[0] // 4), -(-size[1] // 4)
    tiles = shape[0] * down * across
    largest = max(2 * ROWS, least, BLOCK_NUMBERS // (36 * (shape[3] + outer)) // ROWS * ROWS)
    own = -(-tiles // parts)  # tiles per thread
    block = -(-own // (4 * -(-own // largest))) * 4
    return Tiling(*shape, outer, -padding[0], -padding[1], *size, down, across, block)
