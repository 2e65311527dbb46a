"""Batch and group normalisation of feature maps (N, H, W, C), fused with the addition and the ReLU that follow them.

    xhat = (x - mean) / sqrt(variance + eps),    y = relu(gamma xhat + beta + residual)

Batch normalisation takes mean and variance of each channel over all pixels of the batch (Ioffe and Szegedy 2015), group
normalisation those of each image and group of channels (Wu and He 2018). Both gradients have one form, with sums over
whatever the mean was taken over (M numbers) and k = gamma / sqrt(variance + eps):

    gx = (h - mean of h - xhat * mean of (h xhat)) / sqrt(variance + eps)    with h = gamma g, g = gy where y > 0
"""

import numpy as np

from minimask.device import array_module
from minimask.tensor import Function


def batch_norm(
    x, gamma, beta, running_mean, running_var, training, momentum=0.1, eps=1e-5, residual=None, relu=False
):
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


def fold_batch_norm(w, gamma, beta, mean, var, eps=1e-5):
    """Weights and bias of the one convolution that equals convolution w followed by batch normalisation (raw arrays).

    w: (kh, kw, Cin, Cout).  gamma, beta, mean, var: (Cout,).  Returns w gamma / sqrt(var + eps) and
    beta - mean gamma / sqrt(var + eps), in the dtype of w. Raises ValueError where shapes do not fit.
    """
    for argument, a in (("gamma", gamma), ("beta", beta), ("mean", mean), ("var", var)):
        _check("fold_batch_norm", argument, a, w.shape[-1:])
    scale = gamma / array_module(w).sqrt(var + eps)
    return (w * scale).astype(w.dtype), (beta - mean * scale).astype(w.dtype)


class BatchNormFunction(Function):
    """y = relu(gamma xhat + beta + residual);  see the module for gx;  ggamma = sum g xhat, gbeta = sum g."""

    def __init__(self, running_mean, running_var, training, momentum, eps, relu):
        self.running = running_mean, running_var
        self.training, self.momentum, self.eps, self.relu = training, momentum, eps, relu

    def forward(self, x, gamma, beta, residual=None):
        xp = array_module(x)
        mean, var = self.running
        if self.training and x.size:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            self._update_running(mean, var, x.size // x.shape[-1])
        self.mean, self.inverse = mean, 1 / xp.sqrt(var + self.eps)
        y = _apply(xp, x, gamma * self.inverse, beta - gamma * self.inverse * mean, residual, self.relu)
        self.x, self.gamma, self.y, self.has_residual = x, gamma, y if self.relu else None, residual is not None
        return y

    def _update_running(self, mean, var, count):
        for running, value in zip(self.running, (mean, var * (count / (count - 1)))):
            running += self.momentum * (value - running)

    def backward(self, gy):
        g = gy if self.y is None else gy * (self.y > 0)
        xhat = (self.x - self.mean) * self.inverse
        axes = tuple(range(g.ndim - 1))
        gbeta, ggamma = g.sum(axes), (g * xhat).sum(axes)
        h = g
        if self.training:
            count = max(1, g.size // g.shape[-1])
            h = g - gbeta / count - xhat * (ggamma / count)
        gx = h * (self.gamma * self.inverse)
        return gx, ggamma, gbeta, *((g,) if self.has_residual else ())


class GroupNormFunction(Function):
    """y = relu(gamma xhat + beta + residual);  see the module for gx;  ggamma = sum g xhat, gbeta = sum g."""

    def __init__(self, groups, eps, relu):
        self.groups, self.eps, self.relu = groups, eps, relu

    def forward(self, x, gamma, beta, residual=None):
        xp = array_module(x)
        n, h, w, c = x.shape
        grouped = x.reshape(n, h, w, self.groups, c // self.groups)  # (N, H, W, G, C/G)
        mean = grouped.mean((1, 2, 4), keepdims=True)  # (N, 1, 1, G, 1)
        inverse = 1 / xp.sqrt(grouped.var((1, 2, 4), keepdims=True) + self.eps)
        self.mean, self.inverse = (_each_channel(a, x) for a in (mean, inverse))  # (N, 1, 1, C)
        scale = gamma * self.inverse
        y = _apply(xp, x, scale, beta - scale * self.mean, residual, self.relu)
        self.x, self.gamma, self.y, self.has_residual = x, gamma, y if self.relu else None, residual is not None
        return y

    def backward(self, gy):
        g = gy if self.y is None else gy * (self.y > 0)
        xhat = (self.x - self.mean) * self.inverse
        gbeta, ggamma = g.sum((0, 1, 2)), (g * xhat).sum((0, 1, 2))
        h = g * self.gamma
        gx = (h - self._mean(h) - xhat * self._mean(h * xhat)) * self.inverse
        return gx, ggamma, gbeta, *((g,) if self.has_residual else ())

    def _mean(self, a):
        """The mean of each image and group, repeated for each channel: (N, 1, 1, C)."""
        n, h, w, c = a.shape
        grouped = a.reshape(n, h, w, self.groups, c // self.groups)  # (N, H, W, G, C/G)
        return _each_channel(grouped.mean((1, 2, 4), keepdims=True), a)


def _each_channel(statistics, x):
    """(N, 1, 1, G, 1) -> (N, 1, 1, C)."""
    n, c = len(x), x.shape[3]
    return statistics.reshape(n, 1, 1, -1).repeat(c // statistics.shape[3], axis=3)


def _apply(xp, x, scale, shift, residual, relu):
    """relu(x scale + shift + residual)."""
    y = x * scale + shift
    y = y if residual is None else y + residual
    return xp.maximum(y, 0) if relu else y


def _check(name, argument, x, shape):
    """An argument (None: left out) must have exactly this shape."""
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name}: {argument} must have shape {tuple(shape)}, got {tuple(x.shape)}")
