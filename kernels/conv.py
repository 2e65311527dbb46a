"""Convolution on the CPU, float32: gather a tile of pixels, multiply it with the weights, finish it while in cache.

For one output pixel the numbers under the window, written in a row, are kh * kw * Cin long; for many pixels they are a
matrix (often called im2col), and convolution is that matrix times the weights (kh * kw * Cin, Cout). The whole matrix
would be kh * kw times the map: writing and reading it costs more than the arithmetic. So it is made a tile at a time:

    for each tile of some 100 output pixels (a thread takes every tile of its part):
        gather    the rows of the tile, into a buffer that stays in the second-level cache
        multiply  by the weights, cut into panels of WIDTH columns: blocks of ROWS x WIDTH results in registers
        finish    + bias + residual, ReLU, write

The gradient of the weights multiplies the same gathered tile, transposed, with the gradient of the result; each thread
adds up its own, and these are summed in the order of the threads: same input, same thread count, same bits.

The gradient of the map is a convolution again, with the weights mirrored and in and out exchanged. For a stride s > 1,
the pixels of the map fall into s x s phases by their place modulo s: the pixels of one phase meet the same rows and
columns of the weights (every s-th), so each phase is a convolution of stride 1 that writes every s-th pixel.

Grouped convolutions take the groups one by one, small groups several at a time as one with zeros between strangers; if
each group is one channel (depthwise), there is nothing to share between the columns of a product, and the window is
summed pixel by pixel.

Moves, at least: x once (from memory; kh * kw times from cache), the result once, the residual once; 2 * kh * kw * Cin
flops for each number of the result.
"""

from math import gcd
from typing import NamedTuple

import numpy as np
from numba import njit

from minimask.device import threads
from minimask.kernels.parallel import elements, flat, run
from minimask.kernels.simd import LANES, ROWS, SHORT, WIDTH, copy, copy_short, multiply

TILE_NUMBERS = 131072  # in a gathered tile: half a megabyte, so that it stays in the second-level cache
TILE_ROWS = 112  # and at most about that many pixels
MANY_WEIGHTS = 1 << 20  # more than stay in any cache: then tiles are large, for each tile reads all weights once
DEPTH = 576  # rows of a panel of weights that are used at a time: 73 kB


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


FIELDS = len(Geometry._fields)


# -------------------------------------------------------------------------------------------- shares of one thread


@njit(cache=True)
def gather(x, g, group, first, count, buffer):
    """buffer[p, (i, j, c)] = the numbers under the window of output pixel first + p, p < count; 0 outside the map.

    Runs are written one after the other, so what a short copy writes too much is written again: the buffer needs room
    for LANES numbers more.
    """
    together = g.kernel_x if g.dilation_x == 1 and g.groups == 1 else 1  # pixels that lie side by side in memory
    run = together * g.inner
    channels = g.groups * g.inner
    to = 0
    column = first % g.columns
    row = first // g.columns % g.rows
    image = first // (g.columns * g.rows)
    for _ in range(count):
        for i in range(g.kernel_y):
            y = row * g.stride_y + g.start_y + i * g.dilation_y
            for j in range(0, g.kernel_x, together):
                x0 = column * g.stride_x + g.start_x + j * g.dilation_x
                left = min(together, max(0, -x0)) * g.inner  # the run's numbers before this are left of the map
                right = max(left, min(together, g.width - x0) * g.inner)  # those from here on are right of it
                if y < 0 or y >= g.height:
                    left = right = run
                if left > 0:
                    buffer[to : to + left] = 0
                if right > left:
                    of = ((image * g.height + y) * g.width + x0) * channels + group * g.inner + left
                    if right - left <= SHORT and of + SHORT <= x.size:
                        copy_short(buffer, to + left, x, of, right - left)
                    else:
                        copy(buffer, to + left, x, of, right - left)
                if run > right:
                    buffer[to + right : to + run] = 0
                to += run
        column += 1
        if column == g.columns:
            column = 0
            row += 1
            if row == g.rows:
                row = 0
                image += 1


@njit(cache=True)
def finish(result, padded, bias, residual, relu, g, group, first, count, out):
    """out = relu(result + bias + residual) for the pixels of a tile."""
    own_bias = bias[group * g.outer : (group + 1) * g.outer]
    column = first % g.columns
    row = first // g.columns % g.rows
    image = first // (g.columns * g.rows)
    for p in range(count):
        at = g.out_start + image * g.out_image + row * g.out_row + column * g.out_column + group * g.outer
        sums = result[p * padded : p * padded + g.outer]
        y = out[at : at + g.outer]
        for c in range(g.outer):
            y[c] = sums[c] + own_bias[c]
        if residual.size > 0:
            other = residual[at : at + g.outer]
            for c in range(g.outer):
                y[c] += other[c]
        if relu:
            for c in range(g.outer):
                y[c] = max(y[c], np.float32(0))
        column += 1
        if column == g.columns:
            column = 0
            row += 1
            if row == g.rows:
                row = 0
                image += 1


@njit(cache=True)
def forward_part(t, parts, arrays, numbers):
    """The tiles of thread t. panels: (groups, panels of a group, depth, WIDTH)."""
    x, panels, bias, residual, out = arrays[:5]
    g = Geometry(*numbers[:FIELDS])
    relu = numbers[FIELDS]
    depth = g.kernel_y * g.kernel_x * g.inner
    count = (g.outer + WIDTH - 1) // WIDTH  # panels of a group
    padded = count * WIDTH
    pixels = g.images * g.rows * g.columns
    tiles = (pixels + g.tile - 1) // g.tile
    as_is = g.kernel_y * g.kernel_x * g.stride_y * g.stride_x * g.groups == 1 and g.start_y == 0 and g.start_x == 0
    as_is = as_is and g.rows == g.height and g.columns == g.width  # 1x1: the rows are the pixels themselves
    buffer = np.empty(g.tile * depth + LANES, np.float32)
    result = np.empty(g.tile * padded, np.float32)
    for q in range(t * tiles // parts, (t + 1) * tiles // parts):
        first = q * g.tile
        n = min(g.tile, pixels - first)
        for group in range(g.groups):
            a, a0 = buffer, 0
            if as_is and first + n + ROWS <= pixels:
                a, a0 = x, first * depth
            else:
                gather(x, g, group, first, n, buffer)
            for k in range(0, depth, DEPTH):
                deep = min(DEPTH, depth - k)
                for r in range(count):
                    panel = ((group * count + r) * depth + k) * WIDTH
                    columns = g.outer - r * WIDTH
                    multiply(a, a0 + k, depth, 1, panels, panel, result, r * WIDTH, padded, n, columns, deep, k)
            finish(result, padded, bias, residual, relu, g, group, first, n, out)


@njit(cache=True)
def weights_part(t, parts, arrays, numbers):
    """gw[t]: what the tiles of thread t add to the gradient of the weights. gy: (pixels, groups * outer)."""
    x, gy, gw = arrays[:3]
    g = Geometry(*numbers[:FIELDS])
    depth = g.kernel_y * g.kernel_x * g.inner
    count = (g.outer + WIDTH - 1) // WIDTH
    outer = g.groups * g.outer
    pixels = g.images * g.rows * g.columns
    tiles = (pixels + g.tile - 1) // g.tile
    tall = depth + ROWS  # rows of the sum: the last block may reach beyond
    buffer = np.zeros(g.tile * depth + ROWS + LANES, np.float32)
    panel = np.zeros(g.tile * WIDTH, np.float32)
    total = np.zeros(g.groups * count * tall * WIDTH, np.float32)
    for q in range(t * tiles // parts, (t + 1) * tiles // parts):
        first = q * g.tile
        n = min(g.tile, pixels - first)
        for group in range(g.groups):
            gather(x, g, group, first, n, buffer)
            for r in range(count):
                columns = min(WIDTH, g.outer - r * WIDTH)
                for p in range(n):
                    copy(panel, p * WIDTH, gy, (first + p) * outer + group * g.outer + r * WIDTH, columns)
                to = (group * count + r) * tall * WIDTH
                multiply(buffer, 0, 1, depth, panel, 0, total, to, WIDTH, depth, columns, n, 1)
    for group in range(g.groups):
        for r in range(count):
            columns = min(WIDTH, g.outer - r * WIDTH)
            for k in range(depth):
                of = ((group * count + r) * tall + k) * WIDTH
                copy(gw, (t * depth + k) * outer + group * g.outer + r * WIDTH, total, of, columns)


@njit(cache=True)
def depthwise_part(t, parts, arrays, numbers):
    """The rows of thread t where each channel has its own window of weights. w: (kh, kw, channels)."""
    x, w, bias, residual, out = arrays[:5]
    g = Geometry(*numbers[:FIELDS])
    relu = numbers[FIELDS]
    channels = g.inner
    sums = np.empty(g.columns * channels, np.float32)
    for line in range(t * g.images * g.rows // parts, (t + 1) * g.images * g.rows // parts):
        image, row = line // g.rows, line % g.rows
        sums[:] = 0
        for i in range(g.kernel_y):
            y = row * g.stride_y + g.start_y + i * g.dilation_y
            if y < 0 or y >= g.height:
                continue
            for j in range(g.kernel_x):
                weights = w[(i * g.kernel_x + j) * channels : (i * g.kernel_x + j + 1) * channels]
                for column in range(g.columns):
                    z = column * g.stride_x + g.start_x + j * g.dilation_x
                    if z < 0 or z >= g.width:
                        continue
                    of = ((image * g.height + y) * g.width + z) * channels
                    values, total = x[of : of + channels], sums[column * channels : (column + 1) * channels]
                    for c in range(channels):
                        total[c] += values[c] * weights[c]
        finish(sums, channels, bias, residual, relu, g, 0, line * g.columns, g.columns, out)


@njit(cache=True)
def depthwise_weights_part(t, parts, arrays, numbers):
    """gw[t] (kh, kw, channels): what the rows of thread t add to the gradient of depthwise weights."""
    x, gy, gw = arrays[:3]
    g = Geometry(*numbers[:FIELDS])
    channels = g.inner
    for line in range(t * g.images * g.rows // parts, (t + 1) * g.images * g.rows // parts):
        image, row = line // g.rows, line % g.rows
        for i in range(g.kernel_y):
            y = row * g.stride_y + g.start_y + i * g.dilation_y
            if y < 0 or y >= g.height:
                continue
            for j in range(g.kernel_x):
                at = ((t * g.kernel_y + i) * g.kernel_x + j) * channels
                total = gw[at : at + channels]
                for column in range(g.columns):
                    z = column * g.stride_x + g.start_x + j * g.dilation_x
                    if z < 0 or z >= g.width:
                        continue
                    of, to = ((image * g.height + y) * g.width + z) * channels, (line * g.columns + column) * channels
                    values, gradient = x[of : of + channels], gy[to : to + channels]
                    for c in range(channels):
                        total[c] += values[c] * gradient[c]


@njit(cache=True)
def pack_part(t, parts, arrays, numbers):
    """panels (groups, count, kh kw inner, WIDTH) of the weights w (kh, kw, inner, groups outer), 0 beyond outer.

    The weight (i, j, c, o) is w[start + i step_i + j step_j + c step_c + o step_o]: w may be mirrored and transposed.
    """
    w, panels = arrays[:2]
    kh, kw, inner, outer, groups, start, step_i, step_j, step_c, step_o = numbers[:10]
    count = (outer + WIDTH - 1) // WIDTH
    rows = kh * kw * inner
    total = groups * count * rows
    for row in range(t * total // parts, (t + 1) * total // parts):
        c, j, i = row % inner, row // inner % kw, row // (inner * kw) % kh
        panel = row // rows
        group, o = panel // count, panel % count * WIDTH
        of = start + i * step_i + j * step_j + c * step_c + (group * outer + o) * step_o
        here = min(WIDTH, outer - o)
        target = panels[row * WIDTH : (row + 1) * WIDTH]
        if step_o == 1:
            copy(panels, row * WIDTH, w, of, here)
        else:
            for lane in range(here):
                target[lane] = w[of + lane * step_o]
        for lane in range(here, WIDTH):
            target[lane] = 0


# -------------------------------------------------------------------------------------------- on arrays


def convolve(x, w, window, size, b=None, residual=None, relu=False):
    """See `minimask.convolution.convolve`; here size is not optional, and all arrays are float32."""
    out = np.empty((len(x), *size, w.shape[3]), np.float32)
    start = tuple(-p for p in window.padding)
    at = (0, *_pixel_strides(out))
    _forward(x, w, window.groups, window.stride, window.dilation, start, size, at, out, b, residual, relu)
    return out


def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """See `minimask.convolution.convolve_backward_data`; all arrays are float32."""
    groups = window.groups
    kh, kw, inner, outer = w.shape
    out = np.empty((len(gy), *size, inner * groups), np.float32)
    mirrored = w[::-1, ::-1].reshape(kh, kw, inner, groups, outer // groups)  # (kh, kw, Cin/G, G, Cout/G)
    mirrored = mirrored.transpose(0, 1, 4, 3, 2).reshape(kh, kw, outer // groups, groups * inner)
    settings = zip(size, w.shape, window.stride, window.padding, window.dilation)
    phases_y, phases_x = ([_phase(p, *s) for p in range(s[2])] for s in settings)
    if not all(phase["taps"] for phase in phases_y + phases_x):  # pixels that no place of the kernel meets
        out[:] = 0 if b is None else np.maximum(b, 0) if relu else b
    image, row, column = _pixel_strides(out)
    for py in phases_y:
        for px in phases_x:
            if not (py["taps"] and px["taps"] and py["count"] and px["count"]):
                continue
            taps = mirrored[py["slice"], px["slice"]]
            first = py["first"] * row + px["first"] * column
            at = (first, image, window.stride[0] * row, window.stride[1] * column)
            dilation, start = (py["dilation"], px["dilation"]), (py["start"], px["start"])
            count = py["count"], px["count"]
            _forward(gy, taps, groups, (1, 1), dilation, start, count, at, out, b, None, relu)
    return out


def convolve_backward_weights(x, gy, window):
    """See `minimask.convolution.convolve_backward_weights`; all arrays are float32."""
    groups, inner, outer = window.groups, x.shape[3] // window.groups, gy.shape[3]
    start = tuple(-p for p in window.padding)
    if _depthwise(inner, outer, groups):
        settings = window.kernel, window.stride, window.dilation, start
        gw = np.zeros((threads(), *window.kernel, 1, outer), np.float32)
        geometry = _geometry(x, outer, outer, 1, *settings, gy.shape[1:3], (0, 0, 0, 0))
        run(depthwise_weights_part, (flat(x), flat(gy), flat(gw)), geometry)
        return gw.sum(axis=0)
    merge = _mergeable(outer // groups, groups)
    channels = merge * inner, merge * outer // groups, groups // merge
    settings = window.kernel, window.stride, window.dilation, start
    geometry = _geometry(x, *channels, *settings, gy.shape[1:3], (0, 0, 0, 0))
    gw = np.empty((threads(), *window.kernel, merge * inner, outer), np.float32)
    run(weights_part, (flat(x), flat(gy), flat(gw)), geometry)
    gw = gw.sum(axis=0)  # (kh, kw, merge * Cin/G, Cout)
    if merge == 1:
        return gw
    gw = gw.reshape(*window.kernel, merge, inner, groups // merge, merge, outer // groups)
    own = np.stack([gw[:, :, i, :, :, i] for i in range(merge)], axis=4)  # (kh, kw, Cin/G, G/merge, merge, Cout/G)
    return own.reshape(*window.kernel, inner, outer)


def _forward(x, w, groups, stride, dilation, start, size, at, out, b, residual, relu):
    """One convolution of x with w into the pixels of `out` that start at[0] and strides at[1:] say."""
    channels = w.shape[3]
    bias = np.zeros(channels, np.float32) if b is None else flat(b)
    settings = w.shape[:2], stride, dilation, start, size, at
    if _depthwise(w.shape[2], channels, groups):
        part, weights = depthwise_part, flat(w)
        geometry = _geometry(x, channels, channels, 1, *settings)
    else:
        w, groups = _merge_groups(w, groups)
        part, weights = forward_part, _pack(w, groups)
        geometry = _geometry(x, w.shape[2], channels // groups, groups, *settings)
    run(part, (flat(x), weights, bias, flat(residual), flat(out)), (*geometry, relu))


def _depthwise(inner, outer, groups):
    """Whether each output channel sees one input channel and each input channel has one output channel."""
    return inner == 1 and outer == groups > 1


def _geometry(x, inner, outer, groups, kernel, stride, dilation, start, size, at):
    """The Geometry of a convolution of x, with a tile that gives each thread the same number of tiles."""
    pixels, parts = len(x) * size[0] * size[1], threads()
    depth = kernel[0] * kernel[1] * inner
    largest = 4 * TILE_ROWS if depth * outer > MANY_WEIGHTS else min(TILE_ROWS, TILE_NUMBERS // depth)
    largest = max(ROWS, largest // ROWS * ROWS)
    tiles = -(-pixels // (largest * parts)) * parts
    tile = max(ROWS, -(-pixels // (max(1, tiles) * ROWS)) * ROWS)
    return Geometry(*x.shape[:3], groups, inner, outer, *kernel, *stride, *dilation, *start, *size, *at, tile)


def _pixel_strides(out):
    """Numbers from an image, a row, a pixel of a contiguous map to the next."""
    _, height, width, channels = out.shape
    return height * width * channels, width * channels, channels


def _phase(phase, size, kernel, stride, padding, dilation):
    """Along one axis: the pixels p of the map with (p + padding) % stride == phase, and how a convolution fills them.

    p = stride q + phase - padding meets place i of the kernel at row (p + padding - i dilation) / stride of gy, for
    the i with (i dilation) % stride == phase: every step-th. Mirrored, they are a kernel of stride 1.
    """
    step = stride // gcd(stride, dilation)
    taps = [i for i in range(kernel) if (i * dilation) % stride == phase]
    first = (phase - padding) % stride
    q = (first + padding) // stride
    places = slice(kernel - 1 - taps[-1], kernel - taps[0], step) if taps else None  # in the mirrored kernel
    return {
        "taps": len(taps),
        "slice": places,
        "first": first,
        "count": max(0, -(-(size - first) // stride)),
        "start": q - (taps[-1] * dilation - phase) // stride if taps else 0,
        "dilation": dilation // gcd(stride, dilation),
    }


def _pack(w, groups):
    """Weights (kh, kw, inner, groups * outer) as panels (groups, panels, kh * kw * inner, WIDTH), flat, zero-padded."""
    kh, kw, inner, outer = w.shape
    outer //= groups
    count = -(-outer // WIDTH)
    panels = np.empty(groups * count * kh * kw * inner * WIDTH, np.float32)
    memory, start, steps = elements(w)
    run(pack_part, (memory, panels), (kh, kw, inner, outer, groups, start, *steps))
    return panels


def _mergeable(outer, groups):
    """How many small groups make one that fills a panel: the largest divisor of groups with merge * outer <= WIDTH."""
    return max(m for m in range(1, groups + 1) if groups % m == 0 and (m == 1 or m * outer <= WIDTH))


def _merge_groups(w, groups):
    """The same convolution with fewer, wider groups, the weights between strangers 0: wider panels, longer copies."""
    kh, kw, inner, channels = w.shape
    outer = channels // groups
    merge = _mergeable(outer, groups)
    if merge == 1:
        return w, groups
    merged = np.zeros((kh, kw, merge, inner, groups // merge, merge, outer), np.float32)
    own = w.reshape(kh, kw, inner, groups // merge, merge, outer)
    for i in range(merge):
        merged[:, :, i, :, :, i] = own[:, :, :, :, i]
    return merged.reshape(kh, kw, merge * inner, channels), groups // merge


def warm_up():
    """Compile the kernels (or load them from the cache), but not the depthwise ones, which few models use."""
    from minimask.convolution import Window

    x, w = np.zeros((1, 4, 4, 1), np.float32), np.zeros((3, 3, 1, 1), np.float32)
    window = Window("warm_up", w, padding=1)
    convolve(x, w, window, (4, 4))
    convolve_backward_weights(x, x, window)
