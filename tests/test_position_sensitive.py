"""Position-sensitive pooling: numbers by hand, kernel against array code, finite differences, and torchvision."""

import numpy as np
import pytest

from minimask.systems.position_sensitive import (
    bin_cells,
    position_sensitive_backward,
    position_sensitive_forward,
    position_sensitive_pool,
)
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients
from tests.rois import BOXES

PARTS, DEPTH = 3, 2


def case(seed=0, dtype=np.float64, depth=DEPTH):
    """Maps (2, 12, 10, 9 depth) of scale 1/4, and boxes of every kind: maps, boxes, image_index, scale, parts."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((2, 12, 10, PARTS**2 * depth)).astype(dtype)
    boxes = np.array(list(BOXES.values()), dtype)
    return maps, boxes, rng.integers(0, 2, len(boxes)), 1 / 4, PARTS


def test_each_part_reads_its_own_map():
    # Map p is p everywhere. Each of 2 x 2 parts has 2 x 2 bins.
    maps = np.broadcast_to(np.arange(4.0), (1, 8, 8, 4)).copy()
    found = position_sensitive_pool(Tensor(maps), np.array([[8.0, 8, 24, 24]]), np.zeros(1, int), 0.25, 2, 4)
    assert found.data[0, :, :, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_mean_by_hand():
    # A box from cell 1.5 to 4.5 along x: bins 1.5 to 3 and 3 to 4.5 touch cells 1, 2 and 3, 4. Along y, one row.
    ramp = np.tile(np.arange(8.0), (6, 1))[None, :, :, None] * [1, 10, 100, 1000]
    box = np.array([[3.0, 2, 9, 4]])
    found = position_sensitive_pool(Tensor(ramp), box, np.zeros(1, int), 0.5, 2, 2)
    assert found.data[0, :, :, 0].tolist() == [[1.5, 35], [150, 3500]]


def test_bins_of_a_third_of_a_cell_touch_one_cell_each():
    # 7 cells in 21 bins: rounding errors at the edges must not add a neighboring cell.
    for dtype in (np.float32, np.float64):
        rows, columns = bin_cells(np.array([[16, 32, 128, 144]], dtype), 1 / 16, 21, 20, 20)[0]
        assert (columns[:, 1] - columns[:, 0] == 1).all() and (rows[:, 1] - rows[:, 0] == 1).all()
        assert columns[:, 0].tolist() == np.repeat(np.arange(1, 8), 3).tolist()
        assert rows[:, 0].tolist() == np.repeat(np.arange(2, 9), 3).tolist()


@pytest.mark.parametrize("size", [3, 4, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernel_equals_array_code(dtype, size):
    maps, boxes, image_index, scale, parts = case(dtype=dtype)
    x = Tensor(maps, requires_grad=True)
    found = position_sensitive_pool(x, boxes, image_index, scale, parts, size)
    cells = bin_cells(boxes, scale, size, 12, 10)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    expected = position_sensitive_forward.plain(maps, cells, image_index, parts)
    assert found.dtype == dtype and found.shape == (len(boxes), size, size, DEPTH)
    np.testing.assert_allclose(found.data, expected, atol=tolerance)

    gy = np.random.default_rng(1).standard_normal(found.shape).astype(dtype)
    found.backward(gy)
    expected = position_sensitive_backward.plain(gy, cells, image_index, parts, maps.shape)
    assert x.grad.dtype == dtype and np.abs(expected).max() > 1
    np.testing.assert_allclose(x.grad, expected, atol=tolerance)


def test_gradient():
    maps, boxes, image_index, *settings = case()
    maps, boxes = maps[:, :5, :4], boxes / 2
    check_gradients(lambda x: position_sensitive_pool(x, boxes, image_index, *settings, 4), maps)


def test_boxes_without_cells_and_nan_boxes():
    maps, boxes, image_index, *settings = case(dtype=np.float32)
    expected = position_sensitive_pool(Tensor(maps), boxes, image_index, *settings, 6).data
    outside = [name.startswith("outside") for name in BOXES]
    assert not expected[outside].any() and expected[0].all()
    boxes[0], boxes[1, 2] = np.nan, np.inf
    found = position_sensitive_pool(Tensor(maps), boxes, image_index, *settings, 6).data
    np.testing.assert_array_equal(found[2:], expected[2:])
    assert np.isfinite(found).all()
    assert position_sensitive_pool(Tensor(maps), boxes[:0], image_index[:0], *settings, 6).shape == (0, 6, 6, 2)


def test_messages():
    maps, boxes, image_index, *_ = case()
    with pytest.raises(ValueError, match="got 18 channels, parts 4, size 4"):
        position_sensitive_pool(Tensor(maps), boxes, image_index, 0.25, 4, 4)
    with pytest.raises(ValueError, match="image_index must be 0 to 1"):
        position_sensitive_pool(Tensor(maps), boxes, image_index + 1, 0.25, 3, 4)


@pytest.mark.parametrize("size", [3, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_torchvision(dtype, size):
    """torchvision rounds boxes to whole cells, never reads the last row and column, and has a part for each bin."""
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    maps, _, _, scale, parts = case(dtype=dtype)
    whole = np.array([[0, 0, 9, 9], [1, 2, 7, 8], [3, 4, 6, 5], [2, 0, 4, 11], [-2, -1, 7, 8]], dtype)
    boxes, image_index = whole / scale, np.array([0, 1, 1, 0, 1])
    boxes = boxes.astype(dtype)
    ours = Tensor(maps, requires_grad=True)
    found = position_sensitive_pool(ours, boxes, image_index, scale, parts, size)

    theirs = torch.tensor(maps, requires_grad=True)
    part = np.arange(size) * parts // size
    x = theirs.reshape(2, 12, 10, parts, parts, DEPTH)[:, :, :, part][:, :, :, :, part]  # a map for each bin
    x = x.permute(0, 5, 3, 4, 1, 2).reshape(2, DEPTH * size**2, 12, 10).contiguous()
    rois = torch.tensor(np.concatenate([image_index[:, None], boxes], axis=1).astype(dtype))
    expected = ops.ps_roi_pool(x, rois, size, scale)  # (R, D, m, m)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found.data, expected.detach().numpy().transpose(0, 2, 3, 1), atol=tolerance)

    gy = np.random.default_rng(3).standard_normal(found.shape).astype(dtype)
    found.backward(gy)
    expected.backward(torch.tensor(gy.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), atol=tolerance)
