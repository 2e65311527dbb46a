"""Checks of notebook 07: labeling boxes by their overlaps, matching with its exceptions, sampling, RoIs with classes.

There is one image. An overlap is an IoU. A label is 1 for a positive, 0 for background, -1 for an ignored box.
"""

import numpy as np

from minimask import boxes as box_ops
from minimask import targets as library
from minimask.check.engine import Check


def _label(iou, low, high):
    best = iou.max(axis=1)
    return np.where(best >= high, 1, np.where(best < low, 0, -1)), iou.argmax(axis=1)


def _best(iou):
    largest = iou.max(axis=0)
    return ((iou == largest) & (largest > 0)).any(axis=1)


def _match(anchors, boxes, crowd, low, high, allow_low_quality=True):
    labels, which = library.match(anchors[None], boxes[None], ~crowd[None], crowd[None], low, high, allow_low_quality)
    return labels[0].astype(np.int64), np.where(labels[0] == 1, which[0], 0)


class _Given:
    """A random generator that returns given numbers."""

    def __init__(self, numbers):
        self.numbers = numbers

    def random(self, shape, dtype):
        return self.numbers.astype(dtype).reshape(shape)


def _sample(labels, priority, count, fraction):
    chosen = library.sample(labels[None], count, fraction, _Given(priority))
    indices, positive, valid = (array[0] for array in chosen)
    return indices * valid, positive, valid


def _label_rois(proposals, boxes, classes, threshold):
    rois = np.concatenate([proposals, boxes])
    positive, which = _match(rois, boxes, np.zeros(len(boxes), bool), threshold, threshold, allow_low_quality=False)
    return rois, np.where(positive == 1, classes[which], 0)


# ------------------------------------------------------------------------------------------------ what goes wrong often


def _best_first_only(iou):
    result = np.zeros(len(iou), bool)
    result[iou.argmax(axis=0)[iou.max(axis=0) > 0]] = True
    return result


def _match_to_the_object_it_is_best_for(anchors, boxes, crowd, low, high):
    labels, which = _match(anchors, boxes, crowd, low, high)
    iou = box_ops.iou(anchors, boxes) * ~crowd
    for g in range(len(boxes)):
        which[(iou[:, g] == iou[:, g].max()) & (iou[:, g] > 0)] = g
    return labels, which


def _match_crowd_by_iou(anchors, boxes, crowd, low, high):
    labels, which = _match(anchors, boxes, crowd & False, low, high)
    plain, real = _match(anchors, boxes[~crowd], np.zeros((~crowd).sum(), bool), low, high)
    near = (box_ops.iou(anchors, boxes) * crowd).max(axis=1) >= library.CROWD_COVER
    return np.where((plain == 0) & near, -1, plain), np.where(plain == 1, np.flatnonzero(~crowd)[real], 0)


def _match_crowd_wins(anchors, boxes, crowd, low, high):
    labels, which = _match(anchors, boxes, crowd, low, high)
    inside = _match(anchors, boxes[crowd], np.ones(crowd.sum(), bool), low, high)[0] == -1 if crowd.any() else False
    return np.where(inside, -1, labels), np.where(inside, 0, which)


def _match_numbers_without_crowds(anchors, boxes, crowd, low, high):
    labels, which = _match(anchors, boxes, crowd, low, high)
    return labels, np.where(labels == 1, (np.cumsum(~crowd) - 1)[which], 0)


def _sample_half_background(labels, priority, count, fraction):
    count = min(count, len(labels))
    most = min(int(count * fraction), count)
    positives = np.flatnonzero(labels == 1)
    rest = np.flatnonzero(labels == 0)
    positives = positives[np.argsort(priority[positives], kind="stable")][:most]
    rest = rest[np.argsort(priority[rest], kind="stable")][: count - most]
    return _padded(positives, rest, count)


def _padded(positives, rest, count):
    chosen = np.concatenate([positives, rest])
    indices = np.zeros(count, np.int64)
    indices[: len(chosen)] = chosen
    return indices, np.arange(count) < len(positives), np.arange(count) < len(chosen)


def _best_with_zero(iou):
    return (iou == iou.max(axis=0)).any(axis=1)


# --------------------------------------------------------------------------------------------------------------- cases

_TABLE = np.array([[0.82, 0.10], [0.70, 0.0], [0.55, 0.45], [0.30, 0.05], [0.29, 0.2], [0.0, 0.0], [0.4, 0.75]])


def _random_boxes(rng, count):
    corner = rng.integers(0, 40, (count, 2))
    return np.concatenate([corner, corner + rng.integers(4, 40, (count, 2))], axis=1).astype(np.float32)


def _boxes(*boxes):
    return np.array(boxes, np.float32)


_ANCHORS = _boxes(
    [0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [20, 20, 30, 30], [100, 100, 110, 110], [20, 20, 40, 25]
)
_OBJECTS = _boxes([0, 0, 10, 10], [20, 20, 40, 40])
_NONE = np.array([False, False])


def _random_table(rng):
    return np.round(rng.random((8, 3)), 1) * rng.choice([0.0, 1.0], (8, 3), p=[0.3, 0.7])


def _random_match(rng):
    return dict(
        anchors=_random_boxes(rng, 12), boxes=_random_boxes(rng, 4), crowd=rng.random(4) < 0.3, low=0.3, high=0.7
    )


def _random_labels(rng):
    labels = rng.choice([1, 0, -1], 12, p=[0.3, 0.5, 0.2])
    return dict(labels=labels, priority=rng.permutation(12) / 12, count=int(rng.integers(2, 15)), fraction=0.5)


# -------------------------------------------------------------------------------------------------------------- checks

label_by_iou = Check(
    reference=_label,
    cases={
        "seven anchors, two objects; an IoU of 0.70 is positive, 0.30 is not background": dict(
            iou=_TABLE, low=0.3, high=0.7
        ),
        "low = high = 0.5: nothing is ignored": dict(iou=_TABLE, low=0.5, high=0.5),
        "one object": dict(iou=_TABLE[:, :1], low=0.3, high=0.7),
        "an anchor that overlaps two objects equally belongs to the first": dict(
            iou=np.array([[0.1, 0.8, 0.8], [0.5, 0.2, 0.5]]), low=0.3, high=0.7
        ),
    },
    random=lambda rng: dict(iou=_random_table(rng), low=0.3, high=0.7),
    results=("label", "object"),
    covers="both thresholds and IoUs equal to them, anchors that overlap nothing, ties",
    mistakes={
        "an IoU equal to `high` is not counted as positive: use >=": lambda iou, low, high: (
            np.where(iou.max(1) > high, 1, np.where(iou.max(1) < low, 0, -1)),
            iou.argmax(1),
        ),
        "an IoU equal to `low` is counted as background: use <": lambda iou, low, high: (
            np.where(iou.max(1) >= high, 1, np.where(iou.max(1) <= low, 0, -1)),
            iou.argmax(1),
        ),
        "IoUs equal to a threshold: `high` is positive, `low` is not background": lambda iou, low, high: (
            np.where(iou.max(1) > high, 1, np.where(iou.max(1) <= low, 0, -1)),
            iou.argmax(1),
        ),
        "anchors between the thresholds labeled as background: they are ignored, -1": lambda iou, low, high: (
            np.where(iou.max(1) >= high, 1, 0),
            iou.argmax(1),
        ),
        "labels by the IoU with the first object instead of the best IoU": lambda iou, low, high: (
            np.where(iou[:, 0] >= high, 1, np.where(iou[:, 0] < low, 0, -1)),
            iou.argmax(1),
        ),
        "0 and -1 swapped: background is 0, ignored is -1": lambda iou, low, high: (
            np.where(iou.max(1) >= high, 1, np.where(iou.max(1) < low, -1, 0)),
            iou.argmax(1),
        ),
    },
)

best_for_an_object = Check(
    reference=_best,
    cases={
        "each object has one best anchor": dict(iou=np.array([[0.5, 0.1], [0.2, 0.3], [0.4, 0.0]])),
        "two anchors are equally good: both count": dict(iou=np.array([[0.25, 0.1], [0.25, 0.2], [0.2, 0.6]])),
        "an object that no anchor touches has no best anchor": dict(iou=np.array([[0.5, 0.0], [0.2, 0.0], [0.4, 0.0]])),
        "one anchor is the best one for two objects": dict(iou=np.array([[0.5, 0.4], [0.2, 0.3], [0.4, 0.1]])),
        "nothing overlaps anything": dict(iou=np.zeros((4, 2))),
    },
    random=lambda rng: dict(iou=_random_table(rng)),
    covers="ties, objects without any anchor, anchors that are the best one for several objects",
    mistakes={
        "one anchor per object (argmax): equally good ones must all count": _best_first_only,
        "every anchor is the best one for an object that none of them touches": _best_with_zero,
        "anchors that overlap any object, instead of the best anchor for each object": lambda iou: iou.max(axis=1) > 0,
        "one best anchor for all objects: each object has its own": lambda iou: (iou == iou.max()).any(axis=1),
    },
)

match_anchors = Check(
    reference=_match,
    cases={
        "two objects; the best anchors of the second one have an IoU of only 0.25, a tie": dict(
            anchors=_ANCHORS, boxes=_OBJECTS, crowd=_NONE, low=0.3, high=0.7
        ),
        "the best anchor of one object overlaps another object more": dict(
            anchors=_boxes([0, 0, 10, 10], [30, 30, 40, 40]),
            boxes=_boxes([0, 0, 10, 12], [0, 0, 4, 10]),
            crowd=_NONE,
            low=0.3,
            high=0.7,
        ),
        "an object that no anchor touches": dict(
            anchors=_ANCHORS, boxes=_boxes([0, 0, 10, 10], [50, 50, 60, 60]), crowd=_NONE, low=0.3, high=0.7
        ),
        "the first box is a crowd: anchors inside it are ignored": dict(
            anchors=_boxes(
                [2, 2, 8, 8], [1, 1, 10, 10], [5, 0, 15, 8], [6, 0, 16, 8], [20, 20, 40, 38], [90, 90, 99, 99]
            ),
            boxes=_boxes([0, 0, 10, 10], [20, 20, 40, 40]),
            crowd=np.array([True, False]),
            low=0.3,
            high=0.7,
        ),
        "an object inside a crowd still has its positives": dict(
            anchors=_boxes([10, 10, 20, 20], [30, 30, 40, 40], [90, 90, 99, 99]),
            boxes=_boxes([10, 10, 20, 20], [0, 0, 60, 60]),
            crowd=np.array([False, True]),
            low=0.3,
            high=0.7,
        ),
    },
    random=_random_match,
    results=("label", "object"),
    covers="low-quality matches and ties, objects without anchors, crowds",
    mistakes={
        "no low-quality matches: the best anchors of each object are positives, too": (
            lambda *a: _match(*a, allow_low_quality=False)
        ),
        "a low-quality positive assigned to the object that it is the best anchor for: it belongs to ITS best object": (
            _match_to_the_object_it_is_best_for
        ),
        "a crowd treated as an object": lambda anchors, boxes, crowd, low, high: _match(
            anchors, boxes, crowd & False, low, high
        ),
        "anchors in a crowd labeled as background: they are ignored": lambda anchors, boxes, crowd, low, high: _match(
            anchors, boxes * ~crowd[:, None], crowd & False, low, high
        ),
        "the IoU with a crowd, instead of the part of the ANCHOR that lies in it": _match_crowd_by_iou,
        "positives in a crowd are ignored: only background in a crowd is": _match_crowd_wins,
        "objects counted without the crowds, so that `boxes[object]` is another box": _match_numbers_without_crowds,
    },
)

sample_anchors = Check(
    reference=_sample,
    cases={
        "six positives, but room for four": dict(
            labels=np.array([1] * 6 + [0] * 8 + [-1] * 2),
            priority=np.array([9, 4, 7, 1, 5, 3, 8, 2, 6, 15, 10, 12, 14, 11, 0, 13]) / 16,
            count=8,
            fraction=0.5,
        ),
        "one positive: background fills the rest": dict(
            labels=np.array([0, 0, 0, 1, 0, 0, -1, 0]),
            priority=np.array([5, 1, 7, 2, 0, 4, 3, 6]) / 8,
            count=6,
            fraction=0.5,
        ),
        "too few of both: the last places are not valid": dict(
            labels=np.array([-1, 0, -1, 1, -1, 0]), priority=np.array([4, 3, 1, 2, 0, 5]) / 6, count=5, fraction=0.5
        ),
        "all ignored": dict(labels=np.full(4, -1), priority=np.arange(4) / 4, count=2, fraction=0.5),
        "a quarter positives": dict(
            labels=np.array([1, 1, 1, 0, 0, 0, 0, 0]),
            priority=np.array([3, 1, 2, 0, 7, 6, 5, 4]) / 8,
            count=4,
            fraction=0.25,
        ),
        "count exceeds the number of boxes": dict(
            labels=np.array([1, 0, 1]), priority=np.array([2, 0, 1]) / 3, count=256, fraction=0.5
        ),
    },
    random=_random_labels,
    results=("indices", "positive", "valid"),
    covers="too many positives, too few, nothing at all, other fractions",
    mistakes={
        "the largest priorities are taken instead of the smallest": lambda labels, priority, *rest: _sample(
            labels, 1 - 1e-3 - priority, *rest
        ),
        "background does not fill the places that positives leave free": _sample_half_background,
        "ignored boxes sampled as background": lambda labels, *rest: _sample(np.maximum(labels, 0), *rest),
        "there is no limit on the positives": lambda labels, priority, count, fraction: _sample(
            labels, priority, count, 1.0
        ),
        "the first boxes are taken: the priority decides": lambda labels, priority, *rest: _sample(
            labels, np.arange(len(labels)) / len(labels), *rest
        ),
    },
)

label_rois = Check(
    reference=_label_rois,
    cases={
        "a cat and a duck; an IoU of 0.5 is enough": dict(
            proposals=_ANCHORS, boxes=_OBJECTS, classes=np.array([1, 3]), threshold=0.5
        ),
        "poor proposals: only the ground truth is positive": dict(
            proposals=_boxes([0, 0, 4, 4], [60, 60, 90, 90]), boxes=_OBJECTS, classes=np.array([2, 2]), threshold=0.5
        ),
        "no proposals at all": dict(
            proposals=np.zeros((0, 4), np.float32), boxes=_OBJECTS, classes=np.array([3, 1]), threshold=0.5
        ),
    },
    random=lambda rng: dict(
        proposals=_random_boxes(rng, 6), boxes=_random_boxes(rng, 3), classes=rng.integers(1, 4, 3), threshold=0.5
    ),
    results=("rois", "label"),
    covers="good, poor and no proposals",
    mistakes={
        "proposals without the ground truth boxes at their end": lambda proposals, boxes, classes, threshold: tuple(
            array[: len(proposals)] for array in _label_rois(proposals, boxes, classes, threshold)
        ),
        "the ground truth comes first: it belongs after the proposals": lambda proposals, boxes, *rest: tuple(
            np.roll(array, len(boxes), axis=0) for array in _label_rois(proposals, boxes, *rest)
        ),
        "an IoU equal to the threshold is not counted": lambda proposals, boxes, classes, threshold: _label_rois(
            proposals, boxes, classes, threshold + 1e-6
        ),
        "background gets the class of the nearest object: its label is 0": (
            lambda proposals, boxes, classes, threshold: _label_rois(proposals, boxes, classes, 0.0)
        ),
        "every positive gets label 1 instead of the class of its object": (
            lambda proposals, boxes, classes, threshold: _label_rois(proposals, boxes, classes * 0 + 1, threshold)
        ),
    },
)
