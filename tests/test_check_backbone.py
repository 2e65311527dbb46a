"""Checks of notebook 03: right answers pass, typical wrong ones are named, and the text has torchvision's numbers."""

import numpy as np
import pytest

from tests import answers
from tests.answers import conv


def relu(x):
    return np.maximum(0, x)


def residual_block(x, w1, w2):
    return relu(x + conv(relu(conv(x, w1)), w2))


def convolution_cost(height, width, kernel, channels_in, channels_out, stride, groups):
    parameters = kernel * kernel * channels_in // groups * channels_out
    return parameters, parameters * -(-height // stride) * -(-width // stride)


def dense_weights(w, groups):
    kh, kw, inputs, out = w.shape
    dense = np.zeros((kh, kw, inputs * groups, out))
    for o in range(out):
        first = o // (out // groups) * inputs
        dense[:, :, first : first + inputs, o] = w[..., o]
    return dense


def fold_batch_norm(w, gamma, beta, mean, var, eps):
    scale = gamma / np.sqrt(var + eps)
    return w * scale, beta - mean * scale


RIGHT = dict(
    residual_block=residual_block,
    convolution_cost=convolution_cost,
    dense_weights=dense_weights,
    fold_batch_norm=fold_batch_norm,
)


def in_place(x, w1, w2):
    x += conv(relu(conv(x, w1)), w2)
    return relu(x)


def floor_cost(height, width, kernel, channels_in, channels_out, stride, groups):
    return convolution_cost(height // stride, width // stride, kernel, channels_in, channels_out, 1, groups)


WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("residual_block", lambda x, w1, w2: relu(conv(relu(conv(x, w1)), w2)), "the number by hand", "no shortcut"),
    (
        "residual_block",
        lambda x, w1, w2: x + relu(conv(relu(conv(x, w1)), w2)),
        "a map of one channel",
        "the ReLU comes before the addition",
    ),
    (
        "residual_block",
        lambda x, w1, w2: x + conv(relu(conv(x, w1)), w2),
        "a map of one channel",
        "no ReLU after the addition",
    ),
    (
        "residual_block",
        lambda x, w1, w2: relu(x + conv(conv(x, w1), w2)),
        "a map of one channel",
        "two convolutions in a row are just one",
    ),
    ("residual_block", lambda x, w1, w2: relu(x), "the number by hand", "is 2, expected 2.2"),
    ("residual_block", in_place, "the number by hand", "changes its argument 'x' in place"),
    (
        "convolution_cost",
        lambda h, w, k, i, o, s, g: convolution_cost(h, w, k, i, o, s, 1),
        "32 groups",
        "the groups are ignored",
    ),
    (
        "convolution_cost",
        lambda h, w, k, *a: tuple(n // k for n in convolution_cost(h, w, k, *a)),
        "the 3 x 3 of a bottleneck",
        "kernel instead of kernel x kernel",
    ),
    (
        "convolution_cost",
        lambda h, w, k, i, o, s, g: convolution_cost(h, w, k, i, o, 1, g),
        '"stride 2"',
        "the stride is ignored",
    ),
    ("convolution_cost", floor_cost, "stride 2 on an odd number of rows", "Result 2 (multiply-adds)"),
    ("convolution_cost", lambda *a: convolution_cost(*a)[0], "a bottleneck", "expected 2 results (parameters,"),
    (
        "dense_weights",
        lambda w, groups: np.tile(w, (1, 1, groups, 1)),
        "two groups",
        "the same weights for every group",
    ),
    ("dense_weights", lambda w, groups: dense_weights(w, groups)[:, :, ::-1], "two groups", "reverse order"),
    ("dense_weights", lambda w, groups: w, "two groups", "has shape (1, 1, 2, 4), expected (1, 1, 4, 4)."),
    (
        "fold_batch_norm",
        lambda w, g, b, m, v, eps: (w * g / (v + eps), b - m * g / (v + eps)),
        "the numbers by hand",
        "divided by the variance",
    ),
    (
        "fold_batch_norm",
        lambda w, g, b, m, v, eps: (w * g / np.sqrt(v + eps), b - m),
        "the numbers by hand",
        "the mean is not scaled",
    ),
    (
        "fold_batch_norm",
        lambda w, g, b, m, v, eps: fold_batch_norm(w, g, b, m, v, 0.0),
        "two channels",
        "eps is missing",
    ),
    (
        "fold_batch_norm",
        lambda w, g, b, m, v, eps: fold_batch_norm(w, g, b, m, v, eps)[0],
        "the numbers by hand",
        "expected 2 results (weights, bias)",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_notebook_counts_as_torchvision_does():
    torchvision = pytest.importorskip("torchvision")
    shown = answers.shown_in("03_backbone", "TORCHVISION")
    weights = torchvision.models.get_model_weights
    for name, count in shown.items():
        assert {entry.meta["num_params"] for entry in weights(name)} == {count}
