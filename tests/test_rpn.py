"""RPN: head, proposals and losses; against torchvision, and what must hold anywhere."""

import numpy as np
import pytest

from minimask import nn
from minimask.device import generator
from minimask.rpn import RPN, logits_and_deltas
from minimask.structures import Batch
from minimask.tensor import Tensor

SIZES = np.array([[60, 90], [64, 40]])
PADDED = (64, 96)


def make(seed=0, **settings):
    nn.seed_initializers(seed)
    rpn = RPN(8, ((16,), (32,)), samples=32, pre_nms=(60, 50), post_nms=(40, 30), **settings)
    rng = np.random.default_rng(seed)
    for _, p in rpn.named_parameters():
        p.data[...] = rng.standard_normal(p.shape) * 0.2
    return rpn, [rng.standard_normal((2, h, w, 8)).astype(np.float32) for h, w in ((16, 24), (8, 12))]


def torchvision_rpn(rpn):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead

    theirs = RegionProposalNetwork(
        AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2), RPNHead(8, 3), 0.7, 0.3, 32, 0.5,
        dict(training=60, testing=50), dict(training=40, testing=30), 0.7,
    )  # fmt: skip
    state = {k: torch.tensor(v.transpose(3, 2, 0, 1) if v.ndim == 4 else v) for k, v in rpn.state_dict().items()}
    theirs.load_state_dict(state)
    return torch, theirs


@pytest.mark.parametrize("training", [False, True])
def test_proposals_equal_torchvision(training):
    rpn, features = make()
    torch, theirs = torchvision_rpn(rpn)
    rpn.train(training), theirs.train(training)
    predictions, anchors = rpn([Tensor(f) for f in features], PADDED)
    boxes, scores, valid = rpn.proposals(predictions.data, anchors, SIZES)
    with torch.no_grad():
        maps = [torch.tensor(f).permute(0, 3, 1, 2) for f in features]
        objectness, box_deltas = theirs.head(maps)
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        their_anchors = theirs.anchor_generator(ImageList(torch.zeros(2, 3, *PADDED), SIZES.tolist()), maps)
        counts = [o[0].numel() for o in objectness]
        objectness, box_deltas = concat_box_prediction_layers(objectness, box_deltas)
        decoded = theirs.box_coder.decode(box_deltas, their_anchors).view(2, -1, 4)
        expected, expected_scores = theirs.filter_proposals(decoded, objectness, SIZES.tolist(), counts)
    np.testing.assert_array_equal(np.concatenate(anchors), their_anchors[0].numpy())
    np.testing.assert_allclose(logits_and_deltas(predictions.data)[0].reshape(-1), objectness.reshape(-1), atol=1e-5)
    for n in range(2):
        assert valid[n].sum() == len(expected[n]) > 20
        np.testing.assert_allclose(boxes[n][valid[n]], expected[n], rtol=0, atol=1e-3)
        np.testing.assert_allclose(scores[n][valid[n]], expected_scores[n], rtol=0, atol=1e-5)


def test_proposals_lie_in_their_image_and_keep_their_distance():
    from minimask.boxes import iou

    rpn, features = make()
    rpn.eval()
    predictions, anchors = rpn([Tensor(f) for f in features], PADDED)
    boxes, scores, valid = rpn.proposals(predictions.data, anchors, SIZES)
    assert boxes.shape == (2, 30, 4) and valid.any(1).all()
    assert (boxes[~valid] == 0).all()
    assert (
        (boxes[..., :2] >= 0).all() and (boxes[..., 2] <= SIZES[:, 1:]).all() and (boxes[..., 3] <= SIZES[:, :1]).all()
    )
    assert (np.diff(scores, axis=1)[valid[:, 1:]] <= 0).all()
    overlap = iou(boxes, boxes) * (1 - np.eye(30))
    assert (overlap > 0.7).sum() <= 4  # boxes of two levels may overlap, those of one may not


def test_training_raises_the_score_of_the_object():
    rpn, features = make()
    from minimask.optim import SGD

    none = np.zeros((2, 1), bool)
    batch = Batch(
        np.zeros((2, *PADDED, 3), np.float32), SIZES, SIZES,
        boxes=np.array([[[10, 12, 40, 44]], [[4, 20, 20, 36]]], np.float32),
        labels=np.ones((2, 1), np.int64), crowd=none, valid=~none,
    )  # fmt: skip
    sgd, first = SGD(rpn.parameters(), lr=0.05), None
    for step in range(30):
        predictions, anchors = rpn([Tensor(f) for f in features], PADDED)
        losses = rpn.losses(predictions, anchors, batch, generator(0, step))
        total = losses["loss_objectness"] + losses["loss_rpn_box_reg"]
        first = first or total.item()
        sgd.zero_grad()
        total.backward()
        sgd.step()
    assert total.item() < 0.3 * first
