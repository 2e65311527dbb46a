"""All parameters of a model in one array, and all of their gradients in another: one launch reaches all of them."""

import numpy as np

from minimask.device import accelerated, array_module

CHUNK = 64  # numbers: a parameter starts at a multiple of it, as CHUNK in kernels/optimizer.cu


class FlatParameters:
    """Moves the arrays of some parameters into one flat array, and has a place for their gradients in another.

    data, gradients: arrays (P,) of the parameters' dtype. From now on `p.data` is a view of data; after `collect`,
    `p.grad` is a view of gradients. Each parameter starts at a multiple of 64 numbers; the numbers in between are 0.
    The gradient of a parameter that `backward` has not reached is undefined there.
    Raises ValueError if the parameters have different dtypes.
    """

    def __init__(self, params):
        self.params = list(params)
        xp, dtype = array_module(self.params[0].data), self.params[0].dtype
        if any(p.dtype != dtype for p in self.params):
            raise ValueError(f"FlatParameters: all must have one dtype, got {sorted({str(p.dtype) for p in params})}")

        chunks = [-(-p.size // CHUNK) for p in self.params]
        self.starts = CHUNK * np.cumsum([0, *chunks])  # the last one is the size of the whole
        self.data, self.gradients = xp.zeros(int(self.starts[-1]), dtype), xp.zeros(int(self.starts[-1]), dtype)
        for i, p in enumerate(self.params):
            view = self.view(self.data, i)
            view[...] = p.data
            p.data, p.grad_buffer = view, self.view(self.gradients, i)
        self.views = [p.data for p in self.params]
        self.collect()

    def view(self, buffer, i):
        """The part of a buffer (P,) that belongs to parameter i, in its shape."""
        p, start = self.params[i], int(self.starts[i])
        return buffer[start : start + p.size].reshape(p.shape)

    def parameter_at(self, position):
        """The index of the parameter that a position in the buffers belongs to."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def collect(self):
        """Bring all gradients to their places. Raises RuntimeError if a parameter's array was replaced."""
        if any(p.data is not view for p, view in zip(self.params, self.views)):
            raise RuntimeError("FlatParameters: a parameter's array was replaced; move a model before training it")
        away = [i for i, p in enumerate(self.params) if p.grad is not None and p.grad is not p.grad_buffer]
        collect([self.params[i].grad for i in away], self.starts[away].tolist(), self.gradients)
        for i in away:
            self.params[i].grad = self.params[i].grad_buffer


@accelerated("optimizer")
def collect(arrays, starts, flat):
    """Copy each array to flat[start:]."""
    for array, start in zip(arrays, starts):
        flat[start : start + array.size] = array.reshape(-1)
