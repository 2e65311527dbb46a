"""The sum of two gradients on the GPU."""

import numpy as np
import pytest

from minimask.kernels import add_cuda
from minimask.machine.gradients import add_gradients
from minimask.tensor import Tensor


@pytest.mark.parametrize("shape", [(1,), (3, 700), (3, 5, 33)])
def test_add(gpu, shape):
    a, b = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    first, second = gpu.asarray(a), gpu.asarray(b)
    np.testing.assert_array_equal(add_gradients(first, second).get(), add_gradients.plain(a, b))
    assert add_gradients(first, second, in_place=True) is first
    np.testing.assert_array_equal(first.get(), a + b)


def test_what_fits(gpu):
    a = gpu.zeros((4, 6), np.float32)
    assert add_cuda.add_gradients.fits(a, a)
    for b in (a.T, a[0], a[:, :3], a.astype(np.float64), a[:0], np.zeros((4, 6), np.float32)):
        assert not add_cuda.add_gradients.fits(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tensor_used_three_times(gpu, dtype):
    """The gradients 2, 3 and 5 are added in x; the last is a transposed array, which the kernel does not take."""
    x = Tensor(gpu.asarray(np.ones((3, 3), dtype)), requires_grad=True)
    (x * 2.0 + x * 3.0 + (x * 5.0).transpose(1, 0)).sum().backward()
    assert x.grad.get().tolist() == [[10.0] * 3] * 3
