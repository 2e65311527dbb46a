"""Operations of functional.py on the GPU: those that run different code there, and that none of them waits."""

from contextlib import nullcontext

import numpy as np
import pytest

from minimask import functional as F
from minimask.kernels import scatter_add_cuda
from minimask.tensor import Tensor

ROWS = np.random.default_rng(0).integers(0, 4, (300, 1))  # 4 of 5 rows are taken, most of them many times
COLUMNS = np.array([-5, 3, 3])
INDICES = {
    "rows": ROWS[:, 0],
    "rows and columns": (ROWS, COLUMNS),
    "behind a slice": (slice(1, 4), COLUMNS),
    "between slices": (slice(None), None, COLUMNS[:2], slice(0, 2)),
    "with a number": (2, COLUMNS),
    "a slice": (slice(None, None, 2), -1),
    "nothing": (np.zeros(0, np.int64),),
}


def on(gpu, index):
    if isinstance(index, tuple):
        return tuple(on(gpu, part) for part in index)
    return gpu.asarray(index) if isinstance(index, np.ndarray) else index


@pytest.mark.parametrize("name", INDICES)
def test_taking_elements_by_index(gpu, name):
    index = INDICES[name]
    x = np.random.default_rng(1).standard_normal((5, 5, 4)).astype(np.float32)
    expected = Tensor(x, requires_grad=True)
    y = expected[index]
    gy = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    y.backward(gy)

    found, index, gy = Tensor(gpu.asarray(x), requires_grad=True), on(gpu, index), gpu.asarray(gy)
    with getattr(gpu, "no_sync", nullcontext)():
        taken = found[index]
        taken.backward(gy)
    np.testing.assert_array_equal(taken.data.get(), y.data)
    np.testing.assert_array_equal(
        found.grad.get(), expected.grad
    )  # exactly: the order of the additions is that of the CPU


@pytest.mark.parametrize("most", [1000, 10])
def test_scatter_add(gpu, monkeypatch, most):
    monkeypatch.setattr(scatter_add_cuda, "MOST", most)  # with more numbers, CuPy adds them
    places = np.random.default_rng(3).integers(0, 30, 600).astype(np.int32)
    gy = np.random.default_rng(4).standard_normal(600).astype(np.float32)
    expected = F.index_backward.plain(gy, places, (40,))
    found = F.index_backward(gpu.asarray(gy), gpu.asarray(places), (40,))
    np.testing.assert_allclose(found.get(), expected, rtol=0 if most > 600 else 1e-5, atol=1e-6)


def test_numbers_next_to_tensors_are_not_copied_to_the_gpu(gpu, monkeypatch):
    x = Tensor(gpu.asarray(np.array([1.0, 4], np.float32)))
    monkeypatch.setattr(gpu, "asarray", None)  # it would be called to copy
    y = 1 - (2 * x + 0.5) / np.float64(4) ** 0.5
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.data.get(), [-0.25, -3.25])


OPERATIONS = {
    "max": lambda x: F.max(x, 1),
    "sum": lambda x: F.sum(x, axis=0, keepdims=True) * x,
    "mean": lambda x: F.mean(x, axis=(0, 2)),
    "concatenate": lambda x: F.concatenate([x, x * x, F.relu(x)], axis=1),
    "softmax": lambda x: F.softmax(x),
    "matmul": lambda x: x @ x.transpose(0, 2, 1),
    "reshape": lambda x: F.sigmoid(x.reshape(12, 4)) ** 2,
    "clip": lambda x: F.clip(x, -0.5, 0.5) / F.exp(x),
    "others": lambda x: F.tanh(x) - F.log(F.absolute(x) + 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_without_kernels_do_not_wait(gpu, name):
    operation = OPERATIONS[name]
    x = np.random.default_rng(5).standard_normal((3, 4, 4)).astype(np.float32)
    expected = Tensor(x, requires_grad=True)
    y = operation(expected)
    gy = np.random.default_rng(6).standard_normal(y.shape).astype(np.float32)
    y.backward(gy)
    found, gy = Tensor(gpu.asarray(x), requires_grad=True), gpu.asarray(gy)
    with getattr(gpu, "no_sync", nullcontext)():
        result = operation(found)
        result.backward(gy)
    np.testing.assert_allclose(result.data.get(), y.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.grad.get(), expected.grad, rtol=1e-5, atol=1e-5)
