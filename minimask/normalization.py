"""Batch and group normalization of feature maps (N, H, W, C), fused with the addition and the ReLU that follow them.

    xhat = (x - mean) / sqrt(var + eps),    y = relu(gamma xhat + beta + residual)

Batch normalization takes mean and variance of each channel over all pixels of the batch (Ioffe and Szegedy 2015),
group normalization those of each image and group of channels (Wu and He 2018). So both see x as segments of pixels:
batch normalization as one segment whose channels are groups of one, group normalization as N segments. The gradient of
both, with h = gamma g, g = gy where y > 0, and means over the numbers that xhat's mean was taken over:

    gx = (h - mean of h - xhat * mean of (h xhat)) / sqrt(var + eps),  ggamma = sum g xhat,  gbeta = sum g

Each pass over the map (`moments`, `affine`, `gradient_sums`, `gradient`, `frozen_gradient`) has its specification here
and float32 kernels for the CPU and the GPU in `minimask.kernels`. So has what lies between the passes, a few numbers a
channel: there a dozen calls of NumPy, or launches on a GPU, would cost as much as a small map.
"""

import numpy as np

from minimask.device import array_module, fits_gpu_kernel, kernels
from minimask.machine import distributed
from minimask.tensor import Function

# -------------------------------------------------------------------------------------------- public operations


def batch_norm(x, gamma, beta, running_mean, running_var, training, momentum=0.1, eps=1e-5, residual=None, relu=False):
    """relu(gamma (x - mean) / sqrt(var + eps) + beta + residual), channel by channel.

    x: (..., C), usually (N, H, W, C).  gamma, beta: (C,).  running_mean, running_var: raw arrays (C,).
    training: use mean and variance of this batch, and move the running ones by `momentum` towards them, in place (the
    running variance is the unbiased one); otherwise use the running ones.  residual: shape of x or None.
    Returns the shape of x. Raises ValueError where shapes do not fit, or for training on one number a channel.
    """
    channels = x.shape[-1] if x.ndim else 0
    arrays = (("gamma", gamma), ("beta", beta), ("running_mean", running_mean), ("running_var", running_var))
    for argument, a in arrays:
        _check("batch_norm", argument, a, (channels,))
    _check("batch_norm", "residual", residual, x.shape)
    if training and x.size == channels:
        raise ValueError(f"batch_norm: training needs more than one number a channel, got x of shape {x.shape}")
    operation = BatchNormFunction(running_mean, running_var, training, momentum, eps, relu)
    return operation(x, gamma, beta, *(() if residual is None else (residual,)))


def group_norm(x, gamma, beta, groups, eps=1e-5, residual=None, relu=False):
    """relu(gamma (x - mean) / sqrt(var + eps) + beta + residual), mean and var of each image and group of channels.

    x: (N, H, W, C).  gamma, beta: (C,).  groups: divides C.  residual: shape of x or None.
    Returns the shape of x. Raises ValueError where shapes do not fit.
    """
    if x.ndim != 4:
        raise ValueError(f"group_norm: x must be (N, H, W, C), got shape {x.shape}")
    if not isinstance(groups, (int, np.integer)) or groups < 1 or x.shape[3] % groups:
        raise ValueError(f"group_norm: groups must divide the {x.shape[3]} channels, got {groups!r}")
    _check("group_norm", "gamma", gamma, x.shape[3:])
    _check("group_norm", "beta", beta, x.shape[3:])
    _check("group_norm", "residual", residual, x.shape)
    return GroupNormFunction(groups, eps, relu)(x, gamma, beta, *(() if residual is None else (residual,)))


def frozen_batch_norm(x, scale, shift, residual=None, relu=False):
    """relu(x scale + shift + residual): batch normalization with constant statistics, see `constant_scale_and_shift`.

    x: Tensor (..., C), usually (N, H, W, C).  scale, shift: raw arrays (C,), which get no gradient.  residual: shape of
    x or None. Returns the shape of x. Raises ValueError where shapes do not fit.
    """
    channels = x.shape[-1] if x.ndim else 0
    _check("frozen_batch_norm", "scale", scale, (channels,))
    _check("frozen_batch_norm", "shift", shift, (channels,))
    _check("frozen_batch_norm", "residual", residual, x.shape)
    return FrozenBatchNormFunction(scale, shift, relu)(x, *(() if residual is None else (residual,)))


def constant_scale_and_shift(gamma, beta, mean, var, eps=1e-5):
    """What normalization with constant statistics amounts to, y = x scale + shift: raw arrays (C,) -> scale, shift."""
    if not fits_gpu_kernel(mean):
        scale = gamma / (var + gamma.dtype.type(eps)) ** 0.5
        return scale, beta - mean * scale
    *_, scale, shift = kernels("normalization", mean).scale_and_shift(mean[None], var[None], gamma, beta, eps, None)
    return scale[0], shift[0]


def fold_batch_norm(w, gamma, beta, mean, var, eps=1e-5):
    """Weights and bias of the one convolution that equals convolution w followed by batch normalization (raw arrays).

    w: (kh, kw, Cin, Cout).  gamma, beta, mean, var: (Cout,).  Returns w gamma / sqrt(var + eps) and
    beta - mean gamma / sqrt(var + eps), in the dtype of w. Raises ValueError where shapes do not fit.
    """
    for argument, a in (("gamma", gamma), ("beta", beta), ("mean", mean), ("var", var)):
        _check("fold_batch_norm", argument, a, w.shape[-1:])
    scale = gamma / array_module(w).sqrt(var + eps)
    return (w * scale).astype(w.dtype), (beta - mean * scale).astype(w.dtype)


# -------------------------------------------------------------------------------------------- autograd


class NormalizationFunction(Function):
    """y = relu(gamma (x - mean) / sqrt(var + eps) + beta + residual); the module's docstring has the gradients."""

    groups = None  # of channels whose statistics are one; None: each channel has its own

    def __init__(self, eps, relu):
        self.eps, self.relu = eps, relu

    def statistics(self, x):
        """Mean and var of x (segments, pixels, C), each (segments, C)."""
        raise NotImplementedError

    def normalize(self, x, gamma, beta, residual, segments):
        self.shape, self.gamma, self.has_residual = x.shape, gamma, residual is not None
        self.fresh = self.relu or not self.has_residual  # else the residual's gradient is gy itself
        self.x = x.reshape(segments, x.size // max(1, segments * x.shape[-1]), x.shape[-1])  # (S, P, C)
        self.pixels = max(1, self.x.shape[1])  # that mean and var are taken over
        mean, var = self.statistics(self.x)
        self.mean, self.inverse, scale, shift = _between(mean).scale_and_shift(
            mean, var, gamma, beta, x.dtype.type(self.eps), self.groups
        )
        residual = None if residual is None else residual.reshape(self.x.shape)
        y = affine(self.x, scale, shift, residual, self.relu)
        self.y = y if self.relu else None
        return y.reshape(self.shape)

    def backward(self, gy):
        gy = gy.reshape(self.x.shape)
        g, sum_g, sum_gd = gradient_sums(gy, self.y, self.x, self.mean, self.overwrite)  # d = x - mean
        sum_gxhat = sum_gd * self.inverse  # (S, C)
        gx = self.gradient(g, sum_g, sum_gxhat).reshape(self.shape) if self.needs[0] else None
        residual = (g.reshape(self.shape),) if self.has_residual else ()
        return gx, _total(sum_gxhat), _total(sum_g), *residual

    def gradient(self, g, sum_g, sum_gxhat):
        numbers = sum_g, sum_gxhat, self.gamma, self.inverse, self.groups, self.pixels
        overwrite = not self.has_residual and (self.relu or self.overwrite)  # else g is still needed
        return gradient(g, self.x, self.mean, *_between(sum_g).gradient_coefficients(*numbers), overwrite)


class BatchNormFunction(NormalizationFunction):
    """One segment: mean and var of each channel over the batch, or, outside training, the running ones (constants)."""

    def __init__(self, running_mean, running_var, training, momentum, eps, relu):
        super().__init__(eps, relu)
        self.running = running_mean, running_var
        self.training, self.momentum = training, momentum

    def forward(self, x, gamma, beta, residual=None):
        return self.normalize(x, gamma, beta, residual, segments=1)

    def statistics(self, x):
        if not self.training or x.size == 0:
            return tuple(a[None].astype(x.dtype) for a in self.running)
        self.pixels, mean, var = distributed.moments_of_all(x.shape[1], *moments(x))
        unbias = self.pixels / (self.pixels - 1)
        between = _between(mean) if fits_gpu_kernel(mean, *self.running) else _Specification  # two lines of NumPy
        between.move_running(*self.running, mean[0], var[0], self.momentum, unbias)
        return mean, var

    def gradient(self, g, sum_g, sum_gxhat):
        if self.training:
            return super().gradient(g, *distributed.totals(sum_g, sum_gxhat))
        return g * (self.gamma * self.inverse[0])


class FrozenBatchNormFunction(Function):
    """y = relu(x scale + shift + residual);  g = gy where y > 0,  gx = g scale,  gresidual = g."""

    def __init__(self, scale, shift, relu):
        self.scale, self.shift, self.relu = scale[None], shift[None], relu  # one segment

    def forward(self, x, residual=None):
        pixels = 1, x.size // max(1, x.shape[-1]), x.shape[-1]
        self.has_residual = residual is not None
        self.fresh = self.relu or not self.has_residual  # else the residual's gradient is gy itself
        residual = None if residual is None else residual.reshape(pixels)
        y = affine(x.reshape(pixels), self.scale, self.shift, residual, self.relu)
        self.y = y if self.relu else None
        return y.reshape(x.shape)

    def backward(self, gy):
        pixels = gy.reshape(1, -1, self.scale.size)
        g, gx = frozen_gradient(pixels, self.y, self.scale, self.has_residual, self.overwrite)
        return gx.reshape(gy.shape), *((g.reshape(gy.shape),) if self.has_residual else ())


class GroupNormFunction(NormalizationFunction):
    """A segment for each image: mean and var over its pixels and a group of channels."""

    def __init__(self, groups, eps, relu):
        super().__init__(eps, relu)
        self.groups = groups

    def forward(self, x, gamma, beta, residual=None):
        return self.normalize(x, gamma, beta, residual, segments=len(x))

    def statistics(self, x):
        return moments(x) if x.size > 0 else (x.sum(1), x.sum(1))


# -------------------------------------------------------------------------------------------- specification or kernel


def _passes(*maps):
    """The module that has the four passes for these maps (segments, pixels, channels), None left out."""
    maps = [a for a in maps if a is not None]
    fast = all(a.dtype == np.float32 for a in maps) and maps[0].size > 0
    return kernels("normalization", maps[0]) if fast else _Specification


def _between(a):
    """The module that has what comes between the passes, for an array like a (segments, channels)."""
    return kernels("normalization", a) if a.dtype == np.float32 and a.size > 0 else _Specification


def moments(x):
    """Mean and variance over the pixels of x (segments, pixels, channels): two arrays (segments, channels)."""
    return _passes(x).moments(x)


def affine(x, scale, shift, residual, relu):
    """relu(x scale + shift + residual): x, residual (segments, pixels, channels), scale, shift (segments, channels)."""
    return _passes(x, residual).affine(x, scale, shift, residual, relu)


def gradient_sums(gy, y, x=None, mean=None, overwrite=False):
    """g = gy where y > 0 (y None: everywhere); also the sums of g and of g (x - mean), (segments, channels) each.

    overwrite: g may take the place of gy. Without x and mean the second sum means nothing.
    """
    return _passes(gy, y, x).gradient_sums(gy, y, x, mean, overwrite)


def gradient(g, x, mean, a, b, c, overwrite=False):
    """gx = a g + b (x - mean) + c: g, x (segments, pixels, channels), the others (segments, channels).

    overwrite: gx may take the place of g.
    """
    return _passes(g, x).gradient(g, x, mean, a, b, c, overwrite)


def frozen_gradient(gy, y, scale, keep, overwrite=False):
    """g = gy where y > 0 (y None: everywhere), None unless `keep`, and gx = scale g; scale: (segments, channels).

    overwrite: g, or gx if g is not kept, may take the place of gy.
    """
    return _passes(gy, y).frozen_gradient(gy, y, scale, keep, overwrite)


class _Specification:
    """The passes and what comes between them in plain array code, any dtype."""

    @staticmethod
    def moments(x):
        return x.mean(1), x.var(1)

    @staticmethod
    def affine(x, scale, shift, residual, relu):
        y = x * scale[:, None] + shift[:, None]
        y = y if residual is None else y + residual
        return array_module(x).maximum(y, 0) if relu else y

    @staticmethod
    def gradient_sums(gy, y, x=None, mean=None, overwrite=False):
        g = gy if y is None else gy * (y > 0)
        return g, g.sum(1), None if x is None else (g * (x - mean[:, None])).sum(1)

    @staticmethod
    def gradient(g, x, mean, a, b, c, overwrite=False):
        return a[:, None] * g + b[:, None] * (x - mean[:, None]) + c[:, None]

    @staticmethod
    def frozen_gradient(gy, y, scale, keep, overwrite=False):
        g = gy if y is None else gy * (y > 0)
        return g if keep else None, g * scale[:, None]

    @staticmethod
    def scale_and_shift(mean, var, gamma, beta, eps, groups=None):
        """Statistics (segments, channels) -> mean and 1 / deviation, over groups of channels; scale and shift."""
        group_mean = _over_group(mean, groups)
        if groups is not None:
            var = _over_group(var + (mean - group_mean) ** 2, groups)
        inverse = 1 / array_module(var).sqrt(var + eps)
        scale = gamma * inverse
        return group_mean, inverse, scale, beta - scale * group_mean

    @staticmethod
    def move_running(running_mean, running_var, mean, var, momentum, unbias):
        """Move the running statistics (channels,) towards mean and var unbias, in place."""
        for running, value in ((running_mean, mean), (running_var, var * unbias)):
            running += momentum * (value - running)

    @staticmethod
    def gradient_coefficients(sum_g, sum_gxhat, gamma, inverse, groups, pixels):
        """a, b, c of `gradient`: (segments, channels) each."""
        mean_h = _over_group(gamma * sum_g, groups) / pixels
        mean_hxhat = _over_group(gamma * sum_gxhat, groups) / pixels
        return gamma * inverse, -inverse * inverse * mean_hxhat, -inverse * mean_h


def _total(a):
    """The sum over the segments of a (segments, channels)."""
    return a[0] if len(a) == 1 else a.sum(0)


def _over_group(a, groups):
    """The mean of a (segments, channels) over each group of channels, for each of its channels."""
    if groups is None:
        return a
    segments, channels = a.shape
    means = a.reshape(segments, groups, channels // groups).mean(2)
    return means.repeat(channels // groups, axis=1)  # (segments, groups) -> (segments, channels)


def _check(name, argument, x, shape):
    """An argument (None: left out) must have exactly this shape."""
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name}: {argument} must have shape {tuple(shape)}, got {tuple(x.shape)}")
