"""Normalisation on the CPU, float32: four passes over a feature map, each reading and writing it once.

A map is seen as (segments, pixels, channels): batch normalisation has one segment, group normalisation one an image.

    moments         mean and variance of each segment and channel            reads x
    affine          y = relu(x scale + shift + residual)                     reads x (residual), writes y
    gradient_sums   g = gy where y > 0; sum g, sum g (x - mean)              reads gy, y, x, writes g
    gradient        gx = a g + b (x - mean) + c                              reads g, x, writes gx

They move bytes and calculate little: their time is that of the memory. Pixels of few channels are taken several at a
time as one row (`_share`), so that the loops over channels are long. Sums go over blocks of 64 rows, then over the
blocks, then over the threads: in float32 this is as exact as adding in pairs, and it is the same whenever it is done
again.
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
def widened(values, segments, channels, times):
    """values (segments, channels), each segment's `times` times in a row: (segments, times * channels), flat."""
    result = np.empty(segments * times * channels, np.float32)
    for i in range(segments * times):
        segment = i // times
        result[i * channels : (i + 1) * channels] = values[segment * channels : (segment + 1) * channels]
    return result


@njit(cache=True)
def moments_part(t, parts, arrays, numbers):
    """sums[t, segment] = sum of d and sum of d d over the rows of thread t, d = x - the segment's first pixel."""
    x, sums = arrays[:2]
    segments, rows, channels, times = numbers[:4]  # rows of a segment
    width = times * channels
    total, square, middle = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    row, last = t * segments * rows // parts, (t + 1) * segments * rows // parts
    while row < last:
        segment = row // rows
        stop = min(last, (segment + 1) * rows, row + BLOCK)
        for i in range(times):
            middle[i * channels : (i + 1) * channels] = x[segment * rows * width :][:channels]
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
    x, scale, shift, residual, y = arrays[:5]
    segments, rows, channels, times, relu = numbers[:5]
    width = times * channels
    scale, shift = widened(scale, segments, channels, times), widened(shift, segments, channels, times)
    for r in range(t * segments * rows // parts, (t + 1) * segments * rows // parts):
        at = r // rows * width
        a, b = scale[at : at + width], shift[at : at + width]
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
    segments, rows, channels, times = numbers[:4]
    width = times * channels
    total, product = np.empty(width, np.float32), np.empty(width, np.float32)
    mean = widened(mean, segments, channels, times)
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
    g, x, mean, a, b, c, gx = arrays[:7]
    segments, rows, channels, times = numbers[:4]
    width = times * channels
    mean, a = widened(mean, segments, channels, times), widened(a, segments, channels, times)
    b, c = widened(b, segments, channels, times), widened(c, segments, channels, times)
    for r in range(t * segments * rows // parts, (t + 1) * segments * rows // parts):
        at = r // rows * width
        middle, of_g = mean[at : at + width], a[at : at + width]
        of_x, constant = b[at : at + width], c[at : at + width]
        gradient, values = g[r * width : (r + 1) * width], x[r * width : (r + 1) * width]
        result = gx[r * width : (r + 1) * width]
        for i in range(width):
            result[i] = of_g[i] * gradient[i] + of_x[i] * (values[i] - middle[i]) + constant[i]


# -------------------------------------------------------------------------------------------- a few numbers a channel


@njit(cache=True)
def _add_sums(sums, totals):
    """totals (2, segments, channels) float64: the sums over all parts (parts, segments, 2, times, channels)."""
    parts, segments, _, times, channels = sums.shape
    totals[:] = 0
    for t in range(parts):
        for s in range(segments):
            for i in range(2):
                for k in range(times):
                    for c in range(channels):
                        totals[i, s, c] += sums[t, s, i, k, c]


@njit(cache=True)
def _finish_moments(sums, x, pixels, mean, var):
    _, segments, _, _, channels = sums.shape
    totals = np.empty((2, segments, channels))
    _add_sums(sums, totals)
    for s in range(segments):
        for c in range(channels):
            d = totals[0, s, c] / pixels
            mean[s, c] = d + x[s * pixels * channels + c]
            v = totals[1, s, c] / pixels - d * d
            var[s, c] = 0.0 if v < 0 else v  # NaN stays NaN


@njit(cache=True)
def _finish_sums(sums, total, product):
    _, segments, _, _, channels = sums.shape
    totals = np.empty((2, segments, channels))
    _add_sums(sums, totals)
    total[:] = totals[0]
    product[:] = totals[1]


@njit(cache=True)
def _scale_and_shift(mean, var, gamma, beta, eps, together, group_mean, inverse, scale, shift):
    segments, channels = mean.shape
    for s in range(segments):
        for first in range(0, channels, together):
            middle, variance = np.float32(0), np.float32(0)
            for c in range(first, first + together):
                middle += mean[s, c]
            middle /= np.float32(together)
            for c in range(first, first + together):
                d = mean[s, c] - middle
                variance += var[s, c] + d * d
            deviation = np.sqrt(variance / np.float32(together) + eps)
            for c in range(first, first + together):
                group_mean[s, c] = middle
                inverse[s, c] = np.float32(1) / deviation
                scale[s, c] = gamma[c] * inverse[s, c]
                shift[s, c] = beta[c] - scale[s, c] * middle


@njit(cache=True)
def _gradient_coefficients(sum_g, sum_gxhat, gamma, inverse, pixels, together, a, b, c):
    segments, channels = sum_g.shape
    for s in range(segments):
        for first in range(0, channels, together):
            mean_h, mean_hxhat = np.float32(0), np.float32(0)
            for i in range(first, first + together):
                mean_h += gamma[i] * sum_g[s, i]
                mean_hxhat += gamma[i] * sum_gxhat[s, i]
            mean_h /= np.float32(together) * pixels
            mean_hxhat /= np.float32(together) * pixels
            for i in range(first, first + together):
                a[s, i] = gamma[i] * inverse[s, i]
                b[s, i] = -inverse[s, i] * inverse[s, i] * mean_hxhat
                c[s, i] = -inverse[s, i] * mean_h


@njit(cache=True)
def _move_running(running_mean, running_var, mean, var, momentum, unbias):
    for c in range(mean.size):
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (var[c] * unbias - running_var[c])


# -------------------------------------------------------------------------------------------- on arrays


def _share(x):
    """How x (segments, pixels, channels) is seen: segments, rows of a segment, channels, pixels in a row.

    A row holds as many pixels as fit into WIDE, a power of 2 that divides the pixels.
    """
    segments, pixels, channels = x.shape
    times = 1
    while pixels % (2 * times) == 0 and 2 * times * channels <= WIDE:
        times *= 2
    return segments, pixels // times, channels, times


def _run_sums(part, arrays, share):
    """Run a part that fills sums, and return these: (parts, segments, 2, times, channels)."""
    segments, _, channels, times = share
    sums = np.zeros((threads(), segments, 2, times, channels), np.float32)
    run(part, (*arrays, flat(sums)), share)
    return sums


def _small(like, count):
    """Some new arrays like a (segments, channels)."""
    return [np.empty(like.shape, np.float32) for _ in range(count)]


def _of_channels(x):
    """An array (segments, channels) for each of two results of sums over the pixels of x."""
    return [np.empty((x.shape[0], x.shape[2]), np.float32) for _ in range(2)]


def _contiguous(*arrays):
    return [np.ascontiguousarray(a, np.float32) for a in arrays]


def moments(x):
    """Mean and variance over the pixels of x (segments, pixels, channels): two arrays (segments, channels)."""
    numbers, (mean, var) = flat(x), _of_channels(x)
    _finish_moments(_run_sums(moments_part, (numbers,), _share(x)), numbers, x.shape[1], mean, var)
    return mean, var


def affine(x, scale, shift, residual, relu):
    """relu(x scale + shift + residual): x, residual (segments, pixels, channels), scale, shift (segments, channels)."""
    y = np.empty(x.shape, np.float32)
    run(affine_part, (flat(x), flat(scale), flat(shift), flat(residual), flat(y)), (*_share(x), relu))
    return y


def gradient_sums(gy, y, x=None, mean=None):
    """g = gy where y > 0 (y None: everywhere); also the sums of g and of g (x - mean), (segments, channels) each.

    Without x and mean the second sum means nothing; it costs nothing either, for these loops wait for the memory.
    """
    g = gy if y is None else np.empty(gy.shape, np.float32)
    mean = gy[:, 0] if mean is None else mean
    arrays = flat(gy), flat(y), flat(gy if x is None else x), flat(mean), flat(None if y is None else g)
    total, product = _of_channels(gy)
    _finish_sums(_run_sums(gradient_sums_part, arrays, _share(gy)), total, product)
    return g, total, product


def gradient(g, x, mean, a, b, c):
    """gx = a g + b (x - mean) + c: g, x (segments, pixels, channels), the others (segments, channels)."""
    gx = np.empty(x.shape, np.float32)
    run(gradient_part, [flat(v) for v in (g, x, mean, a, b, c, gx)], _share(x))
    return gx


def scale_and_shift(mean, var, gamma, beta, eps, groups=None):
    """Mean and 1 / deviation over groups of channels (None: each alone), scale and shift: (segments, channels) each."""
    results, channels = _small(mean, 4), mean.shape[1]
    together = channels // (groups or channels)
    _scale_and_shift(*_contiguous(mean, var, gamma, beta), np.float32(eps), together, *results)
    return results


def move_running(running_mean, running_var, mean, var, momentum, unbias):
    """Move the running mean and variance (channels,) towards mean and var unbias, in place."""
    _move_running(running_mean, running_var, *_contiguous(mean, var), np.float32(momentum), np.float32(unbias))


def gradient_coefficients(sum_g, sum_gxhat, gamma, inverse, groups, pixels):
    """a, b, c of `gradient`: (segments, channels) each."""
    results, channels = _small(sum_g, 3), sum_g.shape[1]
    together = channels // (groups or channels)
    _gradient_coefficients(*_contiguous(sum_g, sum_gxhat, gamma, inverse), np.float32(pixels), together, *results)
    return results


def warm_up():
    """Compile the kernels (or load them from the cache)."""
    x, channel = np.ones((1, 2, 1), np.float32), np.ones((1, 1), np.float32)
    moments(x)
    affine(x, channel, channel, x, True)
    gradient_sums(x, x, x, channel)
    gradient(x, x, channel, channel, channel, channel)
    scale_and_shift(channel, channel, channel[0], channel[0], 0)
    move_running(channel[0], channel[0], channel[0], channel[0], 1, 1)
    gradient_coefficients(channel, channel, channel[0], channel, None, 1)
