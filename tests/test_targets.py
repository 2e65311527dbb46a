"""Matching and sampling: kernels against array code, torchvision's matcher, and cases worked out by hand."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from minimask import targets
from minimask.device import generator
from tests.cases import FixedNumbers, anchors_and_objects

BOXES = np.array([[[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]], np.float32)  # two objects and padding
REAL = np.array([[True, True, False]])
NO_CROWD = np.zeros((1, 3), bool)
ANCHORS = np.array(
    [[[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [20, 20, 30, 30], [100, 100, 110, 110], [20, 20, 40, 25]]],
    np.float32,
)


# --------------------------------------------------------------------------------------------------------------- match


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("allow_low_quality", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_match_equals_its_array_code(seed, allow_low_quality, shared, dtype):
    anchors, boxes, real, crowd = anchors_and_objects(seed)
    anchors, boxes = (anchors[:1] if shared else anchors).astype(dtype), boxes.astype(dtype)
    for low, high in ((0.3, 0.7), (0.0, 2.0), (0.5, 0.5)):
        found = targets.match(anchors, boxes, real, crowd, low, high, allow_low_quality)
        expected = targets.match.plain(anchors, boxes, real, crowd, low, high, allow_low_quality)
        for x, y in zip(found, expected):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def test_match_by_hand():
    labels, matched = targets.match(ANCHORS, BOXES, REAL, NO_CROWD, 0.3, 0.7)
    # The IoUs with the best objects are 1, 0.5, 0.4, 0.25, 0, 0.25: one positive, two in between, three background.
    np.testing.assert_array_equal(labels, [[1, -1, -1, 0, 0, 0]])
    labels, matched = targets.match(ANCHORS, BOXES, REAL, NO_CROWD, 0.3, 0.7, allow_low_quality=True)
    # Both anchors that overlap the second object best (a tie at 0.25) become its positives.
    np.testing.assert_array_equal(labels, [[1, -1, -1, 1, 0, 1]])
    np.testing.assert_array_equal(matched, [[0, 0, 0, 1, 0, 1]])


def test_an_object_that_no_anchor_touches_has_no_positives():
    far, real = np.array([[[500, 500, 510, 510]]], np.float32), np.ones((1, 1), bool)
    labels, _ = targets.match(ANCHORS, far, real, ~real, 0.3, 0.7, allow_low_quality=True)
    assert (labels == 0).all()


def test_without_objects_all_is_background():
    labels, matched = targets.match(ANCHORS, BOXES, REAL & False, NO_CROWD, 0.3, 0.7, allow_low_quality=True)
    assert (labels == 0).all() and (matched == 0).all()


def test_a_crowd_is_neither_positive_nor_background():
    crowd = np.array([[False, True, False]])
    labels, _ = targets.match(ANCHORS, BOXES, REAL & ~crowd, crowd, 0.3, 0.7, allow_low_quality=True)
    np.testing.assert_array_equal(labels, [[1, -1, -1, -1, 0, -1]])


@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_match_equals_torchvision(allow_low_quality):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    for seed in range(5):
        anchors, boxes, _, _ = anchors_and_objects(seed)
        real = np.ones(boxes.shape[:2], bool)
        labels, matched = targets.match(anchors, boxes, real, ~real, 0.3, 0.7, allow_low_quality)
        for n in range(len(anchors)):
            overlaps = box_iou(torch.tensor(boxes[n]), torch.tensor(anchors[n]))
            theirs = Matcher(0.7, 0.3, allow_low_quality)(overlaps).numpy()
            np.testing.assert_array_equal(labels[n], np.where(theirs >= 0, 1, np.where(theirs == -1, 0, -1)))
            np.testing.assert_array_equal(matched[n][theirs >= 0], theirs[theirs >= 0])


def test_match_names_a_shape_that_does_not_fit():
    with pytest.raises(ValueError, match=r"match: anchors must be \(1 or 1, A, 4\), got shape \(6, 4\)"):
        targets.match(ANCHORS[0], BOXES, REAL, NO_CROWD, 0.3, 0.7)


# -------------------------------------------------------------------------------------------------------------- sample


def test_sample_takes_at_most_the_fraction_and_fills_up_with_background():
    labels = np.array([[1] * 6 + [0] * 10 + [-1] * 4, [1] + [0] * 3 + [-1] * 16, [-1] * 20], np.int8)
    index, positive, valid = targets.sample(labels, 8, 0.5, generator(0))
    assert index.shape == (3, 8)
    np.testing.assert_array_equal(positive.sum(1), [4, 1, 0])
    np.testing.assert_array_equal(valid.sum(1), [8, 4, 0])
    for n in range(3):
        chosen = index[n][valid[n]]
        assert len(set(chosen)) == len(chosen)
        np.testing.assert_array_equal(labels[n][chosen], positive[n][valid[n]])
    again = targets.sample(labels, 8, 0.5, generator(0))
    for a, b in zip(again, (index, positive, valid)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "images, total, count, fraction", [(3, 40, 16, 0.5), (2, 5000, 256, 0.5), (2, 9, 20, 0.5), (1, 6, 0, 0.5)]
)
def test_sample_equals_its_array_code(images, total, count, fraction):
    rng = np.random.default_rng(total)
    labels = rng.choice([-1, 0, 0, 0, 1], (images, total)).astype(np.int8)
    labels[0] = rng.choice([-1, -1, 1], total)  # no background at all
    priority = FixedNumbers(rng.integers(0, 50, (images, total)).astype(np.float32) / 50)  # with ties
    found = targets.sample(labels, count, fraction, priority)
    expected = targets.sample.plain(labels, count, fraction, priority)
    for one, right in zip(found, expected):
        assert one.dtype == right.dtype
        np.testing.assert_array_equal(one, right)


def test_sample_is_uniform():
    labels = np.zeros((1, 10), np.int8)
    chosen = [targets.sample(labels, 3, 0.5, generator(1, i))[0][0] for i in range(2000)]
    counts = np.bincount(np.concatenate(chosen), minlength=10)
    assert abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)  # five standard deviations


# -------------------------------------------------------------------------------------------------- top k and its rows


def test_top_k_breaks_ties_by_index():
    scores = np.array([[1, 3, 3, 2, 3], [0, 0, 0, 0, 0.0]])
    for dtype in (np.float32, np.float64):
        found = targets.top_k(scores.astype(dtype), 9)  # more than there are: all of them
        np.testing.assert_array_equal(found, [[1, 2, 4, 3, 0], [0, 1, 2, 3, 4]])
        np.testing.assert_array_equal(targets.top_k(scores[:1].astype(dtype), 4), [[1, 2, 4, 3]])


def test_top_k_cuts_through_equal_scores_and_puts_nan_last():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (3, 400)).astype(np.float32)  # many are equal, also at the cut
    for count in (1, 37, 399, 400):
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(targets.top_k(scores, count), expected)
    scores[0, 5] = np.nan
    assert targets.top_k(scores, 400)[0, -1] == 5


@pytest.mark.parametrize("images, total, count", [(1, 1, 1), (3, 33, 2), (2, 5000, 4000), (1, 70000, 300), (2, 7, 0)])
def test_top_k_equals_its_array_code(images, total, count):
    rng = np.random.default_rng(total)
    scores = rng.normal(size=(images, total)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    scores[rng.random(scores.shape) < 0.1] = np.inf
    few = rng.integers(-1, 2, scores.shape) * np.float32(0.5)  # -0.0 among them, which equals 0
    for numbers in (scores, few, scores[:, ::2]):
        found = targets.top_k(numbers, count)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, targets.top_k.plain(numbers, count))


def test_top_k_of_levels():
    scores = np.array([[5, 7, 1, 9, 2, 2], [0, 1, 2, 3, 4, 5]], np.float32)
    index, level = targets.top_k_of_levels(scores, (3, 1, 2), (2, 1, 1))
    np.testing.assert_array_equal(index, [[1, 0, 3, 4], [2, 1, 3, 5]])
    np.testing.assert_array_equal(level, [[0, 0, 1, 2]] * 2)
    assert index.dtype == np.int64 and level.dtype == np.int32


def test_take():
    numbers = np.arange(24.0).reshape(2, 3, 4)
    found = targets.take(numbers, np.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(found, [[[8, 9, 10, 11], [0, 1, 2, 3]], [[16, 17, 18, 19]] * 2])
    assert targets.take(numbers[:, :0], np.zeros((2, 0), int)).shape == (2, 0, 4)


@pytest.mark.parametrize("operation", ["match", "sample", "top_k", "top_k_of_levels", "take"])
def test_the_source_of_an_operation_is_its_array_code(operation):
    source = inspect.getsource(getattr(targets, operation))
    assert source.startswith("@accelerated") and f"def {operation}(" in source
    code = source.split('"""')[2].strip().splitlines()
    assert len(code) < 40


def test_true_boxes_are_proposals_too():
    """The only proposal touches nothing; the true box is a positive, and its place follows that of the proposal."""
    proposals, settings = np.array([[[50.0, 50, 60, 60]]]), SimpleNamespace(samples=4, positive_fraction=0.5, iou=0.5)
    batch = SimpleNamespace(boxes=BOXES, valid=REAL, crowd=NO_CROWD, labels=np.array([[7, 8, 0]]))
    rois = targets.sample_rois(proposals, np.ones((1, 1), bool), batch, settings, generator(0))
    assert rois.positive.tolist() == [[True, True, False, False]] and rois.valid.tolist() == [[True, True, True, False]]
    assert sorted(rois.labels[0, :2]) == [7, 8] and rois.labels[0, 2] == 0
    assert sorted(rois.index[0, :2]) == [1, 2] and rois.index[0, 2] == 0
    order = rois.matches[0, :2]
    np.testing.assert_array_equal(rois.boxes[0, :2], BOXES[0, order])
    np.testing.assert_array_equal(rois.boxes[0, 2], proposals[0, 0])
