"""Checks of notebook 09: the box head, the boxes of each class, NMS for one class and for several, the detections.

There is one image with R RoIs, and C classes with the background as class 0.
"""

import numpy as np

from minimask import box_head as library
from minimask import boxes as box_ops
from minimask.check.engine import Check
from minimask.functional import sigmoid_array, softmax_array

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def _box_head(x, w6, b6, w7, b7):
    hidden = np.maximum(x.reshape(len(x), -1) @ w6 + b6, 0)
    return np.maximum(hidden @ w7 + b7, 0)


def _class_boxes(deltas, rois, weights=WEIGHTS):
    return box_ops.decode(deltas.reshape(len(rois), -1, 4), rois[:, None], weights)


def _nms(boxes, scores, threshold, groups=None):
    groups = None if groups is None else groups[None]
    kept, valid = box_ops.nms.plain(
        boxes[None], scores[None], np.ones((1, len(scores)), bool), threshold, groups=groups
    )
    return kept[valid]


def _nms_of_classes(boxes, scores, labels, threshold):
    return _nms(boxes, scores, threshold, labels)


def _detections(logits, deltas, rois, height, width, score_threshold, nms_threshold, max_detections):
    everywhere, size = np.ones((1, len(rois)), bool), np.array([[height, width]])
    settings = dict(score_threshold=score_threshold, nms_threshold=nms_threshold, max_detections=max_detections)
    found = library.detect(logits[None], deltas[None], rois[None], everywhere, size, **settings)
    return tuple(array[0][found.valid[0]] for array in (found.boxes, found.labels, found.scores))


# ------------------------------------------------------------------------------------------------ what goes wrong often


def _swept(boxes, scores, threshold, drops=np.greater, overlap=box_ops.iou, only_kept=True, order=None):
    """NMS with mistakes: other comparisons, other overlaps, suppressed boxes that still suppress others."""
    order = np.argsort(-scores, kind="stable") if order is None else order
    table = overlap(boxes, boxes) if len(boxes) else np.zeros((0, 0))
    kept = []
    for place, i in enumerate(order):
        better = kept if only_kept else order[:place]
        if not any(drops(table[i, j], threshold) for j in better):
            kept.append(i)
    return np.array(kept, np.int64)


def _iou_plus_one(a, b):
    return box_ops.iou(a + [0, 0, 1, 1], b + [0, 0, 1, 1])


def _shared(a, b, least=0):
    """The area that each box of `a` shares with each of `b`. least: lower limit of a side."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    return np.maximum(sides, least).prod(axis=2)


def _iou_without_clamp(a, b):
    shared = _shared(a, b, -np.inf)
    return shared / (box_ops.area(a)[:, None] + box_ops.area(b) - shared)


def _part_of_the_smaller(a, b):
    return _shared(a, b) / np.minimum(box_ops.area(a)[:, None], box_ops.area(b))


def _by_class(boxes, scores, labels, threshold):
    kept = [np.flatnonzero(labels == c)[_nms(boxes[labels == c], scores[labels == c], threshold)] for c in set(labels)]
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def _one_class_a_roi(logits):
    """The probabilities, set to 0 for all classes except the best one of each RoI (or background)."""
    scores = softmax_array(logits)
    return scores * (scores == scores.max(axis=1, keepdims=True))


def _wrongly(weights=WEIGHTS, scores=softmax_array, background=False, clip=True, across=False):
    """The steps of `detect`, with one of them left out or changed."""

    def detections(logits, deltas, rois, height, width, score_threshold, nms_threshold, max_detections):
        first = 0 if background else 1
        boxes, probability = _class_boxes(deltas, rois, weights)[:, first:], scores(logits)[:, first:]
        boxes = (box_ops.clip(boxes, (height, width)) if clip else boxes).astype(np.float32)
        label = np.broadcast_to(np.arange(first, logits.shape[1]), probability.shape)
        good = probability > score_threshold
        boxes, probability, label = boxes[good], probability[good], label[good]
        kept = _nms(boxes, probability, nms_threshold, None if across else label)[:max_detections]
        return boxes[kept], label[kept], probability[kept]

    return detections


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(9)


def _random_head(rng, rois=2, side=2, channels=3, width=5):
    return dict(
        x=rng.standard_normal((rois, side, side, channels)),
        w6=rng.standard_normal((side**2 * channels, width)),
        b6=rng.standard_normal(width),
        w7=rng.standard_normal((width, width)),
        b7=rng.standard_normal(width),
    )


def _random_rois(rng, count):
    corner = rng.uniform(0, 40, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 24, (count, 2))], axis=1)


def _boxes(*boxes):
    return np.array(boxes, float).reshape(-1, 4)


def _crowded(rng, count=14):
    """Boxes around three places, with distinct scores."""
    center = rng.uniform(20, 60, (3, 2))[rng.integers(0, 3, count)] + rng.normal(0, 3, (count, 2))
    half = rng.uniform(6, 12, (count, 2))
    return dict(
        boxes=np.concatenate([center - half, center + half], axis=1), scores=rng.permutation(count) / count + 0.01
    )


def _random_detections(rng, count=8, classes=4):
    return dict(
        logits=(3 * rng.standard_normal((count, classes))).astype(np.float32),
        deltas=rng.standard_normal((count, 4 * classes)).astype(np.float32),
        rois=_random_rois(rng, count).astype(np.float32),
        height=60,
        width=64,
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=int(rng.integers(4, 20)),
    )


# Five boxes in a row, each 10 x 10. Neighbors 3 pixels apart share 7 x 10 of 13 x 10, an IoU of 0.54; boxes 6 pixels
# apart share 4 x 10 of 16 x 10, an IoU of 0.25. The best one is in the middle of the list.
_ROW = _boxes([0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [9, 0, 19, 10], [40, 0, 50, 10])
_ROW_SCORES = np.array([0.6, 0.5, 0.7, 0.9, 0.8])

# -------------------------------------------------------------------------------------------------------------- checks

box_head = Check(
    reference=_box_head,
    cases={
        "two RoIs of 2 x 2 bins and 3 channels": _random_head(_rng),
        "one RoI of 7 x 7 bins": _random_head(_rng, rois=1, side=7, channels=4, width=6),
    },
    random=_random_head,
    covers="several RoIs, one RoI, 2 x 2 and 7 x 7 bins",
    mistakes={
        "channels before bins: flatten (k, k, C) as it is, so that the channels of a bin stay together": lambda x, *w: (
            _box_head(x.transpose(0, 3, 1, 2), *w)
        ),
        "columns before rows": lambda x, *w: _box_head(x.transpose(0, 2, 1, 3), *w),
        "the average over the bins, which forgets where things are": lambda x, *w: _box_head(
            np.broadcast_to(x.mean((1, 2), keepdims=True), x.shape), *w
        ),
        "no ReLU at the end": lambda x, w6, b6, w7, b7: np.maximum(x.reshape(len(x), -1) @ w6 + b6, 0) @ w7 + b7,
        "no ReLU between the layers": lambda x, w6, b6, w7, b7: np.maximum(
            (x.reshape(len(x), -1) @ w6 + b6) @ w7 + b7, 0
        ),
        "no ReLU at all: two linear layers are just one": lambda x, w6, b6, w7, b7: (
            (x.reshape(len(x), -1) @ w6 + b6) @ w7 + b7
        ),
        "no biases": lambda x, w6, b6, w7, b7: _box_head(x, w6, 0, w7, 0),
    },
)

class_boxes = Check(
    reference=_class_boxes,
    cases={
        "deltas of 0: every class gets the RoI itself": dict(
            deltas=np.zeros((2, 12)), rois=_boxes([10, 20, 30, 60], [0, 0, 8, 8])
        ),
        "class 1 moves to the right, class 2 grows": dict(
            deltas=np.array([[0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 5 * np.log(2), 0]]), rois=_boxes([10, 20, 30, 60])
        ),
        "a predicted width that is far too large": dict(
            deltas=np.array([[1, 2, 90.0, 4, 3, -2, 1, -1]]), rois=_boxes([10, 20, 30, 60])
        ),
    },
    random=lambda rng: dict(deltas=3 * rng.standard_normal((3, 8)), rois=_random_rois(rng, 3)),
    covers="deltas of 0, moves, growth, and growth beyond the limit",
    grid=(0, 1),
    mistakes={
        "the deltas are not divided by the weights 10, 10, 5, 5": lambda deltas, rois: _class_boxes(
            deltas, rois, (1.0, 1.0, 1.0, 1.0)
        ),
        "the deltas are multiplied by the weights instead of divided": lambda deltas, rois: _class_boxes(
            deltas, rois, (0.1, 0.1, 0.2, 0.2)
        ),
        "deltas read as all dx, then all dy, ...: the four numbers of a class belong together": lambda deltas, rois: (
            box_ops.decode(deltas.reshape(len(rois), 4, -1).transpose(0, 2, 1), rois[:, None], WEIGHTS)
        ),
        "no limit log(1000 / 16) on the growth": lambda deltas, rois: _unlimited(
            deltas.reshape(len(rois), -1, 4) / WEIGHTS, rois[:, None]
        ),
        "widths computed with + 1": lambda deltas, rois: _class_boxes(deltas, rois + [0, 0, 1, 1]),
    },
)


def _unlimited(deltas, rois):
    size = rois[..., 2:] - rois[..., :2]
    center = rois[..., :2] + size * (0.5 + deltas[..., :2])
    half = size * np.exp(deltas[..., 2:]) / 2
    return np.concatenate([center - half, center + half], axis=-1)


nms = Check(
    reference=_nms,
    cases={
        "five boxes in a row, of which the fourth is the best": dict(boxes=_ROW, scores=_ROW_SCORES, threshold=0.5),
        "a chain: the best box suppresses the second, which then no longer suppresses the third": dict(
            boxes=_ROW[:3], scores=np.array([0.9, 0.8, 0.7]), threshold=0.5
        ),
        "small boxes, where + 1 would make a large difference": dict(
            boxes=_boxes([0, 0, 2, 2], [1, 1, 3, 3], [20, 20, 40, 40]), scores=np.array([0.7, 0.6, 0.9]), threshold=0.27
        ),
        "boxes that are apart in x and in y": dict(
            boxes=_boxes([0, 0, 4, 4], [30, 30, 34, 34], [70, 50, 74, 54]),
            scores=np.array([0.2, 0.9, 0.5]),
            threshold=0.3,
        ),
        "small boxes inside large ones: IoUs of 0.04 and 0.03": dict(
            boxes=_boxes([10, 10, 20, 20], [0, 0, 50, 50], [100, 0, 110, 10], [90, 0, 150, 50]),
            scores=np.array([0.6, 0.7, 0.9, 0.5]),
            threshold=0.5,
        ),
        "an IoU equal to the threshold is not greater than it": dict(
            boxes=_boxes([0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 6]), scores=np.array([0.9, 0.8, 0.7]), threshold=0.5
        ),
        "equal scores: the lower index is better": dict(
            boxes=_boxes([0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]),
            scores=np.array([0.5, 0.5, 0.5]),
            threshold=0.5,
        ),
        "one box": dict(boxes=_boxes([3, 4, 5, 9]), scores=np.array([0.1]), threshold=0.5),
        "no boxes": dict(boxes=_boxes(), scores=np.zeros(0), threshold=0.5),
    },
    random=lambda rng: dict(**_crowded(rng), threshold=float(rng.choice([0.2, 0.5, 0.7]))),
    covers="chains, IoUs equal to the threshold, small, nested and disjoint boxes, equal scores, one box, no boxes",
    mistakes={
        "boxes visited in their given order: they must be sorted by score": lambda b, s, t: _swept(
            b, s, t, order=np.arange(len(b))
        ),
        "boxes visited in ascending order of score: the worst one is kept": lambda b, s, t: _swept(
            b, s, t, order=np.argsort(s, kind="stable")
        ),
        "the right boxes in order of their indices: they must be in descending order of score": lambda b, s, t: np.sort(
            _nms(b, s, t)
        ),
        "suppressed boxes still suppress others": lambda b, s, t: _swept(b, s, t, only_kept=False),
        "`>=` instead of `>`: a box whose IoU equals the threshold stays": lambda b, s, t: _swept(
            b, s, t, np.greater_equal
        ),
        "widths and heights with + 1: the width is x2 - x1": lambda b, s, t: _swept(b, s, t, overlap=_iou_plus_one),
        "negative sides of the intersection are multiplied: without overlap, the intersection is 0": lambda b, s, t: (
            _swept(b, s, t, overlap=_iou_without_clamp)
        ),
        "the intersection divided by the smaller box instead of the union": lambda b, s, t: _swept(
            b, s, t, overlap=_part_of_the_smaller
        ),
        "the intersection divided by the better box instead of the union": lambda b, s, t: _swept(
            b, s, t, overlap=lambda one, others: _shared(one, others) / box_ops.area(others)
        ),
        "of equal scores, the higher index comes first: use a stable sort of -scores": lambda b, s, t: _swept(
            b, s, t, order=np.argsort(s, kind="stable")[::-1]
        ),
        "only the best box": lambda b, s, t: _nms(b, s, t)[:1],
        "boxes that overlap are kept, and those that do not are dropped": lambda b, s, t: _swept(
            b, s, t, np.less_equal
        ),
    },
)

nms_of_classes = Check(
    reference=_nms_of_classes,
    cases={
        "classes 1 and 9 at the same place, and another box of class 1": dict(
            boxes=_boxes([0, 0, 10, 10], [1, 0, 11, 10], [0, 1, 10, 11], [40, 0, 50, 10]),
            scores=np.array([0.6, 0.8, 0.7, 0.9]),
            labels=np.array([1, 9, 1, 1]),
            threshold=0.5,
        ),
        "large boxes, high labels": dict(
            boxes=_boxes([0, 0, 300, 300], [3, 3, 303, 303], [2, 2, 302, 302], [92, 2, 392, 302]),
            scores=np.array([0.7, 0.8, 0.9, 0.6]),
            labels=np.array([40, 3, 40, 70]),
            threshold=0.5,
        ),
        "one class": dict(boxes=_ROW, scores=_ROW_SCORES, labels=np.ones(5, int), threshold=0.5),
        "no boxes": dict(boxes=_boxes(), scores=np.zeros(0), labels=np.zeros(0, int), threshold=0.5),
    },
    random=lambda rng: dict(**_crowded(rng), labels=rng.integers(1, 4, 14), threshold=0.5),
    covers="classes at the same place, large boxes and labels, one class, no boxes",
    mistakes={
        "NMS across classes: a dog does not suppress a cat": lambda boxes, scores, labels, t: _nms(boxes, scores, t),
        "one class after the other: the result must be in descending order of score over all classes": _by_class,
        "boxes shifted by their label, which is too little to separate the classes": lambda boxes, scores, labels, t: (
            _nms(boxes + labels[:, None], scores, t)
        ),
    },
)

detections = Check(
    reference=_detections,
    cases={
        "two RoIs at the same place are cats, one of them is a dog as well; the third is background": dict(
            logits=np.log(np.array([[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.9, 0.06, 0.04]], np.float32)),
            deltas=np.zeros((3, 12), np.float32),
            rois=_boxes([10, 10, 30, 30], [10, 11, 30, 31], [50, 10, 70, 40]).astype(np.float32),
            height=60,
            width=90,
            score_threshold=0.05,
            nms_threshold=0.5,
            max_detections=5,
        ),
        "boxes that reach beyond the image": {**_random_detections(_rng, count=6), "height": 40, "width": 36},
    },
    random=_random_detections,
    rtol=1e-5,
    atol=1e-5,
    results=("boxes", "labels", "scores"),
    covers="several classes per RoI, low scores, boxes beyond the border, more detections than requested",
    mistakes={
        "the background treated as a class": _wrongly(background=True),
        "only the best class of a RoI: every class with a score above the threshold is a candidate": _wrongly(
            scores=_one_class_a_roi
        ),
        "NMS across classes": _wrongly(across=True),
        "a sigmoid for each class instead of the softmax": _wrongly(scores=sigmoid_array),
        "the softmax without the background": _wrongly(
            scores=lambda logits: np.pad(softmax_array(logits[:, 1:]), ((0, 0), (1, 0)))
        ),
        "boxes are not clipped at the image's border": _wrongly(clip=False),
        "the deltas are not divided by the weights 10, 10, 5, 5": _wrongly(weights=(1.0, 1.0, 1.0, 1.0)),
        "everything that is left instead of the best `max_detections`": lambda *a: _detections(*a[:-1], 10**6),
    },
)
