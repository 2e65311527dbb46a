"""Compares gradients with finite differences, in float64.

The cotangent is random: with a plain sum instead, a broken softmax would pass.
"""

import numpy as np

from minimask.tensor import Tensor


def check_gradients(function, *arrays, tolerance=1e-6, step=1e-6, seed=0, wrt=None, name=None):
    """Compare the gradients of `function(*tensors) -> Tensor` with central differences at float64 `arrays`.

    The error is relative to the largest gradient of the input in question (or to 1, if that is larger).

    wrt: indices of the inputs to check, by default all float inputs.
    Raises AssertionError with the function's name, the input, the index, and both numbers.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.array(a, dtype=np.float64) if np.asarray(a).dtype.kind == "f" else np.asarray(a) for a in arrays]
    wrt = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"] if wrt is None else wrt
    tensors = [Tensor(a, requires_grad=i in wrt) for i, a in enumerate(arrays)]
    y = function(*tensors)
    cotangent = rng.standard_normal(y.shape)
    y.backward(cotangent)
    label = name or getattr(function, "__name__", type(function).__name__)

    def value():
        return float((function(*(Tensor(a) for a in arrays)).data * cotangent).sum())

    for i in wrt:
        analytic = tensors[i].grad
        assert analytic is not None, f"{label}: input {i} received no gradient"
        assert analytic.dtype == np.float64, f"{label}: gradient of input {i} is {analytic.dtype}, not float64"
        scale = max(1.0, np.abs(analytic).max(initial=0.0))
        for index in np.ndindex(arrays[i].shape):
            kept = arrays[i][index]
            arrays[i][index] = kept + step
            above = value()
            arrays[i][index] = kept - step
            below = value()
            arrays[i][index] = kept
            numeric = (above - below) / (2 * step)
            assert abs(analytic[index] - numeric) <= tolerance * scale, (
                f"{label}: gradient of input {i} at {index}: analytic {analytic[index]:.8g}, numeric {numeric:.8g}"
            )
