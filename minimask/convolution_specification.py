"""Convolution, transposed convolution and max pooling in plain array code: what the kernels must come to.

Any dtype, NumPy or CuPy. A place (i, j) of the kernel meets the same pixels of the padded map, shifted, for the whole
result at once; so each function is a sum over the places, of products of matrices. `convolution` says what is computed.
"""

import numpy as np

from minimask.device import array_module


class Window:
    """How a kernel slides: kernel size, stride, padding and dilation as (y, x), groups."""

    def __init__(self, name, w, stride=1, padding=0, dilation=1, groups=1):
        if w.ndim != 4 or 0 in w.shape:
            raise ValueError(f"{name}: w must have four axes (kh, kw, in, out), none empty, got shape {w.shape}")
        if not isinstance(groups, (int, np.integer)) or groups < 1:
            raise ValueError(f"{name}: groups must be an int >= 1, got {groups!r}")
        self.name = name
        self.kernel = tuple(w.shape[:2])
        self.stride = pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)
        self.dilation = pair(name, "dilation", dilation, 1)
        self.groups = int(groups)

    def output_size(self, size):
        """Height and width of the convolution's result for a map of `size`."""
        return output_size(self.name, size, self.kernel, self.stride, self.padding, self.dilation)

    def transposed_size(self, size, extra):
        """Height and width of the transposed convolution's result for a map of `size`."""
        settings = zip(size, self.kernel, self.stride, self.padding, self.dilation, extra)
        result = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in settings)
        if min(result) < 1 or min(size) < 1:
            raise ValueError(
                f"{self.name}: x of height and width {tuple(size)} gives a result of {result}, which is empty, with "
                f"kernel {self.kernel}, padding {self.padding} and dilation {self.dilation}"
            )
        return result

    def taps(self, size):
        """For each place (i, j) of the kernel: the pixels of the padded map that it meets, for a result of `size`."""
        for i, j in np.ndindex(*self.kernel):
            y, x = i * self.dilation[0], j * self.dilation[1]
            rows = slice(y, y + self.stride[0] * (size[0] - 1) + 1, self.stride[0])
            columns = slice(x, x + self.stride[1] * (size[1] - 1) + 1, self.stride[1])
            yield i, j, (slice(None), rows, columns)

    def padded_size(self, size, result):
        """Height and width of the padded map: all that the taps touch, and the map itself."""
        settings = zip(size, result, self.kernel, self.stride, self.padding, self.dilation)
        return tuple(max(n + 2 * p, (r - 1) * s + (k - 1) * d + 1) for n, r, k, s, p, d in settings)


# ---------------------------------------------------------------------------- convolution and its gradients


def convolve_specification(x, w, window, size, b=None, residual=None, relu=False):
    """y = sum over the kernel's places of (the pixels there) @ (the weights there), then + b + residual, ReLU."""
    xp, groups = array_module(x), window.groups
    x = _pad(x, window, size)
    y = 0
    for i, j, at in window.taps(size):
        y = y + _pixels_by_group(x[at], groups) @ _weights_by_group(w[i, j], groups)  # (G, P, Cout/G)
    y = y.transpose(1, 0, 2).reshape(len(x), *size, w.shape[3])  # (N, OH, OW, Cout)
    return _epilogue(xp, y, b, residual, relu)


def convolve_backward_data_specification(gy, w, size, window, b=None, relu=False):
    """gx: each pixel of gy @ the transposed weights of each place, added to the pixels that place had read."""
    xp, groups = array_module(gy), window.groups
    result = gy.shape[1:3]
    height, width = window.padded_size(size, result)
    channels = w.shape[2] * groups
    gx = xp.zeros((len(gy), height, width, channels), xp.result_type(gy, w))
    g = _pixels_by_group(gy, groups)  # (G, P, Cout/G)
    for i, j, at in window.taps(result):
        stamp = g @ _weights_by_group(w[i, j], groups).transpose(0, 2, 1)  # (G, P, Cin/G)
        gx[at] += stamp.transpose(1, 0, 2).reshape(len(gy), *result, channels)  # (N, OH, OW, Cin)
    top, left = window.padding
    gx = xp.ascontiguousarray(gx[:, top : top + size[0], left : left + size[1]])
    return _epilogue(xp, gx, b, None, relu)


def convolve_backward_weights_specification(x, gy, window):
    """gw at a place: the transposed pixels that place had read @ gy."""
    xp, groups = array_module(x), window.groups
    result = gy.shape[1:3]
    g = _pixels_by_group(gy, groups)  # (G, P, Cout/G)
    inner, outer = x.shape[3] // groups, gy.shape[3]
    gw = xp.empty((*window.kernel, inner, outer), xp.result_type(x, gy))
    x = _pad(x, window, result)
    for i, j, at in window.taps(result):
        product = _pixels_by_group(x[at], groups).transpose(0, 2, 1) @ g  # (G, Cin/G, Cout/G)
        gw[i, j] = product.transpose(1, 0, 2).reshape(inner, outer)  # (Cin/G, Cout)
    return gw


# ---------------------------------------------------------------------------- max pooling


def max_pool2d_specification(x, size, stride, padding):
    """y (N, OH, OW, C) and the winner (same shape): which place i * kw + j of the window holds the maximum."""
    xp = array_module(x)
    window, result = pool_window(x.shape, size, stride, padding)
    x = _pad(x, window, result, fill=-xp.inf)
    y = xp.full((len(x), *result, x.shape[3]), -xp.inf, x.dtype)  # (N, OH, OW, C)
    winner = xp.zeros(y.shape, np.uint8 if size[0] * size[1] <= 256 else np.int32)
    for i, j, at in window.taps(result):
        better = (x[at] > y) | (x[at] != x[at])  # larger, or NaN
        y = xp.where(better, x[at], y)
        winner[better] = i * size[1] + j
    return y, winner


def max_pool2d_backward_specification(gy, winner, shape, size, stride, padding):
    """gx (of `shape`): gy of each window, added at its winner."""
    xp = array_module(gy)
    window, result = pool_window(shape, size, stride, padding)
    height, width = window.padded_size(shape[1:3], result)
    gx = xp.zeros((shape[0], height, width, shape[3]), gy.dtype)
    for i, j, at in window.taps(result):
        gx[at] += gy * (winner == i * size[1] + j)
    top, left = padding
    return xp.ascontiguousarray(gx[:, top : top + shape[1], left : left + shape[2]])


def pool_window(shape, size, stride, padding):
    """The window of a pooling (its weights do not matter, their shape does) and the size of its result."""
    window = Window("max_pool2d", np.empty((*size, 1, 1)), stride, padding)
    return window, window.output_size(shape[1:3])


# ---------------------------------------------------------------------------- helpers


def _pad(x, window, result, fill=0):
    """x with `fill` around it: padding above and left, and as much below and right as the taps touch."""
    (top, left), (height, width) = window.padding, window.padded_size(x.shape[1:3], result)
    if (height, width) == x.shape[1:3]:
        return x
    padded = array_module(x).full((len(x), height, width, x.shape[3]), fill, x.dtype)
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    return padded


def _pixels_by_group(x, groups):
    """(N, H, W, C) -> (G, P, C/G) with P = N H W: one matrix of pixels for each group."""
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    return x.reshape(pixels, groups, x.shape[3] // groups).transpose(1, 0, 2)


def _weights_by_group(w, groups):
    """(Cin/G, Cout) -> (G, Cin/G, Cout/G)."""
    return w.reshape(w.shape[0], groups, w.shape[1] // groups).transpose(1, 0, 2)


def _epilogue(xp, y, b, residual, relu):
    """relu(y + b + residual), each only if wanted."""
    y = y if b is None else y + b
    y = y if residual is None else y + residual
    return xp.maximum(y, 0) if relu else y


def pair(name, argument, value, least):
    """An int or (y, x) as (y, x) of ints, each at least `least`."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < least for v in pair):
        raise ValueError(f"{name}: {argument} must be an int >= {least} or two of them (y, x), got {value!r}")
    return int(pair[0]), int(pair[1])


def output_size(name, size, kernel, stride, padding, dilation):
    """floor((n + 2 padding - dilation (kernel - 1) - 1) / stride) + 1 for height and width."""
    settings = zip(size, kernel, stride, padding, dilation)
    result = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in settings)
    if min(result) < 1 or min(size) < 1:
        raise ValueError(
            f"{name}: x of height and width {tuple(size)} is smaller than the kernel {tuple(kernel)} with padding "
            f"{tuple(padding)} and dilation {tuple(dilation)}"
        )
    return result
