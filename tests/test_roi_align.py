"""RoIAlign: numbers by hand, kernel against array code, finite differences, and torchvision if it is installed."""

import itertools

import numba
import numpy as np
import pytest

from minimask.machine.threads import set_threads, threads
from minimask.roi_align import (
    assign_levels,
    bilinear,
    map_boxes,
    roi_align,
    roi_align_backward,
    roi_align_forward,
    sampling_points,
)
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients
from tests.rois import roi_case

SETTINGS = list(itertools.product((0, 1, 2), (False, True)))  # sampling_ratio, aligned


def tensors(features):
    return [Tensor(feature, requires_grad=True) for feature in features]


def test_average_worked_number():
    # On a ramp f(y, x) = x, the average over a bin is the x of the bin's center.
    ramp = np.tile(np.arange(8.0), (6, 1))[None, :, :, None]  # (1, 6, 8, 1)
    zero = np.zeros(1, int)
    box = np.array([[2.0, 2.0, 10.0, 6.0]])  # at scale 1/2, from 1 to 5: two bins of width 2 with centers 2 and 4
    found = roi_align([ramp], box, zero, zero, [0.5], size=2)
    np.testing.assert_allclose(found.data[0, :, :, 0], [[2, 4], [2, 4]])
    found = roi_align([ramp], box, zero, zero, [0.5], size=2, aligned=True)
    np.testing.assert_allclose(found.data[0, :, :, 0], [[1.5, 3.5], [1.5, 3.5]])
    # Samples at a quarter and three quarters of the bin: 1.5 and 2.5, 3.5 and 4.5.
    found = roi_align([ramp], box, zero, zero, [0.5], size=2, pooling="max")
    np.testing.assert_allclose(found.data[0, :, :, 0], [[2.5, 4.5], [2.5, 4.5]])


def test_bilinear_worked_number():
    feature = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None]
    # A quarter of the way to the right and three quarters of the way down: 1 + 0.25 * 1 + 0.75 * 2.
    points = np.array([[0.25, 0.75], [-0.5, 0.0], [-1.5, 0.0], [1.9, 1.0], [2.1, 1.0]])
    np.testing.assert_allclose(bilinear(feature, points)[:, 0], [2.75, 1, 0, 4, 0])


def test_adaptive_sampling_treats_each_axis_separately():
    points = sampling_points(np.array([0.0, 0, 64, 28]), 0.25, 7, sampling_ratio=0)
    assert points.shape == (7, 7, 1, 3, 2)  # bins 16 / 7 cells wide have 3 samples, bins 7 / 7 cells high have 1
    assert points[0, 0, 0, 1].tolist() == pytest.approx([16 / 7 / 2, 0.5])
    assert sampling_points(np.zeros(4), 0.25, 7, 0, aligned=True).shape == (7, 7, 0, 0, 2)
    assert sampling_points(np.zeros(4, np.float32), 0.25, 7).dtype == np.float32


def test_map_boxes_is_at_least_one_cell_unless_aligned():
    corner, extent = map_boxes(np.array([[8.0, 8, 9, 24]]), 0.25)
    assert corner.tolist() == [[2, 2]] and extent.tolist() == [[1, 4]]
    corner, extent = map_boxes(np.array([[8.0, 8, 9, 24]]), 0.25, aligned=True)
    assert corner.tolist() == [[1.5, 1.5]] and extent.tolist() == [[0.25, 4]]


def test_assign_levels_worked_numbers():
    sides = np.array([0, 1, 56, 111.9, 112, 223.9, 224, 448, 5000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    assert assign_levels(boxes).tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3]
    assert assign_levels(boxes).dtype == np.int64
    with np.errstate(all="raise"):
        assert assign_levels(np.zeros((2, 3, 4), np.float32)).shape == (2, 3)


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("sampling_ratio, aligned", SETTINGS)
@pytest.mark.parametrize("size", [1, 3])
def test_kernel_equals_array_code(size, sampling_ratio, aligned, pooling):
    features, boxes, *where = roi_case()
    settings = *where, size, sampling_ratio, aligned, pooling
    with np.errstate(all="raise"):
        expected, chosen = roi_align_forward.plain(features, boxes, *settings)
    inputs = [*tensors(features), Tensor(boxes, requires_grad=True)]
    found = roi_align(inputs[:2], inputs[2], *settings)
    assert np.isfinite(found.data).all()
    np.testing.assert_allclose(found.data, expected, atol=1e-12)

    gy = np.random.default_rng(1).standard_normal(found.shape)
    found.backward(gy)
    gfeatures, gboxes = roi_align_backward.plain(gy, chosen, features, boxes, *settings, to_boxes=True)
    for tensor, expected in zip(inputs, [*gfeatures, gboxes]):
        np.testing.assert_allclose(tensor.grad, expected, atol=1e-11)

    small = [*tensors(f.astype(np.float32) for f in features)]
    found32 = roi_align(small, boxes.astype(np.float32), *settings)
    assert found32.dtype == np.float32
    np.testing.assert_allclose(found32.data, found.data, atol=2e-5)


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("sampling_ratio, aligned", SETTINGS)
def test_gradients_of_features_and_boxes(sampling_ratio, aligned, pooling):
    rng = np.random.default_rng(sampling_ratio)
    feature = rng.standard_normal((1, 6, 5, 2))
    # No sample is within 1e-6 of the center of a cell, where the result has a kink.
    boxes = np.array([[3.11, 2.23, 17.37, 18.41], [-5.3, -4.7, 9.77, 31.3], [9.03, 8.01, 10.97, 9.53]])
    zero = np.zeros(len(boxes), int)

    def pooled(feature, boxes):
        return roi_align([feature], boxes, zero, zero, [0.25], 2, sampling_ratio, aligned, pooling)

    check_gradients(pooled, feature, boxes, step=1e-7, tolerance=1e-6)


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_no_boxes(pooling):
    features, boxes, _, _, scales = roi_case()
    features = tensors(features)
    nothing = np.zeros(0, int)
    found = roi_align(features, boxes[:0], nothing, nothing, scales, 7, pooling=pooling)
    assert found.shape == (0, 7, 7, 3)
    found.backward(np.zeros((0, 7, 7, 3)))
    assert all(not feature.grad.any() for feature in features)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 7, 5), (3, 2, 1, 19)])
def test_tiny_maps_and_odd_channels(shape):
    rng = np.random.default_rng(2)
    feature = rng.standard_normal(shape).astype(np.float32)
    boxes = rng.uniform(-2, 10, (9, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    index = rng.integers(0, shape[0], 9)
    for sampling_ratio, pooling in itertools.product((0, 1, 2, 3), ("average", "max")):
        settings = index, np.zeros(9, int), [0.5], 2, sampling_ratio, False, pooling
        leaf = Tensor(feature, requires_grad=True)
        found = roi_align([leaf], boxes, *settings)
        expected, chosen = roi_align_forward.plain([feature], boxes, *settings)
        np.testing.assert_allclose(found.data, expected, atol=1e-5)
        gy = rng.standard_normal(found.shape).astype(np.float32)
        found.backward(gy)
        (gfeature,), _ = roi_align_backward.plain(gy, chosen, [feature], boxes, *settings)
        np.testing.assert_allclose(leaf.grad, gfeature, atol=1e-5 * max(1, abs(gfeature).max()))


def test_nan_boxes_do_not_affect_the_others():
    feature = np.ones((1, 4, 4, 2), np.float32)
    boxes = np.array([[np.nan, 0, 4, 4], [0, 0, np.inf, 4], [0, 0, 3e38, 4], [0, 0, 4, 4]], np.float32)
    zero = np.zeros(4, int)
    for sampling_ratio in (0, 2):
        found = roi_align([feature], boxes, zero, zero, [1.0], 2, sampling_ratio).data
        assert found.shape == (4, 2, 2, 2) and (found[3] == 1).all()


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_samples_outside_receive_no_gradient(pooling):
    """Not even if the gradient is infinite."""
    feature = Tensor(np.ones((1, 4, 4, 2), np.float32), requires_grad=True)
    boxes, zero = np.array([[-40, -40, -20, -20]], np.float32), np.zeros(1, np.int64)
    out = roi_align([feature], boxes, zero, zero, [1.0], size=2, pooling=pooling)
    out.backward(np.full(out.shape, np.inf, np.float32))
    np.testing.assert_array_equal(feature.grad, np.zeros_like(feature.data))


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_results_do_not_depend_on_the_number_of_threads(pooling):
    if numba.config.NUMBA_NUM_THREADS == 1:
        pytest.skip("this machine has one core")
    features, boxes, *where = roi_case(dtype=np.float32, channels=7)
    gy = np.random.default_rng(1).standard_normal((len(boxes), 7, 7, 7)).astype(np.float32)
    before, results = threads(), []
    try:
        for count in (1, numba.config.NUMBA_NUM_THREADS):
            set_threads(count)
            inputs = tensors(features)
            y = roi_align(inputs, boxes, *where, pooling=pooling)
            y.backward(gy)
            results.append([y.data, *(tensor.grad for tensor in inputs)])
    finally:
        set_threads(before)
    for one, several in zip(*results, strict=True):
        np.testing.assert_array_equal(one, several)


def test_messages():
    features, boxes, image_index, levels, scales = roi_case()
    with pytest.raises(ValueError, match=r"boxes must be \(R, 4\) float arrays in image pixels, got shape \(3, 5\)"):
        roi_align(features, np.zeros((3, 5)), image_index, levels, scales)
    with pytest.raises(ValueError, match="roi_align: image_index must be 0 to 1, got 0 to 2"):
        roi_align(features, boxes, image_index * 0 + np.arange(len(boxes)) % 3, levels, scales)
    with pytest.raises(ValueError, match="roi_align: levels must be 0 to 1, got -1 to 0"):
        roi_align(features, boxes, image_index, levels - 1, scales)
    with pytest.raises(ValueError, match=r"roi_align: levels must have shape \(22,\), got \(3,\)"):
        roi_align(features, boxes, image_index, levels[:3], scales)
    with pytest.raises(ValueError, match="roi_align: pooling must be one of .*, got 'mean'"):
        roi_align(features, boxes, image_index, levels, scales, pooling="mean")
    with pytest.raises(ValueError, match="roi_align: scales must be one per level, 2 in all, got 1"):
        roi_align(features, boxes, image_index, levels, scales[:1])
    with pytest.raises(ValueError, match=r"features must be \(N, H, W, C\) with the same N and C, got \(2, 6, 5, 2\)"):
        roi_align([features[0], features[1][..., :2]], boxes, image_index, levels, scales)


@pytest.mark.parametrize("sampling_ratio, aligned", SETTINGS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_equals_torchvision(dtype, tolerance, sampling_ratio, aligned):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    features, boxes, image_index, _, _ = roi_case(dtype=dtype, channels=5)
    feature, levels = features[0], np.zeros(len(boxes), int)
    ours = Tensor(feature, requires_grad=True)
    found = roi_align([ours], boxes, image_index, levels, [0.25], 7, sampling_ratio, aligned)
    theirs = torch.tensor(feature.transpose(0, 3, 1, 2), requires_grad=True)
    rois = torch.tensor(np.concatenate([image_index[:, None], boxes], axis=1).astype(dtype))
    expected = ops.roi_align(theirs, rois, 7, 0.25, sampling_ratio, aligned)
    np.testing.assert_allclose(found.data, expected.detach().numpy().transpose(0, 2, 3, 1), atol=tolerance)

    gy = np.random.default_rng(3).standard_normal(found.shape).astype(dtype)
    found.backward(gy)
    expected.backward(torch.tensor(gy.transpose(0, 3, 1, 2)))
    expected = theirs.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours.grad, expected, atol=tolerance * max(1, np.abs(expected).max()))


def test_levels_equal_torchvision():
    torch = pytest.importorskip("torch")
    poolers = pytest.importorskip("torchvision.ops.poolers")
    rng = np.random.default_rng(4)
    sides = np.exp(rng.uniform(0, 7, (2000, 2))).astype(np.float32)
    sides[:5] = [[28, 28], [56, 56], [112, 112], [224, 224], [448, 448]]
    boxes = np.concatenate([0 * sides, sides], axis=1)
    expected = poolers.LevelMapper(2, 5)([torch.tensor(boxes)]).numpy()
    np.testing.assert_array_equal(assign_levels(boxes), expected)
