"""Resizing feature maps on the GPU, forward and backward, against image.py on the CPU."""

from contextlib import nullcontext

import numpy as np
import pytest

from minimask import image
from minimask.tensor import Tensor

CASES = {  # shape, size
    "twice": ((2, 3, 4, 8), (6, 8)),
    "up, not a multiple": ((1, 3, 5, 5), (5, 13)),
    "down": ((2, 7, 9, 3), (3, 2)),
    "up and down": ((1, 2, 11, 4), (9, 4)),
    "from one pixel": ((1, 1, 1, 33), (4, 5)),
    "to one pixel": ((3, 6, 5, 1), (1, 1)),
    "more than a block": ((1, 3, 70, 12), (5, 141)),
    "no images": ((0, 3, 3, 4), (6, 6)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("resize", [image.resize_nearest, image.resize_bilinear])
def test_resize(gpu, resize, name):
    shape, size = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    gy = rng.standard_normal((shape[0], *size, shape[3])).astype(np.float32)
    expected = Tensor(x, requires_grad=True)
    y = resize(expected, size)
    y.backward(gy)

    found, gy = Tensor(gpu.asarray(x), requires_grad=True), gpu.asarray(gy)
    with getattr(gpu, "no_sync", nullcontext)():
        result = resize(found, size)
        result.backward(gy)
    assert result.dtype == found.grad.dtype == np.float32
    np.testing.assert_allclose(result.data.get(), y.data, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.grad.get(), expected.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("resize", [image.resize_nearest, image.resize_bilinear])
def test_maps_with_strides_and_odd_addresses(gpu, resize):
    x = np.random.default_rng(1).standard_normal((2, 5, 6, 8)).astype(np.float32)
    part = gpu.asarray(x)[:, ::2, 1:]
    np.testing.assert_allclose(
        resize(Tensor(part), (4, 9)).data.get(), resize(Tensor(x[:, ::2, 1:]), (4, 9)).data, atol=1e-6
    )
    flat = np.concatenate([x[0, 0, 0, :1], x.reshape(-1)])
    shifted = gpu.asarray(flat)[1:].reshape(x.shape)  # begins 4 bytes after a multiple of 16
    np.testing.assert_allclose(resize(Tensor(shifted), (4, 9)).data.get(), resize(Tensor(x), (4, 9)).data, atol=1e-6)


def test_bilinear_in_float64_is_the_array_code(gpu):
    x = np.random.default_rng(2).standard_normal((1, 3, 4, 2))
    found = image.resize_bilinear(Tensor(gpu.asarray(x)), (5, 7)).data.get()
    np.testing.assert_allclose(found, image.resize_bilinear(Tensor(x), (5, 7)).data, rtol=1e-12)
