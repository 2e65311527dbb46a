"""The GPU kernels of the losses against the array code in float64: values and gradients."""

import numpy as np
import pytest

from minimask import losses
from minimask.losses import Loss
from minimask.tensor import Tensor


def random(*shape, seed=0, scale=3):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def compare(gpu, loss, logits, *others):
    """Compare loss(logits, *others) and its gradient for gy = 0.7: float32 kernels with float64 array code."""
    theirs = Tensor(logits.astype(np.float64), requires_grad=True)
    y = loss(theirs, *others)
    y.backward(np.asarray(0.7))
    ours = Tensor(gpu.asarray(logits.astype(np.float32)), requires_grad=True)
    others = [gpu.asarray(a.astype(np.float32) if a.dtype == np.float64 else a) for a in others]
    result = loss(ours, *others)
    result.backward(gpu.asarray(np.float32(0.7)))
    assert result.dtype == ours.grad.dtype == np.float32 and result.shape == ()
    np.testing.assert_allclose(result.data.get(), y.data, rtol=1e-5, atol=1e-7)
    largest = abs(theirs.grad).max(initial=0)
    np.testing.assert_allclose(ours.grad.get(), theirs.grad, rtol=0, atol=2e-6 * largest)
    return float(y.data), theirs.grad


def binary_cross_entropy(z, t, w):
    return Loss(losses.binary_cross_entropy, t, w)(z)


def cross_entropy(z, labels, w):
    return Loss(losses.cross_entropy, labels, w)(z)


# One number; one more than a warp; two blocks; more than the threads of 512 blocks process in one pass.
SIZES = [(1, 1), (3, 11), (2, 200), (3, 44000)]


@pytest.mark.parametrize("shape", SIZES)
def test_binary_cross_entropy(gpu, shape):
    t, w = np.random.default_rng(1).random((2, *shape))
    compare(gpu, binary_cross_entropy, random(*shape, scale=20), t, w)


@pytest.mark.parametrize("shape", SIZES[:3])
@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_smooth_l1(gpu, shape, beta):
    arrays = random(*shape, scale=1), random(*shape, seed=1, scale=0.5), abs(random(*shape))
    compare(gpu, lambda x, t, w: Loss(losses.smooth_l1, t, w, beta)(x), *arrays)


@pytest.mark.parametrize("rows, columns", [(1, 1), (7, 3), (9, 33), (40, 91), (3, 700), (4200, 2)])
@pytest.mark.parametrize("integers", [np.int32, np.int64])
def test_cross_entropy(gpu, rows, columns, integers):
    labels = np.random.default_rng(1).integers(0, columns, rows).astype(integers)
    compare(gpu, cross_entropy, random(rows, columns, scale=10), labels, abs(random(rows, seed=2)))


def test_logits_that_overflow(gpu):
    """e^1000 is infinite in float32, but the loss of a logit of 1000 is finite."""
    value, gradient = compare(gpu, binary_cross_entropy, np.array([1000.0, -1000]), np.zeros(2), np.ones(2))
    assert value == 1000 and gradient.tolist() == [0.7, 0]
    z = np.zeros((1, 70), np.float32)
    z[0, 3] = 1000  # one lane reads logits 3, 35 and 67
    y = cross_entropy(gpu.asarray(z), gpu.asarray(np.array([1])), gpu.asarray(np.ones(1, np.float32)))
    assert y.data.get() == 1000


def test_nan_stays_visible(gpu):
    z = random(300).astype(np.float32)
    z[77] = np.nan
    zeros, labels = gpu.asarray(np.zeros(300, np.float32)), gpu.asarray(np.zeros(30, np.int64))
    for loss, shape in (
        (Loss(losses.binary_cross_entropy, zeros, zeros + 1), 300),
        (Loss(losses.smooth_l1, zeros, zeros + 1, 1.0), 300),
        (Loss(losses.cross_entropy, labels, zeros[:30] + 1), (30, 10)),
    ):
        leaf = Tensor(gpu.asarray(z.reshape(shape)), requires_grad=True)
        y = loss(leaf)
        y.backward()
        assert np.isnan(y.data.get()) and np.isnan(leaf.grad.get().ravel()[77])


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("boxes, size, channels", [(1, 1, 1), (3, 5, 1), (4, 7, 3), (2, 14, 40)])
def test_mask_loss(gpu, kind, boxes, size, channels):
    rng = np.random.default_rng(1)
    labels, valid = rng.integers(0, channels, boxes), np.arange(boxes) != 1
    targets = rng.random((boxes, size, size))
    loss = lambda z, *others: losses.mask_loss(z, *others, kind=kind)  # noqa: E731
    _, gradient = compare(gpu, loss, random(boxes, size, size, channels, scale=5), labels, targets, valid)
    assert boxes == 1 or not gradient[1].any()


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_no_valid_box(gpu, kind):
    arrays = np.array([1, 0]), np.ones((2, 3, 3)), np.zeros(2, bool)
    loss = lambda z, *others: losses.mask_loss(z, *others, kind=kind)  # noqa: E731
    value, gradient = compare(gpu, loss, random(2, 3, 3, 2), *arrays)
    assert value == 0 and not gradient.any()


def test_losses_of_the_stages(gpu):
    """The functions that the model calls; a loss is 0 if nothing was sampled."""
    rng = np.random.default_rng(1)
    positive, valid = rng.random((2, 6)) < 0.4, rng.random((2, 6)) < 0.8
    compare(gpu, losses.objectness_loss, random(2, 6), positive, valid)
    compare(gpu, losses.rpn_box_loss, random(2, 6, 4, scale=1), random(2, 6, 4, seed=1, scale=1), positive, valid)
    labels, sampled = rng.integers(0, 3, 12), valid.reshape(-1)
    compare(gpu, losses.class_loss, random(12, 3), labels, sampled)
    targets = random(12, 4, seed=3, scale=1)
    others = labels, targets, (labels > 0) & sampled, sampled
    compare(gpu, losses.box_loss, random(12, 12, scale=1), *others)
    assert compare(gpu, losses.class_loss, random(12, 3), labels, np.zeros(12, bool))[0] == 0
    compare(gpu, losses.keypoint_loss, random(3, 4, 5, 2), rng.integers(0, 20, (3, 2)), rng.random((3, 2)) < 0.7)


def test_losses_do_not_wait(gpu):
    if not hasattr(gpu, "no_sync"):
        pytest.skip("CuPy cannot tell when it waits")
    float32 = lambda *shape: gpu.asarray(random(*shape).astype(np.float32))  # noqa: E731
    flags, labels, targets = gpu.asarray(np.ones(6, bool)), gpu.asarray(np.arange(6) % 3), float32(6, 4)
    with gpu.no_sync():
        logits = [Tensor(float32(*shape), requires_grad=True) for shape in ((6,), (6, 3), (6, 12), (6, 4, 4, 3))]
        objectness, classes, boxes, masks = logits
        total = losses.objectness_loss(objectness, flags, flags) + losses.class_loss(classes, labels, flags)
        total = total + losses.box_loss(boxes, labels, targets, flags, flags)
        for kind in ("sigmoid", "softmax"):
            total = total + losses.mask_loss(masks, labels, float32(6, 4, 4), flags, kind)
        total.backward()
    assert all(np.isfinite(z.grad.get()).all() for z in logits)


def test_no_rows(gpu):
    """Without rows, no kernel is launched, and the loss is 0."""
    empty = gpu.asarray(np.zeros((0, 3), np.float32))
    y = losses.class_loss(Tensor(empty, True), gpu.asarray(np.zeros(0, np.int64)), gpu.asarray(np.zeros(0, bool)))
    y.backward()
    assert y.data.get() == 0
