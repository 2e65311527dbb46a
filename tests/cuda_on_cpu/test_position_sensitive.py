"""Position-sensitive pooling on the GPU: forward and gradient, against the array code and the CPU kernel."""

from contextlib import nullcontext

import numpy as np
import pytest

from minimask.systems.position_sensitive import (
    bin_cells,
    position_sensitive_backward,
    position_sensitive_forward,
    position_sensitive_pool,
)
from minimask.tensor import Tensor
from tests.cuda_on_cpu.rois import close
from tests.rois import BOXES


def run(gpu, maps, boxes, image_index, *settings, gy):
    """The result and the gradient of the maps, as NumPy arrays."""
    x, boxes, image_index, gy = Tensor(gpu.asarray(maps), True), *map(gpu.asarray, (boxes, image_index, gy))
    with getattr(gpu, "no_sync", nullcontext)():
        found = position_sensitive_pool(x, boxes, image_index, *settings)
        found.backward(gy)
    return found.data.get(), x.grad.get()


def compare(gpu, maps, boxes, image_index, scale, parts, size):
    """Assert that the kernels' result and gradient equal those of the array code and of the CPU kernel."""
    gy = np.random.default_rng(1).standard_normal((len(boxes), size, size, maps.shape[3] // parts**2))
    gy = gy.astype(np.float32)
    found, gradient = run(gpu, maps, boxes, image_index, scale, parts, size, gy=gy)
    cells = bin_cells(boxes, scale, size, *maps.shape[1:3])
    close(found, position_sensitive_forward.plain(maps, cells, image_index, parts))
    close(gradient, position_sensitive_backward.plain(gy, cells, image_index, parts, maps.shape))
    x = Tensor(maps, requires_grad=True)
    y = position_sensitive_pool(x, boxes, image_index, scale, parts, size)
    y.backward(gy)
    close(found, y.data)
    close(gradient, x.grad)
    return found, gradient


@pytest.mark.parametrize("parts, size, depth", [(1, 1, 1), (3, 7, 3), (2, 6, 12), (3, 3, 130)])
def test_every_kind_of_box(gpu, parts, size, depth):
    rng = np.random.default_rng(size)
    maps = rng.standard_normal((2, 12, 10, parts**2 * depth)).astype(np.float32)
    boxes = np.array(list(BOXES.values()), np.float32)
    found, gradient = compare(gpu, maps, boxes, rng.integers(0, 2, len(boxes)), 0.25, parts, size)
    assert np.abs(found).max() > 0.1 and np.abs(gradient).max() > 0.1


def test_no_boxes_and_images_that_do_not_exist(gpu):
    maps, boxes = np.ones((1, 5, 4, 4), np.float32), np.array([[0, 0, 4, 5]] * 2, np.float32)
    gy = np.ones((2, 2, 2, 1), np.float32)
    found, gradient = run(gpu, maps, boxes, np.array([0, 1]), 1.0, 2, 2, gy=gy)
    assert (found[0] == 1).all() and not found[1].any()
    assert gradient.sum() == pytest.approx(4)
    found, gradient = run(gpu, maps, boxes[:0], np.zeros(0, int), 1.0, 2, 2, gy=gy[:0])
    assert found.shape == (0, 2, 2, 1) and not gradient.any()


def test_double_precision_takes_the_array_code(gpu):
    rng = np.random.default_rng(0)
    maps, boxes = rng.standard_normal((1, 12, 10, 8)), np.array([BOXES["inside"]])
    gy = rng.standard_normal((1, 4, 4, 2))
    x, zero = Tensor(gpu.asarray(maps), True), np.zeros(1, int)
    found = position_sensitive_pool(x, gpu.asarray(boxes), gpu.asarray(zero), 0.25, 2, 4)
    found.backward(gpu.asarray(gy))
    expected = Tensor(maps, True)
    y = position_sensitive_pool(expected, boxes, zero, 0.25, 2, 4)
    y.backward(gy)
    np.testing.assert_allclose(found.data.get(), y.data, atol=1e-12)
    np.testing.assert_allclose(x.grad.get(), expected.grad, atol=1e-12)
