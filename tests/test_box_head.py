"""Box head: detections compared with torchvision's, and a case worked out by hand."""

import numpy as np
import pytest

from minimask import nn
from minimask.box_head import BoxPredictor, TwoLayerHead, detect
from minimask.tensor import Tensor
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


def test_layers_by_hand():
    head = TwoLayerHead(2 * 2 * 1, 2)
    head.fc6.weight.data[...] = [[1, 0], [0, 1], [0, 0], [0, -1]]
    head.fc7.weight.data[...] = [[1, 1], [2, -1]]
    head.fc6.bias.data[...], head.fc7.bias.data[...] = [0.5, 0], [0, -1]
    features = np.array([[[[1.0], [2]], [[3], [4]]], [[[1.0], [5]], [[3], [4]]]], np.float32)  # rows (1, 2), (3, 4)
    # RoI 0: (1.5, 2 - 4 -> 0), then (1.5, 1.5 - 1). RoI 1: (1.5, 5 - 4), then (1.5 + 2, 1.5 - 1 - 1 -> 0).
    np.testing.assert_allclose(head(Tensor(features)).data, [[1.5, 0.5], [3.5, 0]])


def test_predictions_begin_small():
    """Girshick 2015, section 2.3: deviations of 0.01 for the classes and 0.001 for the boxes, no bias."""
    nn.seed_initializers(0)
    predictor = BoxPredictor(1000, 21)
    assert predictor.cls_score.weight.data.std() == pytest.approx(0.01, rel=0.03)
    assert predictor.bbox_pred.weight.data.std() == pytest.approx(0.001, rel=0.03)
    assert abs(predictor.cls_score.weight.data.mean()) < 2e-4
    logits, deltas = predictor(Tensor(np.zeros((3, 1000), np.float32)))
    assert logits.shape == (3, 21) and deltas.shape == (3, 84)
    assert not logits.data.any() and not deltas.data.any()


def one_box(score, box=(0, 0, 10, 10), deltas=(0, 0, 0, 0), **settings):
    """What `detect` makes of one proposal that has a class of this score."""
    logits = np.array([[[0, np.log(score / (1 - score))]]])
    deltas = np.array([[[9, 9, 9, 9, *deltas]]], float)  # the background's box counts for nothing
    proposals, valid = np.array([[box]], float), np.ones((1, 1), bool)
    return detect(logits, deltas, proposals, valid, np.array([[60, 90]]), **settings)


def test_a_score_at_the_threshold_is_dropped():
    assert not one_box(0.5, score_threshold=0.5).valid.any()
    assert one_box(0.5, score_threshold=np.nextafter(0.5, 0)).valid[0, 0]
    assert not one_box(0.0499).valid.any() and one_box(0.0501).valid[0, 0]  # 0.05 by default


def test_deltas_are_divided_by_the_weights():
    found = one_box(0.9, box=(10, 20, 30, 60), deltas=(1, 2, 5 * np.log(0.5), 0))
    # The center (20, 40) moves by 20 * 1 / 10 and 40 * 2 / 10; the width halves, because 5 ln(1/2) / 5 = ln(1/2).
    np.testing.assert_allclose(found.boxes[0, 0], [17, 28, 27, 68 - 8], atol=1e-9)
    found = one_box(0.9, box=(10, 20, 30, 60), deltas=(0, 0, 0, 5 * np.log(0.5)))
    np.testing.assert_allclose(found.boxes[0, 0], [10, 30, 30, 50], atol=1e-9)


def test_boxes_without_a_size_are_dropped():
    assert not one_box(0.9, box=(100, 0, 120, 10)).valid.any()  # right of the image: width 0 after clipping
    assert not one_box(0.9, box=(5, 5, 5.009, 9)).valid.any() and one_box(0.9, box=(5, 5, 5.011, 9)).valid[0, 0]
    assert one_box(0.9, box=(5, 5, 5.009, 9), smallest_side=0.005).valid[0, 0]


def overlapping(count, step):
    """Boxes of one class, 10 wide, each `step` to the right of the one before and with a lower score."""
    x = np.arange(count) * step
    proposals = np.stack([x, np.zeros(count), x + 10, np.full(count, 10.0)], axis=1)[None]
    logits = np.stack([np.zeros(count), 3 - np.arange(count) / count], axis=1)[None]
    return logits, np.zeros((1, count, 8)), proposals, np.ones((1, count), bool), np.array([[20, 4000]])


def test_boxes_suppress_each_other_above_one_half():
    # Moved by 3.4 of 10, IoU = 6.6 / 13.4 = 0.493; moved by 3.3, 6.7 / 13.3 = 0.504.
    assert detect(*overlapping(2, 3.4)).valid.sum() == 2
    assert detect(*overlapping(2, 3.3)).valid.sum() == 1
    assert detect(*overlapping(2, 3.3), nms_threshold=0.51).valid.sum() == 2


def test_a_hundred_detections_by_default_and_places_without_one_are_zero():
    assert detect(*overlapping(120, 20)).valid.sum() == 100
    found = detect(*overlapping(3, 1))  # the first suppresses the others
    np.testing.assert_array_equal(found.valid, [[True, False, False]])
    for array in (found.boxes, found.labels, found.scores):
        assert np.all(array[0, 1:] == 0)  # 0, not NaN
    assert found.labels[0, 0] == 1
    assert found.labels.dtype == np.int64
