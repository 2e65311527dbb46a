"""Matching on the GPU against the specification and the Numba kernel."""

import numpy as np
import pytest

from minimask import targets
from tests.test_targets import random_case


def empty_results(n, a):
    return [np.zeros((n, a), t) for t in (np.float32, np.int64, bool, np.float32)]


@pytest.mark.parametrize("n, a, g", [(1, 1, 1), (3, 50, 5), (2, 300, 70), (1, 257, 130), (0, 3, 2), (2, 0, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_equals_the_specification(gpu, n, a, g, shared):
    from minimask.kernels import match_cuda

    anchors, objects, real, crowd = random_case(a, n, a, g)
    anchors = anchors[:1] if shared and n else anchors
    expected = targets.match_specification(anchors, objects, real, crowd) if n * a else empty_results(n, a)
    best, which, best_of_object, covered = expected
    on_card = [gpu.asarray(x) for x in (anchors, objects, real, crowd)]
    found = match_cuda.best_objects(*on_card)
    for x, expected in zip(found, (best, which, covered)):
        assert x.dtype == expected.dtype
        np.testing.assert_array_equal(x.get(), expected)
    # With no positives and no background by IoU, only the objects' best are labeled.
    only_best, _ = targets.match(*on_card, -1, 2, allow_low_quality=True)
    np.testing.assert_array_equal(only_best.get(), np.where(best_of_object, 1, -1))
    for allow_low_quality in (False, True):
        expected = targets.match(anchors, objects, real, crowd, 0.3, 0.6, allow_low_quality)
        with gpu.no_sync() if hasattr(gpu, "no_sync") else gpu.cuda.Stream():
            found = targets.match(*on_card, 0.3, 0.6, allow_low_quality)
        for x, y in zip(found, expected):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x.get(), y)


def test_iou_at_the_limits_counts_as_above(gpu):
    # IoU with the first: 1, 1/2, 1/4, 1/5
    anchors = np.array([[[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 5, 5], [0, 0, 5, 4]]], np.float32)
    real = np.ones((1, 1), bool)
    labels, _ = targets.match(*map(gpu.asarray, (anchors, anchors[:, :1], real, ~real)), 0.25, 0.5)
    np.testing.assert_array_equal(labels.get(), [[1, 1, -1, 0]])


def test_overlaps_that_are_no_short_numbers(gpu):
    """A fused multiply-add would round another way, and the best anchor would not be found again."""
    rng = np.random.default_rng(0)
    corner = rng.random((1, 400, 2), dtype=np.float32) * 50
    boxes = np.concatenate([corner, corner + 1 + rng.random((1, 400, 2), dtype=np.float32) * 40], axis=2)
    anchors, objects, real = boxes[:, :360], boxes[:, 360:], np.ones((1, 40), bool)
    expected = targets.match(anchors, objects, real, ~real, 0.3, 0.7, allow_low_quality=True)
    found = targets.match(*map(gpu.asarray, (anchors, objects, real, ~real)), 0.3, 0.7, allow_low_quality=True)
    np.testing.assert_array_equal(found[0].get(), expected[0])
    np.testing.assert_array_equal(found[1].get(), expected[1])
    assert (expected[0] == 1).sum() >= 30
