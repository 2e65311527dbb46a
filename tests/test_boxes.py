"""Boxes: numbers worked out by hand, the kernel of NMS against its array code, and torchvision if installed."""

import inspect
import re

import numpy as np
import pytest

from minimask import boxes
from minimask.tensor import Tensor
from tests.cases import random_boxes


def test_area_and_iou_worked_numbers():
    a = np.array([[0, 0, 2, 2], [5.0, 5, 6, 7], [1, 1, 1, 1]])
    b = np.array([[1, 0, 3, 2], [5.0, 5, 6, 7]])
    assert boxes.area(a).tolist() == [4, 2, 0]
    np.testing.assert_allclose(boxes.iou(a, b), [[1 / 3, 0], [0, 1], [0, 0]], atol=0)
    assert boxes.iou(a[2:], a[2:]).tolist() == [[0]]  # for two boxes without an area, 0 instead of NaN
    np.testing.assert_allclose(boxes.intersection(a, b), [[2, 0], [0, 2], [0, 0]], atol=0)


@pytest.mark.parametrize("shape_a, shape_b", [((3,), (5,)), ((2, 3), (2, 1)), ((4, 2, 3), (4, 2, 7)), ((0,), (5,))])
def test_iou_shapes(shape_a, shape_b):
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, *shape_a), random_boxes(rng, *shape_b)
    overlaps = boxes.iou(a, b)
    assert overlaps.shape == (*shape_a, shape_b[-1])
    for index in np.ndindex(overlaps.shape):
        p, q = a[index[:-1]], b[index[:-2] + index[-1:]]
        shared = np.prod(np.maximum(np.minimum(p[2:], q[2:]) - np.maximum(p[:2], q[:2]), 0))
        assert overlaps[index] == pytest.approx(shared / (boxes.area(p) + boxes.area(q) - shared))


def test_encode_worked_number():
    # From (0, 0, 10, 10) to (5, 0, 25, 10): the center moves from 5 to 15, which is one width, and the width doubles.
    deltas = boxes.encode(np.array([5.0, 0, 25, 10]), np.array([0.0, 0, 10, 10]), (10, 10, 5, 5))
    np.testing.assert_allclose(deltas, [10, 0, 5 * np.log(2), 0])


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
@pytest.mark.parametrize("shape", [(7,), (2, 3), (0,)])
def test_decode_inverts_encode(shape, weights):
    rng = np.random.default_rng(1)
    anchors, truth = random_boxes(rng, *shape), random_boxes(rng, *shape)
    deltas = boxes.encode(truth, anchors, weights)
    np.testing.assert_allclose(boxes.decode(deltas, anchors, weights), truth, atol=1e-10)


def test_decode_broadcasts_over_classes_and_limits_growth():
    anchors = np.array([[[0.0, 0, 16, 16]]])  # (1, 1, 4)
    deltas = np.zeros((1, 3, 4))
    deltas[0, 1, 2:] = 100
    found = boxes.decode(deltas, anchors)
    assert found.shape == (1, 3, 4)
    np.testing.assert_allclose(found[0, 1], [8 - 500, 8 - 500, 8 + 500, 8 + 500])  # 16 pixels grow to 1000


def test_encode_of_padding_is_finite():
    nothing = np.zeros((3, 4), np.float32)
    far = np.full((3, 4), 1000, np.float32)
    with np.errstate(all="raise"):
        assert np.isfinite(boxes.encode(far, nothing)).all()
        assert np.isfinite(boxes.encode(nothing, far)).all()


@pytest.mark.parametrize("made", [list, lambda x: np.array(x, int), lambda x: np.array(x, np.float32)])
def test_lists_and_integers_are_converted_to_float64(made):
    a, b = made([[0, 0, 2, 2]]), made([[1, 0, 3, 2]])
    grown = np.exp(2)  # half a side of b, which is 1, after deltas 0, 0, 2, 2
    found = {
        "area": (boxes.area(a), [4]),
        "intersection": (boxes.intersection(a, b), [[2]]),
        "iou": (boxes.iou(a, b), [[1 / 3]]),
        "encode": (boxes.encode(b, a), [[0.5, 0, 0, 0]]),
        "decode": (boxes.decode(a, b), [[2 - grown, 1 - grown, 2 + grown, 1 + grown]]),
        "clip": (boxes.clip(b, (1, 2)), [[1, 0, 2, 1]]),
    }
    for name, (result, expected) in found.items():
        assert result.dtype == (np.float32 if getattr(a, "dtype", None) == np.float32 else np.float64), name
        np.testing.assert_allclose(result, expected, rtol=1e-6, err_msg=name)
    assert boxes.large_enough(a, 2).tolist() == [True]


GOOD, TENSOR, FLAG = np.zeros((1, 4)), Tensor(np.zeros((1, 4), np.float32)), np.ones((1, 1), bool)
WRONG_CALLS = {
    "iou: b must be an array, not a Tensor (there is no gradient): pass b.data": lambda: boxes.iou(GOOD, TENSOR),
    "encode: boxes must be an array, not a Tensor": lambda: boxes.encode(TENSOR, GOOD),
    "iou: a must be (..., 4): x1, y1, x2, y2, got shape (2, 5)": lambda: boxes.iou(np.zeros((2, 5)), GOOD),
    "decode: deltas must be (..., 4): dx, dy, dw, dh, got shape (1, 3)": lambda: boxes.decode(GOOD[:, :3], GOOD),
    "iou: b must be numbers (..., 4): x1, y1, x2, y2, got [[1, 2], [3]]": lambda: boxes.iou(GOOD, [[1, 2], [3]]),
    "nms: boxes must be a float array, got list": lambda: boxes.nms([[[0, 0, 1, 1]]], GOOD[:, :1], FLAG, 0.5),
    "nms: scores must be a float array, got an array of int64": lambda: boxes.nms(
        GOOD[None], np.ones((1, 1), np.int64), FLAG, 0.5
    ),
}


@pytest.mark.parametrize("message", WRONG_CALLS)
def test_an_argument_that_cannot_be_boxes_is_named(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        WRONG_CALLS[message]()


def test_clip():
    box = np.array([[-5.0, 2, 30, 40]])
    assert boxes.clip(box, (10, 20)).tolist() == [[0, 2, 20, 10]]
    batch = np.broadcast_to(box, (2, 3, 1, 4))
    clipped = boxes.clip(batch, np.array([[10, 20], [100, 25]]))
    assert clipped.shape == batch.shape
    assert clipped[0, 2, 0].tolist() == [0, 2, 20, 10] and clipped[1, 0, 0].tolist() == [0, 2, 25, 40]
    with pytest.raises(ValueError, match=r"clip: sizes must be \(height, width\) or \(2, 2\), got shape \(3, 2\)"):
        boxes.clip(batch, np.zeros((3, 2)))


def test_large_enough():
    assert boxes.large_enough(np.array([[0, 0, 1, 1], [0, 0, 0.5, 9]]), 1).tolist() == [True, False]


def test_nms_worked_number():
    corners = np.array([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 4], [0, 0, 10, 10]]], np.float32)
    scores = np.array([[0.8, 0.9, 0.5, 0.7, 0.99]], np.float32)
    valid = np.array([[True, True, True, True, False]])
    indices, kept = boxes.nms(corners, scores, valid, 0.5)
    # 1 is best and suppresses 0 (IoU 0.9) but not 3 (4 / 9); 4 has the highest score but is not valid.
    assert indices.tolist() == [[1, 3, 2, 0, 0]] and kept.tolist() == [[True, True, True, False, False]]
    assert indices.dtype == np.int64 and kept.dtype == bool
    indices, kept = boxes.nms(corners, scores, valid, 0.5, max_kept=2)
    assert indices.tolist() == [[1, 3]] and kept.tolist() == [[True, True]]
    indices, kept = boxes.nms(corners, scores, valid, 0.5, groups=np.array([[0, 1, 0, 1, 0]]))
    assert indices[kept].tolist() == [1, 0, 3, 2]


def test_nms_takes_all_its_arguments_by_name():
    corners, scores = np.float32([[[0, 0, 2, 2], [0, 0, 2, 2]]]), np.float32([[1, 2]])
    indices, kept = boxes.nms(valid=scores > 0, threshold=0.5, scores=scores, boxes=corners)
    assert indices.tolist() == [[1, 0]] and kept.tolist() == [[True, False]]


def test_nms_ties_and_the_exact_threshold():
    same = np.tile(np.array([[0, 0, 2, 2]], np.float32), (1, 3, 1))
    flat = np.ones((1, 3), np.float32)
    indices, kept = boxes.nms(same, flat, flat > 0, 0.5)
    assert indices[kept].tolist() == [0]  # of equal scores, the first is kept
    half = np.array([[[0, 0, 2, 1], [0, 0, 1, 1]]], np.float32)  # IoU exactly 0.5: not greater, so it stays
    assert boxes.nms(half, flat[:, :2], flat[:, :2] > 0, 0.5)[1].tolist() == [[True, True]]
    assert boxes.nms(half, flat[:, :2], flat[:, :2] > 0, 0.499)[1].tolist() == [[True, False]]


def test_nms_keeps_boxes_without_an_area():
    nothing = np.zeros((1, 3, 4), np.float32)
    assert boxes.nms(nothing, np.ones((1, 3), np.float32), np.ones((1, 3), bool), 0.5)[1].all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "images, count, keep", [(1, 1, None), (3, 50, None), (2, 200, 20), (1, 5, 9), (2, 0, 4), (0, 3, 2)]
)
def test_nms_equals_its_array_code(images, count, keep, dtype):
    rng = np.random.default_rng(count)
    corners = random_boxes(rng, images, count, dtype=dtype)
    scores = rng.integers(0, 20, (images, count)).astype(dtype)  # with ties
    scores[:, ::7] = -np.inf  # the valid boxes come before all others
    valid = rng.random((images, count)) < 0.8
    for groups in (None, rng.integers(0, 3, (images, count))):
        found = boxes.nms(corners, scores, valid, 0.3, keep, groups)
        expected = boxes.nms.plain(corners, scores, valid, 0.3, keep, groups)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_nms_names_the_shape_that_does_not_fit():
    corners, scores = np.zeros((2, 3, 4)), np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"nms: boxes must have shape \(N, R, 4\), got \(3, 4\)"):
        boxes.nms(corners[0], scores[0], scores[0] > 0, 0.5)
    with pytest.raises(ValueError, match=r"nms: valid must have shape \(2, 3\), got \(2, 2\)"):
        boxes.nms(corners, scores, scores[:, :2] > 0, 0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_equal_torchvision(dtype):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image
    from torchvision.ops import nms as torch_nms

    rng = np.random.default_rng(3)
    tolerance = 1e-10 if dtype == np.float64 else 2e-5
    a, b = random_boxes(rng, 60, dtype=dtype), random_boxes(rng, 60, dtype=dtype)
    np.testing.assert_allclose(boxes.iou(a, b), box_iou(torch.tensor(a), torch.tensor(b)).numpy(), atol=tolerance)

    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = coder.encode_single(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(boxes.encode(a, b, (10, 10, 5, 5)), deltas, rtol=tolerance, atol=tolerance)
    deltas = rng.standard_normal((60, 4)).astype(dtype) * 10
    expected = coder.decode_single(torch.tensor(deltas), torch.tensor(b)).numpy()
    np.testing.assert_allclose(boxes.decode(deltas, b, (10, 10, 5, 5)), expected, rtol=tolerance, atol=10 * tolerance)
    for some in (a, b, expected):  # the decoded boxes reach far beyond the image
        clipped = clip_boxes_to_image(torch.tensor(some), (90, 70)).numpy()
        np.testing.assert_array_equal(boxes.clip(some, (90, 70)), clipped)

    for threshold in (0.3, 0.5, 0.7):
        # Corners on a coarse grid, so that some overlaps equal the threshold and some boxes have no area.
        corners = np.round(random_boxes(rng, 1000, side=30, dtype=dtype))
        scores = rng.integers(0, 500, 1000).astype(dtype)
        groups = rng.integers(0, 4, 1000)
        valid = np.ones((1, 1000), bool)
        indices, kept = boxes.nms(corners[None], scores[None], valid, threshold)
        expected = torch_nms(torch.tensor(corners), torch.tensor(scores), threshold).numpy()
        np.testing.assert_array_equal(indices[kept], expected)
        scores = rng.permutation(1000).astype(dtype)  # without ties, whose order in batched_nms is undefined
        indices, kept = boxes.nms(corners[None], scores[None], valid, threshold, groups=groups[None])
        expected = batched_nms(torch.tensor(corners), torch.tensor(scores), torch.tensor(groups), threshold).numpy()
        np.testing.assert_array_equal(indices[kept], expected)


@pytest.mark.parametrize("operation", ["encode", "predicted", "nms"])
def test_the_source_of_an_operation_is_its_array_code(operation):
    source = inspect.getsource(getattr(boxes, operation))
    assert source.startswith("@accelerated") and f"def {operation}(" in source
    assert len(source.split('"""')[2].strip().splitlines()) < 40


def test_sides_below_a_millionth_of_a_pixel_count_as_a_millionth():
    point, unit = np.array([[2.0, 2, 2, 2]]), np.array([[0.0, 0, 1, 1]])
    # The center of `point` is 1.5 from that of `unit`; its sides count as 1e-6.
    np.testing.assert_allclose(boxes.encode(point, unit), [[1.5, 1.5, np.log(1e-6), np.log(1e-6)]])
    np.testing.assert_allclose(boxes.encode(unit, point), [[-1.5e6, -1.5e6, np.log(1e6), np.log(1e6)]])
    small = np.array([[0.0, 0, 1e-4, 1]])  # sides above that count as they are
    np.testing.assert_allclose(boxes.encode(small, unit)[0, 2], np.log(1e-4))


def test_predicted_boxes_have_no_weights_by_default():
    # A box of 20 x 10 around (20, 15) moves by 0.5 * 20 and 0.25 * 10, and becomes twice as wide, half as high.
    deltas, anchors = np.array([[[[0.5, 0.25, np.log(2), np.log(0.5)]]]]), np.array([[[10.0, 10, 30, 20]]])
    found, large = boxes.predicted(deltas, anchors, np.array([[100, 100]]))
    np.testing.assert_allclose(found[0, 0], [[10, 15, 50, 20]])
    assert large.all()


def test_large_enough_looks_at_both_sides():
    sides = boxes.large_enough(np.array([[5.0, 1, 8, 9], [1.0, 5, 9, 8], [5.0, 1, 9, 5]]), 4)
    assert sides.tolist() == [False, False, True]  # 3 x 8, 8 x 3 and 4 x 4
