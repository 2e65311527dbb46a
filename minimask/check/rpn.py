"""Checks of notebook 06: the order of the RPN's outputs, the best anchors, a round of suppression, proposals, recall.

One image, one level: anchors (A, 4), one logit and four deltas for each.
"""

import numpy as np

from minimask import boxes as box_ops
from minimask.check.engine import Check
from minimask.functional import sigmoid_array


def _outputs(logits, deltas):
    return logits.reshape(-1), deltas.reshape(-1, 4)


def _best(scores, count):
    return np.argsort(-scores, kind="stable")[:count]


def _suppressed(box, others, threshold, compare=np.greater):
    return compare(box_ops.iou(box[None], others)[0], threshold)


def _proposals(anchors, logits, deltas, image_size, before, threshold, after, skip=(), move=box_ops.decode):
    """What `RPN.proposals` does for one image and one level. skip: names of steps that are left out, as a mistake."""
    best = _best(logits, len(logits) if "top" in skip else before)
    boxes, scores = move(deltas[best], anchors[best]), sigmoid_array(logits[best])
    if "clip" not in skip:
        boxes = box_ops.clip(boxes, np.array(image_size))
    if "nms" in skip:
        return boxes[:after], scores[:after]
    valid = box_ops.large_enough(boxes, 1e-3 if "size" not in skip else -np.inf)
    looked_at = anchors[best] if "moved" in skip else boxes
    kept, real = box_ops.nms.plain(looked_at[None], scores[None], valid[None], threshold, after)
    kept = kept[0][real[0]]
    return boxes[kept], scores[kept]


def _cut_before(anchors, logits, deltas, image_size, before, threshold, after):
    """Takes only as many before the suppression as may remain after it."""
    return _proposals(anchors, logits, deltas, image_size, min(before, after), threshold, after)


def _raw_scores(anchors, logits, *rest):
    boxes, scores = _proposals(anchors, logits, *rest)
    return boxes, np.log(scores / (1 - scores))


def _clipped_sideways(anchors, logits, deltas, image_size, *rest):
    return _proposals(anchors, logits, deltas, image_size[::-1], *rest)


def _found(proposals, truth, threshold, compare=np.greater_equal):
    """Whether any proposal fits each object: (G,) bool."""
    return compare(box_ops.iou(truth, proposals).max(axis=1, initial=0.0), threshold)


def _precision(proposals, truth, threshold):
    return float((box_ops.iou(proposals, truth) >= threshold).any(axis=1).mean())


# --------------------------------------------------------------------------------------------------------------- cases


def _boxes(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


_NUMBERS = np.arange(1.0, 61.0).reshape(2, 2, 15)  # (h, w, 5 P): no two numbers are equal


def _random_level(rng):
    low = rng.uniform(0, 80, (40, 2))
    return dict(
        anchors=np.concatenate([low, low + rng.uniform(10, 40, (40, 2))], axis=1),
        logits=rng.normal(0, 2, 40),
        deltas=rng.normal(0, 0.2, (40, 4)),
        image_size=(90, 100),
        before=int(rng.integers(10, 40)),
        threshold=0.5,
        after=int(rng.integers(3, 12)),
    )


_LEVEL = dict(
    anchors=_boxes((10, 10, 30, 30), (50, 20, 80, 40), (12, 10, 32, 30), (90, 60, 110, 80), (40, 40, 60, 60)),
    logits=np.array([1.0, 0.0, 2.0, -1.0, -3.0]),
    deltas=_boxes((0.1, 0, 0, 0), (0, 0, 0.2, -0.1), (0, 0, 0, 0), (0.3, 0, 0, 0), (0, 0, 0, 0)),
    image_size=(70, 100),
)

# -------------------------------------------------------------------------------------------------------------- checks

rpn_outputs = Check(
    reference=_outputs,
    results=("logits", "deltas"),
    cases={
        "2 x 2 locations, 3 anchors each": dict(logits=_NUMBERS[..., :3], deltas=_NUMBERS[..., 3:]),
        "1 x 3 locations, 2 anchors each": dict(
            logits=np.arange(6.0).reshape(1, 3, 2), deltas=np.arange(24.0).reshape(1, 3, 8)
        ),
        "one anchor per location": dict(
            logits=np.arange(4.0).reshape(2, 2, 1), deltas=np.arange(16.0).reshape(2, 2, 4)
        ),
    },
    random=lambda rng: dict(logits=rng.standard_normal((3, 4, 3)), deltas=rng.standard_normal((3, 4, 12))),
    covers="several locations, one and several anchors per location",
    view_allowed=True,
    mistakes={
        "all locations of the first anchor come first: the order is row, column, anchor": lambda l, d: (
            np.moveaxis(l, 2, 0).reshape(-1),
            np.moveaxis(d.reshape(*l.shape, 4), 2, 0).reshape(-1, 4),
        ),
        "columns come first: the order is row, column, anchor": lambda l, d: (
            l.transpose(1, 0, 2).reshape(-1),
            d.transpose(1, 0, 2).reshape(-1, 4),
        ),
        "all dx of a location come first: the four numbers of an anchor belong together": lambda l, d: (
            l.reshape(-1),
            d.reshape(*l.shape[:2], 4, -1).swapaxes(2, 3).reshape(-1, 4),
        ),
    },
)

best_anchors = Check(
    reference=_best,
    cases={
        "the best three of five": dict(scores=np.array([0.7, 0.1, 0.9, 0.3, 0.8]), count=3),
        "equal scores: the lower index first": dict(scores=np.array([0.5, 0.9, 0.5, 0.9, 0.1]), count=3),
        "negative scores (logits)": dict(scores=np.array([-3.0, -1.0, -2.0]), count=2),
        "more requested than there are": dict(scores=np.array([0.2, 0.4]), count=5),
    },
    random=lambda rng: dict(scores=rng.integers(0, 9, 30) / 8.0, count=int(rng.integers(1, 30))),
    covers="ties, negative scores, more requested than there are",
    mistakes={
        "the worst: np.argsort sorts in ascending order": lambda s, n: np.argsort(s, kind="stable")[:n],
        "the best, but in ascending order of score": lambda s, n: _best(s, n)[::-1],
        "the scores themselves instead of their indices": lambda s, n: s[_best(s, n)],
        "of equal scores, the higher index comes first: sort -scores instead of reversing the order": lambda s, n: (
            np.argsort(s, kind="stable")[::-1][:n]
        ),
        "sorted by index: np.argpartition finds the best but does not sort them by score": lambda s, n: np.sort(
            _best(s, n)
        ),
    },
)

suppressed = Check(
    reference=_suppressed,
    cases={
        "one near, one far": dict(
            box=np.array([0.0, 0, 10, 10]), others=_boxes((1, 0, 11, 10), (30, 30, 40, 40)), threshold=0.7
        ),
        "a small box inside a large one: little is shared": dict(
            box=np.array([0.0, 0, 100, 100]), others=_boxes((10, 10, 30, 30), (1, 1, 99, 99)), threshold=0.3
        ),
        "a box whose IoU equals the threshold stays": dict(
            box=np.array([0.0, 0, 10, 10]), others=_boxes((0, 0, 5, 10), (0, 0, 6, 10)), threshold=0.5
        ),
        "no other boxes": dict(box=np.array([0.0, 0, 10, 10]), others=_boxes(), threshold=0.5),
    },
    random=lambda rng: dict(
        box=np.array([20.0, 20, 60, 60]), others=np.array([20.0, 20, 60, 60]) + rng.normal(0, 8, (8, 4)), threshold=0.6
    ),
    covers="near and far boxes, the threshold itself, nested boxes, no boxes",
    mistakes={
        "the boxes that stay instead of those that are suppressed": lambda b, o, t: ~_suppressed(b, o, t),
        "`>=` instead of `>`: a box whose IoU equals the threshold stays": lambda b, o, t: _suppressed(
            b, o, t, np.greater_equal
        ),
        "the covered part of the other box instead of IoU": lambda b, o, t: (
            box_ops.area(np.concatenate([np.maximum(b[:2], o[:, :2]), np.minimum(b[2:], o[:, 2:])], axis=1))
            > t * box_ops.area(o)
        ),
    },
)

level_proposals = Check(
    reference=_proposals,
    results=("boxes", "scores"),
    cases={
        "five anchors": dict(**_LEVEL, before=5, threshold=0.5, after=5),
        "the worst is left out before the suppression": dict(**_LEVEL, before=4, threshold=0.5, after=5),
        "two boxes with an IoU above 0.5, one of which is suppressed": dict(**_LEVEL, before=5, threshold=0.7, after=2),
        "a box outside the image has no size once it is clipped": dict(
            anchors=_boxes((10, 10, 30, 30), (120, 10, 140, 30), (11, 10, 31, 30)),
            logits=np.array([0.0, 3.0, -1.0]),
            deltas=np.zeros((3, 4)),
            image_size=(70, 100),
            before=3,
            threshold=0.7,
            after=3,
        ),
    },
    random=_random_level,
    covers="order, clipping at the border, boxes without size, suppression, fewer boxes than requested",
    mistakes={
        "logits instead of scores: the sigmoid is missing": _raw_scores,
        "the anchors themselves: the deltas are not applied": lambda *a: _proposals(
            *a, move=lambda d, anchors: anchors
        ),
        "boxes are not clipped at the image's border": lambda *a: _proposals(*a, skip=("clip",)),
        "height and width swapped: image_size is (height, width)": _clipped_sideways,
        "no suppression": lambda *a: _proposals(*a, skip=("nms",)),
        "suppression of the anchors instead of the predicted boxes": lambda *a: _proposals(*a, skip=("moved",)),
        "all anchors take part in the suppression instead of the best `before`": lambda *a: _proposals(
            *a, skip=("top",)
        ),
        "only the best `after` take part in the suppression: they are counted after it": _cut_before,
        "boxes without size are not dropped": lambda *a: _proposals(*a, skip=("size",)),
    },
)

proposal_recall = Check(
    reference=lambda proposals, truth, threshold: float(_found(proposals, truth, threshold).mean()),
    cases={
        "one of three objects is found, by two of four proposals": dict(
            proposals=_boxes((0, 0, 10, 10), (1, 0, 11, 10), (30, 30, 40, 34), (70, 70, 80, 80)),
            truth=_boxes((0, 0, 10, 10), (30, 30, 40, 40), (50, 50, 60, 60)),
            threshold=0.5,
        ),
        "an IoU equal to the threshold counts": dict(
            proposals=_boxes((0, 0, 5, 10)), truth=_boxes((0, 0, 10, 10)), threshold=0.5
        ),
        "one proposal for two objects at the same place": dict(
            proposals=_boxes((0, 0, 10, 10)), truth=_boxes((0, 0, 10, 10), (0, 0, 10, 9), (50, 0, 60, 9)), threshold=0.5
        ),
        "no proposals: nothing is found": dict(proposals=_boxes(), truth=_boxes((0, 0, 10, 10)), threshold=0.5),
    },
    random=lambda rng: dict(
        proposals=np.array([20.0, 20, 60, 60]) + rng.normal(0, 12, (3, 4)),
        truth=np.array([20.0, 20, 60, 60]) + rng.normal(0, 12, (5, 4)),
        threshold=0.6,
    ),
    covers="found, missed, found twice, the threshold itself, no proposals",
    mistakes={
        "precision, the fraction of proposals that fit, instead of the fraction of objects that are found": _precision,
        "the number of objects found instead of their fraction": lambda p, t, threshold: float(
            _found(p, t, threshold).sum()
        ),
        "every pair is counted: an object that two proposals fit is found once": lambda p, t, threshold: float(
            (box_ops.iou(t, p) >= threshold).sum() / len(t)
        ),
        "the average of the best IoUs: an object is either found or not": lambda p, t, threshold: float(
            box_ops.iou(t, p).max(axis=1, initial=0.0).mean()
        ),
        "`>` instead of `>=`: an IoU equal to the threshold counts": lambda p, t, threshold: float(
            _found(p, t, threshold, np.greater).mean()
        ),
    },
)
