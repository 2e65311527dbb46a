"""Checks of notebook 11: right answers pass, typical wrong ones are named, and the text has torch's numbers."""

import numpy as np
import pytest

from tests import answers


def bce(p, t):
    with np.errstate(divide="ignore"):
        yes, no = np.maximum(np.log(p), -100), np.maximum(np.log(1 - p), -100)
    return -(t * yes + (1 - t) * no).mean()


def bce_with_logits(z, t):
    return (np.maximum(z, 0) - z * t + np.log1p(np.exp(-abs(z)))).mean()


def sigmoid(z):
    e = np.exp(-abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def bce_gradient(z, t):
    return (sigmoid(z) - t) / z.size


def mask_loss(logits, labels, targets, valid):
    losses = [bce_with_logits(z[:, :, c], t) for z, c, t, v in zip(logits, labels, targets, valid) if v]
    return sum(losses) / max(len(losses), 1)


def class_loss(logits, labels, sampled):
    shifted = logits - logits.max(axis=1, keepdims=True)
    each = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return (each * sampled).sum() / max(sampled.sum(), 1)


def box_loss(deltas, targets, positive, sampled, beta):
    size = abs(deltas - targets)
    each = np.where(size < beta, size**2 / (2 * beta), size - beta / 2).sum(axis=1)
    return (each * positive).sum() / max(sampled.sum(), 1)


RIGHT = dict(
    bce=bce,
    bce_with_logits=bce_with_logits,
    bce_gradient=bce_gradient,
    mask_loss=mask_loss,
    class_loss=class_loss,
    box_loss=box_loss,
)

FOUR, TWO = '"the lecture\'s four points"', '"one object and one background: d = 0.1 and d = 1"'


def in_place(z, t):
    z -= t
    return z / z.size


WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("bce", lambda p, t: bce(p, t) * p.size, FOUR, "the sum over all points"),
    ("bce", lambda p, t: bce(np.clip(t, 1e-300, 1), p), FOUR, "target and prediction swapped"),
    ("bce", lambda p, t: -bce(p, t), FOUR, "the wrong sign"),
    (
        "bce",
        lambda p, t: -(t * np.log2(p) + (1 - t) * np.log2(1 - p)).mean(),
        FOUR,
        "a logarithm to base 2 instead of the natural one",
    ),
    (
        "bce",
        lambda p, t: -(t * np.log10(p) + (1 - t) * np.log10(1 - p)).mean(),
        FOUR,
        "a logarithm to base 10 instead of the natural one",
    ),
    ("bce", lambda p, t: -(t * np.log(p)).mean(), FOUR, "half of the formula"),
    (
        "bce",
        lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(),
        "confident and right",
        "ln 0 is minus infinity, and 0 times infinity is not",
    ),
    ("bce", lambda p, t: bce(np.clip(p, 1e-7, 1 - 1e-7), t), "confident and right", "The result is 1e-07, expected"),
    ("bce", lambda p, t: ((p - t) ** 2).mean(), FOUR, "The result is 0.0975, expected 0.344582."),
    ("bce", lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)), FOUR, "has shape (4,), expected ()"),
    ("bce_with_logits", lambda z, t: (np.log(1 + np.exp(z)) - z * t).mean(), "a logit of 1000", "e^z of a large z"),
    ("bce_with_logits", lambda z, t: bce(z, t), FOUR, "The result is nan"),
    ("bce_with_logits", lambda z, t: bce(sigmoid(z), t), "a logit of 1000", "the logarithm limited to -100"),
    ("bce_with_logits", lambda z, t: bce_with_logits(t, z), FOUR, "target and prediction swapped"),
    ("bce_with_logits", lambda z, t: bce_with_logits(z, t) * z.size, FOUR, "the sum over all points"),
    ("bce_gradient", lambda z, t: (t - sigmoid(z)) / z.size, FOUR, "t - p instead of p - t"),
    ("bce_gradient", lambda z, t: sigmoid(z) - t, FOUR, "not divided by N"),
    ("bce_gradient", in_place, FOUR, "It changes its argument 'z' in place"),
    ("mask_loss", lambda z, c, t, v: mask_loss(z, c - 1, t, v), "three boxes", "channel 0 is the background"),
    (
        "mask_loss",
        lambda z, c, t, v: mask_loss(z, c, t, v | True),
        "three boxes",
        "boxes that do not count are included",
    ),
    ("mask_loss", lambda z, c, t, v: bce_with_logits(z, t[..., None]), "three boxes", "The result is"),
    ("class_loss", lambda z, c, s: class_loss(z, c, s) * s.sum(), "four RoIs", "the sum over the RoIs"),
    (
        "class_loss",
        lambda z, c, s: -np.log(np.exp(z) / np.exp(z).sum(1, keepdims=True))[range(len(c)), c][s].mean(),
        "a logit of 1000",
        "The result is nan",
    ),
    ("class_loss", lambda z, c, s: class_loss(z, np.maximum(c, 1), s), "four RoIs", "The result is"),
    ("box_loss", lambda d, t, p, s, b: box_loss(d, t, p, p, b), TWO, "divided by the number of positives instead of"),
    ("box_loss", lambda d, t, p, s, b: box_loss(d, t, s, s, b), TWO, "background is included: it has no box to learn"),
    ("box_loss", lambda d, t, p, s, b: box_loss(d, t, p, s, 1.0), TWO, "beta is always 1, regardless of the argument"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_notebook_shows_what_torch_gives():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    names = "LOGITS", "WANTED", "ERRORS", "LABELS"
    z, t, deltas, labels = (torch.tensor(answers.shown_in("11_losses", name)) for name in names)
    rows = z.reshape(2, 4)
    shown = answers.shown_in("11_losses", "TORCH")
    found = dict(
        binary_cross_entropy_with_logits=F.binary_cross_entropy_with_logits(z, t),
        cross_entropy=F.cross_entropy(rows, labels),
        smooth_l1_loss=F.smooth_l1_loss(deltas, 0 * deltas, beta=1 / 9, reduction="sum"),
    )
    assert shown.keys() == found.keys()
    for name, value in found.items():
        assert value.item() == pytest.approx(shown[name], abs=5e-7), name
