"""The gradient of a convolution's weights on the CPU, float32, as the direct sum.

The rows that `conv_direct` gathers, transposed, times the gradient of the result:

    gw[(i, j, c), o] = sum over pixels p of rows[p, (i, j, c)] gy[p, o]

Each thread adds up its own tiles. The threads' sums are then added in the order of the threads, so that the same input
and the same number of threads give the same bits. Launched by `parallel.run`, twice. Moves x (kh * kw times from the
cache) and gy once.
"""

import numpy as np
from numba import njit

from minimask.convolution import Window
from minimask.kernels import conv_depthwise
from minimask.kernels.conv_tiles import (
    FIELDS,
    MANY_WEIGHTS,
    TILE_NUMBERS,
    TILE_ROWS,
    Geometry,
    gather,
    geometry,
    mergeable,
    row_length,
    rows_as_they_are,
)
from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import LANES, ROWS, WIDTH, copy, multiply, scratch
from minimask.machine.threads import threads


@njit(cache=True)
def panel_rows(depth):
    """Rows of a panel of sums: one more than are used.

    Panels a power of two apart would fall into the same places of the caches and push each other out.
    """
    return depth + 1


@njit(cache=True)
def add_product(rows, rows0, panels, sums, to, g, n, add):
    """sums (panels, panel_rows, WIDTH) (+)= the transposed rows of n pixels times their gradients, given as panels."""
    depth, row_step = row_length(g)
    for m in range(0, depth, ROWS):  # these columns of the rows stay in the first-level cache
        for r in range((g.outer + WIDTH - 1) // WIDTH):
            panel, of = r * g.tile * WIDTH, to + (r * panel_rows(depth) + m) * WIDTH
            count, columns = min(ROWS, depth - m), g.outer - r * WIDTH
            multiply(rows, rows0 + m, 1, row_step, panels, panel, sums, of, WIDTH, count, columns, n, add)


@njit(cache=True)
def weights_part(t, parts, arrays, numbers):
    """sums[t] = what the tiles of thread t add: (groups, panels, panel_rows, WIDTH). gy: (pixels, groups * outer)."""
    x, gy, sums = arrays[:3]
    g = Geometry(*numbers[:FIELDS])
    depth, row_step = row_length(g)
    count = (g.outer + WIDTH - 1) // WIDTH
    pixels = g.images * g.rows * g.columns
    tiles = (pixels + g.tile - 1) // g.tile
    as_is = rows_as_they_are(g)
    buffer = scratch((1 if as_is else g.tile) * row_step + LANES)
    panels = scratch(count * g.tile * WIDTH)
    size = count * panel_rows(depth) * WIDTH  # numbers in a group's sums
    begin, end = t * tiles // parts, (t + 1) * tiles // parts
    if begin == end:
        sums[t * g.groups * size : (t + 1) * g.groups * size] = 0

    for q in range(begin, end):
        first = q * g.tile
        n = min(g.tile, pixels - first)
        for group in range(g.groups):
            for r in range(count):
                columns = min(WIDTH, g.outer - r * WIDTH)
                for p in range(n):
                    of = ((first + p) * g.groups + group) * g.outer + r * WIDTH
                    copy(panels, (r * g.tile + p) * WIDTH, gy, of, columns)

            to = (t * g.groups + group) * size
            if as_is:
                add_product(x, first * depth, panels, sums, to, g, n, q > begin)
            else:
                gather(x, g, group, first, n, buffer)
                add_product(buffer, 0, panels, sums, to, g, n, q > begin)


@njit(cache=True)
def total_part(t, parts, arrays, numbers):
    """gw (taps, inner, all output channels) = the sum over the threads.

    inner, outer: channels of one of the convolution's own groups, `merged` of which were multiplied as one. Of merged
    groups, only the products of channels in the same group are kept.
    """
    sums, gw = arrays[:2]
    taps, groups, inner, outer, merged = numbers[:5]
    count = (merged * outer + WIDTH - 1) // WIDTH
    depth = taps * merged * inner
    step = groups * count * panel_rows(depth) * WIDTH  # from one thread's sums to the next

    for row in range(t * taps * inner // parts, (t + 1) * taps * inner // parts):
        for group in range(groups * merged):
            member = group % merged
            line = (row // inner * merged + member) * inner + row % inner
            for r in range(count):
                here = min(WIDTH - member * outer, outer - r * WIDTH)
                of = ((group // merged * count + r) * panel_rows(depth) + line) * WIDTH + member * outer
                to = (row * groups * merged + group) * outer + r * WIDTH
                total = gw[to : to + here]
                copy(gw, to, sums, of, here)
                for other in range(1, parts):
                    values = sums[of + other * step : of + other * step + here]
                    for o in range(here):
                        total[o] += values[o]


def convolve_backward_weights(x, gy, window):
    """See `minimask.convolution.convolve_backward_weights`; all arrays are float32."""
    groups, channels = window.groups, gy.shape[3]
    inner, outer = x.shape[3] // groups, channels // groups
    if conv_depthwise.fits(inner, outer, groups):
        return conv_depthwise.backward_weights(x, gy, window)

    merged = mergeable(groups, outer)
    start = tuple(-p for p in window.padding)
    shape = groups // merged, merged * inner, merged * outer
    settings = window.kernel, window.stride, window.dilation, start, gy.shape[1:3], (0, 0, 0, 0)
    taps = window.kernel[0] * window.kernel[1]
    panels = -(-merged * outer // WIDTH)
    depth = taps * merged * inner
    if taps == 1 or depth * panels * WIDTH > MANY_WEIGHTS:  # every tile reads and writes the sums: few tiles
        tile = TILE_NUMBERS // (panels * WIDTH)
    else:
        tile = min(TILE_ROWS, TILE_NUMBERS // depth)

    g = geometry(x.shape, *shape, *settings, tile, threads())
    sums = scratch(threads() * g.groups * panels * panel_rows(depth) * WIDTH)
    run(weights_part, (flat(x), flat(gy), sums), g)
    gw = np.empty((*window.kernel, inner, channels), np.float32)
    run(total_part, (sums, flat(gw)), (taps, g.groups, inner, outer, merged))
    return gw


def warm_up():
    """Compile the kernels, or load them from the cache."""
    x = np.zeros((1, 4, 4, 1), np.float32)
    convolve_backward_weights(x, x, Window((3, 3), padding=1))
