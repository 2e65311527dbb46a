"""Differentiable operations on tensors: elementwise, matrix products, reductions, indexing, resizing.

Each is a Function of raw arrays (its docstring is its formula) and a function of tensors. Importing this module gives
Tensor its operators. Convolution, normalization, RoI pooling and the losses have modules of their own.
"""

import numpy as np

from minimask.device import array_module, fits_gpu_kernel, kernels
from minimask.tensor import Function, Tensor, unbroadcast


def _tensor(x, like):
    """`x` as a tensor; a Python number takes the dtype of `like`, so that float64 stays float64."""
    if isinstance(x, Tensor):
        return x
    xp = array_module(like.data)
    if np.isscalar(x):
        return Tensor(xp.full((), x, like.dtype))  # a number goes to the GPU with the kernel, an array would be copied
    return Tensor(xp.asarray(x, dtype=like.dtype))


# ------------------------------------------------------------------------------------------------ elementwise, binary


class Add(Function):
    """y = a + b;  ga = gy, gb = gy (summed where broadcast)."""

    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a + b

    def backward(self, gy):
        return tuple(unbroadcast(gy, shape) for shape in self.shapes)


class Subtract(Function):
    """y = a - b;  ga = gy, gb = -gy."""

    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a - b

    def backward(self, gy):
        return unbroadcast(gy, self.shapes[0]), unbroadcast(-gy, self.shapes[1])


class Multiply(Function):
    """y = a b;  ga = gy b, gb = gy a."""

    def forward(self, a, b):
        self.a, self.b = a, b
        return a * b

    def backward(self, gy):
        ga = unbroadcast(gy * self.b, self.a.shape) if self.needs[0] else None
        gb = unbroadcast(gy * self.a, self.b.shape) if self.needs[1] else None
        return ga, gb


class Divide(Function):
    """y = a / b;  ga = gy / b, gb = -gy a / b^2."""

    def forward(self, a, b):
        self.a, self.b = a, b
        return a / b

    def backward(self, gy):
        ga = unbroadcast(gy / self.b, self.a.shape) if self.needs[0] else None
        gb = unbroadcast(-gy * self.a / (self.b * self.b), self.b.shape) if self.needs[1] else None
        return ga, gb


class Power(Function):
    """y = x^n for a number n;  gx = gy n x^(n-1)."""

    def __init__(self, n):
        self.n = n

    def forward(self, x):
        self.x = x
        return x**self.n

    def backward(self, gy):
        return (gy * self.n * self.x ** (self.n - 1),)


# ------------------------------------------------------------------------------------------------- elementwise, unary


class Negate(Function):
    """y = -x;  gx = -gy."""

    def forward(self, x):
        return -x

    def backward(self, gy):
        return (-gy,)


class ReLU(Function):
    """y = max(x, 0);  gx = gy where x > 0."""

    def forward(self, x):
        self.y = array_module(x).maximum(x, 0)
        return self.y

    def backward(self, gy):
        return (gy * (self.y > 0),)


class Sigmoid(Function):
    """y = 1 / (1 + e^-x);  gx = gy y (1 - y)."""

    def forward(self, x):
        self.y = sigmoid_array(x)
        return self.y

    def backward(self, gy):
        return (gy * self.y * (1 - self.y),)


class Tanh(Function):
    """y = tanh(x);  gx = gy (1 - y^2)."""

    def forward(self, x):
        self.y = array_module(x).tanh(x)
        return self.y

    def backward(self, gy):
        return (gy * (1 - self.y * self.y),)


class Exp(Function):
    """y = e^x;  gx = gy y."""

    def forward(self, x):
        self.y = array_module(x).exp(x)
        return self.y

    def backward(self, gy):
        return (gy * self.y,)


class Log(Function):
    """y = ln x;  gx = gy / x."""

    def forward(self, x):
        self.x = x
        return array_module(x).log(x)

    def backward(self, gy):
        return (gy / self.x,)


class Absolute(Function):
    """y = |x|;  gx = gy sign(x)."""

    def forward(self, x):
        self.sign = array_module(x).sign(x)
        return abs(x)

    def backward(self, gy):
        return (gy * self.sign,)


class Clip(Function):
    """y = min(max(x, low), high);  gx = gy where low <= x <= high."""

    def __init__(self, low, high):
        self.low, self.high = low, high

    def forward(self, x):
        self.inside = (x >= self.low) & (x <= self.high)
        return array_module(x).clip(x, self.low, self.high)

    def backward(self, gy):
        return (gy * self.inside,)


def sigmoid_array(x):
    """1 / (1 + e^-x) of a raw array, without overflow: e is raised to min(x, 0) and -|x| only."""
    xp = array_module(x)
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(-abs(x)))


def softmax_array(x, axis=-1):
    """e^x_i / sum_j e^x_j of a raw array; the largest x is subtracted first, which changes nothing but overflow."""
    e = array_module(x).exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


class Softmax(Function):
    """y_i = e^x_i / sum_j e^x_j;  gx = y (gy - sum_j gy_j y_j)."""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, x):
        self.y = softmax_array(x, self.axis)
        return self.y

    def backward(self, gy):
        return (self.y * (gy - (gy * self.y).sum(axis=self.axis, keepdims=True)),)


# ----------------------------------------------------------------------------------------- matrix products, reductions


class MatMul(Function):
    """y = a b;  ga = gy b^T, gb = a^T gy (over the last two axes)."""

    def forward(self, a, b):
        if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"matmul: a must be (..., M, K) and b (..., K, N), got shapes {a.shape} and {b.shape}")
        self.a, self.b = a, b
        return a @ b

    def backward(self, gy):
        ga = unbroadcast(gy @ self.b.swapaxes(-1, -2), self.a.shape) if self.needs[0] else None
        gb = unbroadcast(self.a.swapaxes(-1, -2) @ gy, self.b.shape) if self.needs[1] else None
        return ga, gb


class Sum(Function):
    """y = the sum of x over `axis`;  gx = gy, spread over what was summed."""

    def __init__(self, axis, keepdims):
        self.axis, self.keepdims = axis, keepdims

    def forward(self, x):
        self.shape = x.shape
        return array_module(x).asarray(x.sum(axis=self.axis, keepdims=self.keepdims))

    def backward(self, gy):
        xp = array_module(gy)
        if self.axis is not None and not self.keepdims:
            gy = xp.expand_dims(gy, self.axis)
        return (xp.broadcast_to(gy, self.shape),)


class Max(Function):
    """y = the largest x along `axis`;  gx = gy at the first largest."""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, x):
        xp = array_module(x)
        self.shape = x.shape
        self.index = xp.expand_dims(x.argmax(axis=self.axis), self.axis)
        return xp.take_along_axis(x, self.index, self.axis).squeeze(self.axis)

    def backward(self, gy):
        xp = array_module(gy)
        places = xp.arange(self.shape[self.axis]).reshape([-1 if i == self.axis else 1 for i in range(len(self.shape))])
        return (xp.where(places == self.index, xp.expand_dims(gy, self.axis), gy.dtype.type(0)),)


# --------------------------------------------------------------------------------------------------- shape and indexing


class Reshape(Function):
    """The same numbers in another shape."""

    def __init__(self, shape):
        self.shape = shape

    def forward(self, x):
        self.before = x.shape
        return x.reshape(self.shape)

    def backward(self, gy):
        return (gy.reshape(self.before),)


class Transpose(Function):
    """The axes in another order."""

    def __init__(self, axes):
        self.axes = axes

    def forward(self, x):
        return x.transpose(self.axes)

    def backward(self, gy):
        return (gy.transpose([self.axes.index(i) for i in range(len(self.axes))]),)


class Concatenate(Function):
    """Several tensors behind each other along `axis`;  each gets its part of gy."""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, *arrays):
        self.lengths = [a.shape[self.axis] for a in arrays]
        return array_module(arrays[0]).concatenate(arrays, axis=self.axis)

    def backward(self, gy):
        return tuple(array_module(gy).split(gy, np.cumsum(self.lengths)[:-1].tolist(), axis=self.axis))


class GetItem(Function):
    """y = x[index];  gx is gy at `index` (added up where an element was taken twice) and 0 elsewhere."""

    fresh = True

    def __init__(self, index):
        self.index = index

    def forward(self, x):
        self.shape = x.shape
        return x[self.index]

    def backward(self, gy):
        xp = array_module(gy)
        gx = xp.zeros(self.shape, gy.dtype)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(isinstance(p, (int, slice)) or p is None or p is Ellipsis for p in parts):
            gx[self.index] = gy  # a slice takes no element twice
        elif fits_gpu_kernel(gy):
            places = xp.arange(gx.size, dtype=np.int32).reshape(self.shape)[self.index]
            kernels("scatter_add", gy).scatter_add(gx, places, gy)
        else:
            xp.add.at(gx, self.index, gy)
        return (gx,)


class ResizeNearest(Function):
    """y[i, j] = x[floor(i H / H'), floor(j W / W')];  gx = the sum of gy over the places that copied x."""

    fresh = True

    def __init__(self, size):
        self.size = size

    def forward(self, x):
        xp = array_module(x)
        self.shape = _, h, w, _ = x.shape
        self.has_kernel = x.dtype == np.float32
        if self.has_kernel:
            return kernels("resize", x).nearest(x, self.size)
        self.rows, self.columns = (xp.arange(m) * n // m for n, m in zip((h, w), self.size))
        return x[:, self.rows][:, :, self.columns]

    def backward(self, gy):
        if self.has_kernel:
            return (kernels("resize", gy).nearest_backward(gy, self.shape),)
        n, h, w, c = self.shape
        xp = array_module(gy)
        rows = xp.zeros((n, h, self.size[1], c), gy.dtype)
        xp.add.at(rows, (slice(None), self.rows), gy)
        gx = xp.zeros(self.shape, gy.dtype)
        xp.add.at(gx, (slice(None), slice(None), self.columns), rows)
        return (gx,)


def bilinear_matrix(size_in, size_out, xp=np, dtype=np.float32):
    """The (size_out, size_in) matrix of linear interpolation between pixel centers (align_corners=False).

    Output pixel i has its center at (i + 1/2) size_in / size_out - 1/2 in input pixels, clamped at the border.
    """
    position = ((xp.arange(size_out, dtype=np.float64) + 0.5) * (size_in / size_out) - 0.5).clip(0, size_in - 1)
    low = xp.minimum(xp.floor(position).astype(np.int64), size_in - 1)
    high = xp.minimum(low + 1, size_in - 1)
    matrix = xp.zeros((size_out, size_in), np.float64)
    rows = xp.arange(size_out)
    matrix[rows, low] = 1 - (position - low)
    matrix[rows, high] += position - low
    return matrix.astype(dtype)


class ResizeBilinear(Function):
    """y = A x B^T, one matrix of interpolation weights for each axis;  gx = A^T gy B."""

    fresh = True

    def __init__(self, size):
        self.size = size

    def forward(self, x):
        self.shape = x.shape
        if fits_gpu_kernel(x):
            return kernels("resize", x).bilinear(x, self.size)
        return self._stretch(x, *self._matrices(x))

    def backward(self, gy):
        if fits_gpu_kernel(gy):
            return (kernels("resize", gy).bilinear_backward(gy, self.shape),)
        down, across = self._matrices(gy)
        return (self._stretch(gy, down.T, across.T),)

    def _matrices(self, x):
        """(H', H) and (W', W)."""
        return [bilinear_matrix(*sizes, array_module(x), x.dtype) for sizes in zip(self.shape[1:3], self.size)]

    @staticmethod
    def _stretch(x, down, across):
        """(N, h, w, C) by matrices (H, h) and (W, w) -> (N, H, W, C)."""
        n, h, w, c = x.shape
        x = (down @ x.reshape(n, h, w * c)).reshape(n * len(down), w, c)  # (N H, w, C)
        return (across @ x).reshape(n, len(down), len(across), c)


# ------------------------------------------------------------------------------------------------ functions of tensors


def relu(x):
    """max(x, 0), any shape."""
    return ReLU()(x)


def sigmoid(x):
    """1 / (1 + e^-x), any shape."""
    return Sigmoid()(x)


def tanh(x):
    """tanh(x), any shape."""
    return Tanh()(x)


def exp(x):
    """e^x, any shape."""
    return Exp()(x)


def log(x):
    """ln x, any shape."""
    return Log()(x)


def absolute(x):
    """|x|, any shape."""
    return Absolute()(x)


def clip(x, low, high):
    """min(max(x, low), high), any shape."""
    return Clip(low, high)(x)


def softmax(x, axis=-1):
    """e^x_i / sum_j e^x_j along `axis`."""
    return Softmax(axis)(x)


def matmul(a, b):
    """(..., M, K) by (..., K, N) -> (..., M, N). Raises ValueError where they do not fit."""
    return MatMul()(a, b)


def linear(x, w, b, relu=False):
    """(R, K) times w (K, M) plus b (M,), then max(., 0) if `relu` -> (R, M). ValueError where they do not fit.

    A fully connected layer is a 1x1 convolution of R images of one pixel, and runs on its kernel: with bias and ReLU
    in the same pass and all threads, that takes a third of the time of x @ w.
    """
    from minimask.convolution import conv2d  # here, because only this function needs it

    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or b.shape != w.shape[1:]:
        raise ValueError(
            f"linear: x must be (R, K), w (K, M) and b (M,), got shapes {x.shape}, {w.shape} and {b.shape}"
        )
    (rows, inner), outer = x.shape, w.shape[1]
    y = conv2d(x.reshape(rows, 1, 1, inner), w.reshape(1, 1, inner, outer), b, relu=relu)  # (R, 1, 1, M)
    return y.reshape(rows, outer)


def sum(x, axis=None, keepdims=False):
    """The sum over `axis` (an int, a tuple of ints, or None for all)."""
    return Sum(axis, keepdims)(x)


def mean(x, axis=None, keepdims=False):
    """The mean over `axis` (an int, a tuple of ints, or None for all)."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    count = int(np.prod([x.shape[i] for i in axes]))
    return Sum(axis, keepdims)(x) * (1 / count)


def max(x, axis):
    """The largest element along `axis`."""
    return Max(axis % x.ndim)(x)


def reshape(x, *shape):
    """The same numbers in another shape: reshape(x, 2, 3) or reshape(x, (2, 3))."""
    return Reshape(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)(x)


def transpose(x, *axes):
    """The axes in another order; reversed if none is given."""
    axes = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    return Transpose(tuple(i % x.ndim for i in axes) if axes else tuple(range(x.ndim))[::-1])(x)


def concatenate(tensors, axis=0):
    """Several tensors behind each other along `axis`."""
    tensors = tuple(tensors)
    return Concatenate(axis % tensors[0].ndim)(*tensors)


def resize_nearest(x, size):
    """(N, H, W, C) -> (N, H', W', C): each output pixel copies the input pixel it falls in. Source: FPN, section 3."""
    if x.ndim != 4 or len(size) != 2 or not all(s >= 1 for s in size):
        raise ValueError(f"resize_nearest: x must be (N, H, W, C) and size two numbers >= 1, got {x.shape} and {size}")
    return ResizeNearest(tuple(int(s) for s in size))(x)


def resize_bilinear(x, size):
    """(N, H, W, C) -> (N, H', W', C) by bilinear interpolation between pixel centers."""
    return ResizeBilinear(tuple(int(s) for s in size))(x)


Tensor.__add__ = Tensor.__radd__ = lambda a, b: Add()(a, _tensor(b, a))
Tensor.__sub__ = lambda a, b: Subtract()(a, _tensor(b, a))
Tensor.__rsub__ = lambda a, b: Subtract()(_tensor(b, a), a)
Tensor.__mul__ = Tensor.__rmul__ = lambda a, b: Multiply()(a, _tensor(b, a))
Tensor.__truediv__ = lambda a, b: Divide()(a, _tensor(b, a))
Tensor.__rtruediv__ = lambda a, b: Divide()(_tensor(b, a), a)
Tensor.__pow__ = lambda x, n: Power(n)(x)
Tensor.__neg__ = lambda x: Negate()(x)
Tensor.__matmul__ = lambda a, b: MatMul()(a, b)
Tensor.__getitem__ = lambda x, index: GetItem(index)(x)
Tensor.sum, Tensor.mean, Tensor.max = sum, mean, max
Tensor.reshape, Tensor.transpose = reshape, transpose
