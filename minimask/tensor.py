"""Autograd: tensors that remember how they were made, and the walk back through them (the chain rule).

An operation is a `Function`: `forward` takes raw arrays and returns a raw array; `backward` takes the raw gradient
of the output and returns one raw gradient for each input. The formula of the lecture is the code:

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
import operator
from contextlib import contextmanager

import numpy as np

from minimask.device import array_module, kernels

_births = itertools.count()
_grad_enabled = True


@contextmanager
def no_grad():
    """Inside, operations do not remember their inputs: for inference, and for updating parameters."""
    global _grad_enabled
    before, _grad_enabled = _grad_enabled, False
    try:
        yield
    finally:
        _grad_enabled = before


class Tensor:
    """An array with a gradient.

    data: a NumPy or CuPy array.  grad: an array of the same shape once `backward` reached it (leaves only), or None.
    requires_grad: whether gradients flow here.  maker: the Function that made it (None for a leaf).
    grad_buffer: where a leaf's grad belongs in the end (see optim.FlatParameters), or None: anywhere.
    """

    __slots__ = ("data", "grad", "grad_buffer", "requires_grad", "maker", "birth", "__weakref__")
    __array_priority__ = 100  # array + Tensor calls Tensor.__radd__

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
        made = f", made by {type(self.maker).__name__}" if self.maker else ""
        return f"Tensor({self.data}{made})"

    def item(self):
        """The number in a tensor of one element."""
        return self.data.item()

    def detach(self):
        """The same data without a history."""
        return Tensor(self.data)

    def backward(self, gradient=None):
        """Add d(self)/d(leaf) * gradient to `.grad` of every leaf that requires a gradient.

        gradient: array of this tensor's shape; may be left out for a tensor of one element (then it is 1).
        The history is freed on the way: a second call needs a second forward pass.
        Raises ValueError if the gradient is missing or of another shape, RuntimeError if there is no history.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor was made without a history (no input required a gradient)")
        xp = array_module(self.data)
        if gradient is None:
            if self.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs a gradient of that shape")
            gradient = xp.ones_like(self.data)
        if gradient.shape != self.shape:
            raise ValueError(f"backward: gradient must have shape {self.shape}, got {gradient.shape}")

        # Inputs are older than outputs, so the youngest tensor first is a topological order: no recursion needed.
        gradients = {self.birth: gradient}
        owned = set()  # gradients that nobody else holds: they may be added to in place, written over, and kept
        heap = [(-self.birth, self)]
        while heap:
            _, tensor = heapq.heappop(heap)
            gy = gradients.pop(tensor.birth)
            if tensor.maker is None:
                own = tensor.birth in owned
                if tensor.grad is not None:
                    gy, own = tensor.grad + gy, True
                tensor.grad = gy if own else _copy(gy, tensor.grad_buffer)
                continue
            maker = tensor.maker
            if maker.inputs is None:
                raise RuntimeError(f"backward: the history of {type(maker).__name__} was freed by an earlier backward")
            inputs = maker.inputs
            maker.overwrite = tensor.birth in owned
            input_gradients = maker.backward(gy)
            if not isinstance(input_gradients, tuple) or len(input_gradients) != len(inputs):
                raise TypeError(f"{type(maker).__name__}.backward must return a tuple of {len(inputs)} gradients")
            fresh = maker.fresh
            maker.__dict__.clear()  # frees the activations it kept; `inputs` is None again
            for source, gx in zip(inputs, input_gradients):
                if gx is None or not source.requires_grad:
                    continue
                if gx.shape != source.shape:
                    raise ValueError(
                        f"{type(maker).__name__}.backward: gradient of an input of shape {source.shape} "
                        f"must have that shape, got {gx.shape}"
                    )
                if source.birth not in gradients:
                    gradients[source.birth] = gx
                    heapq.heappush(heap, (-source.birth, source))
                    if fresh:
                        owned.add(source.birth)
                else:
                    first, own = gradients[source.birth], source.birth in owned
                    if fresh and not own:  # then the sum may take the place of the second
                        first, gx = gx, first
                    gradients[source.birth] = _add(first, gx, own or fresh)
                    owned.add(source.birth)


def _copy(array, buffer):
    """The numbers of an array in a buffer of its shape, or in a new array."""
    if buffer is None:
        return array.copy()
    buffer[...] = array
    return buffer


def _add(a, b, in_place):
    """a + b; in_place: written to a."""
    kernel = kernels("add", a)
    if not kernel.fits(a, b):
        return operator.iadd(a, b) if in_place else a + b
    total = a if in_place else array_module(a).empty(a.shape, a.dtype)
    kernel.add(a, b, total)
    return total


class Parameter(Tensor):
    """A leaf tensor that is trained."""

    __slots__ = ()

    def __init__(self, data):
        super().__init__(data, requires_grad=True)


class Function:
    """One differentiable operation. Settings go to `__init__`, tensors to the call, arrays to forward and backward.

    `self.needs[i]` says whether input i needs a gradient (all True until a call says otherwise), so that backward
    can skip work and return None in that place. Keep for backward what is needed, as attributes of self.
    """

    inputs = None
    fresh = False  # True promises: the gradients that backward returns are new arrays, which nobody else holds
    overwrite = False  # True: nobody else holds the gy that backward gets, so it may be written over and handed on

    class _All:
        def __getitem__(self, i):
            return True

    needs = _All()

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


def unbroadcast(gradient, shape):
    """Sum `gradient` over the axes that broadcasting added, back to `shape`: the one place that undoes it."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        i + extra for i, n in enumerate(shape) if n == 1 and gradient.shape[i + extra] != 1
    )
    return gradient.sum(axis=axes, keepdims=True).reshape(shape)
