"""Matching on the GPU against the array code and the Numba kernel."""

import numpy as np
import pytest

from minimask import targets
from tests.cases import anchors_and_objects, no_sync


@pytest.mark.parametrize("n, a, g", [(1, 1, 1), (3, 50, 5), (2, 300, 70), (1, 257, 130), (0, 3, 2), (2, 0, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_match_equals_its_array_code(gpu, n, a, g, shared):
    arguments = anchors_and_objects(a, n, a, g)
    if shared and n:
        arguments = arguments[0][:1], *arguments[1:]
    on_card = [gpu.asarray(x) for x in arguments]
    # With the second pair of limits, every anchor is ignored unless it is a low-quality match.
    for low, high in ((0.3, 0.6), (-1, 2), (0.5, 0.5)):
        for allow_low_quality in (False, True):
            with no_sync(gpu):
                found = targets.match(*on_card, low, high, allow_low_quality)
            expected = targets.match(*arguments, low, high, allow_low_quality)
            for x, y in zip(found, expected):
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x.get(), y)
            if n * a:
                plain = targets.match.plain(*arguments, low, high, allow_low_quality)
                np.testing.assert_array_equal(expected[0], plain[0])
                np.testing.assert_array_equal(expected[1], plain[1])


def test_an_iou_equal_to_a_limit_counts_as_above(gpu):
    # IoU with the first: 1, 1/2, 1/4, 1/5
    anchors = np.array([[[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 5, 5], [0, 0, 5, 4]]], np.float32)
    real = np.ones((1, 1), bool)
    labels, _ = targets.match(*map(gpu.asarray, (anchors, anchors[:, :1], real, ~real)), 0.25, 0.5)
    np.testing.assert_array_equal(labels.get(), [[1, 1, -1, 0]])


def test_overlaps_that_must_be_rounded(gpu):
    """A fused multiply-add would round differently, and the second pass would not find the best anchor again."""
    rng = np.random.default_rng(0)
    corner = rng.random((1, 400, 2), dtype=np.float32) * 50
    boxes = np.concatenate([corner, corner + 1 + rng.random((1, 400, 2), dtype=np.float32) * 40], axis=2)
    anchors, objects, real = boxes[:, :360], boxes[:, 360:], np.ones((1, 40), bool)
    expected = targets.match(anchors, objects, real, ~real, 0.3, 0.7, allow_low_quality=True)
    found = targets.match(*map(gpu.asarray, (anchors, objects, real, ~real)), 0.3, 0.7, allow_low_quality=True)
    np.testing.assert_array_equal(found[0].get(), expected[0])
    np.testing.assert_array_equal(found[1].get(), expected[1])
    assert (expected[0] == 1).sum() >= 30
