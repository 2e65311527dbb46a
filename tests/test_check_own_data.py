"""Checks of notebook 17: right answers pass, and typical wrong ones are named."""

import numpy as np
import pytest

from minimask.check import CHECKS, CheckFailed
from tests import answers


def coco_boxes(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def rle_counts(mask):
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return np.array(counts)


def polygon_area(polygon):
    points = polygon.reshape(-1, 2)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, [*points[1:], points[0]]))) / 2


def split_by_group(groups, every):
    return np.isin(groups, sorted(set(groups.tolist()))[::every])


RIGHT = dict(coco_boxes=coco_boxes, rle_counts=rle_counts, polygon_area=polygon_area, split_by_group=split_by_group)

WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("coco_boxes", lambda boxes: boxes + 0, "from 10, 20", "COCO has x, y, width, height"),
    ("coco_boxes", lambda boxes: coco_boxes(boxes) + [0, 0, 1, 1], "from 10, 20", "one added to width and height"),
    ("rle_counts", lambda mask: rle_counts(mask.T), "two pixels one below the other", "goes column by column"),
    (
        "rle_counts",
        lambda mask: rle_counts(mask)[int(mask[0, 0]) :],
        "the first pixel is a one",
        "a mask that begins with a one needs a first count",
    ),
    ("rle_counts", lambda mask: list(rle_counts(mask)), "two pixels one below the other", "a list of length 3"),
    ("polygon_area", lambda p: 2 * polygon_area(p), "four corners", "the factor 1/2 is missing"),
    ("polygon_area", lambda p: np.ptp(p[::2]) * np.ptp(p[1::2]), "four corners", "the box around it"),
    ("split_by_group", lambda g, every: np.arange(len(g)) % every == 0, "three photos", "on both sides"),
    ("split_by_group", lambda g, every: ~split_by_group(g, every), "three photos", "the photos for training marked"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


@pytest.mark.parametrize("name", RIGHT)
def test_each_known_mistake_fails(name):
    for mistake in CHECKS[name].mistakes.values():
        with pytest.raises(CheckFailed):
            CHECKS[name](mistake)
