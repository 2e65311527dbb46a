"""RoIPool and RoIWarp: numbers by hand, kernel against array code, finite differences, and torchvision if installed."""

import numpy as np
import pytest

from minimask.roi_align import roi_align
from minimask.roi_pool import roi_pool, roi_pool_backward, roi_pool_forward, roi_warp, round_to_cells
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients
from tests.rois import roi_case


def test_rounding_worked_number():
    boxes = np.array([[112.0, 45, 219, 213], [-8, -24, 8, 24], [np.nan, 0, np.inf, 1e30]])
    first, last = round_to_cells(boxes, 1 / 16)
    assert first[:2].tolist() == [[7, 3], [-1, -2]] and last[:2].tolist() == [[14, 13], [1, 2]]


def test_pool_worked_number():
    feature = np.arange(36.0).reshape(1, 6, 6, 1)
    zero = np.zeros(1, int)
    # At scale 1/2, the box is cells 1 to 4 in both directions: two bins of 2 x 2 cells; the largest is bottom right.
    found = roi_pool([feature], np.array([[2.4, 1.6, 8.2, 7.9]]), zero, zero, [0.5], size=2)
    assert found.data[0, :, :, 0].tolist() == [[14, 16], [26, 28]]
    # Three bins of 4 / 3 cells. Each includes every cell that it touches: cells 1, 2 | 2, 3 | 3, 4.
    found = roi_pool([feature], np.array([[2.4, 1.6, 8.2, 7.9]]), zero, zero, [0.5], size=3)
    assert found.data[0, 0, :, 0].tolist() == [14, 15, 16]


def test_pool_ignores_fractions_of_a_cell():
    # Boxes that differ by less than a cell: RoIPool and RoIWarp cannot tell them apart, RoIAlign can (slide T10).
    feature = np.random.default_rng(0).standard_normal((1, 12, 10, 3))
    boxes, zero = np.array([[33.0, 34, 95, 93], [38.0, 38, 90, 90]]), np.zeros(2, int)
    for operation, same in ((roi_pool, True), (roi_warp, True), (roi_align, False)):
        found = operation([feature], boxes, zero, zero, [1 / 16], 3).data
        assert np.array_equal(found[0], found[1]) == same


def test_warp_worked_number():
    # Cells 1 to 4 from edge to edge (0.5 to 4.5) on a ramp: two bins of width 2 with centers 1.5 and 3.5.
    ramp = np.tile(np.arange(8.0), (6, 1))[None, :, :, None]
    zero = np.zeros(1, int)
    found = roi_warp([ramp], np.array([[2.4, 1.6, 8.2, 7.9]]), zero, zero, [0.5], size=2)
    np.testing.assert_allclose(found.data[0, :, :, 0], [[1.5, 3.5], [1.5, 3.5]])


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernel_equals_array_code(dtype, size):
    features, boxes, *where = roi_case(dtype=dtype)
    inputs = [Tensor(feature, requires_grad=True) for feature in features]
    found = roi_pool(inputs, boxes, *where, size)
    expected, chosen = roi_pool_forward.plain(features, boxes, *where, size)
    np.testing.assert_array_equal(found.data, expected)
    gy = np.random.default_rng(1).standard_normal(found.shape).astype(dtype)
    found.backward(gy)
    gfeatures = roi_pool_backward.plain(gy, chosen, features, boxes, *where, size)
    for tensor, gfeature in zip(inputs, gfeatures, strict=True):
        assert tensor.grad.dtype == dtype
        np.testing.assert_allclose(tensor.grad, gfeature, atol=1e-4 if dtype == np.float32 else 1e-12)


def test_bins_are_cut_in_the_precision_of_the_features():
    # 29 cells in 7 bins: in float64, the last bin ends at 29.000000000000004 and includes the 30th cell too.
    for dtype, largest in ((np.float32, 28), (np.float64, 29)):
        feature = np.broadcast_to(np.arange(32, dtype=dtype), (1, 1, 32))[..., None]
        settings = np.array([[0, 0, 28, 0]], dtype), np.zeros(1, int), np.zeros(1, int), [1.0], 7
        assert roi_pool([feature], *settings).data[0, 0, 6, 0] == largest
        assert roi_pool_forward.plain([feature], *settings)[0][0, 0, 6, 0] == largest


@pytest.mark.parametrize("operation", [roi_pool, roi_warp])
def test_gradients(operation):
    features, boxes, *where = roi_case(channels=1, images=1)
    kept = slice(None, None, 3)
    boxes, where = boxes[kept], (0 * where[0][kept], where[1][kept], where[2])
    check_gradients(lambda a, b: operation([a, b], boxes, *where, 2), *features, name=operation.__name__)


@pytest.mark.parametrize("operation", [roi_pool, roi_warp])
def test_no_boxes_and_nan_boxes(operation):
    features, boxes, image_index, levels, scales = roi_case(dtype=np.float32)
    nothing = np.zeros(0, int)
    assert operation(features, boxes[:0], nothing, nothing, scales).shape == (0, 7, 7, 3)
    expected = operation(features, boxes, image_index, levels, scales).data
    boxes[0], boxes[1, 2], boxes[2] = np.nan, np.inf, 1e30
    found = operation(features, boxes, image_index, levels, scales).data
    np.testing.assert_array_equal(found[3:], expected[3:])  # the other boxes are not affected
    assert found.shape == expected.shape


def test_messages():
    features, boxes, image_index, levels, scales = roi_case()
    with pytest.raises(ValueError, match=r"roi_pool: boxes must be \(R, 4\) float arrays"):
        roi_pool(features, boxes[:, :3], image_index, levels, scales)
    with pytest.raises(ValueError, match="roi_warp: levels must be 0 to 1, got 1 to 2"):
        roi_warp(features, boxes, image_index, levels + 1, scales)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pool_equals_torchvision(dtype):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    features, boxes, image_index, _, _ = roi_case(dtype=dtype, channels=5)
    ours = Tensor(features[0], requires_grad=True)
    found = roi_pool([ours], boxes, image_index, 0 * image_index, [0.25], 7)
    theirs = torch.tensor(features[0].transpose(0, 3, 1, 2), requires_grad=True)
    rois = torch.tensor(np.concatenate([image_index[:, None], boxes], axis=1).astype(dtype))
    expected = ops.roi_pool(theirs, rois, 7, 0.25)
    np.testing.assert_array_equal(found.data, expected.detach().numpy().transpose(0, 2, 3, 1))
    gy = np.random.default_rng(3).standard_normal(found.shape).astype(dtype)
    found.backward(gy)
    expected.backward(torch.tensor(gy.transpose(0, 3, 1, 2)))
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy().transpose(0, 2, 3, 1), atol=tolerance)
