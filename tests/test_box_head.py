"""Box head: detections compared with torchvision's, and a case worked out by hand."""

import numpy as np
import pytest

from minimask.box_head import detect
from tests.cases import head_outputs

SIZES = np.array([[60, 90], [64, 40]])


@pytest.mark.parametrize("max_detections", [100, 7])
def test_detections_equal_torchvision(max_detections):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection.roi_heads import RoIHeads

    theirs = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, 0.05, 0.5, max_detections)
    logits, deltas, proposals = head_outputs()
    logits_of_all, deltas_of_all = torch.tensor(logits).reshape(-1, 5), torch.tensor(deltas).reshape(-1, 20)
    expected = theirs.postprocess_detections(
        logits_of_all, deltas_of_all, [torch.tensor(p) for p in proposals], SIZES.tolist()
    )
    found = detect(logits, deltas, proposals, np.ones((2, 40), bool), SIZES, max_detections=max_detections)
    for n in range(2):
        v = found.valid[n]
        assert v.sum() == len(expected[0][n]) > 5
        np.testing.assert_allclose(found.boxes[n][v], expected[0][n], rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.scores[n][v], expected[1][n], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found.labels[n][v], expected[2][n])


def test_detections_by_hand():
    # Two proposals have the same box. Both are of class 1, so the weaker one is suppressed; the second is also of class
    # 2, which is kept. The third proposal is somewhere else.
    proposals = np.array([[[0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 31, 31]]], np.float32)
    logits = np.log(np.array([[[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.9, 0.06, 0.04]]], np.float32))
    deltas, valid = np.zeros((1, 3, 12), np.float32), np.ones((1, 3), bool)
    found = detect(logits, deltas, proposals, valid, SIZES[:1], max_detections=5)
    np.testing.assert_array_equal(found.valid, [[True, True, True, False, False]])
    np.testing.assert_array_equal(found.labels, [[1, 2, 1, 0, 0]])
    np.testing.assert_allclose(found.scores, [[0.8, 0.5, 0.06, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(found.boxes[0, :3], [[0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 31, 31]])


def test_invalid_proposals_and_low_scores_find_nothing():
    logits, deltas, proposals = head_outputs()
    assert not detect(logits, deltas, proposals, np.zeros((2, 40), bool), SIZES).valid.any()
    assert not detect(logits, deltas, proposals, np.ones((2, 40), bool), SIZES, score_threshold=1.0).valid.any()
