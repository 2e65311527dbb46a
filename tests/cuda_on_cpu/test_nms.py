"""Non-maximum suppression on the GPU against the array code, also on lists too long for a table of all pairs."""

import numpy as np
import pytest

from minimask import boxes
from tests.cases import no_sync, random_boxes


def compare(gpu, corners, scores, valid, threshold, max_kept, groups):
    """Assert that `nms` on the GPU equals `nms` on the CPU and does not wait. Returns the result of the CPU."""
    on_card = [None if x is None else gpu.asarray(x) for x in (corners, scores, valid, groups)]
    with no_sync(gpu):
        found = boxes.nms(*on_card[:3], threshold, max_kept, on_card[3])
    expected = boxes.nms(corners, scores, valid, threshold, max_kept, groups)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.get(), b)
    return expected


@pytest.mark.parametrize(
    "images, count, max_kept",
    [(1, 1, None), (3, 50, None), (2, 200, 20), (1, 5, 9), (2, 0, 4), (0, 3, 2), (1, 1500, 400)],
)
def test_nms_equals_its_array_code(gpu, images, count, max_kept):
    rng = np.random.default_rng(count)
    corners = random_boxes(rng, images, count, side=300.0, dtype=np.float32)
    scores = rng.integers(0, 20, (images, count)).astype(np.float32)  # with ties
    valid = rng.random((images, count)) < 0.8
    for groups in (None, rng.integers(0, 40, (images, count))):
        expected = compare(gpu, corners, scores, valid, 0.3, max_kept, groups)
        if count <= 200:
            plain = boxes.nms.plain(corners, scores, valid, 0.3, max_kept, groups)
            np.testing.assert_array_equal(expected[0], plain[0])


def test_ties_and_the_exact_threshold(gpu):
    flat = np.ones((1, 3), np.float32)
    same = np.tile(np.array([[0, 0, 2, 2]], np.float32), (1, 3, 1))
    assert compare(gpu, same, flat, flat > 0, 0.5, None, None)[1].sum() == 1
    half = np.array([[[0, 0, 2, 1], [0, 0, 1, 1]]], np.float32)  # IoU exactly 0.5
    for threshold, kept in ((0.5, 2), (0.499, 1), (0.50000001, 2), (0.49999999, 1)):
        assert compare(gpu, half, flat[:, :2], flat[:, :2] > 0, threshold, None, None)[1].sum() == kept


def test_the_exact_threshold_in_a_later_chunk(gpu):
    x = np.arange(70, dtype=np.float32) * 10
    apart = np.stack([x, 0 * x, x + 2, 0 * x + 1], axis=1)[None]
    apart[0, 69] = [0, 0, 1, 1]  # IoU exactly 0.5 with the first
    descending = np.linspace(1, 0.5, 70, dtype=np.float32)[None]
    for threshold, last in ((0.5, True), (0.499, False)):
        assert compare(gpu, apart, descending, descending > 0, threshold, None, None)[1].all() == last


def test_groups_of_the_same_block_do_not_interact(gpu):
    """The same block handles groups 1 and 17: first far apart in the list, then within one chunk of 64."""
    x = np.arange(100, dtype=np.float32) * 10
    apart = np.stack([x, 0 * x, x + 9, 0 * x + 9], axis=1)
    twice = np.concatenate([apart, apart])[None]
    descending = np.linspace(1, 0.5, 200, dtype=np.float32)[None]
    assert compare(gpu, twice, descending, descending > 0, 0.5, None, np.repeat([[1, 17]], 100, axis=1))[1].all()
    pairs = np.repeat(apart, 2, axis=0)[None]
    assert compare(gpu, pairs, descending, descending > 0, 0.5, None, np.tile([[1, 17]], 100))[1].all()


def test_a_chain_through_a_chunk(gpu):
    """Each box overlaps the next: 0 removes 1, so 1 cannot remove 2, and so on, also across chunks of 64."""
    x = np.arange(200, dtype=np.float32) * 4
    chain = np.stack([x, 0 * x, x + 10, 0 * x + 10], axis=1)[None]  # IoU of neighbors 6 / 14
    descending = np.linspace(1, 0.5, 200, dtype=np.float32)[None]
    indices, kept = compare(gpu, chain, descending, descending > 0, 0.4, None, None)
    np.testing.assert_array_equal(indices[kept], np.arange(0, 200, 2))


def test_boxes_without_an_area_are_kept(gpu):
    nothing = np.zeros((1, 3, 4), np.float32)
    assert compare(gpu, nothing, np.ones((1, 3), np.float32), np.ones((1, 3), bool), 0.5, None, None)[1].all()


def test_candidates_of_all_classes_and_proposals(gpu):
    rng = np.random.default_rng(7)
    count = 90_000
    corners = random_boxes(rng, 1, count, side=500.0, dtype=np.float32)
    valid = rng.random((1, count)) < 0.01
    groups = rng.integers(1, 91, (1, count))
    expected = compare(gpu, corners, rng.random((1, count), dtype=np.float32), valid, 0.5, 100, groups)
    assert expected[1].all()
