"""What direct convolution and its gradients share: where the numbers lie, and how a tile of pixels becomes rows.

The numbers under the window of one output pixel, written side by side, form a row of length kh * kw * Cin. `gather`
writes these rows for a tile of about 100 output pixels; `conv_direct` says what is done with them.
"""

from functools import lru_cache
from typing import NamedTuple

from numba import njit

from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import LANES, ROWS, SHORT, WIDTH, copy, copy_short, scratch

TILE_NUMBERS = 131072  # at most this many numbers in a tile: half a megabyte, which stays in the second-level cache
TILE_ROWS = 112  # at most about this many pixels in a tile
MANY_WEIGHTS = 1 << 20  # more weights than any cache holds: tiles are then large, because each reads all weights once


class Geometry(NamedTuple):
    """What a convolution reads and writes; ints only, so that it can be passed to a kernel."""

    images: int
    height: int  # of the map that is read
    width: int
    groups: int
    inner: int  # channels per group in the map that is read
    outer: int  # channels per group in the result
    kernel_y: int
    kernel_x: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    start_y: int  # row of the map under the window's first row, at row 0 of the result: -padding
    start_x: int
    rows: int  # of the result
    columns: int
    out_start: int  # pixel (n, y, x) of the result starts at out[out_start + n out_image + y out_row + x out_column]
    out_image: int
    out_row: int
    out_column: int
    tile: int  # pixels per tile


class Steps(NamedTuple):
    """Where weights lie: (i, j, c, o) of group k is w[start + i * self.i + j * self.j + ... + k * self.group]."""

    start: int
    i: int
    j: int
    c: int
    group: int
    o: int


FIELDS = len(Geometry._fields)


# -------------------------------------------------------------------------------------------- the work of one thread


@njit(cache=True)
def place(g, pixel):
    """Image, row and column of a pixel of the result; pixels are counted through all images."""
    return pixel // (g.columns * g.rows), pixel // g.columns % g.rows, pixel % g.columns


@njit(cache=True)
def following(g, image, row, column):
    """The next pixel's image, row and column, without a division."""
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
    """The length of a row that `gather` writes, and the distance from one row to the next, in numbers.

    Numbers 4 kB apart share a set of the first-level cache, which holds 8 to 12 lines. The rows of a block are read
    together; that far apart they would push each other out, and the product would take up to 1.7 times as long.
    """
    depth = g.kernel_y * g.kernel_x * g.inner
    return depth, depth + LANES if depth % 1024 == 0 else depth


@njit(cache=True)
def rows_as_they_are(g):
    """Whether the map itself holds the rows that `gather` would write: 1x1, stride 1, no padding, one group."""
    plain = g.kernel_y * g.kernel_x * g.stride_y * g.stride_x * g.groups == 1 and g.start_y == 0 and g.start_x == 0
    depth, step = row_length(g)
    return plain and g.rows == g.height and g.columns == g.width and step == depth


@njit(cache=True)
def gather(x, g, group, first, count, buffer):
    """buffer[p, (i, j, c)] = the numbers under the window of output pixel first + p, for p < count; 0 outside the map.

    `row_length` says how far apart the rows begin. The runs of a row are written one after the other. A short copy may
    write too much, which the next one overwrites; after the last, the buffer needs room for LANES more numbers.
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
            # how many windows lie inside the map, counted from this one to the end of the result's row
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
    """Write the rows of `count` neighboring windows that lie inside the map; the first begins at x[of]."""
    run = together * g.inner
    channels = g.groups * g.inner
    line, step = g.dilation_y * g.width * channels, together * g.dilation_x * channels  # to the next run
    depth, row_step = row_length(g)
    end = of + (count - 1) * g.stride_x * channels + g.kernel_y * line + SHORT  # nothing beyond this is read
    short = run <= SHORT and end <= x.size

    for p in range(count):
        at = to + p * row_step
        for i in range(g.kernel_y):
            start = of + p * g.stride_x * channels + i * line
            for _ in range(g.kernel_x // together):
                if short and run <= LANES:  # as in a stem: one vector, no need to ask about the other five
                    copy_short(buffer, at, x, start, LANES)
                elif short:
                    copy_short(buffer, at, x, start, run)
                else:
                    copy(buffer, at, x, start, run)
                at += run
                start += step


@njit(cache=True)
def gather_at_border(x, g, of, top, left, together, buffer, to):
    """Write the row of one window that reaches beyond the map; it would begin at x[of], in row `top`, column `left`."""
    channels = g.groups * g.inner
    run = together * g.inner
    for i in range(g.kernel_y):
        y = top + i * g.dilation_y
        for j in range(0, g.kernel_x, together):
            x0 = left + j * g.dilation_x
            before = min(together, max(0, -x0)) * g.inner  # numbers of the run left of the map
            end = max(before, min(together, g.width - x0) * g.inner)  # from here on, right of the map
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
    """panels (groups, count, taps * merged * inner, WIDTH) = the weights, in the order in which the product reads them.

    inner, outer: channels of one of the convolution's own groups, `merged` of which are multiplied as one.
    """
    w, panels = arrays[:2]
    taps, kernel_x, groups, inner, outer, merged = numbers[:6]
    steps = Steps(*numbers[6:12])
    count = (merged * outer + WIDTH - 1) // WIDTH  # panels per group
    blocks = groups * count * taps

    for block in range(t * blocks // parts, (t + 1) * blocks // parts):
        group, o, tap = block // (count * taps), block // taps % count * WIDTH, block % taps
        place_of_tap = steps.start + tap // kernel_x * steps.i + tap % kernel_x * steps.j
        to = block * merged * inner * WIDTH
        for member in range(merged):
            first = member * outer  # the columns of this group's channels; the others are 0
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
    """The `Steps` of contiguous weights (kh, kw, Cin / groups, Cout)."""
    _, kw, inner, channels = w.shape
    return Steps(0, kw * inner * channels, inner * channels, channels, channels // groups, 1)


def mirrored(w, groups=1):
    """The `Steps` of the same weights rotated by 180 degrees, with each group's input and output channels exchanged."""
    kh, kw, inner, channels = w.shape
    place = inner * channels
    return Steps((kh * kw - 1) * place, -kw * place, -place, 1, channels // groups, channels)


def pack(w, steps, kernel, g, merged):
    """The weights as flat panels, for the product that `Geometry` g describes; kernel: the weights' (kh, kw)."""
    count = -(-g.outer // WIDTH)
    panels = scratch(g.groups * count * kernel[0] * kernel[1] * g.inner * WIDTH)
    shape = kernel[0] * kernel[1], kernel[1], g.groups, g.inner // merged, g.outer // merged, merged
    run(pack_part, (flat(w), panels), (*shape, *steps))
    return panels


def mergeable(groups, outer):
    """How many small groups to merge into one that fills a panel: the largest divisor with merged * outer <= WIDTH."""
    return max(m for m in range(1, groups + 1) if groups % m == 0 and (m == 1 or m * outer <= WIDTH))


@lru_cache(maxsize=1024)
def geometry(shape, groups, inner, outer, kernel, stride, dilation, start, size, at, largest, parts):
    """The `Geometry` of a convolution of a map of `shape`, with tiles of a size that gives every thread equally many.

    inner, outer: channels per group.  start: -padding.  size: height and width of the result.
    at: where the result's pixels lie (out_start, out_image, out_row, out_column).
    largest: upper limit for the pixels per tile.  parts: number of threads.
    """
    pixels = shape[0] * size[0] * size[1]
    largest = max(ROWS, largest // ROWS * ROWS)
    tiles = -(-pixels // (largest * parts)) * parts
    tile = max(ROWS, -(-pixels // (max(1, tiles) * ROWS)) * ROWS)
    return Geometry(*shape[:3], groups, inner, outer, *kernel, *stride, *dilation, *start, *size, *at, tile)
