"""Depthwise convolution on the CPU, float32: each channel has its own window of weights (kh, kw, channels).

There is nothing to share between the columns of a product, so no tile is gathered: the window is summed pixel by pixel,
in loops over channels. For the rest see `conv`.
"""

import numpy as np
from numba import njit

from minimask.device import threads
from minimask.kernels.conv_tiles import FIELDS, Geometry, Steps, geometry
from minimask.kernels.parallel import flat, run

STEPS, END = FIELDS + 1, FIELDS + 1 + len(Steps._fields)  # where a part's numbers hold the Steps of the weights


@njit(cache=True)
def forward_part(t, parts, arrays, numbers):
    """The rows of thread t of out = relu(x * w + bias + residual)."""
    x, w, bias, residual, out = arrays[:5]
    g = Geometry(*numbers[:FIELDS])
    relu = numbers[FIELDS]
    steps = Steps(*numbers[STEPS:END])
    channels = g.inner
    for line in range(t * g.images * g.rows // parts, (t + 1) * g.images * g.rows // parts):
        image, row = line // g.rows, line % g.rows
        for column in range(g.columns):
            at = g.out_start + image * g.out_image + row * g.out_row + column * g.out_column
            total = out[at : at + channels]
            for c in range(channels):
                total[c] = bias[c]
            for i in range(g.kernel_y):
                y = row * g.stride_y + g.start_y + i * g.dilation_y
                if y < 0 or y >= g.height:
                    continue
                for j in range(g.kernel_x):
                    z = column * g.stride_x + g.start_x + j * g.dilation_x
                    if z < 0 or z >= g.width:
                        continue
                    of, tap = ((image * g.height + y) * g.width + z) * channels, steps.start + i * steps.i + j * steps.j
                    values, weights = x[of : of + channels], w[tap : tap + channels]
                    for c in range(channels):
                        total[c] += values[c] * weights[c]
            if residual.size > 0:
                other = residual[at : at + channels]
                for c in range(channels):
                    total[c] += other[c]
            if relu:
                for c in range(channels):
                    total[c] = max(total[c], np.float32(0))


@njit(cache=True)
def weights_part(t, parts, arrays, numbers):
    """gw[t] (kh, kw, channels): what the rows of thread t add to the gradient of the weights."""
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


def fits(inner, outer, groups):
    """Whether each output channel sees one input channel and each input channel has one output channel."""
    return inner == outer == 1 < groups


def forward(x, w, steps, g, bias, residual, relu, out):
    """The convolution that Geometry g describes, with g.inner = g.outer = channels and one group; w: flat, in Steps."""
    run(forward_part, (flat(x), w, bias, flat(residual), flat(out)), (*g, relu, *steps))


def backward_weights(x, gy, window):
    """x, gy -> gw (kh, kw, 1, channels)."""
    channels, start = x.shape[3], tuple(-p for p in window.padding)
    settings = window.kernel, window.stride, window.dilation, start, gy.shape[1:3], (0, 0, 0, 0)
    g = geometry(x.shape, 1, channels, channels, *settings, 0, threads())
    gw = np.zeros((threads(), *window.kernel, 1, channels), np.float32)
    run(weights_part, (flat(x), flat(gy), flat(gw)), g)
    return gw.sum(axis=0)
