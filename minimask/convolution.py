"""Convolution, transposed convolution and max pooling on feature maps (N, H, W, C).

A convolution slides a window over the map: at each place the kh x kw x Cin numbers under it are multiplied by the
weights (kh, kw, Cin, Cout) and summed, which gives the Cout numbers of one output pixel:

    y[n, oy, ox, o] = sum_{i, j, c} x[n, oy * stride - padding + i * dilation, ox * ..., c] * w[i, j, c, o]

Three functions do all the work, here and in the kernels: `convolve`, and its two derivatives `convolve_backward_data`
(the gradient of x) and `convolve_backward_weights` (the gradient of w). A transposed convolution is the second one used
as a forward operation. Each has a specification in plain array code (`convolution_specification`, any dtype, NumPy or
CuPy) and float32 kernels: `minimask.kernels.conv` or `winograd` on the CPU, `conv_cuda` on the GPU.

Source: He et al. 2017 (Mask R-CNN), section 3 for where each is used; slides L21, L23.
"""

import numpy as np

from minimask.convolution_specification import (
    Window,
    convolve_backward_data_specification,
    convolve_backward_weights_specification,
    convolve_specification,
    max_pool2d_backward_specification,
    max_pool2d_specification,
    pair,
    pool_window,
)
from minimask.device import kernels, on_cpu
from minimask.kernels import winograd as winograd_kernels
from minimask.normalization import gradient_sums
from minimask.tensor import Function

# 3x3 convolutions in float32 on the CPU by Winograd's identity: twice as fast, rounding errors ten times as large
# (1e-5 of the typical number). False: always the direct sum.
winograd = True

# ---------------------------------------------------------------------------- public operations


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1, residual=None, relu=False):
    """relu(x * w + b + residual): a convolution and what usually follows it, as one operation.

    x: (N, H, W, Cin).  w: (kh, kw, Cin / groups, Cout).  b: (Cout,) or None.  stride, padding, dilation: an int or
    (y, x), in pixels.  groups: channels are cut into that many groups that do not see each other (Cin: depthwise).
    residual: shape of the result, added before the ReLU, or None.  relu: max(0, .) at the end.
    Returns (N, OH, OW, Cout) with OH = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1.
    Raises ValueError where shapes do not fit.
    """
    window = Window("conv2d", w, stride, padding, dilation, groups)
    _check_maps("conv2d", x, "Cin", w.shape[2] * groups)
    if w.shape[3] % groups:
        raise ValueError(f"conv2d: Cout must be a multiple of groups {groups}, got w of shape {w.shape}")
    shape = (x.shape[0], *window.output_size(x.shape[1:3]), w.shape[3])
    _check_shape("conv2d", "b", b, (w.shape[3],))
    _check_shape("conv2d", "residual", residual, shape)
    operation = Conv2dFunction(window, b is not None, residual is not None, relu)
    return operation(x, w, *(a for a in (b, residual) if a is not None))


def conv_transpose2d(x, w, b=None, stride=2, padding=0, output_padding=0, dilation=1, groups=1, relu=False):
    """relu(transposed convolution of x + b): each input pixel stamps its kh x kw patch on a larger map.

    x: (N, H, W, Cin).  w: (kh, kw, Cin, Cout / groups).  b: (Cout,) or None.  output_padding: rows and columns added at
    the bottom and right (an int or (y, x), smaller than stride or dilation), because several sizes shrink to one.
    Returns (N, OH, OW, Cout) with OH = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1.
    Raises ValueError where shapes do not fit. Slide L23; He et al. 2017, figure 4 (2x2, stride 2).
    """
    window = Window("conv_transpose2d", w, stride, padding, dilation, groups)
    extra = pair("conv_transpose2d", "output_padding", output_padding, 0)
    _check_maps("conv_transpose2d", x, "Cin", w.shape[2])
    if w.shape[2] % groups:
        raise ValueError(f"conv_transpose2d: Cin must be a multiple of groups {groups}, got w of shape {w.shape}")
    if any(e >= max(s, d) for e, s, d in zip(extra, window.stride, window.dilation)):
        raise ValueError(
            f"conv_transpose2d: output_padding must be smaller than stride {window.stride} or dilation "
            f"{window.dilation}, got {extra}"
        )
    size = window.transposed_size(x.shape[1:3], extra)
    _check_shape("conv_transpose2d", "b", b, (w.shape[3] * groups,))
    operation = ConvTranspose2dFunction(window, size, b is not None, relu)
    return operation(x, w, *(() if b is None else (b,)))


def max_pool2d(x, size, stride=None, padding=0):
    """The largest value in each window, for each channel; what lies outside the map never wins.

    x: (N, H, W, C).  size, stride (default: size), padding (at most half of size): an int or (y, x), in pixels.
    Returns (N, OH, OW, C) with OH = floor((H + 2 padding - size) / stride) + 1. The gradient goes to the largest value,
    to the first in reading order if several are equal. Raises ValueError where shapes do not fit.
    """
    size = pair("max_pool2d", "size", size, 1)
    stride = size if stride is None else pair("max_pool2d", "stride", stride, 1)
    padding = pair("max_pool2d", "padding", padding, 0)
    _check_maps("max_pool2d", x, "C", None)
    if any(2 * p > k for p, k in zip(padding, size)):
        raise ValueError(f"max_pool2d: padding must be at most half of size {size}, got {padding}")
    return MaxPool2dFunction(size, stride, padding)(x)


# ---------------------------------------------------------------------------- autograd


class Conv2dFunction(Function):
    """y = relu(x * w + b + residual);  g = gy where y > 0;  gx = g * flipped w;  gw = x * g;  gb = sum g;  gr = g."""

    def __init__(self, window, has_bias, has_residual, relu):
        self.window, self.has_bias, self.has_residual, self.relu = window, has_bias, has_residual, relu
        self.fresh = not has_residual

    def forward(self, x, w, *rest):
        b = rest[0] if self.has_bias else None
        residual = rest[-1] if self.has_residual else None
        y = convolve(x, w, self.window, b=b, residual=residual, relu=self.relu)
        self.x, self.w, self.y = x, w, y if self.relu else None
        return y

    def backward(self, gy):
        window, x, w = self.window, self.x, self.w
        needs_b = self.has_bias and self.needs[2]
        g, gb = epilogue_backward(gy, self.y, needs_b, self.overwrite)
        gw = convolve_backward_weights(x, g, window) if self.needs[1] else None
        # Last, for the next operation needs it, and finds it in the cache.
        gx = convolve_backward_data(g, w, x.shape[1:3], window) if self.needs[0] else None
        return gx, gw, *((gb,) if self.has_bias else ()), *((g,) if self.has_residual else ())


class ConvTranspose2dFunction(Function):
    """y = relu(convolve_backward_data(x, w) + b): so gx is a convolution of gy, and gw swaps the parts of x and gy."""

    fresh = True

    def __init__(self, window, size, has_bias, relu):
        self.window, self.size, self.has_bias, self.relu = window, size, has_bias, relu

    def forward(self, x, w, *rest):
        b = rest[0] if self.has_bias else None
        y = convolve_backward_data(x, w.transpose(0, 1, 3, 2), self.size, self.window, b=b, relu=self.relu)
        self.x, self.w, self.y = x, w, y if self.relu else None
        return y

    def backward(self, gy):
        window, x, w = self.window, self.x, self.w
        needs_b = self.has_bias and self.needs[2]
        g, gb = epilogue_backward(gy, self.y, needs_b, self.overwrite)
        gx = gw = None
        if self.needs[0]:
            gx = convolve(g, w.transpose(0, 1, 3, 2), window, size=x.shape[1:3])
        if self.needs[1]:
            gw = convolve_backward_weights(g, x, window).transpose(0, 1, 3, 2)  # (kh, kw, Cin, Cout/groups)
        return gx, gw, *((gb,) if self.has_bias else ())


class MaxPool2dFunction(Function):
    """y = max of each window;  gx = gy at the place of the maximum, summed where windows overlap."""

    fresh = True

    def __init__(self, size, stride, padding):
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x):
        self.shape = x.shape
        settings = self.size, self.stride, self.padding
        self.has_kernel = _has_kernel(x) and self.size[0] * self.size[1] <= 256
        if self.has_kernel:
            _, result = pool_window(x.shape, *settings)
            y, self.winner = kernels("max_pool", x).forward(x, *settings, result)
        else:
            y, self.winner = max_pool2d_specification(x, *settings)
        return y

    def backward(self, gy):
        backward = kernels("max_pool", gy).backward if self.has_kernel else max_pool2d_backward_specification
        return (backward(gy, self.winner, self.shape, self.size, self.stride, self.padding),)


# ---------------------------------------------------------------------------- specification or kernel


def convolve(x, w, window, size=None, b=None, residual=None, relu=False):
    """x (N, H, W, Cin), w (kh, kw, Cin / groups, Cout) -> (N, OH, OW, Cout); size: (OH, OW) if not the usual."""
    size = window.output_size(x.shape[1:3]) if size is None else tuple(size)
    if not _has_kernel(x, w, b, residual):
        return convolve_specification(x, w, window, size, b, residual, relu)
    return _kernels(x, *w.shape[2:], window, size).convolve(x, w, window, size, b, residual, relu)


def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """gy (N, OH, OW, Cout), w (kh, kw, Cin / groups, Cout) -> gx (N, H, W, Cin) of the given size (H, W)."""
    size = tuple(size)
    if not _has_kernel(gy, w, b):
        return convolve_backward_data_specification(gy, w, size, window, b, relu)
    return _kernels(gy, *w.shape[2:], window, size).convolve_backward_data(gy, w, size, window, b, relu)


def convolve_backward_weights(x, gy, window):
    """x (N, H, W, Cin), gy (N, OH, OW, Cout) -> gw (kh, kw, Cin / groups, Cout)."""
    if not _has_kernel(x, gy):
        return convolve_backward_weights_specification(x, gy, window)
    channels = x.shape[3] // window.groups, gy.shape[3]
    return _kernels(x, *channels, window, gy.shape[1:3]).convolve_backward_weights(x, gy, window)


def _has_kernel(*arrays):
    """Whether the kernels can do it: float32 arrays."""
    return all(a is None or a.dtype == np.float32 for a in arrays)


def _kernels(x, inner, outer, window, size):
    """The module of kernels that is faster for a map x, weights (kh, kw, inner, outer) and a result of `size`."""
    fits = winograd and on_cpu(x) and winograd_kernels.fits(len(x), inner, outer, window, size)
    return winograd_kernels if fits else kernels("conv", x)


def epilogue_backward(gy, y, needs_bias, overwrite=False):
    """The gradient before ReLU (y: its result, None without ReLU) and the gradient of the bias (None if not needed).

    overwrite: the first may take the place of gy.
    """
    if _has_kernel(gy) and gy.size and not (y is None and not needs_bias):
        channels = gy.shape[3]
        pixels = [None if a is None else a.reshape(1, -1, channels) for a in (gy, y)]  # (1, N H W, C)
        g, gb, _ = gradient_sums(*pixels, overwrite=overwrite)
        return g.reshape(gy.shape), gb[0] if needs_bias else None
    g = gy if y is None else gy * (y > 0)
    return g, g.sum(axis=(0, 1, 2)) if needs_bias else None


# ---------------------------------------------------------------------------- checks


def _check_maps(name, x, label, channels):
    """x must be (N, H, W, channels); channels None: any."""
    if x.ndim != 4 or (channels is not None and x.shape[3] != channels):
        expected = label if channels is None else f"{label} = {channels}"
        raise ValueError(f"{name}: x must be (N, H, W, {expected}), got shape {x.shape}")


def _check_shape(name, argument, x, shape):
    """An optional argument must have exactly this shape."""
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name}: {argument} must have shape {tuple(shape)}, got {tuple(x.shape)}")
