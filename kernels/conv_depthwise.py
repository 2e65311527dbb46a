"""Depthwise convolution on the CPU, float32: each channel has its own window of weights (kh, kw).

The columns of a matrix product would have nothing in common, so no tile is gathered here. The window is summed up pixel
by pixel, for a vector of channels at a time. Launched by `parallel.run`. Moves x (kh * kw times from the cache), the
result and the residual once. For everything else see `conv_direct`.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from minimask.kernels.conv_tiles import FIELDS, Geometry, Steps, geometry
from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import INT, LANES, VECTOR, address, load, multiply_add, store
from minimask.machine.threads import threads

STEPS, END = FIELDS + 1, FIELDS + 1 + len(Steps._fields)  # where the numbers of a part hold the weights' Steps


@intrinsic
def window_sum(typing, target, target0, x, x0, x_i, x_j, w, w0, w_i, w_j, rows, columns, add):
    """target[target0 + l] (+)= sum of x[x0 + i x_i + j x_j + l] * w[w0 + i w_i + j w_j + l] over i < rows, j < columns.

    For l < LANES; the sum stays in a register. add: whether to add to what target holds.
    """

    def generate(context, builder, signature, arguments):
        kinds = signature.args

        def whole(i):
            return context.cast(builder, arguments[i], kinds[i], types.int64)

        to, of_x, of_w = (
            address(context, builder, kinds[i], arguments[i], kinds[i + 1], arguments[i + 1]) for i in (0, 2, 6)
        )
        total = cgutils.alloca_once(builder, VECTOR)  # LLVM turns it into a register
        before = builder.select(
            builder.icmp_signed("!=", whole(12), INT(0)), load(builder, to), ir.Constant(VECTOR, [0.0] * LANES)
        )
        builder.store(before, total)
        with cgutils.for_range(builder, whole(10), intp=INT) as i:
            with cgutils.for_range(builder, whole(11), intp=INT) as j:
                factors = []
                for pointer, step_i, step_j in ((of_x, whole(4), whole(5)), (of_w, whole(8), whole(9))):
                    offset = builder.add(builder.mul(i.index, step_i), builder.mul(j.index, step_j))
                    factors.append(load(builder, builder.gep(pointer, [offset])))
                builder.store(builder.call(multiply_add(builder), [*factors, builder.load(total)]), total)
        store(builder, builder.load(total), to)
        return context.get_dummy_value()

    arguments = target, target0, x, x0, x_i, x_j, w, w0, w_i, w_j, rows, columns, add
    return types.void(*arguments), generate


@njit(cache=True)
def taps_inside(start, dilation, kernel, size):
    """(first, count) of the taps start + i dilation, i < kernel, that lie within 0 .. size - 1."""
    first = max(0, (-start + dilation - 1) // dilation)
    return first, max(0, min(kernel, (size - start + dilation - 1) // dilation) - first)


@njit(cache=True)
def sum_products(target, to, x, x0, x_i, x_j, w, w0, w_i, w_j, rows, columns, channels, add):
    """`window_sum` for any number of channels."""
    whole = channels // LANES * LANES
    for c in range(0, whole, LANES):
        window_sum(target, to + c, x, x0 + c, x_i, x_j, w, w0 + c, w_i, w_j, rows, columns, add)
    for c in range(whole, channels):
        total = target[to + c] if add else np.float32(0)
        for i in range(rows):
            for j in range(columns):
                total += x[x0 + i * x_i + j * x_j + c] * w[w0 + i * w_i + j * w_j + c]
        target[to + c] = total


@njit(cache=True)
def forward_part(t, parts, arrays, numbers):
    """out = relu(x * w + bias + residual) for the rows of thread t."""
    x, w, bias, residual, out = arrays[:5]
    g = Geometry(*numbers[:FIELDS])
    relu = numbers[FIELDS]
    steps = Steps(*numbers[STEPS:END])
    channels = g.inner
    x_i, x_j = g.dilation_y * g.width * channels, g.dilation_x * channels

    for line in range(t * g.images * g.rows // parts, (t + 1) * g.images * g.rows // parts):
        image, row = line // g.rows, line % g.rows
        top = row * g.stride_y + g.start_y
        i, rows = taps_inside(top, g.dilation_y, g.kernel_y, g.height)
        for column in range(g.columns):
            left = column * g.stride_x + g.start_x
            j, columns = taps_inside(left, g.dilation_x, g.kernel_x, g.width)
            of = ((image * g.height + top) * g.width + left) * channels + i * x_i + j * x_j
            tap = steps.start + i * steps.i + j * steps.j
            at = g.out_start + image * g.out_image + row * g.out_row + column * g.out_column
            sum_products(out, at, x, of, x_i, x_j, w, tap, steps.i, steps.j, rows, columns, channels, 0)

            result = out[at : at + channels]
            for c in range(channels):
                result[c] += bias[c]
            if residual.size > 0:
                other = residual[at : at + channels]
                for c in range(channels):
                    result[c] += other[c]
            if relu:
                for c in range(channels):
                    result[c] = max(result[c], np.float32(0))


@njit(cache=True)
def weights_part(t, parts, arrays, numbers):
    """gw[t] (kh, kw, channels) = what the rows of thread t add to the gradient of the weights."""
    x, gy, gw = arrays[:3]
    g = Geometry(*numbers[:FIELDS])
    channels = g.inner
    step = g.stride_x * channels
    for line in range(t * g.images * g.rows // parts, (t + 1) * g.images * g.rows // parts):
        image, row = line // g.rows, line % g.rows
        for i in range(g.kernel_y):
            y = row * g.stride_y + g.start_y + i * g.dilation_y
            if y < 0 or y >= g.height:
                continue
            for j in range(g.kernel_x):
                left = g.start_x + j * g.dilation_x
                column, count = taps_inside(left, g.stride_x, g.columns, g.width)  # of the result
                of = ((image * g.height + y) * g.width + left + column * g.stride_x) * channels
                at, to = ((t * g.kernel_y + i) * g.kernel_x + j) * channels, (line * g.columns + column) * channels
                sum_products(gw, at, x, of, 0, step, gy, to, 0, channels, 1, count, channels, 1)


def fits(inner, outer, groups):
    """Whether each group has a single input and a single output channel; inner, outer: channels per group."""
    return inner == outer == 1 < groups


def forward(x, w, steps, g, bias, residual, relu, out):
    """The convolution that `Geometry` g describes, written to out.

    g: its inner and outer are all channels, its groups 1.  w: flat; steps: the weights' `Steps`.
    """
    run(forward_part, (flat(x), w, bias, flat(residual), flat(out)), (*g, relu, *steps))


def backward_weights(x, gy, window):
    """gw (kh, kw, 1, channels) from x and gy."""
    channels, start = x.shape[3], tuple(-p for p in window.padding)
    settings = window.kernel, window.stride, window.dilation, start, gy.shape[1:3], (0, 0, 0, 0)
    g = geometry(x.shape, 1, channels, channels, *settings, 0, threads())
    gw = np.zeros((threads(), *window.kernel, 1, channels), np.float32)
    run(weights_part, (flat(x), flat(gy), flat(gw)), g)
    return gw.sum(axis=0)
