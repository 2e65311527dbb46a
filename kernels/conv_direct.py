"""Convolution on the CPU, float32, as the direct sum: gather a tile of pixels, multiply it by the weights, finish it.

The numbers under the window of one output pixel, written side by side, form a row of length kh * kw * Cin. The rows of
all pixels form a matrix (often called im2col), and convolution is this matrix times the weights (kh * kw * Cin, Cout).
The whole matrix would be kh * kw times as large as the map, and writing and reading it would cost more than the
arithmetic, so it is made one tile at a time:

    for each tile of about 100 output pixels (every thread has its own range of tiles):
        gather    the rows of the tile into a buffer that stays in the second-level cache
        multiply  by the weights, cut into panels of WIDTH columns; blocks of ROWS x WIDTH results stay in registers
        finish    add bias and residual, ReLU, write

The gradient of the map is a convolution too: its weights are mirrored, and their input and output channels exchanged.
With a stride s > 1, the pixels of the map fall into s x s phases, by their position modulo s. All pixels of one phase
meet the same rows and columns of the weights (every s-th), so each phase is a convolution of stride 1 that writes every
s-th pixel. A transposed convolution is computed the same way. `conv_weights` has the gradient of the weights.

Groups of channels are taken one by one. Small groups are merged into larger ones, with zero weights between channels
that belong to different groups. If each channel is a group of its own, `conv_depthwise` takes over.

Launched by `parallel.run`. Moves at least x, the result and the residual once each (from the cache, x kh * kw times),
and takes 2 * kh * kw * Cin flops per number of the result.
"""

from functools import lru_cache
from math import gcd

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
    following,
    gather,
    geometry,
    mergeable,
    mirrored,
    pack,
    place,
    row_length,
    rows_as_they_are,
    upright,
)
from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import LANES, WIDTH, multiply, scratch
from minimask.machine.threads import threads

DEPTH = 576  # rows of a panel of weights that are used at a time (73 kB with WIDTH = 32)
RESULTS = 65536  # results of a tile that are multiplied before they are finished (256 kB)


# -------------------------------------------------------------------------------------------- the work of one thread


@njit(cache=True)
def finish(result, padded, bias, residual, relu, g, channel, channels, first, count, out):
    """out = relu(result + bias + residual) for the pixels of a tile and `channels` channels, starting at `channel`.

    result: (count, padded).  first: index of the tile's first pixel, counted through all images.
    """
    own_bias = bias[channel : channel + channels]
    image, row, column = place(g, first)
    for p in range(count):
        at = g.out_start + image * g.out_image + row * g.out_row + column * g.out_column + channel
        sums = result[p * padded : p * padded + channels]
        y = out[at : at + channels]
        for c in range(channels):
            y[c] = sums[c] + own_bias[c]
        if residual.size > 0:
            other = residual[at : at + channels]
            for c in range(channels):
                y[c] += other[c]
        if relu:
            for c in range(channels):
                y[c] = max(y[c], np.float32(0))
        image, row, column = following(g, image, row, column)


@njit(cache=True)
def multiply_panels(rows, rows0, lengths, panels, panel0, first, last, result, to, step, n, outer):
    """result (n, step) = the rows of n pixels times the panels first .. last - 1 of the weights.

    rows0, panel0, to: where the rows, the panels and the result begin.  lengths: see `row_length`.
    """
    depth, row_step = lengths
    for k in range(0, depth, DEPTH):
        deep = min(DEPTH, depth - k)
        for r in range(first, last):
            panel, at, columns = panel0 + (r * depth + k) * WIDTH, to + (r - first) * WIDTH, outer - r * WIDTH
            multiply(rows, rows0 + k, row_step, 1, panels, panel, result, at, step, n, columns, deep, k)


@njit(cache=True)
def forward_part(t, parts, arrays, numbers):
    """Compute the tiles of thread t. panels: (groups, panels per group, depth, WIDTH)."""
    x, panels, bias, residual, out = arrays[:5]
    g = Geometry(*numbers[:FIELDS])
    relu, straight = numbers[FIELDS], numbers[FIELDS + 1]
    lengths = depth, row_step = row_length(g)
    count = (g.outer + WIDTH - 1) // WIDTH  # panels per group
    together = min(count, max(1, RESULTS // (g.tile * WIDTH)))  # panels that are multiplied before they are finished
    padded = together * WIDTH
    pixels = g.images * g.rows * g.columns
    tiles = (pixels + g.tile - 1) // g.tile
    as_is = rows_as_they_are(g)
    buffer = scratch(g.tile * row_step + LANES)
    result = scratch(g.tile * padded)

    for q in range(t * tiles // parts, (t + 1) * tiles // parts):
        first = q * g.tile
        n = min(g.tile, pixels - first)
        for group in range(g.groups):
            rows, rows0 = buffer, 0
            if as_is:
                rows, rows0 = x, first * depth
            else:
                gather(x, g, group, first, n, buffer)

            if straight:  # nothing to finish: the product goes straight to the result
                to = g.out_start + first * g.outer
                multiply_panels(rows, rows0, lengths, panels, 0, 0, count, out, to, g.outer, n, g.outer)
                continue

            for some in range(0, count, together):
                last = min(count, some + together)
                panel = group * count * depth * WIDTH
                multiply_panels(rows, rows0, lengths, panels, panel, some, last, result, 0, padded, n, g.outer)
                channel, channels = group * g.outer + some * WIDTH, min(g.outer, last * WIDTH) - some * WIDTH
                finish(result, padded, bias, residual, relu, g, channel, channels, first, n, out)


# -------------------------------------------------------------------------------------------- on arrays


def convolve(x, w, window, size, b=None, residual=None, relu=False):
    """See `minimask.convolution.convolve`; all arrays are float32."""
    kh, kw, inner, outer = w.shape
    groups = window.groups
    out = np.empty((len(x), *size, outer), np.float32)

    start, at = tuple(-p for p in window.padding), (0, *_pixel_strides(out))
    channels = inner, outer // groups, groups
    settings = (kh, kw), window.stride, window.dilation, start, size, at
    _forward(x, flat(w), upright(w, groups), channels, settings, out, b, residual, relu)
    return out


def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """See `minimask.convolution.convolve_backward_data`; all arrays are float32."""
    kh, kw, inner, outer = w.shape
    groups = window.groups
    out = np.empty((len(gy), *size, inner * groups), np.float32)
    settings = zip(size, w.shape, window.stride, window.padding, window.dilation)
    phases_y, phases_x = (_phases(*s) for s in settings)

    if not all(phase["taps"] for phase in phases_y + phases_x):  # some pixels are met by no place of the window
        out[:] = 0 if b is None else np.maximum(b, 0) if relu else b

    weights, steps = flat(w), mirrored(w, groups)
    channels = outer // groups, inner, groups
    image, row, column = _pixel_strides(out)
    for py in phases_y:
        for px in phases_x:
            if not (py["taps"] and px["taps"] and py["count"] and px["count"]):
                continue
            own = steps._replace(
                start=steps.start + py["place"] * steps.i + px["place"] * steps.j,
                i=steps.i * py["step"],
                j=steps.j * px["step"],
            )
            at = py["first"] * row + px["first"] * column, image, window.stride[0] * row, window.stride[1] * column
            taps, dilation, start, count = ((py[k], px[k]) for k in ("taps", "dilation", "start", "count"))
            _forward(gy, weights, own, channels, (taps, (1, 1), dilation, start, count, at), out, b, None, relu)
    return out


def _forward(x, w, steps, channels, settings, out, b, residual, relu):
    """One convolution of x, written to those pixels of `out` that the settings name.

    channels: (inner, outer) of a group, and the number of groups.
    settings: (kernel, stride, dilation, start, size, at), see `geometry`.
    """
    inner, outer, groups = channels
    kernel, stride, dilation, start, size, at = settings
    bias = np.zeros(groups * outer, np.float32) if b is None else flat(b)
    if conv_depthwise.fits(inner, outer, groups):
        g = geometry(x.shape, 1, groups, groups, kernel, stride, dilation, start, size, at, 0, threads())
        conv_depthwise.forward(x, w, steps, g, bias, residual, relu, out)
        return

    merged = mergeable(groups, outer)
    shape = groups // merged, merged * inner, merged * outer
    depth = kernel[0] * kernel[1] * shape[1]
    tile = 4 * TILE_ROWS if depth * shape[2] > MANY_WEIGHTS else min(TILE_ROWS, TILE_NUMBERS // depth)
    g = geometry(x.shape, *shape, kernel, stride, dilation, start, size, at, tile, threads())
    panels = pack(w, steps, kernel, g, merged)

    plain = b is None and residual is None and not relu and groups == 1 and outer % WIDTH == 0
    straight = plain and at[1:] == _pixel_strides(out)
    run(forward_part, (flat(x), panels, bias, flat(residual), flat(out)), (*g, relu, straight))


def _pixel_strides(out):
    """Distances, in numbers, between the images, rows and pixels of a contiguous map."""
    _, height, width, channels = out.shape
    return height * width * channels, width * channels, channels


@lru_cache(maxsize=1024)
def _phases(size, kernel, stride, padding, dilation):
    """The phases of one axis: phase f holds the pixels p of the map with (p + padding) % stride == f.

    Pixel p = stride q + f - padding meets place i of the window at row (p + padding - i dilation) / stride of gy, for
    those i with (i dilation) % stride == f, which are every step-th. Mirrored, these places are a window of stride 1.
    Returns a dict per phase: which pixels it has, and the convolution of gy that fills them.
    """
    phases = []
    step = stride // gcd(stride, dilation)
    for phase in range(stride):
        taps = [i for i in range(kernel) if (i * dilation) % stride == phase]
        first = (phase - padding) % stride
        q = (first + padding) // stride
        phases.append(
            {
                "taps": len(taps),
                "place": kernel - 1 - taps[-1] if taps else 0,  # the first tap's, in the mirrored window
                "step": step,
                "first": first,
                "count": max(0, -(-(size - first) // stride)),
                "start": q - (taps[-1] * dilation - phase) // stride if taps else 0,
                "dilation": dilation // gcd(stride, dilation),
            }
        )
    return phases


def warm_up():
    """Compile the kernels, or load them from the cache; not the depthwise ones, which few models need."""
    x, w = np.zeros((1, 4, 4, 1), np.float32), np.zeros((3, 3, 1, 1), np.float32)
    convolve(x, w, Window((3, 3), padding=1), (4, 4))
