"""Max pooling on the GPU against the array code."""

from contextlib import nullcontext

import numpy as np
import pytest

from minimask.convolution import Window, max_pool, max_pool2d, max_pool_backward
from minimask.kernels import max_pool_cuda
from minimask.tensor import Tensor


def compare(gpu, x, size, stride, padding):
    """Assert that the kernels' result, winners and gradient are the same bits as those of the array code."""
    window = Window(size, stride, padding)
    expected, places = max_pool.plain(x, window)
    y, winner = max_pool_cuda.max_pool(gpu.asarray(x), window)
    np.testing.assert_array_equal(y.get(), expected)
    np.testing.assert_array_equal(winner.get(), places)
    gy = np.random.default_rng(1).integers(1, 9, y.shape).astype(np.float32)  # integers, so that sums are exact
    gx = max_pool_cuda.max_pool_backward(gpu.asarray(gy), winner, x.shape[1:3], window).get()
    np.testing.assert_array_equal(gx, max_pool_backward.plain(gy, places, x.shape[1:3], window))
    assert gx.dtype == np.float32


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(gpu, seed):
    rng = np.random.default_rng(seed)
    size, stride = (tuple(map(int, rng.integers(1, 6, 2))) for _ in range(2))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in size)
    shape = (int(rng.integers(0, 4)), *map(int, rng.integers(5, 17, 2)), int(rng.integers(1, 40)))
    compare(gpu, rng.integers(0, 5, shape).astype(np.float32), size, stride, padding)  # many numbers are equal


@pytest.mark.parametrize("channels", [1, 3, 4, 33, 64, 132])
def test_the_pooling_of_resnet(gpu, channels):
    x = np.random.default_rng(2).standard_normal((2, 9, 8, channels)).astype(np.float32)
    compare(gpu, x, (3, 3), (2, 2), (1, 1))


def test_a_single_pixel_and_256_positions(gpu):
    compare(gpu, np.full((1, 1, 1, 1), -3, np.float32), (2, 2), (1, 1), (1, 1))
    x = np.zeros((1, 17, 16, 4), np.float32)
    x[0, 15, 15] = 1  # position 255
    compare(gpu, x, (16, 16), (1, 1), (0, 0))


def test_nan_wins_and_minus_infinity_keeps_its_position(gpu):
    x = np.array([[np.nan, 1, 2], [-np.inf, -np.inf, 3]], np.float32).reshape(1, 2, 3, 1)
    y, winner = max_pool_cuda.max_pool(gpu.asarray(x), Window((1, 2)))
    np.testing.assert_array_equal(y.get().ravel(), [np.nan, 2, -np.inf, 3])
    assert winner.get().ravel().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("size, dtype", [(3, np.float32), (17, np.float32), (3, np.float64)])
def test_operation_on_tensors(gpu, size, dtype):
    # 17 x 17 positions do not fit into a byte, so the array code runs, as it does in float64.
    x = np.random.default_rng(3).standard_normal((2, 18, 19, 5)).astype(dtype)
    here, there = Tensor(x, requires_grad=True), Tensor(gpu.asarray(x), requires_grad=True)
    expected = max_pool2d(here, size, 2, 1)
    gy = np.random.default_rng(4).standard_normal(expected.shape).astype(dtype)
    expected.backward(gy)
    gy = gpu.asarray(gy)
    with getattr(gpu, "no_sync", nullcontext)():
        found = max_pool2d(there, size, 2, 1)
        found.backward(gy)
    np.testing.assert_array_equal(found.data.get(), expected.data)
    np.testing.assert_allclose(there.grad.get(), here.grad, rtol=1e-6)
