"""The losses against their formulas, torch, and finite differences; nothing to count gives 0."""

import numpy as np
import pytest

from minimask import losses
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients

rng = np.random.default_rng(0)
LABELS = np.array([0, 2, 1, 3, 0])
POSITIVE = LABELS > 0
SAMPLED = np.array([1, 1, 1, 1, 0], bool)


def test_objectness_by_hand():
    # ln(1 + e^0) = 0.6931 for a logit of 0 whatever the target; the third place is not sampled.
    loss = losses.objectness_loss(
        Tensor(np.zeros((1, 3))), np.array([[1, 0, 1]]), np.array([[1, 1, 0]])
    )  # fmt: skip
    assert loss.item() == pytest.approx(np.log(2), abs=1e-12)


def test_smooth_l1_by_hand():
    # beta 1/9: 0.1 lies in the square part, 0.1^2 * 9 / 2 = 0.045; 1 in the linear part, 1 - 1/18 = 0.9444.
    deltas = np.array([[[0.1, 1, 0, 0], [5, 5, 5, 5]]])
    loss = losses.rpn_box_loss(Tensor(deltas), np.zeros((1, 2, 4)), np.array([[1, 0]]), np.array([[1, 1]]))
    assert loss.item() == pytest.approx((0.045 + 1 - 1 / 18) / 2, abs=1e-12)


def test_equal_torch():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
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
    t, w = np.array([[1, 0, 1], [0, 1, 1]]), np.array([[1, 1, 0], [1, 1, 1]])
    targets = rng.standard_normal((5, 4))
    check_gradients(lambda z: losses.objectness_loss(z, t, w), rng.standard_normal((2, 3)))
    check_gradients(
        lambda x: losses.rpn_box_loss(x, targets[None], w[:1, [0, 0, 1, 1, 2]], w[1:, [0] * 5]), targets[None] * 3
    )
    check_gradients(lambda z: losses.class_loss(z, LABELS, SAMPLED), rng.standard_normal((5, 4)))
    check_gradients(lambda x: losses.box_loss(x, LABELS, targets, POSITIVE, SAMPLED), rng.standard_normal((5, 16)))
    check_gradients(lambda x: losses.box_loss(x, LABELS, targets, POSITIVE, SAMPLED), rng.standard_normal((5, 4)))


def test_nothing_to_count_is_zero_not_nan():
    z = Tensor(rng.standard_normal((5, 4)), requires_grad=True)
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


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"class_loss: labels and weights must be \(5,\), got \(4,\)"):
        losses.class_loss(Tensor(np.zeros((5, 4))), LABELS[:4], SAMPLED[:4])
    with pytest.raises(ValueError, match=r"objectness_loss: targets must have the shape \(2, 3\)"):
        losses.objectness_loss(Tensor(np.zeros((2, 3))), np.zeros((2, 4)), np.zeros((2, 3)))
