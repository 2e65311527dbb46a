"""Checks of notebook 11: binary cross-entropy of probabilities and of logits, its gradient, and the three losses.

z is a logit, p = sigmoid(z) the probability, t the target, all of the same shape. A loss is one number.
"""

import numpy as np

from minimask import losses
from minimask.check.engine import Check
from minimask.functional import sigmoid_array, softmax_array
from minimask.tensor import Tensor

# ------------------------------------------------------------------------------- binary cross-entropy of probabilities


def _log(x):
    """ln x, at least -100."""
    return np.maximum(np.log(np.maximum(x, 1e-300)), -100)


def _bce(p, t, log=_log, average=np.mean):
    return -average(t * log(p) + (1 - t) * log(1 - p))


def _map(rng, height, width):
    return dict(p=rng.uniform(0.01, 0.99, (height, width)), t=rng.integers(0, 2, (height, width)).astype(float))


def _no_picture(*shown):
    """A loss is one number, so there are no cells to show."""


_rng = np.random.default_rng(11)
SUM = "the sum over all points instead of their average"
SIGN = "the wrong sign: the logarithm of a probability is negative, so there must be a minus"
SWAPPED = "target and prediction swapped: the logarithm is taken of the prediction"

bce = Check(
    reference=_bce,
    draw=_no_picture,
    cases={
        "the lecture's four points": dict(p=np.array([0.1, 0.7, 0.5, 0.8]), t=np.array([0.0, 1.0, 1.0, 1.0])),
        "one point of background": dict(p=np.array([[0.1]]), t=np.array([[0.0]])),
        "28 x 28 points": _map(_rng, 28, 28),
        "a soft target: a cell at the object's edge is half inside": dict(
            p=np.array([0.2, 0.5, 0.9]), t=np.array([0.5, 0.5, 0.25])
        ),
        "confident and right: the loss is 0": dict(p=np.array([0.0, 1.0]), t=np.array([0.0, 1.0])),
        "confident and wrong: ln 0 counts as -100": dict(p=np.array([1.0, 0.5]), t=np.array([0.0, 1.0])),
    },
    random=lambda rng: _map(rng, *rng.integers(1, 6, 2)),
    covers="0 and 1, soft targets, confident and wrong predictions",
    mistakes={
        SUM: lambda p, t: _bce(p, t, average=np.sum),
        SIGN: lambda p, t: -_bce(p, t),
        SWAPPED: lambda p, t: _bce(t, p),
        "a logarithm to base 2 instead of the natural one": lambda p, t: _bce(p, t) / np.log(2),
        "a logarithm to base 10 instead of the natural one": lambda p, t: _bce(p, t) / np.log(10),
        "half of the formula: background (t = 0) counts, too, with ln(1 - p)": lambda p, t: -np.mean(t * _log(p)),
        "ln 0 is minus infinity, and 0 times infinity is not a number": lambda p, t: _bce(p, t, np.log),
        "p limited to between 0 and 1, instead of the logarithm to at least -100": lambda p, t: _bce(
            np.clip(p, 1e-7, 1 - 1e-7), t, np.log
        ),
    },
)

# -------------------------------------------------------------------------------------------------------------- logits


def _bce_with_logits(z, t, average=np.mean):
    return average(np.maximum(z, 0) - z * t + np.log1p(np.exp(-abs(z))))


def _gradient(z, t, n=None):
    return (sigmoid_array(z) - t) / (n or z.size)


def _logits(rng, height, width):
    return dict(z=3 * rng.standard_normal((height, width)), t=rng.integers(0, 2, (height, width)).astype(float))


_FOUR = dict(z=np.log(np.array([0.1, 0.7, 0.5, 0.8]) / np.array([0.9, 0.3, 0.5, 0.2])), t=np.array([0.0, 1, 1, 1]))
_SURE = dict(z=np.array([1000.0, -1000.0, 40.0, 3.0]), t=np.array([0.0, 1.0, 1.0, 1.0]))

bce_with_logits = Check(
    reference=_bce_with_logits,
    draw=_no_picture,
    cases={
        "the lecture's four points": _FOUR,
        "a logit of 0: ln 2 for any target": dict(z=np.zeros(2), t=np.array([0.0, 1.0])),
        "28 x 28 points": _logits(_rng, 28, 28),
        "soft targets": dict(z=np.array([-1.0, 0.5, 2.0]), t=np.array([0.5, 0.25, 0.5])),
        "a logit of 40, for which 1 - p is rounded to 0": dict(z=np.array([40.0, -2.0]), t=np.array([0.0, 1.0])),
        "a logit of 1000": _SURE,
    },
    random=lambda rng: _logits(rng, *rng.integers(1, 6, 2)),
    covers="logits from -1000 to 1000, soft targets",
    mistakes={
        SUM: lambda z, t: _bce_with_logits(z, t, np.sum),
        SIGN: lambda z, t: -_bce_with_logits(z, t),
        SWAPPED: lambda z, t: _bce_with_logits(t, z),
        "z treated as a probability": lambda z, t: _bce(np.clip(z, 0, 1), t),
        "e^z of a large z is infinite: take out max(z, 0) first, so that e^-|z| is at most 1": lambda z, t: np.mean(
            np.log1p(np.exp(z)) - z * t
        ),
        "the logarithm of a rounded probability: ln(1 - p) for p = 1": lambda z, t: _bce(sigmoid_array(z), t, np.log),
        "the logarithm limited to -100: the loss of a logit of 1000 must be 1000": lambda z, t: _bce(
            sigmoid_array(z), t
        ),
    },
)

bce_gradient = Check(
    reference=_gradient,
    cases={
        "the lecture's four points": _FOUR,
        "4 x 5 points": _logits(_rng, 4, 5),
        "soft targets": dict(z=np.array([-1.0, 0.5, 2.0]), t=np.array([0.5, 0.25, 0.5])),
        "a logit of 1000": _SURE,
    },
    random=lambda rng: _logits(rng, *rng.integers(1, 6, 2)),
    covers="logits from -1000 to 1000, soft targets",
    mistakes={
        "t - p instead of p - t: the gradient points to where the loss grows": lambda z, t: -_gradient(z, t),
        "not divided by N: the loss is an average": lambda z, t: _gradient(z, t, 1),
        "z - t: the sigmoid is missing": lambda z, t: (z - t) / z.size,
        "the gradient of (p - t)^2 / 2, which contains the sigmoid's slope p (1 - p)": lambda z, t: (
            _gradient(z, t) * sigmoid_array(z) * (1 - sigmoid_array(z))
        ),
        "the gradient with respect to p instead of z: the sigmoid's slope is missing": lambda z, t: (
            (sigmoid_array(z) - t) / (sigmoid_array(z) * (1 - sigmoid_array(z))) / z.size
        ),
        "e^z / (1 + e^z) of a large z is infinity divided by infinity": lambda z, t: (
            (np.exp(z) / (1 + np.exp(z)) - t) / z.size
        ),
    },
)

# ----------------------------------------------------------------------------------------------------- the mask's loss


def _mask_loss(logits, labels, targets, valid):
    return losses.mask_loss(Tensor(logits), labels, targets, valid).item()


def _masks(rng, boxes, size, classes):
    return dict(
        logits=2 * rng.standard_normal((boxes, size, size, classes)),
        labels=rng.integers(1, classes, boxes),
        targets=rng.integers(0, 2, (boxes, size, size)).astype(float),
        valid=np.arange(boxes) < max(1, boxes - 1),
    )


def _of_all_channels(logits, labels, targets, valid):
    """Every class should predict the mask."""
    each = [_mask_loss(logits, 0 * labels + c, targets, valid) for c in range(logits.shape[3])]
    return float(np.mean(each))


def _others_empty(logits, labels, targets, valid):
    """The other classes should predict an empty mask."""
    own = (labels[:, None] == np.arange(logits.shape[3]))[:, None, None]  # (R, 1, 1, C)
    return _bce_with_logits(logits[valid], (targets[..., None] * own)[valid]) if valid.any() else 0.0


_ONE = dict(
    logits=np.array([[[[9.0, 0.0, -2.0, 1.0]]]]),
    labels=np.array([1]),
    targets=np.array([[[1.0]]]),
    valid=np.array([True]),
)

mask_loss = Check(
    reference=_mask_loss,
    draw=_no_picture,
    cases={
        "three boxes, two of which count": _masks(_rng, 3, 4, 4),
        "one cell with a logit of 0: ln 2": _ONE,
        "28 x 28 points": _masks(_rng, 4, 28, 4),
        "soft targets": {**_masks(_rng, 2, 3, 4), "targets": _rng.uniform(0, 1, (2, 3, 3))},
        "no box counts: the loss is 0": {**_masks(_rng, 2, 3, 4), "valid": np.zeros(2, bool)},
    },
    random=lambda rng: _masks(rng, int(rng.integers(2, 6)), int(rng.integers(1, 5)), int(rng.integers(3, 6))),
    covers="several boxes, boxes that do not count, no box that counts",
    mistakes={
        "all classes compared with the mask, instead of only the channel of the box's class": _of_all_channels,
        "the other classes are trained to predict an empty mask: they do not count": _others_empty,
        "classes that compete (softmax)": lambda z, c, t, v: losses.mask_loss(Tensor(z), c, t, v, "softmax").item(),
        "the channel before the right one: channel 0 is the background": lambda z, c, t, v: _mask_loss(z, c - 1, t, v),
        "boxes that do not count are included": lambda z, c, t, v: _mask_loss(z, c, t, v | True),
        "divided by the number of all boxes instead of those that count": lambda z, c, t, v: (
            _mask_loss(z, c, t, v) * v.mean()
        ),
        "the sum over a mask's points instead of their average": lambda z, c, t, v: (
            _mask_loss(z, c, t, v) * z.shape[1] ** 2
        ),
        "0 divided by 0: if nothing counts, the loss is 0, so divide by at least 1": lambda z, c, t, v: (
            _mask_loss(z, c, t, v) * v.sum() / v.sum()
        ),
    },
)

# ------------------------------------------------------------------------------------------------- classes and boxes


def _class_loss(logits, labels, sampled):
    return losses.class_loss(Tensor(logits), labels, sampled).item()


def _classes(rng, rois, classes):
    return dict(
        logits=2 * rng.standard_normal((rois, classes)),
        labels=rng.integers(0, classes, rois),
        sampled=np.arange(rois) < max(1, rois - 1),
    )


def _chosen(x, labels):
    return x[np.arange(len(labels)), labels]


def _unshifted(logits, labels, sampled):
    each = np.log(np.exp(logits).sum(1)) - _chosen(logits, labels)
    return each[sampled].sum() / max(sampled.sum(), 1)


class_loss = Check(
    reference=_class_loss,
    draw=_no_picture,
    cases={
        "four RoIs, three of which are sampled": _classes(_rng, 4, 4),
        "equal logits: ln 4": dict(logits=np.ones((1, 4)), labels=np.array([2]), sampled=np.array([True])),
        "background is a class": dict(
            logits=np.array([[3.0, 0, 0, 1]]), labels=np.array([0]), sampled=np.array([True])
        ),
        "a logit of 1000": dict(
            logits=np.array([[0.0, 1000, 0, 0], [1000.0, 0, 0, 0]]), labels=np.array([1, 3]), sampled=np.ones(2, bool)
        ),
        "nothing is sampled: the loss is 0": {**_classes(_rng, 3, 4), "sampled": np.zeros(3, bool)},
    },
    random=lambda rng: _classes(rng, int(rng.integers(2, 7)), int(rng.integers(2, 6))),
    covers="background, large logits, RoIs that are not sampled, no sampled RoI",
    mistakes={
        "the sum over the RoIs instead of their average": lambda z, c, s: _class_loss(z, c, s) * max(s.sum(), 1),
        "divided by the number of all RoIs instead of the sampled ones": lambda z, c, s: (
            _class_loss(z, c, s) * s.mean()
        ),
        "RoIs that were not sampled are included": lambda z, c, s: _class_loss(z, c, s | True),
        SIGN: lambda z, c, s: -_class_loss(z, c, s),
        "one minus the probability: the logarithm is missing": lambda z, c, s: (
            (1 - _chosen(softmax_array(z), c)[s]).sum() / max(s.sum(), 1)
        ),
        "each class on its own, with a sigmoid: the classes share one probability": lambda z, c, s: (
            np.log1p(np.exp(-_chosen(z, c)))[s].sum() / max(s.sum(), 1)
        ),
        "e^z of a large z is infinite: subtract the largest logit of the row first": _unshifted,
        "0 divided by 0: if nothing is sampled, the loss is 0, so divide by at least 1": lambda z, c, s: (
            _class_loss(z, c, s) * s.sum() / s.sum()
        ),
    },
)


def _box_loss(deltas, targets, positive, sampled, beta):
    labels = np.zeros(len(deltas), np.int64)
    return losses.box_loss(Tensor(deltas), labels, targets, positive, sampled, beta).item()


def _deltas(rng, rois, beta=1 / 9):
    sampled = np.arange(rois) < max(1, rois - 1)
    return dict(
        deltas=rng.standard_normal((rois, 4)) / 3,
        targets=rng.standard_normal((rois, 4)) / 3,
        positive=sampled & (np.arange(rois) < max(1, rois // 2)),
        sampled=sampled,
        beta=beta,
    )


def _piecewise(d, x, positive, sampled, beta, square, line):
    size = abs(d - x)
    return (np.where(size < beta, square(size), line(size)).sum(1) * positive).sum() / max(sampled.sum(), 1)


_TWO = dict(
    deltas=np.array([[0.1, 1.0, 0, 0], [5.0, 5, 5, 5]]),
    targets=np.zeros((2, 4)),
    positive=np.array([True, False]),
    sampled=np.array([True, True]),
    beta=1 / 9,
)

box_loss = Check(
    reference=_box_loss,
    draw=_no_picture,
    cases={
        "one object and one background: d = 0.1 and d = 1": _TWO,
        "six RoIs, five of which are sampled and three are objects": _deltas(_rng, 6),
        "another beta": _deltas(_rng, 4, beta=1.0),
        "an error of exactly beta": dict(
            deltas=np.full((1, 4), 0.5),
            targets=np.zeros((1, 4)),
            positive=np.array([True]),
            sampled=np.array([True]),
            beta=0.5,
        ),
        "no object: the loss is 0": {**_deltas(_rng, 3), "positive": np.zeros(3, bool)},
        "nothing sampled: the loss is 0": {
            **_deltas(_rng, 3),
            "positive": np.zeros(3, bool),
            "sampled": np.zeros(3, bool),
        },
    },
    random=lambda rng: _deltas(rng, int(rng.integers(2, 8)), float(rng.choice([1 / 9, 0.5, 1.0]))),
    covers="small and large errors, several betas, background, nothing sampled",
    mistakes={
        "divided by the number of positives instead of sampled RoIs": lambda d, x, p, s, b: _box_loss(d, x, p, p, b),
        "divided by 4 as well: the four numbers of a box are added up": lambda d, x, p, s, b: (
            _box_loss(d, x, p, s, b) / 4
        ),
        "background is included: it has no box to learn": lambda d, x, p, s, b: _box_loss(d, x, s, s, b),
        "only the square (L2)": lambda d, x, p, s, b: _piecewise(
            d, x, p, s, b, lambda e: e**2 / 2 / b, lambda e: e**2 / 2 / b
        ),
        "only the absolute value (L1)": lambda d, x, p, s, b: _piecewise(d, x, p, s, b, lambda e: e, lambda e: e),
        "the line without - beta / 2: it must meet the parabola at beta": lambda d, x, p, s, b: _piecewise(
            d, x, p, s, b, lambda e: e**2 / 2 / b, lambda e: e
        ),
        "the square is not divided by beta: it must meet the line at beta": lambda d, x, p, s, b: _piecewise(
            d, x, p, s, b, lambda e: e**2 / 2, lambda e: e - b / 2
        ),
        "beta is always 1, regardless of the argument": lambda d, x, p, s, b: _box_loss(d, x, p, s, 1.0),
        "0 divided by 0: if nothing is sampled, the loss is 0, so divide by at least 1": lambda d, x, p, s, b: (
            _box_loss(d, x, p, s, b) * s.sum() / s.sum()
        ),
    },
)
