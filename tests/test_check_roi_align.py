"""Checks of notebook 08: right answers pass, typical wrong ones are named, and the text has torchvision's numbers."""

from pathlib import Path

import numpy as np

from tests import answers

ROOT = Path(__file__).parents[1]


def bilinear_weights(x, y, height, width):
    if not (-1 <= x <= width and -1 <= y <= height):
        return np.zeros((height, width))
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    return np.maximum(0, 1 - abs(np.arange(height) - y))[:, None] * np.maximum(0, 1 - abs(np.arange(width) - x))


def bin_weights(left, top, bin_width, bin_height, samples, height, width, point=bilinear_weights):
    inside = (np.arange(samples) + 0.5) / samples
    places = [(left + a * bin_width, top + b * bin_height) for a in inside for b in inside]
    return np.mean([point(x, y, height, width) for x, y in places], axis=0)


def bins(shape, box, scale, size, samples, aligned, offset=0.5, least=1.0, **point):
    """Row, column and weights of each bin. offset, least: for wrong answers."""
    x1, y1, x2, y2 = box * scale - (offset if aligned else 0)
    width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, least), max(y2 - y1, least))
    step = width / size, height / size
    for i, j in np.ndindex(size, size):
        yield i, j, bin_weights(x1 + j * step[0], y1 + i * step[1], *step, samples, *shape[:2], **point)


def roi_align(feature, box, scale, size, samples, aligned, **wrong):
    result = np.zeros((size, size, feature.shape[2]))
    for i, j, weights in bins(feature.shape, box, scale, size, samples, aligned, **wrong):
        result[i, j] = np.tensordot(weights, feature, 2)
    return result


def roi_align_backward(gy, shape, box, scale, size, samples, aligned):
    gfeature = np.zeros(shape)
    for i, j, weights in bins(shape, box, scale, size, samples, aligned):
        gfeature += weights[:, :, None] * gy[i, j]
    return gfeature


RIGHT = dict(
    bilinear_weights=bilinear_weights,
    bin_weights=bin_weights,
    roi_align=roi_align,
    roi_align_backward=roi_align_backward,
)


def unclamped(x, y, height, width):
    return np.maximum(0, 1 - abs(np.arange(height) - y))[:, None] * np.maximum(0, 1 - abs(np.arange(width) - x))


def rounded(x, y, height, width):
    weights = np.zeros((height, width))
    weights[int(round(np.clip(y, 0, height - 1))), int(round(np.clip(x, 0, width - 1)))] = 1
    return weights


def assigned(gy, shape, box, *rest):
    gfeature = np.zeros(shape)
    for i, j, weights in bins(shape, box, *rest):
        gfeature[weights > 0] = weights[weights > 0][:, None] * gy[i, j]
    return gfeature


SWAP = [1, 0, 3, 2]
A_RAMP = '"a ramp, f(y, x) = x: each bin is the x of its center"'
WRONG = [  # check, wrong answer, case that shows it, what the message says
    (
        "bilinear_weights",
        lambda x, y, h, w: bilinear_weights(y, x, h, w),
        "a quarter of a cell to the right, three quarters",
        "x and y swapped",
    ),
    (
        "bilinear_weights",
        rounded,
        "a quarter of a cell to the right, three quarters",
        "that is rounding, not interpolation",
    ),
    ("bilinear_weights", unclamped, "half a cell outside on the left", "a point outside is not moved to the border"),
    (
        "bilinear_weights",
        lambda x, y, h, w: bilinear_weights(np.clip(x, 0, w - 1), np.clip(y, 0, h - 1), h, w),
        "more than one cell outside: nothing counts",
        "a point is moved to the border no matter how far",
    ),
    (
        "bilinear_weights",
        lambda x, y, h, w: bilinear_weights(x, y, h, w).T,
        "a quarter of a cell to the right, three quarters",
        "has shape (4, 3), expected (3, 4). It looks transposed.",
    ),
    (
        "bin_weights",
        lambda *a: a[4] ** 2 * bin_weights(*a),
        '"2 x 2 samples"',
        "the sum over the samples of a bin instead of their",
    ),
    (
        "bin_weights",
        lambda x, y, w, h, s, *map_size: bin_weights(x - w / s / 2, y - h / s / 2, w, h, s, *map_size),
        "one sample, at the center",
        "samples at the corners of a bin's s x s parts",
    ),
    (
        "roi_align",
        lambda f, b, *rest: roi_align(f, b, *rest, offset=0),
        A_RAMP,
        "the box is not moved by half a cell where aligned",
    ),
    (
        "roi_align",
        lambda f, b, scale, *rest: roi_align(f, b, scale, *rest, offset=0.5 * scale),
        A_RAMP,
        "half a pixel subtracted before scaling instead of",
    ),
    ("roi_align", lambda f, b, *rest: roi_align(f, b[SWAP], *rest), A_RAMP, "x and y swapped in the box"),
    ("roi_align", lambda *a: roi_align(*a).transpose(1, 0, 2), A_RAMP, "rows and columns of the result swapped"),
    (
        "roi_align",
        lambda *a: roi_align(*a, point=unclamped),
        "a box that begins outside the map, where samples take the value at the border, aligned=False",
        "samples outside the map do not take the value at the border",
    ),
    ("roi_align", lambda *a: a[4] ** 2 * roi_align(*a), A_RAMP, "the sum over the samples of a bin instead of their"),
    ("roi_align", lambda f, b, scale, *rest: roi_align(f, b, 1.0, *rest), A_RAMP, "not multiplied by the scale"),
    ("roi_align", lambda f, b, scale, *rest: roi_align(f, b, 1 / scale, *rest), A_RAMP, "16 the stride"),
    ("roi_align", lambda *a: roi_align(*a, least=0.0), "a flat box, aligned=False", "not enlarged to one cell"),
    ("roi_align", lambda *a: roi_align(*a, point=rounded), A_RAMP, "The result at [0, 0, 0] is 1.5, expected 1.3."),
    ("roi_align_backward", assigned, "only the first bin", "`=` instead of `+=`"),
    ("roi_align_backward", lambda *a: a[5] ** 2 * roi_align_backward(*a), "only the first bin", "not divided by the"),
    (
        "roi_align_backward",
        lambda gy, *a: roi_align_backward(gy.transpose(1, 0, 2), *a),
        "a box inside, aligned=False",
        "rows and columns of gy swapped",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_notebook_shows_what_torchvision_gives():
    shown = answers.shown_in("08_roi_align", "TORCHVISION")
    with np.load(ROOT / "tests" / "references" / "operations.npz") as golden:
        for aligned, numbers in shown.items():
            theirs = golden[f"roi_align_sampling2{'_aligned' if aligned else ''}.y"]
            np.testing.assert_allclose(numbers, theirs[0, 0, :, 0], atol=5e-7)
