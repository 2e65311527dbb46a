"""Normalization on the GPU, float32; see normalization.cu. The passes are those of normalization.py.

x, gy, y, g, residual: (segments, pixels, channels), not empty. All others (segments, channels) or (channels,).
"""

import numpy as np

from minimask.device import array_module
from minimask.kernels.cuda import NULL, blocks_for, launch

THREADS = 256
WIDTH = 64  # channels of a block
STEPS = 64  # most pixels that a thread adds up in float32
BLOCKS = 1024  # enough to keep a large card busy; with fewer, threads take fewer pixels


def _share(shape):
    """How a map is shared out -> blocks, (pixels, channels, width, parts, steps): the kernels' last arguments."""
    segments, pixels, channels = shape
    tiles = -(-channels // WIDTH)
    width = -(-channels // tiles)
    rows = THREADS // width
    steps = min(STEPS, max(4, segments * tiles * pixels // (rows * BLOCKS)))
    parts = -(-pixels // (rows * steps))
    return segments * tiles * parts, (pixels, channels, width, parts, steps)


def _small(like, count):
    """Some new arrays (segments, channels)."""
    return [array_module(like).empty(like.shape, np.float32) for _ in range(count)]


def _contiguous(*arrays):
    """What a launch takes: contiguous float32 arrays, NULL for None."""
    return [NULL if a is None else array_module(a).ascontiguousarray(a, np.float32) for a in arrays]


def _sums(name, shape, *arrays):
    """Run a part that fills sums (2, parts, segments, channels) -> sums."""
    blocks, share = _share(shape)
    sums = array_module(arrays[0]).empty((2, share[3], shape[0], shape[2]), np.float32)
    launch("normalization", name, blocks, THREADS, *arrays, sums, *share)
    return sums


def _finish(name, sums, arrays, numbers):
    columns = sums.shape[2] * sums.shape[3]
    launch("normalization", name, -(-columns // 32), (32, 32), sums, *arrays, sums.shape[1], *numbers)


def _result(a, overwrite):
    """Where a result of a's shape goes: to a itself, if that is allowed and can be."""
    return a if overwrite and a.flags.c_contiguous else array_module(a).empty(a.shape, np.float32)


def moments(x):
    """Mean and variance over the pixels of x: two arrays (segments, channels)."""
    (x,) = _contiguous(x)
    sums = _sums("moments_part", x.shape, x)
    mean, var = _small(sums[0, 0], 2)
    _finish("moments_finish", sums, (x, mean, var), x.shape)
    return mean, var


def affine(x, scale, shift, residual, relu):
    """relu(x scale + shift + residual); residual may be None."""
    y = array_module(x).empty(x.shape, x.dtype)
    blocks, share = _share(x.shape)
    x, scale, shift, residual = _contiguous(x, scale, shift, residual)
    launch("normalization", "affine", blocks, THREADS, x, scale, shift, residual, bool(relu), y, *share)
    return y


def gradient_sums(gy, y, x=None, mean=None, overwrite=False):
    """g = gy where y > 0 (y None: g is gy); also the sums of g and of g (x - mean), (segments, channels) each.

    overwrite: g may take the place of gy. Without x and mean the second sum is 0.
    """
    g = gy if y is None else _result(gy, overwrite)
    sums = _sums("gradient_sums_part", gy.shape, *_contiguous(gy, y, x, mean), NULL if y is None else g)
    total, product = _small(sums[0, 0], 2)
    _finish("gradient_sums_finish", sums, (total, product), (total.size,))
    return g, total, product


def gradient(g, x, mean, a, b, c, overwrite=False):
    """gx = a g + b (x - mean) + c; overwrite: gx may take the place of g."""
    gx = _result(g, overwrite)
    blocks, share = _share(x.shape)
    launch("normalization", "gradient", blocks, THREADS, *_contiguous(g, x, mean, a, b, c), gx, *share)
    return gx


def frozen_gradient(gy, y, scale, keep, overwrite=False):
    """g = gy where y > 0 (y None: everywhere), None unless `keep`, and gx = scale g.

    overwrite: g, or gx if g is not kept, may take the place of gy.
    """
    g = None if not keep else gy if y is None else _result(gy, overwrite)
    gx = _result(gy, overwrite and not keep)
    kept = NULL if g is None or y is None else g  # without y, g is gy already
    blocks, share = _share(gy.shape)
    launch("normalization", "frozen_gradient", blocks, THREADS, *_contiguous(gy, y, scale), kept, gx, *share)
    return g, gx


def scale_and_shift(mean, var, gamma, beta, eps, groups):
    """Mean and 1 / deviation over groups of channels (None: each alone), scale and shift: (segments, channels) each."""
    segments, channels = mean.shape
    results = _small(mean, 4)
    numbers = float(eps), segments, channels, channels // (groups or channels)
    arrays, blocks = _contiguous(mean, var, gamma, beta), blocks_for(mean.size, THREADS)
    launch("normalization", "scale_and_shift", blocks, THREADS, *arrays, *numbers, *results)
    return results


def move_running(running_mean, running_var, mean, var, momentum, unbias):
    """Move the running mean and variance (channels,) towards mean and var unbias, in place."""
    arrays, numbers = (running_mean, running_var, mean, var), (float(momentum), float(unbias), mean.size)
    launch("normalization", "move_running", blocks_for(mean.size, THREADS), THREADS, *arrays, *numbers)


def gradient_coefficients(sum_g, sum_gxhat, gamma, inverse, groups, pixels):
    """a, b, c of `gradient`: (segments, channels) each."""
    segments, channels = sum_g.shape
    results = _small(sum_g, 3)
    numbers = float(pixels), segments, channels, channels // (groups or channels)
    arrays, blocks = _contiguous(sum_g, sum_gxhat, gamma, inverse), blocks_for(sum_g.size, THREADS)
    launch("normalization", "gradient_coefficients", blocks, THREADS, *arrays, *numbers, *results)
    return results
