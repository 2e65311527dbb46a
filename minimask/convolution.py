"""Convolution, transposed convolution and max pooling of feature maps (N, H, W, C).

A convolution slides a window over the map. At each stop, the kh x kw x Cin numbers under the window are multiplied by
the weights (kh, kw, Cin, Cout) and summed up, which gives the Cout numbers of one output pixel:

    y[n, oy, ox, o] = sum over i, j, c of x[n, oy * stride - padding + i * dilation, ox * ..., c] * w[i, j, c, o]

`convolve` computes this sum, `convolve_backward_data` the gradient of x, `convolve_backward_weights` the gradient of w.
A transposed convolution is `convolve_backward_data` used in the forward direction. All three go through the places
(i, j) of the window one by one. Over all stops of the window, the pixels that a place meets form a shifted copy of the
map, so each place takes a single matrix product.

Shapes: N images, H x W pixels, C channels, G groups; the result has OH x OW pixels per image, P = N OH OW in all.
Source: He et al. 2017 (Mask R-CNN), section 3 for where each is used; slides L21, L23.
"""

import numpy as np

from minimask.device import accelerated, array_module
from minimask.errors import check_pair, check_shape
from minimask.tensor import Function


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1, residual=None, relu=False):
    """relu(x * w + b + residual): a convolution and what usually follows it, in one operation.

    x: (N, H, W, Cin).
    w: (kh, kw, Cin / groups, Cout).
    b: (Cout,) or None.
    stride, padding, dilation: an int or (y, x), in pixels of x.
    groups: number of groups that the channels are split into; a group sees only its own (groups = Cin: depthwise).
    residual: a map of the result's shape, added before the ReLU, or None.
    relu: whether to end with max(0, .).
    Returns (N, OH, OW, Cout) with OH = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1.
    Raises ValueError if the shapes do not fit together.
    """
    window = _window("conv2d", w, stride, padding, dilation, groups, divided=3)
    check_shape("conv2d", "x", x, ("N", "H", "W", w.shape[2] * groups))
    check_shape("conv2d", "b", b, w.shape[3:])
    check_shape("conv2d", "residual", residual, (len(x), *window.output_size(x.shape[1:3]), w.shape[3]))

    inputs = [x, w] + [a for a in (b, residual) if a is not None]
    return Conv2dFunction(window, b is not None, residual is not None, relu)(*inputs)


def conv_transpose2d(x, w, b=None, stride=2, padding=0, output_padding=0, dilation=1, groups=1, relu=False):
    """relu(transposed convolution of x + b): each input pixel stamps its kh x kw patch onto a larger map.

    x: (N, H, W, Cin).
    w: (kh, kw, Cin, Cout / groups).
    b: (Cout,) or None.
    stride, padding, dilation, groups, relu: as in `conv2d`; the first three in pixels of the result.
    output_padding: rows and columns to add at the bottom and right, an int or (y, x), smaller than stride or dilation:
        a convolution with a stride shrinks several sizes to the same one, and this says which of them is wanted.
    Returns (N, OH, OW, Cout) with OH = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1.
    Raises ValueError if the shapes do not fit together. Slide L23; He et al. 2017, figure 4 (2x2, stride 2).
    """
    window = _window("conv_transpose2d", w, stride, padding, dilation, groups, divided=2)
    extra = check_pair("conv_transpose2d", "output_padding", output_padding, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, window.stride, window.dilation)):
        limits = f"stride {window.stride} or dilation {window.dilation}"
        raise ValueError(f"conv_transpose2d: output_padding must be smaller than {limits}, got {extra}")
    check_shape("conv_transpose2d", "x", x, ("N", "H", "W", w.shape[2]))
    check_shape("conv_transpose2d", "b", b, (w.shape[3] * groups,))

    size = window.transposed_size(x.shape[1:3], extra)
    inputs = [x, w] if b is None else [x, w, b]
    return ConvTranspose2dFunction(window, size, b is not None, relu)(*inputs)


def max_pool2d(x, size, stride=None, padding=0):
    """The largest value under each window, per channel; padding never wins.

    x: (N, H, W, C).
    size, stride, padding: an int or (y, x), in pixels of x; stride None: size; padding: at most half of size.
    Returns (N, OH, OW, C) with OH = floor((H + 2 padding - size) / stride) + 1.
    The gradient goes to the largest value; if several are equal, to the first in reading order.
    Raises ValueError if the shapes do not fit together.
    """
    size = check_pair("max_pool2d", "size", size, 1)
    window = Window(size, size if stride is None else stride, padding, name="max_pool2d")
    check_shape("max_pool2d", "x", x, ("N", "H", "W", "C"))
    if any(2 * p > k for p, k in zip(window.padding, size)):
        raise ValueError(f"max_pool2d: padding must be at most half of size {size}, got {window.padding}")
    return MaxPool2dFunction(window)(x)


def _window(name, w, stride, padding, dilation, groups, divided):
    """The Window of weights w, once they are checked; divided: the axis of w that falls into groups."""
    if w.ndim != 4 or 0 in w.shape:
        raise ValueError(f"{name}: w must have four axes (kh, kw, in, out), none empty, got shape {w.shape}")
    window = Window(w.shape[:2], stride, padding, dilation, groups, name)
    if w.shape[divided] % groups:
        raise ValueError(f"{name}: groups must divide axis {divided} of w, got {groups} groups, w of shape {w.shape}")
    return window


class Conv2dFunction(Function):
    """y = relu(x * w + b + residual);  g = gy where y > 0;  gx = g * flipped w;  gw = x * g;  gb = sum g;  gr = g."""

    def __init__(self, window, has_bias, has_residual, relu):
        self.window, self.has_bias, self.has_residual, self.relu = window, has_bias, has_residual, relu
        self.fresh = not has_residual  # else the residual's gradient may be gy itself

    def forward(self, x, w, *rest):
        b = rest[0] if self.has_bias else None
        residual = rest[-1] if self.has_residual else None
        y = convolve(x, w, self.window, b=b, residual=residual, relu=self.relu)
        self.x, self.w, self.y = x, w, y if self.relu else None
        return y

    def backward(self, gy):
        g, gb = epilogue_backward(gy, self.y, self.has_bias and self.needs[2], self.overwrite)
        gw = convolve_backward_weights(self.x, g, self.window) if self.needs[1] else None
        # gx comes last: the next operation finds it in the cache.
        gx = convolve_backward_data(g, self.w, self.x.shape[1:3], self.window) if self.needs[0] else None
        gradients = (gx, gw, gb) if self.has_bias else (gx, gw)
        return (*gradients, g) if self.has_residual else gradients


class ConvTranspose2dFunction(Function):
    """y = relu(convolve_backward_data(x, w) + b);  gx = convolve(g, w);  gw = convolve_backward_weights(g, x)."""

    fresh = True

    def __init__(self, window, size, has_bias, relu):
        self.window, self.size, self.has_bias, self.relu = window, size, has_bias, relu

    def forward(self, x, w, b=None):
        w = w.transpose(0, 1, 3, 2)  # (kh, kw, Cout/G, Cin): of the convolution that leads from y to x
        y = convolve_backward_data(x, w, self.size, self.window, b=b, relu=self.relu)
        self.x, self.w, self.y = x, w, y if self.relu else None
        return y

    def backward(self, gy):
        g, gb = epilogue_backward(gy, self.y, self.has_bias and self.needs[2], self.overwrite)
        gx = convolve(g, self.w, self.window, size=self.x.shape[1:3]) if self.needs[0] else None
        gw = convolve_backward_weights(g, self.x, self.window).transpose(0, 1, 3, 2) if self.needs[1] else None
        return (gx, gw, gb) if self.has_bias else (gx, gw)


class MaxPool2dFunction(Function):
    """y = max of each window;  gx = gy at the place of the maximum, summed where windows overlap."""

    fresh = True

    def __init__(self, window):
        self.window = window

    def forward(self, x):
        y, self.winner = max_pool(x, self.window)
        self.size = x.shape[1:3]
        return y

    def backward(self, gy):
        return (max_pool_backward(gy, self.winner, self.size, self.window),)


# ---------------------------------------------------------------------------- convolution and its gradients


@accelerated("conv")
def convolve(x, w, window, size=None, b=None, residual=None, relu=False):
    """y = relu(x * w + b + residual): the pixels that each place of the window meets @ the weights of that place.

    x: (N, H, W, Cin).  w: (kh, kw, Cin / groups, Cout).  b: (Cout,) or None.  residual: shape of y or None.
    size: (OH, OW) of the result; None: `window.output_size`.  Returns y (N, OH, OW, Cout).
    """
    size = window.output_size(x.shape[1:3]) if size is None else tuple(size)
    padded = _pad(x, window, size)

    y = 0
    for i, j, met in window.places(size):
        pixels = _by_group(padded[met], window.groups)  # (G, P, Cin/G)
        weights = _by_group(w[i, j], window.groups)  # (G, Cin/G, Cout/G)
        y = y + pixels @ weights  # (G, P, Cout/G)

    y = y.transpose(1, 0, 2).reshape(len(x), *size, w.shape[3])  # (N, OH, OW, Cout)
    return _epilogue(y, b, residual, relu)


@accelerated("conv")
def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """gx: gy @ the transposed weights of each place, added to the pixels that the place met.

    gy: (N, OH, OW, Cout).  w: (kh, kw, Cin / groups, Cout).  size: (H, W) of x.  Returns gx (N, H, W, Cin).
    b, relu: what follows if this is a transposed convolution: relu(gx + b), b (Cin,) or None.
    """
    xp, result, channels = array_module(gy), gy.shape[1:3], w.shape[2] * window.groups
    gx = xp.zeros((len(gy), *size, channels), xp.result_type(gy, w))
    padded = _pad(gx, window, result)
    g = _by_group(gy, window.groups)  # (G, P, Cout/G)

    for i, j, met in window.places(result):
        weights = _by_group(w[i, j], window.groups)  # (G, Cin/G, Cout/G)
        stamp = g @ weights.transpose(0, 2, 1)  # (G, P, Cin/G)
        padded[met] += stamp.transpose(1, 0, 2).reshape(len(gy), *result, channels)  # (N, OH, OW, Cin)

    return _epilogue(_crop(padded, window, size), b, None, relu)


@accelerated("conv")
def convolve_backward_weights(x, gy, window):
    """gw: for each place, the transposed pixels that it met @ gy.

    x: (N, H, W, Cin).  gy: (N, OH, OW, Cout).  Returns gw (kh, kw, Cin / groups, Cout).
    """
    xp, result = array_module(x), gy.shape[1:3]
    padded = _pad(x, window, result)
    g = _by_group(gy, window.groups)  # (G, P, Cout/G)
    gw = xp.empty((*window.kernel, x.shape[3] // window.groups, gy.shape[3]), xp.result_type(x, gy))

    for i, j, met in window.places(result):
        pixels = _by_group(padded[met], window.groups)  # (G, P, Cin/G)
        product = pixels.transpose(0, 2, 1) @ g  # (G, Cin/G, Cout/G)
        gw[i, j] = product.transpose(1, 0, 2).reshape(gw.shape[2:])  # (Cin/G, Cout)

    return gw


def _epilogue(y, b, residual, relu):
    """relu(y + b + residual), leaving out what is None or False."""
    y = y if b is None else y + b
    y = y if residual is None else y + residual
    return array_module(y).maximum(y, 0) if relu else y


@accelerated("conv")
def epilogue_backward(gy, y, needs_bias, overwrite=False):
    """g = gy where y > 0, the gradient before the ReLU (y None: there was none), and gb = sum g, the bias's.

    gy, y: (N, OH, OW, Cout).  needs_bias: without it, gb is None.  overwrite: whether g may take the place of gy.
    """
    g = gy if y is None else gy * (y > 0)
    return g, g.sum(axis=(0, 1, 2)) if needs_bias else None


@accelerated("max_pool")
def max_pool(x, window):
    """y, the largest number under each window, and winner, the place i * kw + j of the window that holds it.

    x: (N, H, W, C).  Returns y and winner (N, OH, OW, C); winner is uint8, int32 if there are more than 256 places.
    """
    xp, size = array_module(x), window.output_size(x.shape[1:3])
    padded = _pad(x, window, size, fill=-xp.inf)
    y = xp.full((len(x), *size, x.shape[3]), -xp.inf, x.dtype)  # (N, OH, OW, C)
    winner = xp.zeros(y.shape, np.uint8 if window.kernel[0] * window.kernel[1] <= 256 else np.int32)

    for i, j, met in window.places(size):
        better = (padded[met] > y) | (padded[met] != padded[met])  # larger, or NaN
        y = xp.where(better, padded[met], y)
        winner[better] = i * window.kernel[1] + j

    return y, winner


@accelerated("max_pool")
def max_pool_backward(gy, winner, size, window):
    """gx: the gradient of each window, added to the pixel that won it.

    gy, winner: (N, OH, OW, C).  size: (H, W) of x.  Returns gx (N, H, W, C).
    """
    result = gy.shape[1:3]
    gx = array_module(gy).zeros((len(gy), *size, gy.shape[3]), gy.dtype)
    padded = _pad(gx, window, result)

    for i, j, met in window.places(result):
        padded[met] += gy * (winner == i * window.kernel[1] + j)

    return _crop(padded, window, size)


class Window:
    """How a window slides: kernel size, stride, padding and dilation, each (y, x), and the number of channel groups."""

    def __init__(self, kernel, stride=1, padding=0, dilation=1, groups=1, name="convolve"):
        self.name = name
        self.kernel = check_pair(name, "kernel", kernel, 1)
        self.stride = check_pair(name, "stride", stride, 1)
        self.padding = check_pair(name, "padding", padding, 0)
        self.dilation = check_pair(name, "dilation", dilation, 1)
        if not isinstance(groups, (int, np.integer)) or groups < 1:
            raise ValueError(f"{name}: groups must be an int >= 1, got {groups!r}")
        self.groups = int(groups)

    def output_size(self, size):
        """(OH, OW) of the convolution's result for a map of `size` (H, W)."""
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation)
        return self._at_least_one(size, [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes])

    def transposed_size(self, size, extra=(0, 0)):
        """(OH, OW) of the transposed convolution's result for a map of `size` (H, W); extra: output_padding."""
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation, extra)
        return self._at_least_one(size, [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in axes])

    def _at_least_one(self, size, result):
        if min(*size, *result) < 1:
            settings = f"kernel {self.kernel}, padding {self.padding} and dilation {self.dilation}"
            raise ValueError(f"{self.name}: x of {size[0]} x {size[1]} pixels gives an empty result with {settings}")
        return tuple(result)

    def places(self, result):
        """For each place (i, j) of the window, the pixels of the padded map that it meets; result: (OH, OW)."""
        for i, j in np.ndindex(*self.kernel):
            top, left = i * self.dilation[0], j * self.dilation[1]
            rows = slice(top, top + self.stride[0] * (result[0] - 1) + 1, self.stride[0])
            columns = slice(left, left + self.stride[1] * (result[1] - 1) + 1, self.stride[1])
            yield i, j, (slice(None), rows, columns)


def _pad(x, window, result, fill=0):
    """x (N, H, W, C) with a border of `fill`, as wide as the places reach for a result (OH, OW)."""
    axes = zip(x.shape[1:3], result, window.kernel, window.stride, window.padding, window.dilation)
    height, width = (max(n + 2 * p, (r - 1) * s + (k - 1) * d + 1) for n, r, k, s, p, d in axes)
    padded = array_module(x).full((len(x), height, width, x.shape[3]), fill, x.dtype)
    (top, left), (rows, columns) = window.padding, x.shape[1:3]
    padded[:, top : top + rows, left : left + columns] = x
    return padded


def _crop(padded, window, size):
    """The map of `size` (H, W) without its border."""
    (top, left), (rows, columns) = window.padding, size
    return array_module(padded).ascontiguousarray(padded[:, top : top + rows, left : left + columns])


def _by_group(a, groups):
    """(..., C) -> (G, rows, C/G): a matrix per group of channels; its rows are a map's P pixels or Cin/G weights."""
    return a.reshape(-1, groups, a.shape[-1] // groups).transpose(1, 0, 2)
