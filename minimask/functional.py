"""Differentiable operations on tensors: elementwise, reductions, matrix products, shape and indexing.

Each is a Function of raw arrays, whose docstring is its formula, and a function of tensors that calls it. Importing
this module gives Tensor its operators. Convolution, normalization, resizing, RoIAlign and the losses stand elsewhere.
"""

import numpy as np

from minimask.device import accelerated, array_module
from minimask.normalization import gradient_sums
from minimask.tensor import Function, Tensor, unbroadcast

# --------------------------------------------------------------------------------------------- elementwise, two inputs


class Add(Function):
    """y = a + b;  ga = gy, gb = gy (summed over the axes that were broadcast)."""

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


# ----------------------------------------------------------------------------------------------- elementwise, one input


class Elementwise(Function):
    """y = f(x) for each element;  gx = gradient(gy, x), or gradient(gy, y) if the derivative is simpler in y.

    name: shown by `repr`.  keeps: "x" or "y", which of the two the derivative needs.
    """

    def __init__(self, name, f, gradient, keeps):
        self.name, self.f, self.gradient, self.keeps = name, f, gradient, keeps

    def forward(self, x):
        y = self.f(x)
        self.kept = x if self.keeps == "x" else y
        return y

    def backward(self, gy):
        return (self.gradient(gy, self.kept),)


def relu(x):
    """y = max(x, 0);  gx = gy where y > 0."""
    return Elementwise("ReLU", lambda x: array_module(x).maximum(x, 0), lambda gy, y: gy * (y > 0), keeps="y")(x)


def sigmoid(x):
    """y = 1 / (1 + e^-x);  gx = gy y (1 - y)."""
    return Elementwise("Sigmoid", sigmoid_array, lambda gy, y: gy * y * (1 - y), keeps="y")(x)


def tanh(x):
    """y = tanh(x);  gx = gy (1 - y^2)."""
    return Elementwise("Tanh", lambda x: array_module(x).tanh(x), lambda gy, y: gy * (1 - y * y), keeps="y")(x)


def exp(x):
    """y = e^x;  gx = gy y."""
    return Elementwise("Exp", lambda x: array_module(x).exp(x), lambda gy, y: gy * y, keeps="y")(x)


def log(x):
    """y = ln x;  gx = gy / x."""
    return Elementwise("Log", lambda x: array_module(x).log(x), lambda gy, x: gy / x, keeps="x")(x)


def absolute(x):
    """y = |x|;  gx = gy sign(x)."""
    return Elementwise("Absolute", abs, lambda gy, x: gy * array_module(x).sign(x), keeps="x")(x)


def negate(x):
    """y = -x;  gx = -gy."""
    return Elementwise("Negate", lambda x: -x, lambda gy, x: -gy, keeps="x")(x)


def power(x, n):
    """y = x^n for a number n;  gx = gy n x^(n-1)."""
    return Elementwise("Power", lambda x: x**n, lambda gy, x: gy * n * x ** (n - 1), keeps="x")(x)


def clip(x, low, high):
    """y = min(max(x, low), high);  gx = gy where low <= x <= high."""
    return Elementwise(
        "Clip", lambda x: array_module(x).clip(x, low, high), lambda gy, x: gy * ((x >= low) & (x <= high)), keeps="x"
    )(x)


def sigmoid_array(x):
    """1 / (1 + e^-x) of a raw array, without overflow: the exponents are min(x, 0) and -|x|."""
    xp = array_module(x)
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(-abs(x)))


# -------------------------------------------------------------------------------------------------------- along an axis


def softmax_array(x, axis=-1):
    """e^x_i / sum_j e^x_j of a raw array. Subtracting the largest x first only prevents overflow."""
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


def softmax(x, axis=-1):
    """e^x_i / sum_j e^x_j along `axis`."""
    return Softmax(axis)(x)


class Sum(Function):
    """y = the sum of x over `axis`;  gx = gy, repeated along the axes that were summed."""

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


def sum(x, axis=None, keepdims=False):
    """The sum over `axis` (an int, a tuple of ints, or None for all)."""
    return Sum(axis, keepdims)(x)


def mean(x, axis=None, keepdims=False):
    """The mean over `axis` (an int, a tuple of ints, or None for all)."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    count = int(np.prod([x.shape[i] for i in axes]))
    return Sum(axis, keepdims)(x) * (1 / count)


class Max(Function):
    """y = the largest x along `axis`;  gx = gy at the first largest, 0 elsewhere."""

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


def max(x, axis):
    """The largest element along `axis`."""
    return Max(axis % x.ndim)(x)


# ------------------------------------------------------------------------------------------------------ matrix products


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


def matmul(a, b):
    """(..., M, K) by (..., K, N) -> (..., M, N). Raises ValueError if the shapes do not fit together."""
    return MatMul()(a, b)


class Linear(Function):
    """y = relu(x w + b);  with g = gy where y > 0:  gx = g w^T,  gw = x^T g,  gb = the sum of g over the rows."""

    fresh = True

    def __init__(self, relu):
        self.relu = relu

    def forward(self, x, w, b):
        y = linear_forward(x, w, b, self.relu)
        self.x, self.w, self.y = x, w, y[None] if self.relu else None
        return y

    def backward(self, gy):
        g, gb, _ = gradient_sums(gy[None], self.y, overwrite=self.overwrite)  # (1, R, M), (1, M)
        gx, gw = linear_backward(g[0], self.x, self.w, self.needs)
        return gx, gw, gb[0]


@accelerated("linear")
def linear_forward(x, w, b, relu=False):
    """relu(x w + b) of raw arrays: x (R, K), w (K, M), b (M,) -> (R, M)."""
    y = x @ w + b
    return array_module(y).maximum(y, 0) if relu else y


@accelerated("linear")
def linear_backward(g, x, w, needs=(True, True)):
    """The gradients of x w for the gradient g (R, M): gx (R, K) and gw (K, M); None where `needs` is False."""
    return g @ w.T if needs[0] else None, x.T @ g if needs[1] else None


def linear(x, w, b, relu=False):
    """A fully connected layer: x w + b, then max(., 0) if `relu`.

    x: (R, K).  w: (K, M).  b: (M,).
    Returns (R, M). Raises ValueError if the shapes do not fit together.
    """
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or b.shape != w.shape[1:]:
        raise ValueError(f"linear: x must be (R, K), w (K, M) and b (M,), got {x.shape}, {w.shape} and {b.shape}")
    return Linear(relu)(x, w, b)


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


def reshape(x, *shape):
    """The same numbers in another shape: reshape(x, 2, 3) or reshape(x, (2, 3))."""
    return Reshape(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)(x)


class Transpose(Function):
    """The axes in another order."""

    def __init__(self, axes):
        self.axes = axes

    def forward(self, x):
        return x.transpose(self.axes)

    def backward(self, gy):
        return (gy.transpose([self.axes.index(i) for i in range(len(self.axes))]),)


def transpose(x, *axes):
    """The axes in another order: transpose(x, 1, 0) or transpose(x, (1, 0)); reversed if no axes are given."""
    axes = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    return Transpose(tuple(i % x.ndim for i in axes) if axes else tuple(range(x.ndim))[::-1])(x)


class Concatenate(Function):
    """Several tensors joined along `axis`;  each gets its part of gy."""

    def __init__(self, axis):
        self.axis = axis

    def forward(self, *arrays):
        self.lengths = [a.shape[self.axis] for a in arrays]
        return array_module(arrays[0]).concatenate(arrays, axis=self.axis)

    def backward(self, gy):
        return tuple(array_module(gy).split(gy, np.cumsum(self.lengths)[:-1].tolist(), axis=self.axis))


def concatenate(tensors, axis=0):
    """Several tensors joined along `axis`."""
    return Concatenate(axis % tensors[0].ndim)(*tensors)


class GetItem(Function):
    """y = x[index];  gx is gy at `index` (summed where an element was taken more than once) and 0 elsewhere."""

    fresh = True

    def __init__(self, index):
        self.index = index

    def forward(self, x):
        self.shape = x.shape
        return x[self.index]

    def backward(self, gy):
        return (index_backward(gy, self.index, self.shape),)


@accelerated("scatter_add")
def index_backward(gy, index, shape):
    """The gradient of x[index] for the gradient gy of the result: an array of `shape`, the shape of x."""
    xp = array_module(gy)
    gx = xp.zeros(shape, gy.dtype)
    if takes_no_element_twice(index):
        gx[index] = gy
    else:
        xp.add.at(gx, index, gy)
    return gx


def takes_no_element_twice(index):
    """Whether an index consists of integers and slices alone."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(part, (int, slice)) or part is None or part is Ellipsis for part in parts)


# ------------------------------------------------------------------------------------------------------------ operators


def _tensor(x, like):
    """`x` as a tensor; a Python number takes the dtype of `like`, so that float64 stays float64."""
    if isinstance(x, Tensor):
        return x
    xp = array_module(like.data)
    if np.isscalar(x):
        return Tensor(xp.full((), x, like.dtype))  # a number reaches the GPU with the kernel, an array needs a copy
    return Tensor(xp.asarray(x, dtype=like.dtype))


Tensor.__add__ = Tensor.__radd__ = lambda a, b: Add()(a, _tensor(b, a))
Tensor.__sub__ = lambda a, b: Subtract()(a, _tensor(b, a))
Tensor.__rsub__ = lambda a, b: Subtract()(_tensor(b, a), a)
Tensor.__mul__ = Tensor.__rmul__ = lambda a, b: Multiply()(a, _tensor(b, a))
Tensor.__truediv__ = lambda a, b: Divide()(a, _tensor(b, a))
Tensor.__rtruediv__ = lambda a, b: Divide()(_tensor(b, a), a)
Tensor.__matmul__, Tensor.__pow__, Tensor.__neg__ = matmul, power, negate
Tensor.__getitem__ = lambda x, index: GetItem(index)(x)
Tensor.sum, Tensor.mean, Tensor.max = sum, mean, max
Tensor.reshape, Tensor.transpose = reshape, transpose
