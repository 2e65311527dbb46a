"""Checks of notebook 14: overlap of masks, matching with the ground truth, precision and recall, average precision."""

import numpy as np

from minimask.check.engine import Check
from minimask.check.start import _rectangles

RECALLS = np.linspace(0, 1, 101)


def _shared(a, b):
    """The pixels that masks (A, H, W) and (B, H, W) share, and their areas: (A, B), (A, 1), (B,)."""
    a, b = (masks.reshape(len(masks), np.prod(masks.shape[1:], dtype=int)).astype(np.float64) for masks in (a, b))
    return a @ b.T, a.sum(axis=1)[:, None], b.sum(axis=1)


def _divide(shared, whole):
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _mask_iou(a, b):
    shared, area_a, area_b = _shared(a, b)
    return _divide(shared, area_a + area_b - shared)


def _part_of_first(a, b):
    shared, area_a, area_b = _shared(a, b)
    return _divide(shared, np.broadcast_to(area_a, shared.shape))


def _without_subtraction(a, b):
    shared, area_a, area_b = _shared(a, b)
    return _divide(shared, area_a + area_b)


def _between(masks):
    """Each mask with everything from its first to its last row and column filled."""
    filled = np.zeros_like(masks, dtype=bool)
    for full, mask in zip(filled, masks):
        if mask.any():
            y, x = np.nonzero(mask)
            full[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    return filled


def _match(overlaps, threshold, strict=False, again=False, first=False, give_up=False):
    """The index of the object that each detection finds, or -1; with a mistake of one kind."""
    matches, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], bool)
    for d, row in enumerate(overlaps):
        near = row > threshold if strict else row >= threshold
        near = near & (free | again | give_up)
        if near.any():
            g = int(near.argmax()) if first else int(np.where(near, row, -1).argmax())
            if free[g] or again:
                matches[d], free[g] = g, False
    return matches


def _match_by_object(overlaps, threshold):
    matches = np.full(len(overlaps), -1)
    for g, column in enumerate(overlaps.T):
        if len(column) and column.max() >= threshold:
            matches[column.argmax()] = g
    return matches


def _precision_recall(hits, objects):
    found = np.cumsum(hits)
    return found / np.arange(1, len(hits) + 1), found / objects


def _envelope(precision):
    return np.maximum.accumulate(precision[::-1])[::-1]


def _average_precision(precision, recall, recalls=RECALLS, envelope=_envelope, side="left"):
    """The mean over the recalls of the best precision from there on; with a mistake of one kind."""
    at = np.searchsorted(recall, recalls, side=side)
    return float(np.append(envelope(precision), 0.0)[at].mean())


def _area_under(precision, recall):
    return float(np.sum(_envelope(precision) * np.diff(recall, prepend=0.0)))


# --------------------------------------------------------------------------------------------------------------- cases


def _random_overlaps(rng):
    shape = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    return dict(overlaps=rng.random(shape), threshold=float(rng.choice([0.3, 0.5, 0.75])))


def _random_curve(rng):
    objects, hits = int(rng.choice([3, 7, 9, 11])), rng.random(int(rng.integers(1, 12))) < 0.6
    hits[np.cumsum(hits) > objects] = False
    return dict(zip(("precision", "recall"), _precision_recall(hits, objects)))


def _curve(hits, objects):
    return dict(zip(("precision", "recall"), _precision_recall(np.array(hits, bool), objects)))


def _hits(*values):
    return np.array(values, dtype=bool)


_L = _rectangles((0, 0, 2, 5), (2, 3, 6, 5))[:1] | _rectangles((2, 3, 6, 5))  # an L of 18 pixels in a box of 30

# -------------------------------------------------------------------------------------------------------------- checks

mask_iou = Check(
    reference=_mask_iou,
    cases={
        "masks of 12 and 9 pixels that share 6: 6 / 15": dict(a=_rectangles((0, 0, 4, 3)), b=_rectangles((2, 0, 5, 3))),
        "an L and the square in its corner share nothing, although their boxes do": dict(
            a=_L, b=_rectangles((3, 0, 6, 3))
        ),
        "equal, apart, one inside the other": dict(
            a=_rectangles((1, 1, 5, 4), (0, 0, 1, 1)), b=_rectangles((1, 1, 5, 4), (2, 2, 4, 3), (6, 4, 7, 5))
        ),
        "two empty masks: 0": dict(a=np.zeros((1, 5, 7), bool), b=np.zeros((1, 5, 7), bool)),
        "nothing found: an empty result": dict(a=np.zeros((0, 5, 7), bool), b=_rectangles((0, 0, 2, 2))),
    },
    random=lambda rng: dict(a=rng.random((3, 5, 7)) < 0.5, b=rng.random((2, 5, 7)) < 0.5),
    covers="overlapping, equal, nested, apart and empty masks",
    mistakes={
        "the shared pixels divided by the first mask": _part_of_first,
        "the shared pixels counted twice in the union: subtract them once": _without_subtraction,
        "the Dice coefficient, 2 shared / (sum of both areas)": lambda a, b: 2 * _without_subtraction(a, b),
        "the IoU of the boxes": lambda a, b: _mask_iou(_between(a), _between(b)),
        "the number of shared pixels: divide it by the union": lambda a, b: _shared(a, b)[0],
    },
)

match_detections = Check(
    reference=_match,
    cases={
        "two objects found, one not": dict(overlaps=np.array([[0.1, 0.8], [0.6, 0.2], [0.3, 0.3]]), threshold=0.5),
        "an object found twice: the second detection is a mistake": dict(
            overlaps=np.array([[0.7], [0.9]]), threshold=0.5
        ),
        "two objects above the threshold: the one with more overlap": dict(
            overlaps=np.array([[0.6, 0.9]]), threshold=0.5
        ),
        "the best object is taken: the next best one above the threshold": dict(
            overlaps=np.array([[0.9, 0.1], [0.8, 0.6]]), threshold=0.5
        ),
        "an IoU equal to the threshold is enough": dict(overlaps=np.array([[0.75, 0.2]]), threshold=0.75),
        "no objects: all detections are mistakes": dict(overlaps=np.zeros((3, 0)), threshold=0.5),
        "nothing found: an empty result": dict(overlaps=np.zeros((0, 2)), threshold=0.5),
    },
    random=_random_overlaps,
    covers="duplicates, choices, the threshold itself, no objects, no detections",
    mistakes={
        "`>` instead of `>=`": lambda o, t: _match(o, t, strict=True),
        "an object is found twice": lambda o, t: _match(o, t, again=True),
        "the first object above the threshold instead of the one with the largest overlap": lambda o, t: _match(
            o, t, first=True
        ),
        "a detection gives up if its best object is taken, which is PASCAL VOC's rule": lambda o, t: _match(
            o, t, give_up=True
        ),
        "each object chooses its best detection: the detections choose, in descending order of score": _match_by_object,
    },
)

precision_recall = Check(
    reference=_precision_recall,
    cases={
        "right, right, wrong, wrong, right, with 3 objects": dict(hits=_hits(1, 1, 0, 0, 1), objects=3),
        "the first is wrong": dict(hits=_hits(0, 1, 1), objects=4),
        "one of five objects is found": dict(hits=_hits(1), objects=5),
        "nothing found: empty results": dict(hits=_hits(), objects=2),
    },
    random=lambda rng: dict(hits=rng.random(int(rng.integers(1, 9))) < 0.5, objects=int(rng.integers(8, 15))),
    results=("precision", "recall"),
    covers="right first, wrong first, objects that are not found, no detections",
    mistakes={
        "recall divided by the number of detections instead of objects": lambda hits, objects: (
            _precision_recall(hits, objects)[0],
            np.cumsum(hits) / len(hits),
        ),
        "precision divided by the number of all detections instead of those up to here": lambda hits, objects: (
            np.cumsum(hits) / len(hits),
            np.cumsum(hits) / objects,
        ),
        "precision and recall swapped": lambda hits, objects: _precision_recall(hits, objects)[::-1],
    },
)

average_precision = Check(
    reference=_average_precision,
    cases={
        "right, right, wrong, wrong, right, of 3 objects: (67 + 34 x 0.6) / 101": _curve([1, 1, 0, 0, 1], 3),
        "a dip: the best precision from there on counts": _curve([0, 1, 1], 4),
        "all objects found, no mistakes: 1": _curve([1, 1, 1], 3),
        "all objects found, mistakes only after them: still 1": _curve([1, 1, 0, 0, 0], 2),
        "half of the objects found: a recall of exactly 0.5 counts": _curve([1], 2),
        "nothing right: 0": _curve([0, 0], 3),
        "nothing found: 0": _curve([], 3),
    },
    random=_random_curve,
    covers="dips, full and partial recall, nothing right, nothing found",
    mistakes={
        "the precision where a recall is reached, instead of the best one from there on": lambda p, r: (
            _average_precision(p, r, envelope=lambda x: x)
        ),
        "11 recalls, as in PASCAL VOC 2007, instead of 101": lambda p, r: _average_precision(
            p, r, np.linspace(0, 1, 11)
        ),
        "the exact area under the curve instead of the mean over 101 recalls": _area_under,
        "the mean of the precisions": lambda p, r: float(p.mean()),
        "`>` instead of `>=`: a recall that is just reached counts": lambda p, r: _average_precision(
            p, r, side="right"
        ),
    },
)
