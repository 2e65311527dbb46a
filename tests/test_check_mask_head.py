"""Checks of notebook 10: right answers pass, typical wrong ones are named, and the numbers in the text are right."""

import numpy as np
import pytest

from minimask.mask_head import mask_targets
from minimask.roi_align import bilinear, sampling_points
from tests import answers


def mask_head_size(in_channels, channels, width, num_classes, kernel=3, bias=1):
    total = 0
    for out in channels:
        total += kernel * kernel * in_channels * out + bias * out
        in_channels = out
    return total + 4 * in_channels * width + bias * width + width * num_classes + bias * num_classes


def deconvolution(x, w, b):
    result = np.zeros((2 * x.shape[0], 2 * x.shape[1], w.shape[3]))
    for p, q in np.ndindex(2, 2):
        result[p::2, q::2] = x @ w[p, q]
    return result + b


def side_by_side(x, w, b):
    height, width, _ = x.shape
    result = np.zeros((2 * height, 2 * width, w.shape[3]))
    for p, q in np.ndindex(2, 2):
        result[p * height : (p + 1) * height, q * width : (q + 1) * width] = x @ w[p, q]
    return result + b


def class_masks(logits, labels):
    return 1 / (1 + np.exp(-logits[np.arange(len(labels)), :, :, labels]))


def softmax_masks(logits, labels):
    e = np.exp(logits)
    return (e / e.sum(-1, keepdims=True))[np.arange(len(labels)), :, :, labels]


def mask_target(mask, box, size, samples, aligned, binary):
    points = sampling_points(box, 1.0, size, samples, aligned)
    cells = bilinear(mask[:, :, None], points)[..., 0].mean(axis=(2, 3))
    return (cells >= 0.5).astype(float) if binary else cells


def never_binary(mask, box, size, samples, aligned, binary):
    return mask_target(mask, box, size, samples, aligned, False)


def above_half(mask, box, size, samples, aligned, binary):
    cells = mask_target(mask, box, size, samples, aligned, False)
    return (cells > 0.5).astype(float) if binary else cells


RIGHT = dict(
    mask_head_size=mask_head_size, deconvolution=deconvolution, class_masks=class_masks, mask_target=mask_target
)
ONE_CELL, HALF = "one cell: its stamp", "the left half of 8 x 8 pixels in 4 x 4 cells, aligned"
WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("mask_head_size", lambda *a: mask_head_size(*a, bias=0), "one convolution", "the biases are missing"),
    ("mask_head_size", lambda i, c, w, n: mask_head_size(i, c, w, n - 1), "one convolution", "one class too few"),
    ("mask_head_size", lambda *a: mask_head_size(*a, kernel=1), "one convolution", "The result is 98, expected 146."),
    (
        "mask_head_size",
        lambda i, c, w, n: sum(9 * i * o + o for o in c) + mask_head_size(c[-1] if c else i, (), w, n),
        "random case",
        "in_channels used for every convolution",
    ),
    ("deconvolution", side_by_side, "the notebook's 2 x 2 cells", "four maps side by side"),
    (
        "deconvolution",
        lambda x, w, b: deconvolution(x, w[::-1, ::-1], b),
        ONE_CELL,
        "the kernel rotated by 180 degrees",
    ),
    ("deconvolution", lambda x, w, b: deconvolution(x, w.transpose(1, 0, 2, 3), b), ONE_CELL, "rows and columns of"),
    ("deconvolution", lambda x, w, b: deconvolution(x, w, 0), "a bias", "the bias is missing"),
    ("deconvolution", lambda x, w, b: x.repeat(2, 0).repeat(2, 1) @ w.sum((0, 1)) + b, ONE_CELL, "each cell repeated"),
    ("deconvolution", lambda x, w, b: np.maximum(deconvolution(x, w, b), 0), ONE_CELL, "a ReLU at the end"),
    ("class_masks", softmax_masks, "one cell, a dog", "softmax over the classes"),
    (
        "class_masks",
        lambda z, labels: class_masks(z, labels - 1),
        "one cell, a dog",
        "the channel before the right one",
    ),
    ("class_masks", lambda z, labels: z[np.arange(len(z)), :, :, labels], "one cell, a dog", "the sigmoid is missing"),
    ("class_masks", lambda z, labels: 1 / (1 + np.exp(-z.max(-1))), "one cell, a dog", "the class branch chooses"),
    ("class_masks", lambda z, labels: 1 / (1 + np.exp(-z[:, :, :, labels])), "one cell, a dog", "has shape"),
    (
        "mask_target",
        lambda m, box, *rest: mask_target(m, box[[1, 0, 3, 2]], *rest),
        "a box around the object",
        "x and y swapped",
    ),
    (
        "mask_target",
        lambda m, box, size, s, aligned, binary: mask_target(m, box, size, s, False, binary),
        HALF,
        "half a pixel is not subtracted",
    ),
    ("mask_target", never_binary, "in 3 x 3 cells, binary", "a soft target instead of a binary one"),
    ("mask_target", above_half, "in 3 x 3 cells, binary", "`> 0.5` instead of `>= 0.5`"),
    ("mask_target", lambda m, box, size, s, *rest: s**2 * mask_target(m, box, size, s, *rest), HALF, "the sum over a"),
    (
        "mask_target",
        lambda m, box, *rest: mask_target(m, np.round(box), *rest),
        "a box around the object",
        "rounded to integer pixels",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_numbers_of_torchvision():
    left_half = np.zeros((1, 1, 8, 8), np.uint8)
    left_half[..., :4] = 1
    box = np.array([[[0, 0, 8, 8]]], np.float32)
    shown = answers.shown_in("10_mask_head", "TORCHVISION")
    assert mask_targets(left_half, box, np.zeros((1, 1), int), 4)[0, 0, 0].tolist() == shown
    torch = pytest.importorskip("torch")
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    theirs = roi_heads.project_masks_on_boxes(torch.tensor(left_half[0]), torch.tensor(box[0]), torch.tensor([0]), 4)
    assert theirs[0, 0].tolist() == shown
