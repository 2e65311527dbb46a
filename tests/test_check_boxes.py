"""Checks of notebook 05: right answers pass, typical wrong ones are named, and the text has torchvision's numbers."""

import math

import numpy as np
import pytest

from minimask.check import CHECKS
from tests import answers
from tests.answers import box_area, decode, iou

LARGEST = math.log(1000 / 16)


def cell_anchors(size, ratios):
    width, height = size / np.sqrt(ratios), size * np.sqrt(ratios)
    return np.stack([-width, -height, width, height], axis=1) / 2


def grid_anchors(cell, shape, stride):
    rows = []
    for y in range(shape[0]):
        for x in range(shape[1]):
            rows += [anchor + np.array([x, y, x, y]) * stride for anchor in cell]
    return np.array(rows)


def encode(boxes, anchors, weights):
    size, size_a = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    way = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    return np.concatenate([way / size_a, np.log(size / size_a)], axis=1) * weights


RIGHT = dict(
    box_area=box_area, iou=iou, cell_anchors=cell_anchors, grid_anchors=grid_anchors, encode=encode, decode=decode
)


def iou_with_plus_one(a, b):
    return iou(a + [0, 0, 1, 1], b + [0, 0, 1, 1])


def iou_without_clamp(a, b):
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = (high - low).prod(axis=2)
    return shared / np.maximum(box_area(a)[:, None] + box_area(b) - shared, 1e-9)


def iou_with_sum_for_union(a, b):
    shared = iou(a, b) / (1 + iou(a, b)) * (box_area(a)[:, None] + box_area(b))
    return shared / np.maximum(box_area(a)[:, None] + box_area(b), 1e-9)


def iou_of_first(a, b):
    return iou(a, b) / (1 + iou(a, b)) * (box_area(a)[:, None] + box_area(b)) / box_area(a)[:, None]


def iou_from_sizes(a, b):
    return iou(*(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) for boxes in (a, b)))


def iou_swapping_min_and_max(a, b):
    low, high = np.minimum(a[:, None, :2], b[:, :2]), np.maximum(a[:, None, 2:], b[:, 2:])
    return (high - low).prod(axis=2) / (box_area(a)[:, None] + box_area(b))


def iou_of_nothing(a, b):
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    return shared / (box_area(a)[:, None] + box_area(b) - shared)


ONE = (1.0, 1.0, 1.0, 1.0)
A_FIFTH, RIGHTWARDS = '"2 of 20 square pixels are shared"', '"13 pixels to the right, twice as wide"'
WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("box_area", lambda b: (b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1), "pixels 3 to 7", "without + 1"),
    ("box_area", lambda b: b[:, 2] * b[:, 3], "pixels 3 to 7", "the last two numbers treated as width and height"),
    ("iou", iou_with_plus_one, A_FIFTH, "without + 1"),
    ("iou", iou_without_clamp, '"apart, one to the right of the other"', "negative sides are not set to 0"),
    ("iou", iou_with_sum_for_union, A_FIFTH, "the intersection counted twice in the union"),
    ("iou", iou_of_first, A_FIFTH, "the intersection divided by the area of the first"),
    ("iou", iou_from_sizes, A_FIFTH, "the last two numbers treated as width and height"),
    ("iou", iou_swapping_min_and_max, A_FIFTH, "min and max swapped"),
    ("iou", iou_of_nothing, '"two boxes without area: 0, not 0/0"', "0 divided by 0"),
    ("iou", lambda a, b: iou(a, b).T, "each of two with each of three", "It looks transposed."),
    ("iou", lambda a, b: iou(a, b).diagonal(), A_FIFTH, "has shape (1,), expected (1, 1)"),
    ("cell_anchors", lambda s, r: cell_anchors(s, 1 / r), '"size 32, ratio 0.5"', "it is height / width"),
    ("cell_anchors", lambda s, r: 2 * cell_anchors(s, r), '"size 32, ratio 0.5"', "sides twice as long"),
    (
        "cell_anchors",
        lambda s, r: np.stack([0 * r - s, -s * r, 0 * r + s, s * r], 1) / 2,
        '"size 32, ratio 0.5"',
        "no square root: with height = size * ratio, the areas differ",
    ),
    (
        "grid_anchors",
        lambda c, shape, stride: grid_anchors(c, shape, stride) + stride / 2,
        "one anchor, a map of",
        "locations shifted by half a stride",
    ),
    (
        "grid_anchors",
        lambda c, shape, stride: grid_anchors(c[:, [1, 0, 3, 2]], shape[::-1], stride)[:, [1, 0, 3, 2]],
        "one anchor, a map of",
        "columns come first: the order is row, column, anchor",
    ),
    (
        "grid_anchors",
        lambda c, shape, stride: np.concatenate([grid_anchors(a[None], shape, stride) for a in c]),
        '"two anchors per location"',
        "all locations of the first anchor come first",
    ),
    ("encode", lambda b, a, w: encode(a, b, w), RIGHTWARDS, "box and anchor swapped"),
    ("encode", lambda b, a, w: encode(b, a, ONE), "the box head's weights", "the weights are missing"),
    (
        "encode",
        lambda b, a, w: np.concatenate([encode(b, a, w)[:, :2], np.exp(encode(b, a, w)[:, 2:])], 1),
        RIGHTWARDS,
        "the ratio of the sides without the logarithm",
    ),
    ("decode", lambda d, a, w: decode(d, a, w, largest=np.inf), "a delta of 100", "no limit for the logarithm"),
    ("decode", lambda d, a, w: decode(d, a, 1 / np.array(w)), "the box head's weights", "decoding divides"),
    (
        "decode",
        lambda d, a, w: decode(np.minimum(d, np.log(62.5)), a, w),
        "large only before the division",
        "the limit applied before the division by the weights",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_wrong_boxes_are_drawn():
    pair = CHECKS["iou"].cases["each of two with each of three"]
    found, expected = iou_of_first(**pair), iou(**pair)
    figure = CHECKS["iou"].draw(found, expected, (0, 1), pair)
    assert figure.axes[0].get_title() == "pair [0, 1]: found 0.25, expected 0.1429"
    assert len(figure.axes[0].patches) == 3  # both, and what they share
    figure.canvas.draw()
    apart = CHECKS["iou"].draw(found, expected, (0, 2), pair)
    assert len(apart.axes[0].patches) == 2
    for name in ("cell_anchors", "grid_anchors", "decode"):
        labels = CHECKS[name].draw(found=np.eye(4), expected=np.ones((4, 4)), index=(2, 1), arguments={})
        assert [text.get_text() for text in labels.axes[0].get_legend().texts] == [
            "expected: 1, 1, 1, 1",
            "found: 0, 0, 1, 0",
        ]


def test_the_notebook_shows_what_torchvision_gives():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    shown = answers.shown_in("05_anchors_and_boxes", "TORCHVISION")
    sizes, shapes = ((32,), (64,), (128,), (256,), (512,)), [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)]
    images = ImageList(torch.zeros(1, 3, 800, 1088), [(800, 1067)])
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    theirs = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)(images, maps)[0].numpy()
    last = 0
    for (h, w), row in zip(shapes, shown["last anchor of each level"]):
        last += 3 * h * w
        assert theirs[last - 1].tolist() == row
    assert len(theirs) == last == shown["anchors"]
    assert theirs[:3].tolist() == shown["first three"]
