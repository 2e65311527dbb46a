"""Normalization on the GPU, float32; see normalization.cu. The passes are those of normalization.py.

x, gy, y, g and residual are (segments, pixels, channels), not empty; all others (segments, channels) or (channels,).
"""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import NULL, blocks_for, launch

THREADS = 256
WIDTH = 64  # channels of a block
STEPS = 64  # most pixels that a thread adds up in float32
BLOCKS = 1024  # enough to keep a large GPU busy; for smaller maps, each thread takes fewer pixels


def _share(shape):
    """How a map is divided -> blocks, (pixels, channels, width, parts, steps): the kernels' last arguments."""
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
    """An array for a result of a's shape: a itself, if that is allowed and possible."""
    return a if overwrite and a.flags.c_contiguous else array_module(a).empty(a.shape, np.float32)


def _float32(*arrays):
    """Whether the kernels can take these arrays, None left out: float32, not empty."""
    return all(a is None or (a.dtype == np.float32 and a.size > 0) for a in arrays)


@takes(lambda x: _float32(x))
def moments(x):
    """See `minimask.normalization.moments`."""
    (x,) = _contiguous(x)
    sums = _sums("moments_part", x.shape, x)
    mean, var = _small(sums[0, 0], 2)
    _finish("moments_finish", sums, (x, mean, var), x.shape)
    return mean, var


@takes(lambda x, scale, shift, residual, relu: _float32(x, residual))
def affine(x, scale, shift, residual, relu):
    """See `minimask.normalization.affine`."""
    y = array_module(x).empty(x.shape, x.dtype)
    blocks, share = _share(x.shape)
    x, scale, shift, residual = _contiguous(x, scale, shift, residual)
    launch("normalization", "affine", blocks, THREADS, x, scale, shift, residual, bool(relu), y, *share)
    return y


@takes(lambda gy, y, x=None, mean=None, overwrite=False: _float32(gy, y, x))
def gradient_sums(gy, y, x=None, mean=None, overwrite=False):
    """See `minimask.normalization.gradient_sums`. Without x, the second sum is 0."""
    g = gy if y is None else _result(gy, overwrite)
    sums = _sums("gradient_sums_part", gy.shape, *_contiguous(gy, y, x, mean), NULL if y is None else g)
    total, product = _small(sums[0, 0], 2)
    _finish("gradient_sums_finish", sums, (total, product), (total.size,))
    return g, total, product


@takes(lambda g, x, mean, a, b, c, overwrite=False: _float32(g, x))
def gradient(g, x, mean, a, b, c, overwrite=False):
    """See `minimask.normalization.gradient`."""
    gx = _result(g, overwrite)
    blocks, share = _share(x.shape)
    launch("normalization", "gradient", blocks, THREADS, *_contiguous(g, x, mean, a, b, c), gx, *share)
    return gx


@takes(lambda mean, var, gamma, beta, eps, groups=None: _float32(mean))
def scale_and_shift(mean, var, gamma, beta, eps, groups=None):
    """See `minimask.normalization.scale_and_shift`."""
    segments, channels = mean.shape
    results = _small(mean, 4)
    numbers = float(eps), segments, channels, channels // (groups or channels)
    arrays, blocks = _contiguous(mean, var, gamma, beta), blocks_for(mean.size, THREADS)
    launch("normalization", "scale_and_shift", blocks, THREADS, *arrays, *numbers, *results)
    return results


@takes(lambda gamma, beta, mean, var, eps=1e-5: _float32(mean))
def constant_scale_and_shift(gamma, beta, mean, var, eps=1e-5):
    """See `minimask.normalization.constant_scale_and_shift`: one launch instead of a handful."""
    *_, scale, shift = scale_and_shift(mean[None], var[None], gamma, beta, eps)
    return scale[0], shift[0]


@takes(lambda running_mean, running_var, mean, *_: _float32(running_mean, running_var, mean))
def move_running(running_mean, running_var, mean, var, momentum, unbias):
    """See `minimask.normalization.move_running`."""
    arrays, numbers = (running_mean, running_var, mean, var), (float(momentum), float(unbias), mean.size)
    launch("normalization", "move_running", blocks_for(mean.size, THREADS), THREADS, *arrays, *numbers)


@takes(lambda sum_g, sum_gxhat, gamma, inverse, groups, pixels: _float32(sum_g))
def gradient_coefficients(sum_g, sum_gxhat, gamma, inverse, groups, pixels):
    """See `minimask.normalization.gradient_coefficients`."""
    segments, channels = sum_g.shape
    results = _small(sum_g, 3)
    numbers = float(pixels), segments, channels, channels // (groups or channels)
    arrays, blocks = _contiguous(sum_g, sum_gxhat, gamma, inverse), blocks_for(sum_g.size, THREADS)
    launch("normalization", "gradient_coefficients", blocks, THREADS, *arrays, *numbers, *results)
    return results
