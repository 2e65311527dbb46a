"""Checks of notebook 09: right answers pass, typical wrong ones are named, and the text has torchvision's boxes."""

import ast
from pathlib import Path

import numpy as np

from minimask import boxes as box_ops
from tests import answers
from tests.references import operation_inputs

ROOT = Path(__file__).parents[1]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def box_head(x, w6, b6, w7, b7):
    x = x.reshape(len(x), -1)
    return np.maximum(np.maximum(x @ w6 + b6, 0) @ w7 + b7, 0)


def class_boxes(deltas, rois, weights=(10, 10, 5, 5)):
    return box_ops.decode(deltas.reshape(len(rois), -1, 4), rois[:, None], weights)


def overlap(a, b, extra=0.0):
    """The IoU of two boxes, with `extra` added to each side."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def nms(boxes, scores, threshold, extra=0.0, drops=lambda iou, t: iou > t):
    """NMS with loops over the boxes, as a student would write it."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not any(drops(overlap(boxes[i], boxes[j], extra), threshold) for j in kept):
            kept.append(i)
    return np.array(kept, int)


def nms_of_classes(boxes, scores, labels, threshold):
    kept = [np.flatnonzero(labels == c)[nms(boxes[labels == c], scores[labels == c], threshold)] for c in set(labels)]
    kept = np.concatenate(kept) if kept else np.zeros(0, int)
    return kept[np.argsort(-scores[kept], kind="stable")]


def detections(logits, deltas, rois, height, width, score_threshold, nms_threshold, max_detections, first=1, size=None):
    scores = softmax(logits)[:, first:]
    boxes = box_ops.clip(class_boxes(deltas, rois)[:, first:], size or (height, width)).astype(np.float32)
    labels = np.broadcast_to(np.arange(first, logits.shape[1]), scores.shape)
    good = (scores > score_threshold) & box_ops.large_enough(boxes, 0.01)
    boxes, labels, scores = boxes[good], labels[good], scores[good]
    kept = nms_of_classes(boxes, scores, labels, nms_threshold)[:max_detections]
    return boxes[kept], labels[kept], scores[kept]


RIGHT = dict(box_head=box_head, class_boxes=class_boxes, nms=nms, nms_of_classes=nms_of_classes, detections=detections)


def unsorted(boxes, scores, threshold):
    return nms(boxes, -np.arange(len(boxes)), threshold)


def suppressed_suppress(boxes, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    better = [order[:place] for place in range(len(order))]
    return np.array(
        [i for i, js in zip(order, better) if all(overlap(boxes[i], boxes[j]) <= threshold for j in js)], int
    )


def of_the_first(boxes, scores, threshold):
    """The part of the better box that is covered, instead of IoU."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        sides = [np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]) for j in kept]
        parts = [max(w, 0) * max(h, 0) / box_ops.area(boxes[j]) for (w, h), j in zip(sides, kept)]
        if not any(part > threshold for part in parts):
            kept.append(i)
    return np.array(kept, int)


FIVE = '"five boxes in a row, of which the fourth is the best"'
WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("box_head", lambda x, *w: box_head(x.transpose(0, 3, 1, 2), *w), "two RoIs of 2 x 2 bins", "channels before bins"),
    (
        "box_head",
        lambda x, w6, b6, w7, b7: np.maximum(x.reshape(len(x), -1) @ w6 + b6, 0) @ w7 + b7,
        "two RoIs of 2 x 2 bins",
        "no ReLU at the end",
    ),
    (
        "box_head",
        lambda x, w6, b6, w7, b7: np.maximum((x.reshape(len(x), -1) @ w6 + b6) @ w7 + b7, 0),
        "two RoIs of 2 x 2 bins",
        "no ReLU between the layers",
    ),
    (
        "class_boxes",
        lambda deltas, rois: class_boxes(deltas, rois, (1, 1, 1, 1)),
        "class 1 moves to the right, class 2 grows",
        "not divided by the weights 10, 10, 5, 5",
    ),
    (
        "class_boxes",
        lambda deltas, rois: class_boxes(deltas, rois).reshape(len(rois), -1),
        "deltas of 0: every class gets the RoI itself",
        "has shape (2, 12), expected (2, 3, 4)",
    ),
    ("nms", lambda *a: nms(*a, drops=lambda iou, t: iou >= t), "an IoU equal to the threshold", "`>=` instead of `>`"),
    ("nms", unsorted, FIVE, "boxes visited in their given order: they must be sorted by score"),
    ("nms", lambda b, s, t: nms(b, -s, t), FIVE, "boxes visited in ascending order of score: the worst one is kept"),
    (
        "nms",
        lambda *a: np.sort(nms(*a)),
        FIVE,
        "the right boxes in order of their indices: they must be in descending order of score",
    ),
    ("nms", suppressed_suppress, "a chain", "suppressed boxes still suppress others"),
    ("nms", lambda *a: nms(*a, extra=1.0), "small boxes, where + 1", "widths and heights with + 1"),
    ("nms", of_the_first, "small boxes inside large ones", "the intersection divided by the better box instead"),
    ("nms", lambda b, s, t: np.isin(np.arange(len(b)), nms(b, s, t)), FIVE, "has shape (5,), expected (3,)"),
    ("nms", lambda b, s, t: b[nms(b, s, t)], FIVE, "has shape (3, 4), expected (3,)"),
    ("nms", lambda b, s, t: nms(b, s, t).tolist(), FIVE, "a list of length 3, expected an array"),
    ("nms_of_classes", lambda b, s, labels, t: nms(b, s, t), "classes 1 and 9", "NMS across classes"),
    (
        "nms_of_classes",
        lambda b, s, labels, t: nms(b + labels[:, None], s, t),
        "large boxes, high labels",
        "boxes shifted by their label",
    ),
    (
        "nms_of_classes",
        lambda b, s, labels, t: np.sort(nms_of_classes(b, s, labels, t)),
        "classes 1 and 9",
        "The result at [0] is",
    ),
    (
        "detections",
        lambda *a: detections(*a, first=0),
        "two RoIs at the same place are cats, one of them is",
        "the background treated as a class",
    ),
    (
        "detections",
        lambda *a: detections(*a, size=(10**6, 10**6)),
        "boxes that reach beyond the image",
        "boxes are not clipped at the image's border",
    ),
    (
        "detections",
        lambda *a: detections(*a)[:2],
        "two RoIs at the same place are cats, one of them is",
        "expected 3 results (boxes, labels, scores)",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_notebook_shows_what_torchvision_keeps():
    source = ast.parse((ROOT / "notebooks" / "09_box_head_and_nms.py").read_text(encoding="utf-8"))
    shown = answers.shown_in("09_box_head_and_nms", "TORCHVISION")
    with np.load(ROOT / "tests" / "references" / "suppression.npz") as golden:
        assert golden["nms_0.3"].tolist() == shown
    function = next(f for f in source.body if isinstance(f, ast.FunctionDef) and f.name == "crowded_boxes")
    names = {"np": np}
    exec(ast.unparse(function), names)
    for ours, theirs in zip(names["crowded_boxes"](), operation_inputs.crowded_boxes()):
        np.testing.assert_array_equal(ours, theirs)
