"""Reverse-mode automatic differentiation: tensors that remember how they were made, and the walk back through them.

An operation is a `Function`: `forward` takes raw arrays and returns a raw array; `backward` takes the gradient of the
output and returns one gradient per input. The formula of the lecture is the code:

    class Square(Function):
        '''y = x^2;  gx = 2 x gy.'''

        def forward(self, x):
            self.x = x
            return x * x

        def backward(self, gy):
            return 2 * self.x * gy,

    y = Square()(x)          # x, y are Tensors
    y.backward(gy)           # fills x.grad
"""

import heapq
import itertools
from contextlib import contextmanager

import numpy as np

from minimask.device import array_module, to_cpu
from minimask.machine.gradients import Gradients

_births = itertools.count()
_grad_enabled = True


@contextmanager
def no_grad():
    """Inside this context, operations do not remember their inputs: use it for inference and for updating weights."""
    global _grad_enabled
    before, _grad_enabled = _grad_enabled, False
    try:
        yield
    finally:
        _grad_enabled = before


class Tensor:
    """An array with a gradient.

    data: the NumPy or CuPy array.
    grad: array of the same shape after `backward` (leaves only), or None.
    requires_grad: whether gradients flow to this tensor.
    maker: the Function that made it; None for a leaf.
    grad_buffer: the array where an optimizer wants a leaf's gradient (see `machine.flat_parameters`), or None.

    `np.asarray(t)`, `t.numpy()`, `float(t)` and `int(t)` give the numbers without the history: no gradient flows back
    through them. NumPy's functions (`np.exp(t)`) refuse a tensor, because they would lose its gradient silently; the
    operations of `minimask.functional` keep it.
    """

    __slots__ = ("data", "grad", "grad_buffer", "requires_grad", "maker", "birth", "__weakref__")
    __array_ufunc__ = None  # array + Tensor calls Tensor.__radd__, and np.exp(Tensor) raises TypeError

    def __init__(self, data, requires_grad=False):
        if isinstance(data, Tensor):
            raise TypeError("Tensor: data must be an array or a number, got a Tensor")
        if isinstance(data, (int, float, list, tuple)) and not isinstance(data, np.generic):  # np.float64 is a float
            data = np.asarray(data, dtype=np.float32)
        if not (hasattr(data, "dtype") and hasattr(data, "shape")):
            raise TypeError(f"Tensor: data must be an array, a number or a list of numbers, got {type(data).__name__}")
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"Tensor: only float arrays can have a gradient, got {data.dtype}")
        self.data = data
        self.grad = self.grad_buffer = None
        self.requires_grad = requires_grad
        self.maker = None
        self.birth = next(_births)

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)

    def __len__(self):
        return len(self.data)

    def __repr__(self):
        numbers = ", ".join(f"{x:.4g}" for x in to_cpu(self.data.reshape(-1)[:6]).tolist())
        more = ", ..." if self.size > 6 else ""
        made = f", made by {self.maker.name}" if self.maker else ""
        return f"{type(self).__name__}([{numbers}{more}], shape {self.shape}, {self.dtype}{made})"

    def __array__(self, dtype=None, copy=None):
        array = np.asarray(self.data, dtype=dtype)  # CuPy refuses: copying from the GPU takes an explicit `numpy()`
        return array.copy() if copy else array

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def item(self):
        """The number in a tensor of one element."""
        return self.data.item()

    def numpy(self):
        """The data as a NumPy array, without the history; copied only if it is on a GPU."""
        return to_cpu(self.data)

    def detach(self):
        """A tensor of the same data without the history."""
        return Tensor(self.data)

    def backward(self, gradient=None):
        """Add d(self)/d(leaf) * gradient to `.grad` of every leaf that requires a gradient.

        gradient: array of this tensor's shape; may be left out for a tensor of one element (then it is 1).
        The history is freed on the way: a second call needs a second forward pass.
        Raises ValueError if the gradient is missing or has the wrong shape, RuntimeError if there is no history.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor was made without a history (no input required a gradient)")
        if gradient is None:
            if self.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs a gradient of that shape")
            gradient = array_module(self.data).ones_like(self.data)
        if gradient.shape != self.shape:
            raise ValueError(f"backward: gradient must have shape {self.shape}, got {gradient.shape}")

        # A tensor is younger than the inputs it was made from, so "youngest first" is a topological order: when a
        # tensor leaves the heap, every part of its gradient has arrived. No recursion is needed.
        gradients = Gradients()  # tensor -> sum of the gradients that have arrived
        gradients.add(self, gradient)
        heap = [(-self.birth, self)]
        while heap:
            _, tensor = heapq.heappop(heap)
            maker = tensor.maker
            if maker is None:
                gradients.add_to_leaf(tensor)
                continue

            maker.overwrite = gradients.owns(tensor)
            gy = gradients.pop(tensor)
            for x, gx in maker.input_gradients(gy):
                if x not in gradients:
                    heapq.heappush(heap, (-x.birth, x))
                gradients.add(x, gx, owned=maker.fresh)


class Parameter(Tensor):
    """A leaf tensor that is trained."""

    __slots__ = ()

    def __init__(self, data):
        super().__init__(data, requires_grad=True)


class Function:
    """One differentiable operation. Settings go to `__init__`, tensors to the call, raw arrays to forward and backward.

    Keep what backward needs as attributes of self. `self.needs[i]` says whether input i needs a gradient (all True
    until the operation is called), so that backward can skip that work and return None there.
    """

    inputs = None
    needs = (True,) * 32
    fresh = False  # True promises that backward returns new arrays, which nobody else holds
    overwrite = False  # True: nobody else holds gy, so backward may overwrite it and return it

    def __init_subclass__(cls):
        cls.name = cls.__name__  # shown by `repr(tensor)` and in error messages

    def __call__(self, *inputs):
        tensors = tuple(x if isinstance(x, Tensor) else Tensor(x) for x in inputs)
        recording = _grad_enabled and any(x.requires_grad for x in tensors)
        self.needs = tuple(recording and x.requires_grad for x in tensors)

        result = Tensor(self.forward(*(x.data for x in tensors)))
        if recording:
            result.requires_grad = True
            result.maker = self
            self.inputs = tensors
        return result

    def forward(self, *arrays):
        raise NotImplementedError

    def backward(self, gy):
        raise NotImplementedError

    def input_gradients(self, gy):
        """Runs backward and returns (input, gradient) for each input that needs one; frees what forward kept."""
        if self.inputs is None:
            raise RuntimeError(f"backward: the history of {self.name} was freed by an earlier backward")
        gradients, inputs = self.backward(gy), self.inputs
        if not isinstance(gradients, tuple) or len(gradients) != len(inputs):
            raise TypeError(f"{self.name}.backward must return a tuple of {len(inputs)} gradients")

        name, fresh = self.name, self.fresh
        vars(self).clear()  # the activations are freed here; `inputs` is None again
        self.name, self.fresh = name, fresh

        pairs = [(x, gx) for x, gx in zip(inputs, gradients) if gx is not None and x.requires_grad]
        for x, gx in pairs:
            if gx.shape != x.shape:
                raise ValueError(
                    f"{name}.backward: gradient of an input of shape {x.shape} must have that shape, got {gx.shape}"
                )
        return pairs


def unbroadcast(gradient, shape):
    """Sum `gradient` over the axes that broadcasting added, back to `shape`: the one place that undoes it."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    stretched = [i + extra for i, n in enumerate(shape) if n == 1 and gradient.shape[i + extra] != 1]
    return gradient.sum(axis=(*range(extra), *stretched), keepdims=True).reshape(shape)
