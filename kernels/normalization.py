"""Normalization on the CPU, float32: four passes over a feature map, each reading and writing it once.

A map is (segments, pixels, channels): batch normalization has one segment, group normalization one per image.

    moments         mean and variance of each segment and channel            reads x
    affine          y = relu(x scale + shift + residual)                     reads x (residual), writes y
    gradient_sums   g = gy where y > 0; sum g, sum g (x - mean)              reads gy, y, x, writes g
    gradient        gx = a g + b (x - mean) + c                              reads g, x, writes gx

They move many bytes and calculate little, so memory sets their time. Pixels with few channels are taken several at a
time as one row (`_share`), which makes the loops over channels long. Sums go over blocks of 64 rows, then over the
blocks, then over the threads: in float32 this is as exact as pairwise summation, and repeating it gives the same bits.
"""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import flat, run
from minimask.kernels.simd import copy
from minimask.machine.threads import threads

BLOCK = 64  # rows added up before the sum is added to the total
# Most numbers per row that the loops run over. Long rows pay, because each loop has a start and an end.
WIDE = 1024
WIDE_SUM = 256  # in passes that add up rows


# ------------------------------------------------------------------------------------------------- one thread's share


@njit(cache=True)
def add_up(values, sums, at):
    """sums[at : at + values.size] += values."""
    row = sums[at : at + values.size]
    for c in range(values.size):
        row[c] += values[c]


@njit(cache=True)
def widened(values, segments, channels, times):
    """values (segments, channels) with each segment repeated `times` times: (segments, times * channels), flat."""
    result = np.empty(segments * times * channels, np.float32)
    for i in range(segments * times):
        for c in range(channels):
            result[i * channels + c] = values[i // times * channels + c]
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
        for c in range(width):
            middle[c] = x[segment * rows * width + c % channels]
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
    least = np.float32(0 if relu else -np.inf)
    for r in range(t * segments * rows // parts, (t + 1) * segments * rows // parts):
        at = r // rows * width
        a, b = scale[at : at + width], shift[at : at + width]
        values, result = x[r * width : (r + 1) * width], y[r * width : (r + 1) * width]
        if residual.size > 0:
            other = residual[r * width : (r + 1) * width]
            for c in range(width):
                result[c] = max(values[c] * a[c] + b[c] + other[c], least)
        else:
            for c in range(width):
                result[c] = max(values[c] * a[c] + b[c], least)


@njit(cache=True)
def gradient_sums_part(t, parts, arrays, numbers):
    """g = gy where y > 0 (y empty: g is gy); sums[t, segment] = sum of g, sum of g (x - mean) over rows of thread t.

    g may be gy: a row is finished before it is written, for a loop that writes what it reads is not vectorized.
    """
    gy, y, x, mean, g, sums = arrays[:6]
    segments, rows, channels, times = numbers[:4]
    width = times * channels
    total, product, masked = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
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
                result = y[r * width : (r + 1) * width]
                for c in range(width):
                    masked[c] = gradient[c] if result[c] > 0 else np.float32(0)
                copy(g, r * width, masked, 0, width)
                gradient = masked
            for c in range(width):
                total[c] += gradient[c]
                product[c] += gradient[c] * (values[c] - middle[c])
        add_up(total, sums, (t * segments + segment) * 2 * width)
        add_up(product, sums, (t * segments + segment) * 2 * width + width)
        row = stop


@njit(cache=True)
def gradient_part(t, parts, arrays, numbers):
    """gx = a g + b (x - mean) + c for the rows of thread t; gx may be g."""
    g, x, mean, a, b, c, gx = arrays[:7]
    segments, rows, channels, times = numbers[:4]
    width = times * channels
    mean, a = widened(mean, segments, channels, times), widened(a, segments, channels, times)
    b, c = widened(b, segments, channels, times), widened(c, segments, channels, times)
    result = np.empty(width, np.float32)
    for r in range(t * segments * rows // parts, (t + 1) * segments * rows // parts):
        at = r // rows * width
        middle, of_g = mean[at : at + width], a[at : at + width]
        of_x, constant = b[at : at + width], c[at : at + width]
        gradient, values = g[r * width : (r + 1) * width], x[r * width : (r + 1) * width]
        for i in range(width):
            result[i] = of_g[i] * gradient[i] + of_x[i] * (values[i] - middle[i]) + constant[i]
        copy(gx, r * width, result, 0, width)


# -------------------------------------------------------------------------------------------- a few numbers per channel


@njit(cache=True, error_model="numpy")
def finish_part(t, parts, arrays, numbers):
    """Both sums over all of sums (shares, segments, 2, times, channels) -> two (segments, channels).

    x given: the sums are of d and d d, d = x - the segment's first pixel, and the results mean and variance.
    """
    sums, x, first, second = arrays[:4]
    shares, segments, pixels, channels, times = numbers[:5]
    width = times * channels
    for i in range(t * segments * channels // parts, (t + 1) * segments * channels // parts):
        segment, channel = i // channels, i % channels
        a = b = 0.0
        for share in range(shares):
            at = (share * segments + segment) * 2 * width + channel
            for k in range(times):
                a += sums[at + k * channels]
                b += sums[at + width + k * channels]
        if x.size > 0:
            a, b = a / pixels, b / pixels
            b -= a * a
            a += x[segment * pixels * channels + channel]
            b = 0.0 if b < 0 else b  # NaN stays NaN
        first[i], second[i] = a, b


@njit(cache=True, error_model="numpy")
def scale_and_shift_part(t, parts, arrays, numbers):
    """group_mean, inverse, scale, shift (4, segments, channels) of `together` channels at a time; settings: eps."""
    mean, var, gamma, beta, settings, results = arrays[:6]
    segments, channels, together = numbers[:3]
    size, count = segments * channels, segments * channels // together
    for group in range(t * count // parts, (t + 1) * count // parts):
        first, last = group * together, (group + 1) * together
        middle = variance = np.float32(0)
        for i in range(first, last):
            middle += mean[i]
        middle /= np.float32(together)
        for i in range(first, last):
            variance += var[i] + (mean[i] - middle) * (mean[i] - middle)
        inverse = np.float32(1) / np.sqrt(variance / np.float32(together) + settings[0])
        for i in range(first, last):
            scale = gamma[i % channels] * inverse
            results[i], results[size + i] = middle, inverse
            results[2 * size + i], results[3 * size + i] = scale, beta[i % channels] - scale * middle


@njit(cache=True, error_model="numpy")
def gradient_coefficients_part(t, parts, arrays, numbers):
    """a, b, c (3, segments, channels) of `gradient`, `together` channels at a time; settings: pixels."""
    sum_g, sum_gxhat, gamma, inverse, settings, results = arrays[:6]
    segments, channels, together = numbers[:3]
    size, count = segments * channels, segments * channels // together
    for group in range(t * count // parts, (t + 1) * count // parts):
        first, last = group * together, (group + 1) * together
        mean_h = mean_hxhat = np.float32(0)
        for i in range(first, last):
            mean_h += gamma[i % channels] * sum_g[i]
            mean_hxhat += gamma[i % channels] * sum_gxhat[i]
        mean_h /= np.float32(together) * settings[0]
        mean_hxhat /= np.float32(together) * settings[0]
        for i in range(first, last):
            results[i] = gamma[i % channels] * inverse[i]
            results[size + i] = -inverse[i] * inverse[i] * mean_hxhat
            results[2 * size + i] = -inverse[i] * mean_h


# ---------------------------------------------------------------------------------------------------------- on arrays


def _share(x, wide=WIDE):
    """How x (segments, pixels, channels) is divided: segments, rows per segment, channels, pixels per row.

    A row holds as many pixels as fit into `wide` numbers, a power of 2 that divides the number of pixels.
    """
    segments, pixels, channels = x.shape
    times = 1
    while pixels % (2 * times) == 0 and 2 * times * channels <= wide:
        times *= 2
    return segments, pixels // times, channels, times


def _run_sums(part, arrays, share):
    """Run a part that fills sums, and return them: (parts, segments, 2, times, channels)."""
    segments, _, channels, times = share
    sums = np.zeros((threads(), segments, 2, times, channels), np.float32)
    run(part, (*arrays, flat(sums)), share)
    return sums


def _finish(sums, x, shape):
    """The results of `finish_part` for maps of this shape: two arrays (segments, channels)."""
    segments, pixels, channels = shape
    results = np.empty((2, segments, channels), np.float32)
    run(finish_part, (flat(sums), x, *results.reshape(2, -1)), (len(sums), segments, pixels, channels, sums.shape[3]))
    return tuple(results)


def _result(a, overwrite):
    """An array for a result of a's shape: a itself, if that is allowed and possible."""
    return a if overwrite and a.flags.c_contiguous and a.flags.writeable else np.empty(a.shape, np.float32)


def _between(part, arrays, number, count, groups):
    """Run a part on arrays of which the first is (segments, channels); returns `count` arrays of that shape."""
    segments, channels = arrays[0].shape
    results = np.empty((count, segments, channels), np.float32)
    arrays = *(flat(a) for a in arrays), np.array([number], np.float32), flat(results)
    run(part, arrays, (segments, channels, channels // (groups or channels)))
    return tuple(results)


def _float32(*maps):
    """Whether the kernels can take these maps, None left out: float32, not empty."""
    return all(a is None or (a.dtype == np.float32 and a.size > 0) for a in maps)


@takes(lambda x: _float32(x))
def moments(x):
    """See `minimask.normalization.moments`."""
    numbers = flat(x)
    return _finish(_run_sums(moments_part, (numbers,), _share(x, WIDE_SUM)), numbers, x.shape)


@takes(lambda x, scale, shift, residual, relu: _float32(x, residual))
def affine(x, scale, shift, residual, relu):
    """See `minimask.normalization.affine`."""
    y = np.empty(x.shape, np.float32)
    run(affine_part, (flat(x), flat(scale), flat(shift), flat(residual), flat(y)), (*_share(x), relu))
    return y


@takes(lambda gy, y, x=None, mean=None, overwrite=False: _float32(gy, y, x))
def gradient_sums(gy, y, x=None, mean=None, overwrite=False):
    """See `minimask.normalization.gradient_sums`. The second sum costs nothing: these loops wait for the memory."""
    g = gy if y is None else _result(gy, overwrite)
    mean = gy[:, 0] if mean is None else mean
    arrays = flat(gy), flat(y), flat(gy if x is None else x), flat(mean), flat(None if y is None else g)
    return g, *_finish(_run_sums(gradient_sums_part, arrays, _share(gy, WIDE_SUM)), flat(None), gy.shape)


@takes(lambda g, x, mean, a, b, c, overwrite=False: _float32(g, x))
def gradient(g, x, mean, a, b, c, overwrite=False):
    """See `minimask.normalization.gradient`."""
    gx = _result(g, overwrite)
    run(gradient_part, [flat(v) for v in (g, x, mean, a, b, c, gx)], _share(x))
    return gx


@takes(lambda mean, var, gamma, beta, eps, groups=None: _float32(mean))
def scale_and_shift(mean, var, gamma, beta, eps, groups=None):
    """See `minimask.normalization.scale_and_shift`."""
    return _between(scale_and_shift_part, (mean, var, gamma, beta), eps, 4, groups)


@takes(lambda sum_g, sum_gxhat, gamma, inverse, groups, pixels: _float32(sum_g))
def gradient_coefficients(sum_g, sum_gxhat, gamma, inverse, groups, pixels):
    """See `minimask.normalization.gradient_coefficients`."""
    return _between(gradient_coefficients_part, (sum_g, sum_gxhat, gamma, inverse), pixels, 3, groups)


def warm_up():
    """Compile the kernels, or load them from the cache."""
    x, channel = np.ones((1, 2, 1), np.float32), np.ones((1, 1), np.float32)
    moments(x)
    affine(x, channel, channel, x, True)
    gradient_sums(x, x, x, channel)
    gradient(x, x, channel, channel, channel, channel)
    scale_and_shift(channel, channel, channel[0], channel[0], 0)
    gradient_coefficients(channel, channel, channel[0], channel, None, 1)
