"""The losses against numbers by hand, formulas, torch and finite differences; a loss is 0 if nothing counts."""

import numpy as np
import pytest

from minimask import losses
from minimask.keypoint_head import keypoint_targets
from minimask.mask_head import mask_probabilities
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients

LABELS = np.array([0, 2, 1, 3, 0])
POSITIVE = LABELS > 0
SAMPLED = np.array([1, 1, 1, 1, 0], bool)


def test_objectness_by_hand():
    # ln(1 + e^0) = 0.6931 for a logit of 0, whatever the target is; the third anchor is not sampled.
    loss = losses.objectness_loss(Tensor(np.zeros((1, 3))), np.array([[1, 0, 1]]), np.array([[1, 1, 0]]))
    assert loss.item() == pytest.approx(np.log(2), abs=1e-12)


def test_smooth_l1_by_hand():
    # beta 1/9: 0.1 is in the quadratic part, 0.1^2 * 9 / 2 = 0.045; 1 is in the linear part, 1 - 1/18 = 0.9444.
    deltas = np.array([[[0.1, 1, 0, 0], [5, 5, 5, 5]]])
    loss = losses.rpn_box_loss(Tensor(deltas), np.zeros((1, 2, 4)), np.array([[1, 0]]), np.array([[1, 1]]))
    assert loss.item() == pytest.approx((0.045 + 1 - 1 / 18) / 2, abs=1e-12)


def test_equal_torch():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    rng = np.random.default_rng(0)
    logits, deltas, targets = rng.standard_normal((5, 4)), rng.standard_normal((5, 16)), rng.standard_normal((5, 4))
    found = losses.class_loss(Tensor(logits), LABELS, SAMPLED).item()
    expected = f.cross_entropy(torch.tensor(logits[:4]), torch.tensor(LABELS[:4])).item()
    assert found == pytest.approx(expected, abs=1e-12)
    found = losses.box_loss(Tensor(deltas), LABELS, targets, POSITIVE & SAMPLED, SAMPLED).item()
    own = deltas.reshape(5, 4, 4)[np.arange(5), LABELS][1:4]
    expected = f.smooth_l1_loss(torch.tensor(own), torch.tensor(targets[1:4]), beta=1 / 9, reduction="sum").item() / 4
    assert found == pytest.approx(expected, abs=1e-12)
    z = rng.standard_normal((2, 3)) * 5
    t, w = np.array([[1, 0, 1], [0, 1, 1]]), np.array([[1, 1, 0], [1, 1, 1]])
    expected = f.binary_cross_entropy_with_logits(torch.tensor(z)[w > 0], torch.tensor(t.astype(float))[w > 0]).item()
    assert losses.objectness_loss(Tensor(z), t, w).item() == pytest.approx(expected, abs=1e-12)


def test_gradients():
    rng = np.random.default_rng(0)
    t, w = np.array([[1, 0, 1], [0, 1, 1]]), np.array([[1, 1, 0], [1, 1, 1]])
    targets = rng.standard_normal((5, 4))
    check_gradients(lambda z: losses.objectness_loss(z, t, w), rng.standard_normal((2, 3)))
    check_gradients(
        lambda x: losses.rpn_box_loss(x, targets[None], w[:1, [0, 0, 1, 1, 2]], w[1:, [0] * 5]), targets[None] * 3
    )
    check_gradients(lambda z: losses.class_loss(z, LABELS, SAMPLED), rng.standard_normal((5, 4)))
    check_gradients(lambda x: losses.box_loss(x, LABELS, targets, POSITIVE, SAMPLED), rng.standard_normal((5, 16)))


def test_a_loss_is_zero_not_nan_if_nothing_counts():
    z = Tensor(np.random.default_rng(0).standard_normal((5, 4)), requires_grad=True)
    loss = losses.class_loss(z, LABELS, SAMPLED * False)
    loss.backward()
    assert loss.item() == 0 and (z.grad == 0).all()


def test_large_logits_are_finite():
    z = Tensor(np.array([[1000.0, -1000, 0]], np.float32), requires_grad=True)
    with np.errstate(over="raise", invalid="raise"):
        loss = losses.class_loss(z, np.array([1]), np.array([1]))
        loss.backward()
    assert loss.item() == 2000
    np.testing.assert_array_equal(z.grad, [[1, -1, 0]])


# --------------------------------------------------------------------------------------------------------------- masks


def mask_case(dtype=np.float64):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((4, 3, 3, 5)).astype(dtype)
    return logits, np.array([1, 4, 0, 2]), rng.random((4, 3, 3)), np.array([True, True, False, True])


def lectures_formula(logits, labels, targets, valid):
    """L28: -1/N sum (t log p + (1 - t) log(1 - p)) over the N points of a map, averaged over the valid boxes."""
    p = mask_probabilities(logits, labels)[valid]
    t = targets[valid]
    return -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))


def test_mask_loss_equals_the_lectures_formula():
    logits, labels, targets, valid = mask_case()
    found = losses.mask_loss(Tensor(logits), labels, targets, valid)
    assert found.shape == ()
    np.testing.assert_allclose(found.data, lectures_formula(logits, labels, targets, valid), rtol=1e-12)
    one = losses.mask_loss(Tensor(logits[..., :1]), labels, targets, valid)  # class-agnostic
    expected = lectures_formula(logits[..., :1], 0 * labels, targets, valid)
    np.testing.assert_allclose(one.data, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_mask_gradient_of_the_loss(kind):
    logits, labels, targets, valid = mask_case()
    check_gradients(lambda z: losses.mask_loss(z, labels, targets, valid, kind), logits, name=f"mask_loss {kind}")
    tensor = Tensor(logits, requires_grad=True)
    losses.mask_loss(tensor, labels, targets, valid, kind).backward()
    assert not tensor.grad[2].any()  # not valid
    if kind == "sigmoid":
        assert tensor.grad[1, :, :, 4].all() and not tensor.grad[1, :, :, :4].any()  # only its own class


def test_mask_softmax_loss_with_hard_targets_is_cross_entropy():
    logits, labels, targets, valid = mask_case()
    hard = (targets > 0.5).astype(float)
    classes = np.where(hard > 0, labels[:, None, None], 0)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, classes[..., None], 3)[valid].mean()
    np.testing.assert_allclose(losses.mask_loss(Tensor(logits), labels, hard, valid, "softmax").data, expected)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_mask_loss_without_boxes_and_with_extreme_logits(kind):
    logits, labels, targets, valid = mask_case(np.float32)
    with np.errstate(all="raise", under="ignore"):
        for count in (4, 0):
            tensor = Tensor(logits[:count], requires_grad=True)
            loss = losses.mask_loss(tensor, labels[:count], targets[:count], valid[:count] & False, kind)
            loss.backward()
            assert loss.item() == 0 and not tensor.grad.any() and tensor.grad.shape == tensor.shape
        tensor = Tensor(logits * 1e4, requires_grad=True)
        loss = losses.mask_loss(tensor, labels, targets, valid, kind)
        loss.backward()
    assert np.isfinite(loss.data) and np.isfinite(tensor.grad).all()
    assert loss.dtype == np.float32 and tensor.grad.dtype == np.float32
    spoilt = Tensor(logits.copy(), requires_grad=True)
    spoilt.data[2] = np.nan  # padding
    loss = losses.mask_loss(spoilt, labels, targets, valid, kind)
    loss.backward()
    assert np.isfinite(loss.data) and np.isfinite(spoilt.grad).all()


def test_mask_loss_equals_torch():
    torch = pytest.importorskip("torch")
    logits, labels, targets, valid = mask_case()
    tensor = Tensor(logits, requires_grad=True)
    loss = losses.mask_loss(tensor, labels, targets, valid)
    loss.backward()
    theirs = torch.tensor(logits, requires_grad=True)
    chosen = theirs[torch.arange(4), :, :, torch.tensor(labels)][torch.tensor(valid)]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(chosen, torch.tensor(targets)[torch.tensor(valid)])
    expected.backward()
    np.testing.assert_allclose(loss.data, expected.item(), atol=1e-10)
    np.testing.assert_allclose(tensor.grad, theirs.grad.numpy(), atol=1e-10)


# ----------------------------------------------------------------------------------------------------------- keypoints


def keypoint_case(dtype=np.float64):
    rng = np.random.default_rng(1)
    visible = np.array([[True, False, True], [False, False, False], [True, True, True]])
    return rng.standard_normal((3, 4, 4, 3)).astype(dtype), rng.integers(0, 16, (3, 3)), visible


def test_keypoint_loss_worked_numbers():
    logits = np.zeros((1, 2, 2, 1))
    for z, place, loss in ((0, 0, np.log(4)), (np.log(5), 3, np.log(8 / 5)), (np.log(5), 0, np.log(8))):
        logits[0, 1, 1, 0] = z
        found = losses.keypoint_loss(Tensor(logits), np.array([[place]]), np.array([[True]]))
        assert found.shape == () and found.item() == pytest.approx(loss)


def map_by_map(logits, places, visible):
    """L = -1/V sum log p[place] over the V visible keypoints, p the softmax of a whole map."""
    total = 0.0
    for r, k in np.argwhere(visible):
        z = logits[r, :, :, k].reshape(-1)  # (H * W,)
        total += np.log(np.exp(z).sum()) - z[places[r, k]]
    return total / visible.sum()


def test_keypoint_loss_equals_its_formula_and_counts_only_what_is_visible():
    logits, places, visible = keypoint_case()
    tensor = Tensor(logits, requires_grad=True)
    loss = losses.keypoint_loss(tensor, places, visible)
    loss.backward()
    np.testing.assert_allclose(loss.data, map_by_map(logits, places, visible), rtol=1e-12)
    by_map = abs(tensor.grad).sum((1, 2))  # (R, K)
    np.testing.assert_array_equal(by_map > 0, visible)
    check_gradients(lambda z: losses.keypoint_loss(z, places, visible), logits, name="keypoint_loss")


def test_keypoint_loss_without_keypoints_and_with_extreme_logits():
    logits, places, visible = keypoint_case(np.float32)
    with np.errstate(all="raise", under="ignore"):
        for count in (3, 0):
            tensor = Tensor(logits[:count], requires_grad=True)
            loss = losses.keypoint_loss(tensor, places[:count], visible[:count] & False)
            loss.backward()
            assert loss.item() == 0 and not tensor.grad.any() and tensor.grad.shape == tensor.shape
        tensor = Tensor(logits * 1e4, requires_grad=True)
        loss = losses.keypoint_loss(tensor, places, visible)
        loss.backward()
    assert np.isfinite(loss.data) and np.isfinite(tensor.grad).all()
    assert loss.dtype == np.float32 and tensor.grad.dtype == np.float32


def test_keypoint_loss_equals_torchvision():
    torch = pytest.importorskip("torch")
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    rng = np.random.default_rng(2)
    keypoints = np.concatenate([rng.uniform(0, 50, (2, 3, 4, 2)), rng.integers(0, 3, (2, 3, 4, 1))], axis=3)
    corner = rng.uniform(-5, 30, (2, 40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (2, 40, 2))], axis=2)
    keypoints, boxes, matches = keypoints.astype(np.float32), boxes.astype(np.float32), rng.integers(0, 3, (2, 40))
    logits = rng.standard_normal((80, 8, 8, 4))
    places, visible = keypoint_targets(keypoints, boxes, matches, 8)
    tensor = Tensor(logits, requires_grad=True)
    loss = losses.keypoint_loss(tensor, places.reshape(80, 4), visible.reshape(80, 4))
    loss.backward()
    theirs = torch.tensor(logits.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    of_images = (list(map(torch.tensor, x)) for x in (boxes, keypoints, matches))
    expected = roi_heads.keypointrcnn_loss(theirs, *of_images)
    expected.backward()
    np.testing.assert_allclose(loss.data, expected.item(), rtol=1e-10)
    np.testing.assert_allclose(tensor.grad, theirs.grad.numpy().transpose(0, 2, 3, 1), atol=1e-12)


# ------------------------------------------------------------------------------------------------- what does not fit


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"class_loss: labels must have shape \(5,\), got \(4,\)"):
        losses.class_loss(Tensor(np.zeros((5, 4))), LABELS[:4], SAMPLED[:4])
    with pytest.raises(ValueError, match=r"objectness_loss: targets must have shape \(2, 3\), got"):
        losses.objectness_loss(Tensor(np.zeros((2, 3))), np.zeros((2, 4)), np.zeros((2, 3)))
    logits, labels, targets, valid = mask_case()
    with pytest.raises(ValueError, match=r"mask_loss: targets must have shape \(4, 3, 3\), got \(4, 3, 2\)"):
        losses.mask_loss(Tensor(logits), labels, targets[:, :, :2], valid)
    with pytest.raises(ValueError, match='mask_loss: kind must be "sigmoid" or "softmax", got \'dice\''):
        losses.mask_loss(Tensor(logits), labels, targets, valid, kind="dice")
    with pytest.raises(ValueError, match=r"mask_loss: labels must have shape \(4,\), got \(2,\)"):
        losses.mask_loss(Tensor(logits), labels[:2], targets, valid)
    with pytest.raises(ValueError, match=r"mask_loss: valid must have shape \(4,\), got \(3,\)"):
        losses.mask_loss(Tensor(logits), labels, targets, valid[:3])
    with pytest.raises(ValueError, match=r"mask_loss: logits must have shape \(R, M, M, C\), got \(4, 3, 3\)"):
        losses.mask_loss(Tensor(logits[..., 0]), labels, targets, valid)
    logits, places, visible = keypoint_case()
    with pytest.raises(ValueError, match=r"keypoint_loss: places must have shape \(3, 3\), got \(3, 2\)"):
        losses.keypoint_loss(Tensor(logits), places[:, 1:], visible)


# --------------------------------------------------------------------------------- targets that are not 0, by hand


@pytest.mark.parametrize("smooth_l1", [losses.smooth_l1, losses.smooth_l1.plain])
def test_smooth_l1_looks_at_the_difference(smooth_l1):
    # x - t is (0.1, -1, 0, 3): quadratic, linear, nothing, linear; its gradient has the sign of x - t.
    x, t = np.array([0.3, 1.0, -2, 5]), np.array([0.2, 2.0, -2, 2])
    y, gx = smooth_l1(x, t, np.array([1.0, 1, 1, 0.5]), 1 / 9)
    assert y == pytest.approx(0.045 + (1 - 1 / 18) + 0.5 * (3 - 1 / 18), abs=1e-12)
    np.testing.assert_allclose(gx, [0.9, -1, 0, 0.5], atol=1e-12)


@pytest.mark.parametrize("smooth_l1", [losses.smooth_l1, losses.smooth_l1.plain])
def test_smooth_l1_where_its_parts_meet(smooth_l1):
    # At d = beta both parts give beta / 2, and the gradient is 1.
    y, gx = smooth_l1(np.array([0.75]), np.array([0.5]), np.ones(1), 0.25)
    assert (y, gx[0]) == (0.125, 1.0)


@pytest.mark.parametrize("formula", [losses.binary_cross_entropy, losses.binary_cross_entropy.plain])
def test_objectness_of_a_target(formula):
    # -ln sigmoid(2) for an object, -ln(1 - sigmoid(2)) for background; gradient sigmoid - t.
    p = 1 / (1 + np.exp(-2.0))
    y, gz = formula(np.array([2.0, 2.0]), np.array([1.0, 0.0]), np.array([1.0, 0.25]))
    assert y == pytest.approx(-np.log(p) - 0.25 * np.log(1 - p), abs=1e-12)
    np.testing.assert_allclose(gz, [p - 1, 0.25 * p], atol=1e-12)


def test_box_losses_take_the_class_and_divide_by_the_sampled():
    deltas = np.zeros((2, 12))
    deltas[0, 8:] = [1.5, 1, 2, 0.5]  # class 2
    targets = np.array([[0.5, 1, 1, 1.0], [7, 7, 7, 7]])
    found = losses.box_loss(Tensor(deltas), np.array([2, 0]), targets, np.array([1, 0]), np.array([1, 1]))
    assert found.item() == pytest.approx((1 + 1 + 0.5 - 3 / 18) / 2, abs=1e-12)
    found = losses.rpn_box_loss(
        Tensor(np.array([[[1.5, 1, 2, 0.5]]])), targets[None, :1], np.array([[1]]), np.array([[1]])
    )
    assert found.item() == pytest.approx(1 + 1 + 0.5 - 3 / 18, abs=1e-12)


@pytest.mark.parametrize("formula", [losses.cross_entropy, losses.cross_entropy.plain])
def test_cross_entropy_of_a_label(formula):
    # Softmax of (0, ln 3) is (1/4, 3/4); label 1 with weight 2, label 0 with weight 0.5.
    z = np.array([[0, np.log(3)], [0, np.log(3)]])
    y, gz = formula(z, np.array([1, 0]), np.array([2.0, 0.5]))
    assert y == pytest.approx(-2 * np.log(0.75) - 0.5 * np.log(0.25), abs=1e-12)
    np.testing.assert_allclose(gz, [[0.5, -0.5], [-0.375, 0.375]], atol=1e-12)


@pytest.mark.parametrize("formula", [losses.sigmoid_mask_loss, losses.sigmoid_mask_loss.plain])
def test_mask_loss_of_a_target(formula):
    p, logits = 1 / (1 + np.exp(-2.0)), np.zeros((2, 1, 1, 3))
    logits[:, 0, 0] = [9, 2, -9]
    y, gz = formula(logits, np.array([1, 1]), np.array([0.75, 0]).reshape(2, 1, 1), np.array([True, False]), 4.0)
    assert y == pytest.approx(-(0.75 * np.log(p) + 0.25 * np.log(1 - p)) / 4, abs=1e-12)
    np.testing.assert_allclose(gz[:, 0, 0], [[0, (p - 0.75) / 4, 0], [0, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("formula", [losses.softmax_mask_loss, losses.softmax_mask_loss.plain])
def test_mask_softmax_loss_of_a_target(formula):
    logits = np.log(np.array([1.0, 2, 5])).reshape(1, 1, 1, 3)  # probabilities 1/8, 2/8, 5/8
    y, gz = formula(logits, np.array([2]), np.full((1, 1, 1), 0.75), np.array([True]), 2.0)
    assert y == pytest.approx(-(0.75 * np.log(5 / 8) + 0.25 * np.log(1 / 8)) / 2, abs=1e-12)
    np.testing.assert_allclose(gz[0, 0, 0], np.array([1 / 8 - 0.25, 2 / 8, 5 / 8 - 0.75]) / 2, atol=1e-12)
