"""Checks of notebook 06: right answers pass, and typical wrong ones are named."""

import numpy as np

from tests import answers
from tests.answers import box_area, decode, iou


def rpn_outputs(logits, deltas):
    return logits.reshape(-1), deltas.reshape(-1, 4)


def best_anchors(scores, count):
    return np.argsort(-scores, kind="stable")[:count]


def suppressed(box, others, threshold):
    return iou(box[None], others)[0] > threshold


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def suppress(boxes, threshold):
    """The indices (K,) of the boxes that stay, best first."""
    left, kept = list(range(len(boxes))), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if not suppressed(boxes[best], boxes[[i]], threshold)[0]]
    return np.array(kept, dtype=int)


def level_proposals(
    anchors, logits, deltas, image_size, before, threshold, after, score=sigmoid, clip=True, smallest=1e-3
):
    best = best_anchors(logits, before)
    boxes, scores = decode(deltas[best], anchors[best], (1, 1, 1, 1)), score(logits[best])
    if clip:
        height, width = image_size
        boxes = np.clip(boxes, 0, [width, height, width, height])
    large = (boxes[:, 2:] - boxes[:, :2] >= smallest).all(axis=1)
    boxes, scores = boxes[large], scores[large]
    kept = suppress(boxes, threshold)[:after]
    return boxes[kept], scores[kept]


def proposal_recall(proposals, truth, threshold):
    return float(np.mean([(iou(t[None], proposals) >= threshold).any() for t in truth]))


RIGHT = dict(
    rpn_outputs=rpn_outputs,
    best_anchors=best_anchors,
    suppressed=suppressed,
    level_proposals=level_proposals,
    proposal_recall=proposal_recall,
)


def covered(box, others, threshold):
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return np.maximum(high - low, 0).prod(axis=1) / box_area(others) > threshold


WRONG = [  # check, wrong answer, case that shows it, what the message says
    (
        "rpn_outputs",
        lambda l, d: (l.transpose(2, 0, 1).reshape(-1), d.reshape(-1, 4)),
        "2 x 2 locations, 3 anchors each",
        "Result 1 (logits) at [1] is 16, expected 2.",
    ),
    (
        "rpn_outputs",
        lambda l, d: (l.reshape(-1), d.reshape(-1, 4, l.shape[2]).swapaxes(1, 2).reshape(-1, 4)),
        "2 x 2 locations, 3 anchors each",
        "all dx of a location come first",
    ),
    (
        "rpn_outputs",
        lambda l, d: l.reshape(-1),
        "2 x 2 locations, 3 anchors each",
        "expected 2 results (logits, deltas)",
    ),
    (
        "best_anchors",
        lambda s, n: np.argsort(s)[:n],
        "the best three of five",
        "the worst: np.argsort sorts in ascending order",
    ),
    ("best_anchors", lambda s, n: np.sort(s)[::-1][:n], "the best three of five", "holds floating-point numbers"),
    (
        "best_anchors",
        lambda s, n: np.argsort(s, kind="stable")[::-1][:n],
        "equal scores: the lower index first",
        "of equal scores, the higher index comes first",
    ),
    ("best_anchors", lambda s, n: np.argpartition(-s, n - 1)[:n], "more requested than there are", "ValueError"),
    (
        "suppressed",
        lambda b, o, t: iou(b[None], o)[0] >= t,
        "a box whose IoU equals the threshold stays",
        "`>=` instead of `>`",
    ),
    (
        "suppressed",
        lambda b, o, t: ~suppressed(b, o, t),
        "one near, one far",
        "the boxes that stay instead of those that are",
    ),
    ("suppressed", covered, "a small box inside a large one", "the covered part of the other box instead of IoU"),
    ("level_proposals", lambda *a: level_proposals(*a, score=lambda x: x), "five anchors", "the sigmoid is missing"),
    (
        "level_proposals",
        lambda *a: level_proposals(*a, clip=False),
        "five anchors",
        "boxes are not clipped at the image's border",
    ),
    (
        "level_proposals",
        lambda a, l, d, size, *rest: level_proposals(a, l, d, size[::-1], *rest),
        "five anchors",
        "image_size is (height, width)",
    ),
    ("level_proposals", lambda *a: level_proposals(*a[:5], 1.0, a[6]), "five anchors", "no suppression"),
    (
        "level_proposals",
        lambda *a: level_proposals(*a, smallest=0.0),
        "a box outside the image has no size once it is",
        "boxes without size are not dropped",
    ),
    (
        "level_proposals",
        lambda *a: level_proposals(*a[:4], min(a[4], a[6]), *a[5:]),
        "two boxes with an IoU above 0.5, one of which is",
        "only the best `after` take part in the suppression",
    ),
    (
        "proposal_recall",
        lambda p, t, threshold: float(np.mean([(iou(b[None], t) >= threshold).any() for b in p])),
        "one of three objects",
        "precision",
    ),
    (
        "proposal_recall",
        lambda p, t, threshold: float((iou(t, p) > threshold).any(axis=1).mean()),
        "an IoU equal to the threshold counts",
        "`>` instead of `>=`",
    ),
    (
        "proposal_recall",
        lambda p, t, threshold: float((iou(t, p) >= threshold).any(axis=1).sum()),
        "one of three objects",
        "the number of objects found",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)
