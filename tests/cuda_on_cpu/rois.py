"""Helpers for the tests of RoIAlign, RoIPool and RoIWarp on the GPU."""

from contextlib import nullcontext

import numpy as np

from minimask.tensor import Tensor


def close(found, expected):
    """Assert that float32 numbers agree within 1e-5, relative to each number or to the largest one.

    The largest one is included because a sum whose terms cancel is small while its rounding error is not.
    """
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max(initial=0)))


def run_pooling(gpu, operation, features, boxes, image_index, levels, scales, *settings, gy=None):
    """The result and the gradients of features and boxes (None where there is no gradient), as NumPy arrays."""
    inputs = [Tensor(gpu.asarray(feature), requires_grad=True) for feature in features]
    boxes = Tensor(gpu.asarray(boxes), requires_grad=True)
    image_index, levels = gpu.asarray(image_index), gpu.asarray(levels)
    gy = None if gy is None else gpu.asarray(gy)
    with getattr(gpu, "no_sync", nullcontext)():
        found = operation(inputs, boxes, image_index, levels, scales, *settings)
        if gy is not None:
            found.backward(gy)
    return found.data.get(), [x.grad if x.grad is None else x.grad.get() for x in (*inputs, boxes)]
