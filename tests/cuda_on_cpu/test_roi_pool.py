"""RoIPool and RoIWarp on the GPU: forward and gradient, against the array code and the CPU kernel."""

import numpy as np
import pytest

from minimask import device
from minimask.roi_pool import roi_pool, roi_pool_backward, roi_pool_forward, roi_warp, round_boxes
from minimask.tensor import Tensor
from tests.cuda_on_cpu.rois import close, run_pooling
from tests.rois import roi_case


def compare(gpu, features, boxes, *settings, seed=0):
    """Assert that the kernels' result and gradients equal those of the array code and of the CPU kernel."""
    size, channels = settings[3], features[0].shape[3]
    gy = np.random.default_rng(seed).standard_normal((len(boxes), size, size, channels)).astype(np.float32)
    found, (*gradients, gboxes) = run_pooling(gpu, roi_pool, features, boxes, *settings, gy=gy)
    expected, chosen = roi_pool_forward.plain(features, boxes, *settings)
    np.testing.assert_array_equal(found, expected)
    assert gboxes is None
    inputs = [Tensor(feature, requires_grad=True) for feature in features]
    roi_pool(inputs, boxes, *settings).backward(gy)
    plain = roi_pool_backward.plain(gy, chosen, features, boxes, *settings)
    for gradient, expected, tensor in zip(gradients, plain, inputs):
        close(gradient, expected)
        close(gradient, tensor.grad)
    return found, gradients


@pytest.mark.parametrize("size", [1, 3, 7])
def test_two_levels_and_every_kind_of_box(gpu, size):
    features, boxes, *where = roi_case(dtype=np.float32)  # 12 x 10 and 6 x 5 cells, 3 channels
    found, _ = compare(gpu, features, boxes, *where, size)
    assert np.abs(found).max() > 1


@pytest.mark.parametrize("channels", [1, 4, 33, 132])
def test_channels(gpu, channels):
    features, boxes, *where = roi_case(seed=channels, channels=channels, dtype=np.float32)
    kept = slice(0, None, 3)
    compare(gpu, features, boxes[kept], where[0][kept], where[1][kept], where[2], 2)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 7, 5), (3, 2, 1, 19), (2, 17, 9, 4)])
def test_tiny_maps_and_maps_larger_than_a_tile(gpu, shape):
    rng = np.random.default_rng(2)
    feature = rng.integers(0, 4, shape).astype(np.float32)  # with ties: the first cell wins
    boxes = rng.uniform(-2, 20, (9, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    compare(gpu, [feature], boxes, rng.integers(0, shape[0], 9), np.zeros(9, int), [0.5], 2)


def test_more_boxes_than_a_block_has_threads(gpu):
    rng = np.random.default_rng(3)
    features = [rng.standard_normal((2, 9, 8, 4)).astype(np.float32) for _ in range(3)]
    boxes = (rng.uniform(0, 4, (600, 4)) + [0, 0, 4, 4]).astype(np.float32)
    compare(gpu, features, boxes, rng.integers(0, 2, 600), rng.integers(0, 3, 600), [1.0, 1.0, 1.0], 2)


@pytest.mark.parametrize("operation", [roi_pool, roi_warp])
def test_no_boxes(gpu, operation):
    features, boxes, _, _, scales = roi_case(dtype=np.float32)
    nothing, gy = np.zeros(0, int), np.zeros((0, 7, 7, 3), np.float32)
    found, gradients = run_pooling(gpu, operation, features, boxes[:0], nothing, nothing, scales, 7, gy=gy)
    assert found.shape == (0, 7, 7, 3) and not gradients[0].any() and not gradients[1].any()


@pytest.mark.parametrize("operation", [roi_pool, roi_warp])
def test_nan_boxes_and_levels_that_do_not_exist(gpu, operation):
    feature = np.ones((1, 4, 4, 2), np.float32)
    boxes = np.array([[np.nan, 0, 4, 4], [0, 0, np.inf, 1e30], [0, 0, 3, 3], [0, 0, 3, 3], [0, 0, 3, 3]], np.float32)
    image_index, levels = np.array([0, 0, 0, 1, 0]), np.array([0, 0, 0, 0, 1])
    gy = np.ones((5, 2, 2, 2), np.float32)
    found, (gradient, _) = run_pooling(gpu, operation, [feature], boxes, image_index, levels, [1.0], 2, gy=gy)
    assert (found[2] == 1).all() and not found[3:].any()
    assert np.isfinite(gradient).all() and gradient.sum() >= 8


@pytest.mark.parametrize("channels", [3, 8])
def test_atomic_additions_give_the_same_sums(gpu, monkeypatch, channels):
    monkeypatch.setattr(device, "deterministic", False)
    features, boxes, *where = roi_case(channels=channels, dtype=np.float32)
    compare(gpu, features, boxes, *where, 3)


def test_rounded_boxes(gpu):
    _, boxes, _, levels, scales = roi_case(dtype=np.float32)
    found = round_boxes(gpu.asarray(boxes), gpu.asarray(levels), scales)
    np.testing.assert_array_equal(found.get(), round_boxes.plain(boxes, levels, scales))
    halves = np.array([[2, 6, 10, 14], [-2, -6, -10, 18], [1.9, 2.1, 5.9, 6.1]], np.float32)  # at 1/4: 0.5, 1.5, ...
    found = round_boxes(gpu.asarray(halves), gpu.asarray(np.zeros(3, int)), [0.25])
    assert found.get().tolist() == [[4, 8, 16, 20], [-4, -8, 0, 24], [0, 4, 8, 12]]


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_warp_equals_the_cpu_kernel(gpu, pooling):
    features, boxes, *where = roi_case(channels=4, dtype=np.float32)
    gy = np.random.default_rng(6).standard_normal((len(boxes), 3, 3, 4)).astype(np.float32)
    inputs = [Tensor(feature, requires_grad=True) for feature in features]
    expected = roi_warp(inputs, boxes, *where, 3, 2, None, pooling)
    expected.backward(gy)
    found, (*gradients, gboxes) = run_pooling(gpu, roi_warp, features, boxes, *where, 3, 2, None, pooling, gy=gy)
    assert gboxes is None
    close(found, expected.data)
    for gradient, tensor in zip(gradients, inputs):
        close(gradient, tensor.grad)


@pytest.mark.parametrize("operation", [roi_pool, roi_warp])
def test_double_precision_takes_the_array_code(gpu, operation):
    features, boxes, image_index, levels, scales = roi_case()
    where = gpu.asarray(image_index), gpu.asarray(levels)
    found = operation([gpu.asarray(feature) for feature in features], gpu.asarray(boxes), *where, scales, 2).data
    assert found.dtype == np.float64
    expected = operation(features, boxes, image_index, levels, scales, 2).data
    np.testing.assert_allclose(found.get(), expected, rtol=1e-12, atol=1e-12)
