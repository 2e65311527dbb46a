"""RoIAlign on the GPU: forward and the gradients of features and boxes, against the array code and the CPU kernel."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest

from minimask import device
from minimask.roi_align import assign_levels, roi_align, roi_align_backward, roi_align_forward
from minimask.tensor import Tensor
from tests.cuda_on_cpu.rois import close, run_pooling
from tests.rois import roi_case

SETTINGS = list(itertools.product((0, 1, 2), (False, True), ("average", "max")))  # sampling_ratio, aligned, pooling


def compare(gpu, features, boxes, *settings, seed=0):
    """Assert that the kernels' result and gradients equal those of the array code."""
    size, channels = settings[3], features[0].shape[3]
    gy = np.random.default_rng(seed).standard_normal((len(boxes), size, size, channels)).astype(np.float32)
    found, gradients = run_pooling(gpu, roi_align, features, boxes, *settings, gy=gy)
    expected, chosen = roi_align_forward.plain(features, boxes, *settings)
    close(found, expected)
    gfeatures, gboxes = roi_align_backward.plain(gy, chosen, features, boxes, *settings, to_boxes=True)
    for gradient, expected in zip(gradients, [*gfeatures, gboxes]):
        close(gradient, expected)
    return found, gradients


@pytest.mark.parametrize("sampling_ratio, aligned, pooling", SETTINGS)
def test_two_levels_and_every_kind_of_box(gpu, sampling_ratio, aligned, pooling):
    features, boxes, *where = roi_case(dtype=np.float32)  # 12 x 10 and 6 x 5 cells, 3 channels
    found, _ = compare(gpu, features, boxes, *where, 3, sampling_ratio, aligned, pooling)
    assert np.abs(found).max() > 1


@pytest.mark.parametrize("channels", [1, 4, 33, 132])
def test_channels(gpu, channels):
    features, boxes, *where = roi_case(seed=channels, channels=channels, dtype=np.float32)
    kept = slice(0, None, 3)
    boxes, where = boxes[kept], (where[0][kept], where[1][kept], where[2])
    compare(gpu, features, boxes, *where, 2, 2, False, "average" if channels != 4 else "max")


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 7, 5), (3, 2, 1, 19), (2, 17, 9, 4)])
def test_tiny_maps_and_maps_larger_than_a_tile(gpu, shape):
    rng = np.random.default_rng(2)
    feature = rng.standard_normal(shape).astype(np.float32)
    boxes = rng.uniform(-2, 10, (9, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    index = rng.integers(0, shape[0], 9)
    for sampling_ratio, pooling in ((0, "average"), (2, "max"), (3, "average")):
        compare(gpu, [feature], boxes, index, np.zeros(9, int), [0.5], 2, sampling_ratio, True, pooling)


def test_more_boxes_than_a_block_has_threads(gpu):
    # 600 boxes in one spot. A block finds its own (one in six) in three rounds, and sums them in groups of eight.
    rng = np.random.default_rng(3)
    features = [rng.standard_normal((2, 9, 8, 4)).astype(np.float32) for _ in range(3)]
    boxes = (rng.uniform(0, 4, (600, 4)) + [0, 0, 4, 4]).astype(np.float32)
    index, levels = rng.integers(0, 2, 600), rng.integers(0, 3, 600)
    compare(gpu, features, boxes, index, levels, [1.0, 1.0, 1.0], 2, 1, False, "average")


def test_five_levels_of_which_some_need_no_gradient(gpu):
    rng = np.random.default_rng(4)
    features = [rng.standard_normal((1, n, n + 1, 3)).astype(np.float32) for n in (12, 6, 3, 2, 1)]
    boxes = (rng.uniform(0, 6, (20, 4)) + [0, 0, 5, 4]).astype(np.float32)
    where = np.zeros(20, int), np.arange(20) % 5, [1, 0.5, 0.25, 0.125, 0.0625]
    settings = *where, 2, 2, False, "average"
    gy = rng.standard_normal((20, 2, 2, 3)).astype(np.float32)
    inputs = [Tensor(gpu.asarray(x), requires_grad=level % 2 == 1) for level, x in enumerate(features)]
    found = roi_align(inputs, gpu.asarray(boxes), *(gpu.asarray(x) for x in where[:2]), *settings[2:])
    expected, chosen = roi_align_forward.plain(features, boxes, *settings)
    np.testing.assert_allclose(found.data.get(), expected, atol=1e-5)
    found.backward(gpu.asarray(gy))
    expected, _ = roi_align_backward.plain(gy, chosen, features, boxes, *settings)
    for level, x in enumerate(inputs):
        if level % 2:
            np.testing.assert_allclose(x.grad.get(), expected[level], atol=2e-5)
        else:
            assert x.grad is None
    with pytest.raises(ValueError, match="at most 5 pyramid levels, got 6"):
        roi_align([*inputs, inputs[0]], gpu.asarray(boxes), *(gpu.asarray(x) for x in where[:2]), [*where[2], 1])


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_no_boxes(gpu, pooling):
    features, boxes, _, _, scales = roi_case(dtype=np.float32)
    nothing, gy = np.zeros(0, int), np.zeros((0, 7, 7, 3), np.float32)
    found, gradients = run_pooling(
        gpu, roi_align, features, boxes[:0], nothing, nothing, scales, 7, 2, False, pooling, gy=gy
    )
    assert found.shape == (0, 7, 7, 3) and gradients[2].shape == (0, 4)
    assert [gradient.shape for gradient in gradients[:2]] == [feature.shape for feature in features]
    assert not gradients[0].any() and not gradients[1].any()


def test_nan_boxes_and_levels_that_do_not_exist(gpu):
    feature = np.ones((1, 4, 4, 2), np.float32)
    boxes = np.array([[np.nan, 0, 4, 4], [0, 0, 3e38, 4], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]], np.float32)
    image_index, levels = np.array([0, 0, 0, 1, 0]), np.array([0, 0, 0, 0, 1])
    gy = np.ones((5, 2, 2, 2), np.float32)
    found, (gradient, gboxes) = run_pooling(gpu, roi_align, [feature], boxes, image_index, levels, [1.0], 2, 2, gy=gy)
    assert (found[2] == 1).all() and not found[3:].any() and not gboxes[3:].any()
    assert np.isfinite(gradient).all() and gradient.sum() >= 8


def test_the_first_of_equal_maxima_wins(gpu):
    feature = np.zeros((1, 4, 4, 4), np.float32)
    gy = np.ones((1, 1, 1, 4), np.float32)
    settings = np.zeros(1, int), np.zeros(1, int), [1.0], 1, 2, False, "max"
    _, (gradient, _) = run_pooling(gpu, roi_align, [feature], np.array([[0, 0, 3, 3]], np.float32), *settings, gy=gy)
    assert gradient[0, :2, :2].sum() == 4 and gradient.sum() == 4  # the sample at 0.75, 0.75


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("channels", [3, 8])
def test_atomic_additions_give_the_same_sums(gpu, monkeypatch, pooling, channels):
    monkeypatch.setattr(device, "deterministic", False)
    features, boxes, *where = roi_case(channels=channels, dtype=np.float32)
    compare(gpu, features, boxes, *where, 3, 2, False, pooling)


def test_gathered_gradients_are_reproducible(gpu):
    features, boxes, *where = roi_case(channels=4, dtype=np.float32)
    gy = np.random.default_rng(5).standard_normal((len(boxes), 7, 7, 4)).astype(np.float32)
    (_, first), (_, second) = (run_pooling(gpu, roi_align, features, boxes, *where, gy=gy) for _ in range(2))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_equals_the_cpu_kernel(gpu):
    features, boxes, *where = roi_case(channels=8, dtype=np.float32)
    gy = np.random.default_rng(6).standard_normal((len(boxes), 7, 7, 8)).astype(np.float32)
    inputs = [*(Tensor(feature, requires_grad=True) for feature in features), Tensor(boxes, requires_grad=True)]
    expected = roi_align(inputs[:2], inputs[2], *where)
    expected.backward(gy)
    found, gradients = run_pooling(gpu, roi_align, features, boxes, *where, gy=gy)
    close(found, expected.data)
    for gradient, tensor in zip(gradients, inputs):
        close(gradient, tensor.grad)


def test_assigned_levels(gpu):
    rng = np.random.default_rng(7)
    sides = np.exp(rng.uniform(0, 7, (300, 2))).astype(np.float32)
    sides[:9] = np.array([0, 1, 56, 111.9, 112, 223.9, 224, 448, 5000], np.float32)[:, None]
    boxes = np.concatenate([0 * sides, sides], axis=1)
    boxes[9, 2] = np.nan
    for shape, settings in (((300, 4), ()), ((3, 100, 4), (3, 2, 100, 3)), ((0, 4), ())):
        part = boxes[: np.prod(shape[:-1])].reshape(shape)
        with getattr(gpu, "no_sync", nullcontext)():
            found = assign_levels(gpu.asarray(part), *settings)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found.get(), assign_levels(part, *settings))
    assert assign_levels(gpu.asarray(boxes[:9])).get().tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3]


def test_double_precision_takes_the_array_code(gpu):
    features, boxes, image_index, levels, scales = roi_case()
    inputs = [gpu.asarray(feature) for feature in features]
    where = gpu.asarray(image_index), gpu.asarray(levels)
    found = roi_align(inputs, gpu.asarray(boxes), *where, scales, 2).data
    expected, _ = roi_align_forward.plain(features, boxes, image_index, levels, scales, 2)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.get(), expected, rtol=1e-12)
