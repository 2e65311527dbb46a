"""Matching and sampling: the kernel against the specification, torchvision's matcher, and cases worked by hand."""

import numpy as np
import pytest

from minimask import targets
from minimask.device import generator
from minimask.kernels import top_k

BOXES = np.array([[[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]], np.float32)  # two objects and padding
REAL = np.array([[True, True, False]])
NO_CROWD = np.zeros((1, 3), bool)
ANCHORS = np.array(
    [[[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [20, 20, 30, 30], [100, 100, 110, 110], [20, 20, 40, 25]]],
    np.float32,
)


def random_case(seed, n=3, a=50, g=5):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 60, (n, a + g, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 50, (n, a + g, 2))], 2).astype(np.float32)
    real = rng.random((n, g)) < 0.7
    return boxes[:, :a], boxes[:, a:], real, ~real & (rng.random((n, g)) < 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_kernel_equals_specification(seed):
    from minimask.kernels import match as kernel

    anchors, boxes, real, crowd = random_case(seed)
    expected = targets.match_specification(anchors, boxes, real, crowd)
    found = [np.zeros(real.shape[:1] + (50,), t) for t in (np.float32, np.int64, bool, np.float32)]
    kernel.match(anchors, boxes, real, crowd, *found)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[1][found[0] > 0], expected[1][found[0] > 0])
    np.testing.assert_array_equal(found[2], expected[2])
    np.testing.assert_allclose(found[3], expected[3], rtol=0, atol=1e-6)


def test_by_hand():
    labels, which = targets.match(ANCHORS, BOXES, REAL, NO_CROWD, 0.3, 0.7)
    # IoU with their objects: 1, 0.5, 0.4, 0.25, 0, 0.25: one positive, two between, three background ...
    np.testing.assert_array_equal(labels, [[1, -1, -1, 0, 0, 0]])
    labels, which = targets.match(ANCHORS, BOXES, REAL, NO_CROWD, 0.3, 0.7, allow_low_quality=True)
    # ... and both anchors that overlap the second object best (a tie at 0.25) become its positives.
    np.testing.assert_array_equal(labels, [[1, -1, -1, 1, 0, 1]])
    np.testing.assert_array_equal(which, [[0, 0, 0, 1, 0, 1]])


def test_an_object_that_no_anchor_touches_makes_no_positives():
    far = np.array([[[500, 500, 510, 510]]], np.float32)
    real = np.ones((1, 1), bool)
    labels, _ = targets.match(ANCHORS, far, real, ~real, 0.3, 0.7, allow_low_quality=True)
    assert (labels == 0).all()


def test_no_objects_is_all_background():
    labels, _ = targets.match(ANCHORS, BOXES, REAL & False, NO_CROWD, 0.3, 0.7, allow_low_quality=True)
    assert (labels == 0).all()


def test_a_crowd_is_neither_positive_nor_background():
    crowd = np.array([[False, True, False]])
    labels, _ = targets.match(ANCHORS, BOXES, REAL & ~crowd, crowd, 0.3, 0.7, allow_low_quality=True)
    np.testing.assert_array_equal(labels, [[1, -1, -1, -1, 0, -1]])


@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_equals_torchvision(allow_low_quality):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    for seed in range(5):
        anchors, boxes, _, _ = random_case(seed)
        real = np.ones(boxes.shape[:2], bool)
        labels, which = targets.match(anchors, boxes, real, ~real, 0.3, 0.7, allow_low_quality=allow_low_quality)
        for n in range(len(anchors)):
            overlaps = box_iou(torch.tensor(boxes[n]), torch.tensor(anchors[n]))
            theirs = Matcher(0.7, 0.3, allow_low_quality)(overlaps).numpy()
            np.testing.assert_array_equal(labels[n], np.where(theirs >= 0, 1, np.where(theirs == -1, 0, -1)))
            np.testing.assert_array_equal(which[n][theirs >= 0], theirs[theirs >= 0])


def test_sample_takes_at_most_the_fraction_and_fills_with_background():
    labels = np.array([[1] * 6 + [0] * 10 + [-1] * 4, [1] + [0] * 3 + [-1] * 16, [-1] * 20], np.int8)
    index, positive, valid = targets.sample(labels, 8, 0.5, generator(0))
    assert index.shape == (3, 8)
    np.testing.assert_array_equal(positive.sum(1), [4, 1, 0])
    np.testing.assert_array_equal(valid.sum(1), [8, 4, 0])
    for n in range(3):
        chosen = index[n][valid[n]]
        assert len(set(chosen)) == len(chosen)
        assert (labels[n][chosen] == positive[n][valid[n]]).all()
    again = targets.sample(labels, 8, 0.5, generator(0))
    assert all((a == b).all() for a, b in zip(again, (index, positive, valid)))


CASES = [(3, 40, 16, 8), (2, 5000, 256, 128), (2, 9, 9, 4), (1, 6, 0, 0)]


@pytest.mark.parametrize("images, total, count, most", CASES)
def test_sample_equals_its_specification(images, total, count, most):
    rng = np.random.default_rng(total)
    labels = rng.choice([-1, 0, 0, 0, 1], (images, total)).astype(np.int8)
    labels[0] = rng.choice([-1, -1, 1], total)  # few that are allowed
    priority = rng.integers(0, 50, (images, total)).astype(np.float32) / 50  # with equal ones
    found = top_k.sample(labels, priority, count, most)
    expected = targets.sample_specification(labels, priority, count, most)
    for one, right in zip(found, expected):
        np.testing.assert_array_equal(one, right)


def test_sample_is_uniform():
    labels = np.zeros((1, 10), np.int8)
    counts = np.bincount(
        np.concatenate([targets.sample(labels, 3, 0.5, generator(1, i))[0][0] for i in range(2000)]), minlength=10
    )
    assert abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_top_k_breaks_ties_by_index():
    scores = np.array([[1, 3, 3, 2, 3], [0, 0, 0, 0, 0.0]])
    np.testing.assert_array_equal(targets.top_k(scores, 5), [[1, 2, 4, 3, 0], [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(targets.top_k(scores[:1], 4), [[1, 2, 4, 3]])


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"match: anchors must be \(1 or 1, A, 4\), got shape \(6, 4\)"):
        targets.match(ANCHORS[0], BOXES, REAL, NO_CROWD, 0.3, 0.7)


def test_top_k_takes_equal_scores_by_index():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (3, 400)).astype(np.float32)  # many equal ones, also at the cut
    for count in (1, 37, 399, 400):
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(targets.top_k(scores, count), expected)
    scores[0, 5] = np.nan
    assert 5 not in targets.top_k(scores, 399)[0]


@pytest.mark.parametrize("images, total, count", [(1, 1, 1), (3, 33, 2), (2, 5000, 4000), (1, 70000, 300), (2, 7, 0)])
def test_top_k_equals_its_specification(images, total, count):
    rng = np.random.default_rng(total)
    scores = rng.normal(size=(images, total)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    scores[rng.random(scores.shape) < 0.1] = np.inf
    few = rng.integers(-1, 2, scores.shape) * np.float32(0.5)  # -0.0 among them, which equals 0
    for numbers in (scores, few, scores[:, ::2]):
        found = targets.top_k(numbers, count)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, targets.top_k_specification(numbers, count))


def test_take():
    numbers = np.arange(24.0).reshape(2, 3, 4)
    rows = np.array([[2, 0], [1, 1]])
    np.testing.assert_array_equal(targets.take(numbers, rows), numbers[[[0], [1]], rows])
    assert targets.take(numbers[:, :0], np.zeros((2, 0), int)).shape == (2, 0, 4)
