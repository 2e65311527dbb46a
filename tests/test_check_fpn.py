"""Checks of notebook 04: right answers pass, and typical wrong ones are named."""

import numpy as np

from tests import answers
from tests.answers import conv


def enlarge_nearest(x, height, width):
    return x[np.arange(height) * x.shape[0] // height][:, np.arange(width) * x.shape[1] // width]


def top_down(coarse, fine, w):
    return enlarge_nearest(coarse, *fine.shape[:2]) + fine @ w


def feature_pyramid(levels, laterals, smooths, hand_down_smoothed=False):
    pyramid, down = [], None
    for k in reversed(range(len(levels))):
        merged = levels[k] @ laterals[k] if down is None else top_down(down, levels[k], laterals[k])
        pyramid = [conv(merged, smooths[k]), *pyramid]
        down = pyramid[0] if hand_down_smoothed else merged
    return pyramid


def pyramid_levels(boxes, finest, coarsest, canonical_size, logarithm=np.log2, side=lambda w, h: np.sqrt(w * h)):
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    with np.errstate(divide="ignore"):
        level = np.floor(4 + logarithm(side(width, height) / canonical_size))
    return np.clip(level, finest, coarsest).astype(int)


RIGHT = dict(
    enlarge_nearest=enlarge_nearest, top_down=top_down, feature_pyramid=feature_pyramid, pyramid_levels=pyramid_levels
)


def repeated(x, height, width):
    return x.repeat(height // x.shape[0], axis=0).repeat(width // x.shape[1], axis=1)


def from_finest(levels, laterals, smooths):
    """Without the reversal: the fine level is passed to the coarse one."""
    return feature_pyramid(levels[::-1], laterals[::-1], smooths[::-1])[::-1]


WRONG = [  # check, wrong answer, case that shows it, what the message says
    (
        "enlarge_nearest",
        lambda x, height, width: np.tile(x, (height // len(x), width // x.shape[1], 1)),
        "2 x 2 becomes 4 x 4",
        "the whole map repeated like tiles, where each pixel",
    ),
    ("enlarge_nearest", repeated, "7 columns become 13", "has shape (1, 7, 1), expected (1, 13, 1)"),
    (
        "enlarge_nearest",
        lambda x, height, width: enlarge_nearest(x, width, height),
        "7 columns become 13",
        "has shape (13, 1, 1), expected (1, 13, 1)",
    ),
    ("top_down", lambda coarse, fine, w: fine @ w, "the numbers by hand", "only the lateral part"),
    ("top_down", lambda coarse, fine, w: top_down(coarse, fine, w) / 2, "the numbers by hand", "the average of the"),
    (
        "top_down",
        lambda coarse, fine, w: top_down(coarse, fine, w.T),
        "as many output channels as input channels",
        "the matrix is transposed",
    ),
    (
        "top_down",
        lambda coarse, fine, w: repeated(coarse, *fine.shape[:2]) + fine @ w,
        "an odd number of columns",
        "operands could not be broadcast",
    ),
    (
        "feature_pyramid",
        lambda *a: feature_pyramid(*a, hand_down_smoothed=True),
        "two levels",
        "the smoothed map passed down, instead of the sum",
    ),
    ("feature_pyramid", lambda *a: feature_pyramid(*a)[::-1], "the numbers by hand", "in the wrong order"),
    ("feature_pyramid", lambda *a: feature_pyramid(*a)[:-1], "the numbers by hand", "is 1 result, expected 2 results"),
    ("feature_pyramid", from_finest, "the numbers by hand", "(the finest level)"),
    ("pyramid_levels", lambda *a: pyramid_levels(*a, side=np.maximum), "448 x 112", "the longer side"),
    (
        "pyramid_levels",
        lambda *a: pyramid_levels(*a, side=np.multiply),
        "224 x 224",
        "the area instead of its square root",
    ),
    ("pyramid_levels", lambda *a: pyramid_levels(*a, logarithm=np.log), "224 x 224", "the natural logarithm"),
    (
        "pyramid_levels",
        lambda boxes, finest, *a: pyramid_levels(boxes, finest, *a) - finest,
        "224 x 224",
        "levels counted from 0",
    ),
    ("pyramid_levels", lambda *a: pyramid_levels(*a).astype(float), "224 x 224", "expected integers"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)
