"""Detections against torchvision's post-processing, and cases worked by hand."""

import numpy as np
import pytest

from minimask.box_head import detect

SIZES = np.array([[60, 90], [64, 40]])


def random_case(seed=0, n=2, r=40, c=5, spread=3.0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, 50, (n, r, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(1, 40, (n, r, 2))], 2).astype(np.float32)
    logits = (rng.standard_normal((n, r, c)) * spread).astype(np.float32)
    deltas = rng.standard_normal((n, r, c * 4)).astype(np.float32)
    return logits, deltas, proposals


@pytest.mark.parametrize("max_detections", [100, 7])
def test_equals_torchvision(max_detections):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection.roi_heads import RoIHeads

    theirs = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, 0.05, 0.5, max_detections)
    logits, deltas, proposals = random_case()
    expected = theirs.postprocess_detections(
        torch.tensor(logits).reshape(-1, 5), torch.tensor(deltas).reshape(-1, 20),
        [torch.tensor(p) for p in proposals], SIZES.tolist(),
    )  # fmt: skip
    found = detect(logits, deltas, proposals, np.ones((2, 40), bool), SIZES, max_detections=max_detections)
    for n in range(2):
        v = found.valid[n]
        assert v.sum() == len(expected[0][n]) > 5
        np.testing.assert_allclose(found.boxes[n][v], expected[0][n], rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.scores[n][v], expected[1][n], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found.labels[n][v], expected[2][n])


def test_by_hand():
    # Two proposals at the same place. Both say class 1, so the weaker goes; the second also says class 2, which stays.
    proposals = np.array([[[0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 31, 31]]], np.float32)
    logits = np.log(np.array([[[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.9, 0.06, 0.04]]], np.float32))
    deltas, valid = np.zeros((1, 3, 12), np.float32), np.ones((1, 3), bool)
    found = detect(logits, deltas, proposals, valid, SIZES[:1], max_detections=5)
    np.testing.assert_array_equal(found.valid, [[True, True, True, False, False]])
    np.testing.assert_array_equal(found.labels, [[1, 2, 1, 0, 0]])
    np.testing.assert_allclose(found.scores, [[0.8, 0.5, 0.06, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(found.boxes[0, :3], [[0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 31, 31]])


def test_invalid_proposals_and_low_scores_find_nothing():
    logits, deltas, proposals = random_case()
    assert not detect(logits, deltas, proposals, np.zeros((2, 40), bool), SIZES).valid.any()
    assert not detect(logits, deltas, proposals, np.ones((2, 40), bool), SIZES, score_threshold=1.0).valid.any()
