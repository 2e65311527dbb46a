"""Checks of notebook 07: right answers pass, typical wrong ones are named, and the text has torchvision's labels."""

import numpy as np
import pytest

from minimask import boxes as box_ops
from tests import answers


def label_by_iou(iou, low, high):
    best = iou.max(axis=1)
    labels = np.full(len(iou), -1)
    labels[best >= high] = 1
    labels[best < low] = 0
    return labels, iou.argmax(axis=1)


def best_for_an_object(iou):
    largest = iou.max(axis=0)
    return ((iou == largest) & (largest > 0)).any(axis=1)


def match_anchors(anchors, boxes, crowd, low, high, cover=0.5, over=None, allow_low_quality=True):
    """over: what the part in a crowd is divided by, for wrong answers."""
    iou = box_ops.iou(anchors, boxes)
    iou[:, crowd] = 0
    labels, which = label_by_iou(iou, low, high)
    if allow_low_quality:
        labels[best_for_an_object(iou)] = 1
    first = np.maximum(anchors[:, None, :2], boxes[:, :2])
    last = np.minimum(anchors[:, None, 2:], boxes[:, 2:])
    over = box_ops.area(anchors)[:, None] if over is None else over(anchors, boxes)
    covered = np.maximum(last - first, 0).prod(axis=2) * crowd / over
    labels[(labels == 0) & (covered.max(axis=1) >= cover)] = -1
    return labels, np.where(labels == 1, which, 0)


def sample_anchors(labels, priority, count, fraction, allowed=lambda labels: labels == 0):
    count = min(count, len(labels))
    positives = np.flatnonzero(labels == 1)
    positives = positives[np.argsort(priority[positives])][: int(count * fraction)]
    rest = np.flatnonzero(allowed(labels))
    rest = rest[np.argsort(priority[rest])][: count - len(positives)]
    chosen = np.concatenate([positives, rest])
    indices = np.zeros(count, int)
    indices[: len(chosen)] = chosen
    return indices, np.arange(count) < len(positives), np.arange(count) < len(chosen)


def label_rois(proposals, boxes, classes, threshold):
    rois = np.concatenate([proposals, boxes])
    iou = box_ops.iou(rois, boxes)
    return rois, np.where(iou.max(axis=1) >= threshold, classes[iou.argmax(axis=1)], 0)


RIGHT = dict(
    label_by_iou=label_by_iou,
    best_for_an_object=best_for_an_object,
    match_anchors=match_anchors,
    sample_anchors=sample_anchors,
    label_rois=label_rois,
)


def strict(iou, low, high):
    best = iou.max(axis=1)
    return np.where(best > high, 1, np.where(best < low, 0, -1)), iou.argmax(axis=1)


def in_place(iou, low, high):
    labels = label_by_iou(iou, low, high)
    iou[:] = 0
    return labels


def one_each(iou):
    result = np.zeros(len(iou), bool)
    result[iou.argmax(axis=0)] = iou.max() > 0
    return result


def no_fill(labels, priority, count, fraction):
    indices, positive, valid = sample_anchors(labels, priority, count, fraction)
    limit = positive.sum() + min(count, len(labels)) - int(min(count, len(labels)) * fraction)
    valid &= np.arange(len(valid)) < limit
    return indices * valid, positive, valid


def without_truth(proposals, boxes, classes, threshold):
    return tuple(array[: len(proposals)] for array in label_rois(proposals, boxes, classes, threshold))


WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("label_by_iou", strict, "seven anchors", "an IoU equal to `high` is not counted as positive: use >="),
    (
        "label_by_iou",
        lambda iou, low, high: (np.where(iou.max(1) >= high, 1, 0), iou.argmax(1)),
        "seven anchors",
        "anchors between the thresholds labeled as background: they are ignored, -1",
    ),
    ("label_by_iou", in_place, "seven anchors", "changes its argument 'iou' in place"),
    (
        "label_by_iou",
        lambda iou, low, high: label_by_iou(iou, low, high)[0],
        "seven anchors",
        "an array of shape (7,), expected 2 results (label, object)",
    ),
    ("best_for_an_object", one_each, "two anchors are equally good", "one anchor per object (argmax)"),
    (
        "best_for_an_object",
        lambda iou: (iou == iou.max(axis=0)).any(axis=1),
        "an object that no anchor touches",
        "every anchor is the best one for an object",
    ),
    (
        "best_for_an_object",
        lambda iou: (iou == iou.max(axis=0)) & (iou > 0),
        "each object has one best anchor",
        "has shape (3, 2), expected (3,)",
    ),
    ("match_anchors", lambda *a: match_anchors(*a, allow_low_quality=False), "two objects", "no low-quality matches"),
    (
        "match_anchors",
        lambda a, b, crowd, *t: match_anchors(a, b, crowd & False, *t),
        "the first box is a crowd",
        "a crowd treated as an object",
    ),
    (
        "match_anchors",
        lambda *a: match_anchors(*a, cover=2),
        "the first box is a crowd",
        "anchors in a crowd labeled as background",
    ),
    (
        "match_anchors",
        lambda *a: match_anchors(*a, over=lambda a, b: box_ops.area(a)[:, None] + box_ops.area(b)),
        "the first box is a crowd",
        "Result 1 (label) at",
    ),
    (
        "sample_anchors",
        no_fill,
        "one positive: background fills the rest",
        "background does not fill the places that positives",
    ),
    (
        "sample_anchors",
        lambda labels, p, count, fraction: sample_anchors(labels, p, count, 1.0),
        "six positives",
        "there is no limit on the positives",
    ),
    (
        "sample_anchors",
        lambda *a: sample_anchors(*a, allowed=lambda labels: labels <= 0),
        "six positives",
        "ignored boxes sampled as background",
    ),
    ("label_rois", without_truth, "a cat and a duck", "without the ground truth boxes at their end"),
    (
        "label_rois",
        lambda p, b, c, t: label_rois(p, b, np.ones_like(c), t),
        "a cat and a duck",
        "every positive gets label 1 instead of the class of",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_notebook_shows_what_torchvision_gives():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    names = "TORCHVISION", "SIX_ANCHORS", "TWO_OBJECTS"
    shown, anchors, objects = (answers.shown_in("07_matching_and_sampling", name) for name in names)
    overlaps = box_iou(torch.tensor(objects, dtype=torch.float32), torch.tensor(anchors, dtype=torch.float32))
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(overlaps).tolist() == shown
