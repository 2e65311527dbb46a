"""RPN: head, proposals and losses against torchvision, and properties that hold for any weights."""

import numpy as np
import pytest

from minimask import nn
from minimask.boxes import iou
from minimask.device import generator
from minimask.optim import SGD
from minimask.rpn import RPN, RPNHead, side_by_side
from minimask.run.model_settings import RPNSettings
from minimask.structures import Batch
from minimask.tensor import Tensor
from minimask.trace import Trace

SIZES = np.array([[60, 90], [64, 40]])
PADDED = (64, 96)


def make(seed=0):
    """An RPN with random weights, and random features of two images on two levels."""
    nn.seed_initializers(seed)
    rpn = RPN(8, RPNSettings(anchor_sizes=((16,), (32,)), samples=32, pre_nms=(60, 50), post_nms=(40, 30)))
    rng = np.random.default_rng(seed)
    for _, p in rpn.named_parameters():
        p.data[...] = rng.standard_normal(p.shape) * 0.2
    return rpn, [rng.standard_normal((2, h, w, 8)).astype(np.float32) for h, w in ((16, 24), (8, 12))]


def batch_of_two():
    """One object in each image."""
    none = np.zeros((2, 1), bool)
    return Batch(
        np.zeros((2, *PADDED, 3), np.float32),
        SIZES,
        SIZES,
        boxes=np.array([[[10, 12, 40, 44]], [[4, 20, 20, 36]]], np.float32),
        labels=np.ones((2, 1), np.int64),
        crowd=none,
        valid=~none,
    )


def torchvision_rpn(rpn):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead

    theirs = RegionProposalNetwork(
        AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2),
        RPNHead(8, 3),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_top_n=dict(training=60, testing=50),
        post_nms_top_n=dict(training=40, testing=30),
        nms_thresh=0.7,
    )
    state = {k: torch.tensor(v.transpose(3, 2, 0, 1) if v.ndim == 4 else v) for k, v in rpn.state_dict().items()}
    theirs.load_state_dict(state)
    return torch, theirs


def test_the_order_of_the_predictions_is_level_row_column_anchor():
    rpn, features = make()
    logits, deltas, anchors = rpn([Tensor(f) for f in features], PADDED)
    counts = [16 * 24 * 3, 8 * 12 * 3]
    assert [len(a) for a in anchors] == counts
    assert logits.shape == (2, sum(counts)) and deltas.shape == (2, sum(counts), 4)

    coarse_logits, coarse_deltas = rpn.head(Tensor(features[1]))
    assert coarse_logits.shape == (2, 8, 12, 3) and coarse_deltas.shape == (2, 8, 12, 12)
    place = counts[0] + (5 * 12 + 7) * 3 + 2  # the last anchor of row 5, column 7 of the coarse level
    np.testing.assert_array_equal(logits.data[:, place], coarse_logits.data[:, 5, 7, 2])
    np.testing.assert_array_equal(deltas.data[:, place], coarse_deltas.data[:, 5, 7, 8:12])


def test_convolutions_in_one_pass_equal_separate_ones():
    rpn, features = make()
    rpn.to(np.float64)
    head, results = rpn.head, []
    layers = head.cls_logits, head.bbox_pred
    for together in (True, False):
        x = Tensor(features[1].astype(np.float64), requires_grad=True)
        outputs = side_by_side(x, *layers) if together else [layer(x) for layer in layers]
        rng = np.random.default_rng(1)
        first, second = ((y * rng.standard_normal(y.shape)).sum() for y in outputs)
        for p in head.parameters():
            p.grad = None
        (first + second).backward()
        grads = [p.grad for layer in layers for p in (layer.weight, layer.bias)]
        results.append([*(y.data for y in outputs), x.grad, *grads])
    for one, right in zip(*results):
        assert one.shape == right.shape
        np.testing.assert_allclose(one, right, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_proposals_equal_torchvision(training):
    rpn, features = make()
    torch, theirs = torchvision_rpn(rpn)
    rpn.train(training)
    theirs.train(training)
    logits, deltas, anchors = rpn([Tensor(f) for f in features], PADDED)
    boxes, scores, valid = rpn.proposals(logits.data, deltas.data, anchors, SIZES)
    with torch.no_grad():
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        maps = [torch.tensor(f).permute(0, 3, 1, 2) for f in features]
        objectness, box_deltas = theirs.head(maps)
        their_anchors = theirs.anchor_generator(ImageList(torch.zeros(2, 3, *PADDED), SIZES.tolist()), maps)
        counts = [o[0].numel() for o in objectness]
        objectness, box_deltas = concat_box_prediction_layers(objectness, box_deltas)
        decoded = theirs.box_coder.decode(box_deltas, their_anchors).view(2, -1, 4)
        expected, expected_scores = theirs.filter_proposals(decoded, objectness, SIZES.tolist(), counts)

    np.testing.assert_array_equal(np.concatenate(anchors), their_anchors[0].numpy())
    np.testing.assert_allclose(logits.data.reshape(-1), objectness.reshape(-1), atol=1e-5)
    np.testing.assert_allclose(deltas.data.reshape(-1, 4), box_deltas, atol=1e-5)
    for n in range(2):
        assert valid[n].sum() == len(expected[n]) > 20
        np.testing.assert_allclose(boxes[n][valid[n]], expected[n], rtol=0, atol=1e-3)
        np.testing.assert_allclose(scores[n][valid[n]], expected_scores[n], rtol=0, atol=1e-5)


def test_proposals_lie_in_their_image_and_do_not_overlap_much():
    rpn, features = make()
    rpn.eval()
    logits, deltas, anchors = rpn([Tensor(f) for f in features], PADDED)
    boxes, scores, valid = rpn.proposals(logits.data, deltas.data, anchors, SIZES)
    assert boxes.shape == (2, 30, 4) and valid.any(1).all()
    assert (boxes[~valid] == 0).all()
    assert (boxes[..., :2] >= 0).all()
    assert (boxes[..., 2] <= SIZES[:, 1:]).all() and (boxes[..., 3] <= SIZES[:, :1]).all()
    assert (np.diff(scores, axis=1)[valid[:, 1:]] <= 0).all()
    overlap = iou(boxes, boxes) * (1 - np.eye(30))
    assert (overlap > 0.7).sum() <= 4  # boxes of different levels may overlap, those of the same level may not


def test_gradients_of_the_losses():
    """Central differences in float64 for the bias of each 1x1 convolution."""
    rpn, features = make()
    rpn.to(np.float64)
    features = [Tensor(f.astype(np.float64)) for f in features]

    def loss():
        logits, deltas, anchors = rpn(features, PADDED)
        losses = rpn.losses(logits, deltas, anchors, batch_of_two(), generator(0))
        return losses["loss_objectness"] + 2 * losses["loss_rpn_box_reg"]

    loss().backward()
    for bias in (rpn.head.cls_logits.bias, rpn.head.bbox_pred.bias):
        for i in range(len(bias.data)):
            values = []
            for step in (1e-6, -1e-6):
                bias.data[i] += step
                values.append(loss().item())
                bias.data[i] -= step
            assert bias.grad[i] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_training_raises_the_score_of_the_object():
    rpn, features = make()
    sgd, totals = SGD(rpn.parameters(), lr=0.05), []
    for step in range(30):
        logits, deltas, anchors = rpn([Tensor(f) for f in features], PADDED)
        losses = rpn.losses(logits, deltas, anchors, batch_of_two(), generator(0, step))
        total = losses["loss_objectness"] + losses["loss_rpn_box_reg"]
        totals.append(total.item())
        sgd.zero_grad()
        total.backward()
        sgd.step()
    assert totals[-1] < 0.3 * totals[0]


# ------------------------------------------------------------------------------------------------- defaults, weights


def test_defaults_are_those_of_the_papers():
    """Ren et al. 2017, section 3.1.3, and Lin et al. 2017, section 5.1, as in torchvision."""
    settings = RPNSettings()
    assert (settings.low, settings.high) == (0.3, 0.7)
    assert (settings.samples, settings.positive_fraction) == (256, 0.5)
    assert settings.pre_nms == (2000, 1000) and settings.post_nms == (2000, 1000)
    assert settings.nms_threshold == 0.7 and settings.smallest_side == 1e-3
    assert settings.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert settings.anchor_ratios == (0.5, 1.0, 2.0)


def test_weights_begin_small():
    nn.seed_initializers(0)
    head = RPN(64, RPNSettings()).head
    for conv in (head.conv[0][0], head.cls_logits, head.bbox_pred):
        assert conv.weight.data.std() == pytest.approx(0.01, rel=0.08)
        assert not conv.bias.data.any()
    assert head.cls_logits.weight.shape == (1, 1, 64, 3) and head.bbox_pred.weight.shape == (1, 1, 64, 12)


def test_the_head_has_a_relu_between_its_convolutions():
    """A negative sum in the hidden map becomes 0, so that only the biases are left."""
    head = RPNHead(1, 3)
    head.conv[0][0].weight.data[...] = -1
    head.cls_logits.weight.data[...], head.bbox_pred.weight.data[...] = 5, 7
    head.cls_logits.bias.data[...], head.bbox_pred.bias.data[...] = [1, 2, 3], 4
    logits, deltas = head(Tensor(np.ones((1, 2, 2, 1), np.float32)))
    np.testing.assert_array_equal(logits.data, np.broadcast_to(np.float32([1, 2, 3]), (1, 2, 2, 3)))
    np.testing.assert_array_equal(deltas.data, np.full((1, 2, 2, 12), 4, np.float32))
    logits, _ = head(Tensor(-np.ones((1, 2, 2, 1), np.float32)))  # four cells of -1 times -1 make 4
    np.testing.assert_array_equal(logits.data, np.broadcast_to(np.float32([21, 22, 23]), (1, 2, 2, 3)))


def few(training, **settings):
    """Proposals of four anchors, best score first: the second overlaps the first, the last is outside the image."""
    rpn = RPN(8, RPNSettings(anchor_sizes=((16,),), anchor_ratios=(1.0,), **settings))
    rpn.train(training)
    anchors = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [95, 0, 99, 10]], np.float32)
    logits, deltas = np.array([[3.0, 2, 1, 4]], np.float32), np.zeros((1, 4, 4), np.float32)
    return rpn.proposals(logits, deltas, [anchors], np.array([[60, 90]]))


def test_places_without_a_proposal_are_zero():
    boxes, scores, valid = few(training=True)
    np.testing.assert_array_equal(valid[0, :3], [True, True, False])
    np.testing.assert_array_equal(boxes[0, :2], [[0, 0, 10, 10], [20, 0, 30, 10]])
    np.testing.assert_allclose(scores[0, :2], 1 / (1 + np.exp([-3.0, -1])), rtol=1e-6)
    assert np.all(boxes[0, 2:] == 0) and np.all(scores[0, 2:] == 0)  # 0, not NaN


@pytest.mark.parametrize("training, count", [(True, 1), (False, 2)])
def test_limits_in_training_and_in_inference(training, count):
    assert few(training, post_nms=(1, 2))[2].sum() == count
    assert few(training, pre_nms=(2, 4))[2].sum() == count  # the best two of the level are that outside and one more
    assert few(training, nms_threshold=0.9)[2].sum() == 3


def test_which_anchors_learn_what():
    """A crowd is left out, padding counts for nothing, and an object takes its best anchor, however badly that fits."""
    rpn = RPN(8, RPNSettings(anchor_sizes=((16,),), anchor_ratios=(1.0,), samples=8, positive_fraction=0.75))
    anchors = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [50, 0, 60, 10], [70, 0, 80, 10]], np.float32)
    batch = batch_of_two()
    batch.boxes = np.array([[[0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10], [70, 0, 74, 10]]], np.float32)
    batch.crowd, batch.valid = np.array([[False, True, False, False]]), np.array([[True, True, False, True]])
    logits, deltas = np.zeros((1, 5)), np.ones((1, 5, 4))
    with Trace() as stages:
        losses = rpn.losses(Tensor(logits), Tensor(deltas), [anchors], batch, generator(0))
        rpn.proposals(logits, deltas, [anchors], np.array([[60, 90]]))

    assert stages["rpn_labels"].tolist() == [[1, 1, -1, 0, 1]]
    assert stages["rpn_matches"][0, [0, 1, 4]].tolist() == [0, 0, 3]
    assert stages["rpn_positive"].sum() == 3 and stages["rpn_valid"].sum() == 4
    index, targets = stages["rpn_sampled"][0].tolist(), stages["rpn_targets"][0]
    assert sorted(index[:3]) == [0, 1, 4] and index[3] == 3
    # Anchor 1 moves left by 1 of its 10 pixels; anchor 4 moves left by 3 of 10, and its width becomes 4 of 10.
    expected = {0: [0, 0, 0, 0], 1: [-0.1, 0, 0, 0], 4: [-0.3, 0, np.log(0.4), 0]}
    for place in range(3):
        np.testing.assert_allclose(targets[place], expected[index[place]], atol=1e-6)
    assert not targets[3:].any()
    assert losses["loss_objectness"].item() == pytest.approx(np.log(2))
    np.testing.assert_array_equal(stages["anchors"], anchors)
    assert stages["objectness"].shape == (1, 5) and stages["rpn_deltas"].shape == (1, 5, 4)
    assert stages["proposals"].shape[2] == 4 and stages["proposal_valid"].any()


def test_one_level_is_enough():
    rpn = RPN(8, RPNSettings(anchor_sizes=((16,),)))
    logits, deltas, anchors = rpn([Tensor(np.zeros((2, 3, 4, 8), np.float32))], (12, 16))
    assert logits.shape == (2, 36) and deltas.shape == (2, 36, 4) and [len(a) for a in anchors] == [36]
