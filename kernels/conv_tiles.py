"""What direct convolution and its gradients share: where the numbers lie, and a tile of pixels gathered into rows.

For one output pixel the numbers under the window, written in a row, are kh * kw * Cin long; `gather` writes these rows
for a tile of some 100 output pixels. See `conv_direct` for what is done with them.
"""

from functools import lru_cache
from typing import NamedTuple

from numba import njit

from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import LANES, ROWS, SHORT, WIDTH, copy, copy_short, scratch

TILE_NUMBERS = 131072  # in a gathered tile: half a megabyte, so that it stays in the second-level cache
TILE_ROWS = 112  # and at most about that many pixels
MANY_WEIGHTS = 1 << 20  # more than stay in any cache: then tiles are large, for each tile reads all weights once


class Geometry(NamedTuple):
    """What a convolution reads and writes: ints only, so that a kernel can take them."""

    images: int
    height: int  # of the map that is read
    width: int
    groups: int
    inner: int  # channels of a group in the map that is read
    outer: int  # channels of a group in the result
    kernel_y: int
    kernel_x: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    start_y: int  # row of the map that the window's first row meets at row 0 of the result: -padding
    start_x: int
    rows: int  # of the result
    columns: int
    out_start: int  # pixel (n, y, x) of the result begins at out[out_start + n out_image + y out_row + x out_column]
    out_image: int
    out_row: int
    out_column: int
    tile: int  # pixels gathered at a time


class Steps(NamedTuple):
    """How weights lie: weight (i, j, c, o) of group k is w[start + i * self.i + j * self.j + ... + k * self.group]."""

    start: int
    i: int
    j: int
    c: int
    group: int
    o: int


FIELDS = len(Geometry._fields)


# -------------------------------------------------------------------------------------------- of one thread


@njit(cache=True)
def place(g, pixel):
    """Image, row and column of a pixel of the result, counted through all images."""
    return pixel // (g.columns * g.rows), pixel // g.columns % g.rows, pixel % g.columns


@njit(cache=True)
def following(g, image, row, column):
    """The place after this one, without a division."""
    column += 1
    if column == g.columns:
        column = 0
        row += 1
        if row == g.rows:
            row = 0
            image += 1
    return image, row, column


@njit(cache=True)
def row_length(g):
    """Numbers in a row that `gather` writes, and from one to the next.

    Numbers 4 kB apart fall into the same place of the nearest cache, which holds 8 to 12 of them: rows of a block, read
    side by side, would drive each other out, and the product would take up to 1.7 times as long.
    """
    depth = g.kernel_y * g.kernel_x * g.inner
    return depth, depth + LANES if depth % 1024 == 0 else depth


@njit(cache=True)
def rows_as_they_are(g):
    """Whether the map's pixels are the rows that `gather` would write: 1x1, stride 1, no padding, one group."""
    plain = g.kernel_y * g.kernel_x * g.stride_y * g.stride_x * g.groups == 1 and g.start_y == 0 and g.start_x == 0
    depth, step = row_length(g)
    return plain and g.rows == g.height and g.columns == g.width and step == depth


@njit(cache=True)
def gather(x, g, group, first, count, buffer):
    """buffer[p, (i, j, c)] = the numbers under the window of output pixel first + p, p < count; 0 outside the map.

    Rows begin as far apart as `row_length` says. Runs are written one after the other, so what a short copy writes too
    much is written again: the buffer needs room for LANES numbers more.
    """
    together = g.kernel_x if g.dilation_x == 1 and g.groups == 1 else 1  # pixels that lie side by side in memory
    channels = g.groups * g.inner
    high, wide = (g.kernel_y - 1) * g.dilation_y, (g.kernel_x - 1) * g.dilation_x
    depth, row_step = row_length(g)
    image, row, column = place(g, first)
    done = 0
    while done < count:
        top, left = row * g.stride_y + g.start_y, column * g.stride_x + g.start_x
        of = ((image * g.height + top) * g.width + left) * channels + group * g.inner
        if top >= 0 and left >= 0 and top + high < g.height and left + wide < g.width:
            # so many windows from this one on, in this row of the result, lie inside the map
            here = min(count - done, g.columns - column, (g.width - 1 - left - wide) // g.stride_x + 1)
            gather_inside(x, g, of, here, together, buffer, done * row_step)
        else:
            here = 1
            gather_at_border(x, g, of, top, left, together, buffer, done * row_step)
        done += here
        column += here - 1
        image, row, column = following(g, image, row, column)


@njit(cache=True)
def gather_inside(x, g, of, count, together, buffer, to):
    """The rows of `count` windows, side by side, that lie inside the map; the first would begin at x[of]."""
    run = together * g.inner
    channels = g.groups * g.inner
    line, step = g.dilation_y * g.width * channels, together * g.dilation_x * channels  # from a run to the next
    depth, row_step = row_length(g)
    end = of + (count - 1) * g.stride_x * channels + g.kernel_y * line + SHORT  # nothing beyond is read
    short = run <= SHORT and end <= x.size
    for p in range(count):
        at = to + p * row_step
        for i in range(g.kernel_y):
            start = of + p * g.stride_x * channels + i * line
            for _ in range(g.kernel_x // together):
                if short and run <= LANES:  # as in a stem: one vector, without a decision for each of six
                    copy_short(buffer, at, x, start, LANES)
                elif short:
                    copy_short(buffer, at, x, start, run)
                else:
                    copy(buffer, at, x, start, run)
                at += run
                start += step


@njit(cache=True)
def gather_at_border(x, g, of, top, left, together, buffer, to):
    """The row of one window that reaches beyond the map; it would begin at x[of], in row `top` and column `left`."""
    channels = g.groups * g.inner
    run = together * g.inner
    for i in range(g.kernel_y):
        y = top + i * g.dilation_y
        for j in range(0, g.kernel_x, together):
            x0 = left + j * g.dilation_x
            before = min(together, max(0, -x0)) * g.inner  # the run's numbers before this are left of the map
            end = max(before, min(together, g.width - x0) * g.inner)  # those from here on are right of it
            if y < 0 or y >= g.height:
                before = end = run
            buffer[to : to + before] = 0
            if end > before:
                start = of + (i * g.dilation_y * g.width + j * g.dilation_x) * channels + before
                copy(buffer, to + before, x, start, end - before)
            buffer[to + end : to + run] = 0
            to += run


@njit(cache=True)
def pack_part(t, parts, arrays, numbers):
    """panels (groups, count, taps merged inner, WIDTH): the weights in the order in which the product reads them.

    inner, outer: channels of one of the convolution's own groups, `merged` of which are multiplied as one.
    """
    w, panels = arrays[:2]
    taps, kernel_x, groups, inner, outer, merged = numbers[:6]
    steps = Steps(*numbers[6:12])
    count = (merged * outer + WIDTH - 1) // WIDTH  # panels of a group
    blocks = groups * count * taps
    for block in range(t * blocks // parts, (t + 1) * blocks // parts):
        group, o, tap = block // (count * taps), block // taps % count * WIDTH, block % taps
        place_of_tap = steps.start + tap // kernel_x * steps.i + tap % kernel_x * steps.j
        to = block * merged * inner * WIDTH
        for member in range(merged):
            first = member * outer  # the columns of this group's own channels; those of strangers are 0
            here = min(WIDTH - first, outer - o)
            for c in range(inner):
                of = place_of_tap + (group * merged + member) * steps.group + c * steps.c + o * steps.o
                target = panels[to : to + WIDTH]
                if here < WIDTH:
                    target[:] = 0
                if steps.o == 1:
                    copy(panels, to + first, w, of, here)
                else:
                    for lane in range(here):
                        target[first + lane] = w[of + lane * steps.o]
                to += WIDTH


# -------------------------------------------------------------------------------------------- on arrays


def upright(w, groups=1):
    """The Steps of contiguous weights (kh, kw, Cin / groups, Cout)."""
    _, kw, inner, channels = w.shape
    return Steps(0, kw * inner * channels, inner * channels, channels, channels // groups, 1)


def mirrored(w, groups=1):
    """The Steps of the same weights turned by 180 degrees, with in and out of each group exchanged."""
    kh, kw, inner, channels = w.shape
    place = inner * channels
    return Steps((kh * kw - 1) * place, -kw * place, -place, 1, channels // groups, channels)


def pack(w, steps, kernel, g, merged):
    """The weights as panels (flat), for the product that Geometry g describes; kernel: (kh, kw) of what is packed."""
    count = -(-g.outer // WIDTH)
    panels = scratch(g.groups * count * kernel[0] * kernel[1] * g.inner * WIDTH)
    shape = kernel[0] * kernel[1], kernel[1], g.groups, g.inner // merged, g.outer // merged, merged
    run(pack_part, (flat(w), panels), (*shape, *steps))
    return panels


def mergeable(groups, outer):
    """How many small groups are multiplied as one that fills a panel, with zeros between strangers: the largest
    divisor of `groups` with merged * outer <= WIDTH.
    """
    return max(m for m in range(1, groups + 1) if groups % m == 0 and (m == 1 or m * outer <= WIDTH))


@lru_cache(maxsize=1024)
def geometry(shape, groups, inner, outer, kernel, stride, dilation, start, size, at, largest, parts):
    """The Geometry of a convolution of a map of `shape`, with a tile that gives each of the threads as many tiles.

    inner, outer: channels of a group. at: where the result's pixels lie, see Geometry. largest: pixels of a tile.
    """
    pixels = shape[0] * size[0] * size[1]
    largest = max(ROWS, largest // ROWS * ROWS)
    tiles = -(-pixels // (largest * parts)) * parts
    tile = max(ROWS, -(-pixels // (max(1, tiles) * ROWS)) * ROWS)
    return Geometry(*shape[:3], groups, inner, outer, *kernel, *stride, *dilation, *start, *size, *at, tile)
