"""Encoding and decoding boxes on the GPU against the array code."""

import numpy as np
import pytest

from minimask import boxes
from tests.cases import no_sync, random_boxes

WEIGHTS = (10, 10, 5, 5)


@pytest.mark.parametrize("shape", [(1,), (2, 300), (0, 3), (3, 0)])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), WEIGHTS])
def test_encode(gpu, shape, weights):
    rng = np.random.default_rng(0)
    truth, anchors = (random_boxes(rng, *shape, dtype=np.float32) for _ in range(2))
    truth[..., 2:][..., -1:, :] = truth[..., :2][..., -1:, :]  # boxes of size 0, as in padding
    with no_sync(gpu):
        found = boxes.encode(gpu.asarray(truth), gpu.asarray(anchors), weights)
    expected = boxes.encode(truth, anchors, weights)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n, r, c", [(1, 1, 1), (2, 150, 1), (3, 20, 7), (0, 4, 2), (2, 0, 3)])
def test_predicted(gpu, n, r, c):
    rng = np.random.default_rng(1)
    anchors = random_boxes(rng, n, r, dtype=np.float32)
    deltas = rng.normal(size=(n, r, c + 1, 4)).astype(np.float32)[:, :, 1:] * 3  # a view, as in the box head
    deltas[rng.random((n, r, c)) < 0.1] = 1000  # a side grows at most 62.5 times
    deltas[rng.random((n, r, c)) < 0.1, 2] = -80  # no width
    sizes = rng.integers(40, 160, (n, 2))
    with no_sync(gpu):
        found = boxes.predicted(*map(gpu.asarray, (deltas, anchors, sizes)), WEIGHTS, 0.01)
    expected = boxes.predicted(deltas, anchors, sizes, WEIGHTS, 0.01)
    for x, y in zip(found, expected):
        assert x.dtype == y.dtype and x.shape == y.shape
    np.testing.assert_allclose(found[0].get(), expected[0], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found[1].get(), expected[1])
    if r == 150:
        assert 0 < expected[1].sum() < expected[1].size
