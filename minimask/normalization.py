"""Batch and group normalization of feature maps (N, H, W, C), fused with the addition and the ReLU that follow them.

    xhat = (x - mean) / sqrt(var + eps),    y = relu(gamma xhat + beta + residual)

Batch normalization takes the mean and variance of each channel over all pixels of the batch (Ioffe and Szegedy 2015),
group normalization those of each image and group of channels (Wu and He 2018). Both see x as segments of pixels
(S, P, C): batch normalization as one segment, group normalization as one segment per image.

With g = gy where y > 0 and h = gamma g, the gradient of both is

    gx = (h - mean(h) - xhat mean(h xhat)) / sqrt(var + eps),    ggamma = sum(g xhat),    gbeta = sum(g)

where the means are over the numbers that x's mean was taken over. The work is a few passes over the map (`moments` and
`affine` forward; `gradient_sums` and `gradient` backward) and, between them, a few numbers per channel
(`scale_and_shift`, `move_running`, `gradient_coefficients`). All have float32 kernels.
"""

import numpy as np

from minimask.device import accelerated, array_module
from minimask.errors import check_shape
from minimask.machine import distributed
from minimask.tensor import Function

# --------------------------------------------------------------------------------------------------- public operations


def batch_norm(x, gamma, beta, running_mean, running_var, training, momentum=0.1, eps=1e-5, residual=None, relu=False):
    """relu(gamma (x - mean) / sqrt(var + eps) + beta + residual), channel by channel.

    x: (..., C), usually (N, H, W, C).
    gamma, beta: (C,).
    running_mean, running_var: raw arrays (C,).
    training: use the mean and variance of this batch, and move the running ones towards them by `momentum`, in place
        (the running variance is the unbiased one). Otherwise use the running ones, as constants.
    residual: the shape of x, or None.
    Returns the shape of x. Raises ValueError if shapes do not fit, or for training on one number per channel.
    """
    channels = x.shape[-1] if x.ndim else 0
    arguments = dict(gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    for name, argument in arguments.items():
        check_shape("batch_norm", name, argument, (channels,))
    check_shape("batch_norm", "residual", residual, x.shape)
    if training and x.size == channels:
        raise ValueError(f"batch_norm: training needs more than one number per channel, got x of shape {x.shape}")

    operation = BatchNorm(running_mean, running_var, training, momentum, eps, relu)
    return operation(x, gamma, beta) if residual is None else operation(x, gamma, beta, residual)


def group_norm(x, gamma, beta, groups, eps=1e-5, residual=None, relu=False):
    """relu(gamma (x - mean) / sqrt(var + eps) + beta + residual), mean and var of each image and group of channels.

    x: (N, H, W, C).
    gamma, beta: (C,).
    groups: how many groups; divides C.
    residual: the shape of x, or None.
    Returns the shape of x. Raises ValueError if shapes do not fit.
    """
    check_shape("group_norm", "x", x, ("N", "H", "W", "C"))
    if not isinstance(groups, (int, np.integer)) or groups < 1 or x.shape[3] % groups:
        raise ValueError(f"group_norm: groups must divide the {x.shape[3]} channels, got {groups!r}")
    check_shape("group_norm", "gamma", gamma, x.shape[3:])
    check_shape("group_norm", "beta", beta, x.shape[3:])
    check_shape("group_norm", "residual", residual, x.shape)

    operation = GroupNorm(groups, eps, relu)
    return operation(x, gamma, beta) if residual is None else operation(x, gamma, beta, residual)


@accelerated("normalization")
def constant_scale_and_shift(gamma, beta, mean, var, eps=1e-5):
    """What normalization with constant statistics amounts to, y = x scale + shift: raw arrays (C,) -> scale, shift."""
    scale = gamma / (var + gamma.dtype.type(eps)) ** 0.5
    return scale, beta - mean * scale


# ------------------------------------------------------------------------------------------------------------ autograd


class Normalization(Function):
    """y = relu(gamma (x - mean) / sqrt(var + eps) + beta + residual); the module's docstring has the gradients."""

    groups = None  # groups of channels that share their statistics; None: each channel has its own

    def __init__(self, eps, relu):
        self.eps, self.relu = eps, relu

    def forward(self, x, gamma, beta, residual=None):
        segments = self.segments(x)
        self.shape, self.gamma, self.has_residual = x.shape, gamma, residual is not None
        self.fresh = self.relu or residual is None  # otherwise the residual's gradient is gy itself
        self.x = x.reshape(segments, x.size // max(1, segments * x.shape[-1]), x.shape[-1])  # (S, P, C)
        residual = None if residual is None else residual.reshape(self.x.shape)

        mean, var = self.statistics(self.x)  # (S, C)
        numbers = scale_and_shift(mean, var, gamma, beta, x.dtype.type(self.eps), self.groups)
        self.mean, self.inverse, scale, shift = numbers
        y = affine(self.x, scale, shift, residual, self.relu)

        self.y = y if self.relu else None
        return y.reshape(self.shape)

    def backward(self, gy):
        gy = gy.reshape(self.x.shape)
        g, sum_g, sum_gd = gradient_sums(gy, self.y, self.x, self.mean, self.overwrite)  # d = x - mean
        sum_gxhat = sum_gd * self.inverse  # (S, C)
        gx = self.gradient(g, sum_g, sum_gxhat).reshape(self.shape) if self.needs[0] else None
        gradients = gx, _total(sum_gxhat), _total(sum_g)
        return (*gradients, g.reshape(self.shape)) if self.has_residual else gradients

    def gradient(self, g, sum_g, sum_gxhat):
        """gx (S, P, C)."""
        a, b, c = gradient_coefficients(sum_g, sum_gxhat, self.gamma, self.inverse, self.groups, self.pixels)
        overwrite = not self.has_residual and (self.relu or self.overwrite)  # with a residual, g is still needed
        return gradient(g, self.x, self.mean, a, b, c, overwrite)


class BatchNorm(Normalization):
    """One segment: mean and var of each channel over the batch or, outside training, the running ones (constants)."""

    def __init__(self, running_mean, running_var, training, momentum, eps, relu):
        super().__init__(eps, relu)
        self.running = running_mean, running_var
        self.training, self.momentum = training, momentum

    def segments(self, x):
        return 1

    def statistics(self, x):
        if not self.training or x.size == 0:
            self.pixels = 1
            return tuple(running[None].astype(x.dtype) for running in self.running)
        self.pixels, mean, var = distributed.moments_of_all(x.shape[1], *moments(x))
        unbias = self.pixels / (self.pixels - 1)
        move_running(*self.running, mean[0], var[0], self.momentum, unbias)
        return mean, var

    def gradient(self, g, sum_g, sum_gxhat):
        if self.training:
            return super().gradient(g, *distributed.totals(sum_g, sum_gxhat))
        return g * (self.gamma * self.inverse[0])


class GroupNorm(Normalization):
    """One segment per image: mean and var over its pixels and each group of channels."""

    def __init__(self, groups, eps, relu):
        super().__init__(eps, relu)
        self.groups = groups

    def segments(self, x):
        return len(x)

    def statistics(self, x):
        self.pixels = max(1, x.shape[1])
        return moments(x) if x.size > 0 else (x.sum(1), x.sum(1))


def _total(a):
    """The sum over the segments: (S, C) -> (C,)."""
    return a[0] if len(a) == 1 else a.sum(0)


# ------------------------------------------------------------------------------------- passes over a map (S, P, C)


@accelerated("normalization")
def moments(x):
    """Mean and variance over the pixels: x (S, P, C) -> two arrays (S, C)."""
    return x.mean(1), x.var(1)


@accelerated("normalization")
def affine(x, scale, shift, residual, relu):
    """y = relu(x scale + shift + residual): x and residual (S, P, C) or None, scale and shift (S, C)."""
    y = x * scale[:, None] + shift[:, None]
    y = y if residual is None else y + residual
    return array_module(x).maximum(y, 0) if relu else y


@accelerated("normalization")
def gradient_sums(gy, y, x=None, mean=None, overwrite=False):
    """g = gy where y > 0 (y None: everywhere), its sum over the pixels, and the sum of g (x - mean): (S, C) each.

    overwrite: g may overwrite gy. Without x, the second sum has no meaning.
    """
    g = gy if y is None else gy * (y > 0)
    return g, g.sum(1), None if x is None else (g * (x - mean[:, None])).sum(1)


@accelerated("normalization")
def gradient(g, x, mean, a, b, c, overwrite=False):
    """gx = a g + b (x - mean) + c: g and x (S, P, C), the others (S, C). overwrite: gx may overwrite g."""
    return a[:, None] * g + b[:, None] * (x - mean[:, None]) + c[:, None]


# ------------------------------------------------------------------------ between the passes: few numbers per channel


@accelerated("normalization")
def scale_and_shift(mean, var, gamma, beta, eps, groups=None):
    """From gamma (x - mean) / sqrt(var + eps) + beta to x scale + shift; statistics (S, C) are averaged over groups.

    Returns the mean, 1 / sqrt(var + eps), scale and shift, (S, C) each.
    """
    group_mean = _over_group(mean, groups)
    if groups is not None:
        var = _over_group(var + (mean - group_mean) ** 2, groups)
    inverse = 1 / array_module(var).sqrt(var + eps)
    scale = gamma * inverse
    return group_mean, inverse, scale, beta - scale * group_mean


@accelerated("normalization")
def move_running(running_mean, running_var, mean, var, momentum, unbias):
    """Move the running statistics (C,) towards mean and unbias * var, in place."""
    for running, value in ((running_mean, mean), (running_var, var * unbias)):
        running += momentum * (value - running)


@accelerated("normalization")
def gradient_coefficients(sum_g, sum_gxhat, gamma, inverse, groups, pixels):
    """The a, b, c with which `gradient` gives gx = (h - mean(h) - xhat mean(h xhat)) inverse: (S, C) each."""
    mean_h = _over_group(gamma * sum_g, groups) / pixels
    mean_hxhat = _over_group(gamma * sum_gxhat, groups) / pixels
    return gamma * inverse, -inverse * inverse * mean_hxhat, -inverse * mean_h


def _over_group(a, groups):
    """The mean of a (S, C) over each group of channels, repeated for each of its channels."""
    if groups is None:
        return a
    segments, channels = a.shape
    means = a.reshape(segments, groups, channels // groups).mean(2)  # (S, groups)
    return means.repeat(channels // groups, axis=1)
