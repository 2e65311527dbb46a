"""Normalisation on the CPU, float32: four passes over a feature map, each reading and writing it once.

A map is seen as (segments, pixels, channels): batch normalisation has one segment, group normalisation one an image.

    moments         mean and variance of each segment and channel            reads x
    affine          y = relu(x scale + shift + residual)                     reads x (residual), writes y
    gradient_sums   g = gy where y > 0; sum g, sum g (x - mean)              reads gy, y, x, writes g
    gradient        gx = a g + b (x - mean) + c                              reads g, x, writes gx

They move bytes and calculate little: their time is that of the memory. Rows of few channels are taken several at a time
as one row (`_widen`), so that the loops over channels are long. Sums go over blocks of 64 rows, then over the blocks,
then over the threads: in float32 this is as exact as adding in pairs, and it is the same whenever it is done again.
"""

import numpy as np
from numba import njit

from minimask.device import threads
from minimask.kernels.parallel import flat, run

BLOCK = 64  # rows added up before the sum is added to the total
WIDE = 256  # numbers in a row that loops run over, where the map allows it


# -------------------------------------------------------------------------------------------- shares of one thread


@njit(cache=True)
def add_up(values, sums, at):
    """sums[at : at + values.size] += values."""
    row = sums[at : at + values.size]
    for c in range(values.size):
        row[c] += values[c]


@njit(cache=True)
def moments_part(t, parts, arrays, numbers):
    """sums[t, segment] = sum of d and sum of d d over the rows of thread t, d = x - shift."""
    x, shift, sums = arrays[:3]
    segments, rows, width = numbers[:3]  # rows of a segment
    total, square = np.empty(width, np.float32), np.empty(width, np.float32)
    row, last = t * segments * rows // parts, (t + 1) * segments * rows // parts
    while row < last:
        segment = row // rows
        stop = min(last, (segment + 1) * rows, row + BLOCK)
        middle = shift[segment * width : (segment + 1) * width]
        total[:] = 0
        square[:] = 0
        for r in range(row, stop):
            values = x[r * width : (r + 1) * width]
            for c in range(width):
                d = values[c] - middle[c]
                total[c] += d
                square[c] += d * d
        add_up(total, sums, (t * segments + segment) * 2 * width)
        add_up(square, sums, (t * segments + segment) * 2 * width + width)
        row = stop


@njit(cache=True)
def affine_part(t, parts, arrays, numbers):
    """y = relu(x scale + shift + residual) for the rows of thread t."""
    x, channels, residual, y = arrays[:4]
    segments, rows, width, relu = numbers[:4]
    size = segments * width
    for r in range(t * segments * rows // parts, (t + 1) * segments * rows // parts):
        at = r // rows * width
        a, b = channels[at : at + width], channels[size + at : size + at + width]  # scale, shift
        values, result = x[r * width : (r + 1) * width], y[r * width : (r + 1) * width]
        for c in range(width):
            result[c] = values[c] * a[c] + b[c]
        if residual.size > 0:
            other = residual[r * width : (r + 1) * width]
            for c in range(width):
                result[c] += other[c]
        if relu:
            for c in range(width):
                result[c] = max(result[c], np.float32(0))


@njit(cache=True)
def gradient_sums_part(t, parts, arrays, numbers):
    """g = gy where y > 0 (y empty: g is gy); sums[t, segment] = sum of g, sum of g (x - mean) over rows of thread t."""
    gy, y, x, mean, g, sums = arrays[:6]
    segments, rows, width = numbers[:3]
    total, product = np.empty(width, np.float32), np.empty(width, np.float32)
    row, last = t * segments * rows // parts, (t + 1) * segments * rows // parts
    while row < last:
        segment = row // rows
        stop = min(last, (segment + 1) * rows, row + BLOCK)
        middle = mean[segment * width : (segment + 1) * width]
        total[:] = 0
        product[:] = 0
        for r in range(row, stop):
            values, gradient = x[r * width : (r + 1) * width], gy[r * width : (r + 1) * width]
            if y.size > 0:
                result, masked = y[r * width : (r + 1) * width], g[r * width : (r + 1) * width]
                for c in range(width):
                    masked[c] = gradient[c] if result[c] > 0 else np.float32(0)
                gradient = masked
            for c in range(width):
                total[c] += gradient[c]
                product[c] += gradient[c] * (values[c] - middle[c])
        add_up(total, sums, (t * segments + segment) * 2 * width)
        add_up(product, sums, (t * segments + segment) * 2 * width + width)
        row = stop


@njit(cache=True)
def gradient_part(t, parts, arrays, numbers):
    """gx = a g + b (x - mean) + c for the rows of thread t."""
    g, x, channels, gx = arrays[:4]
    segments, rows, width = numbers[:3]
    size = segments * width
    for r in range(t * segments * rows // parts, (t + 1) * segments * rows // parts):
        at = r // rows * width
        middle, of_g = channels[at : at + width], channels[size + at : size + at + width]  # mean, a
        of_x, constant = channels[2 * size + at :][:width], channels[3 * size + at :][:width]  # b, c
        gradient, values = g[r * width : (r + 1) * width], x[r * width : (r + 1) * width]
        result = gx[r * width : (r + 1) * width]
        for i in range(width):
            result[i] = of_g[i] * gradient[i] + of_x[i] * (values[i] - middle[i]) + constant[i]


# -------------------------------------------------------------------------------------------- on arrays


def _widen(x):
    """How many rows of x (segments, pixels, channels) are taken as one: a power of 2 that divides the pixels."""
    times = 1
    while x.shape[1] % (2 * times) == 0 and 2 * times * x.shape[2] <= WIDE:
        times *= 2
    return times


def _repeat(times, *arrays):
    """Some (segments, channels) -> one flat array of all, each segment's channels repeated `times` times."""
    segments, channels = arrays[0].shape
    result = np.empty((len(arrays), segments, times, channels), np.float32)
    for i, a in enumerate(arrays):
        result[i] = a[:, None]
    return result.reshape(-1)


def _sums(part, shape, arrays, times):
    """Run a part that fills sums (parts, segments, 2, width); returns them as two (segments, channels) in float64."""
    segments, pixels, channels = shape
    sums = np.zeros((threads(), segments, 2, times, channels), np.float32)
    run(part, (*arrays, flat(sums)), (segments, pixels // times, times * channels))
    sums = sums.sum(axis=(0, 3), dtype=np.float64)  # (segments, 2, channels)
    return sums[:, 0], sums[:, 1]


def moments(x):
    """Mean and variance over the pixels of x (segments, pixels, channels): two arrays (segments, channels)."""
    times = _widen(x)
    shift = x[:, 0]  # any number near the mean keeps the difference below from losing digits
    total, square = _sums(moments_part, x.shape, (flat(x), _repeat(times, shift)), times)
    mean = total / x.shape[1]
    variance = np.maximum(square / x.shape[1] - mean * mean, 0)
    return (mean + shift).astype(np.float32), variance.astype(np.float32)


def affine(x, scale, shift, residual, relu):
    """relu(x scale + shift + residual): x, residual (segments, pixels, channels), scale, shift (segments, channels)."""
    times = _widen(x)
    y = np.empty(x.shape, np.float32)
    arrays = flat(x), _repeat(times, scale, shift), flat(residual), flat(y)
    run(affine_part, arrays, (x.shape[0], x.shape[1] // times, times * x.shape[2], relu))
    return y


def gradient_sums(gy, y, x=None, mean=None):
    """g = gy where y > 0 (y None: everywhere); also the sums of g and of g (x - mean), (segments, channels) each.

    Without x and mean the second sum means nothing; it costs nothing either, for these loops wait for the memory.
    """
    times = _widen(gy)
    g = gy if y is None else np.empty(gy.shape, np.float32)
    mean = _repeat(times, gy[:, 0] if mean is None else mean)
    arrays = flat(gy), flat(y), flat(gy if x is None else x), mean, flat(None if y is None else g)
    total, product = _sums(gradient_sums_part, gy.shape, arrays, times)
    return g, total.astype(np.float32), product.astype(np.float32)


def gradient(g, x, mean, a, b, c):
    """gx = a g + b (x - mean) + c: g, x (segments, pixels, channels), the others (segments, channels)."""
    times = _widen(x)
    gx = np.empty(x.shape, np.float32)
    arrays = flat(g), flat(x), _repeat(times, mean, a, b, c), flat(gx)
    run(gradient_part, arrays, (x.shape[0], x.shape[1] // times, times * x.shape[2]))
    return gx


def warm_up():
    """Compile the kernels (or load them from the cache)."""
    x, channel = np.ones((1, 2, 1), np.float32), np.ones((1, 1), np.float32)
    moments(x)
    affine(x, channel, channel, x, True)
    gradient_sums(x, x, x, channel)
    gradient(x, x, channel, channel, channel, channel)
