"""Checks of notebook 17: COCO's boxes, run lengths and polygons, and a split that keeps similar photos together.

Masks are (H, W) bool. A pixel in column 3 covers x from 3 to 4.
"""

import numpy as np

from minimask.check.engine import Check


def _counts(mask, order="F", first=0):
    """The lengths of the runs, column by column, beginning with the zeros."""
    flat = np.concatenate([[first], mask.ravel(order).astype(int)])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], changes, [mask.size]])).astype(np.int64)


def _starts(mask):
    """Where each run begins, instead of how long it is."""
    return np.concatenate([[0], np.cumsum(_counts(mask))[:-1]])


def _area(polygon, half=0.5, closed=True):
    x, y = polygon[0::2], polygon[1::2]
    terms = x * np.roll(y, -1) - np.roll(x, -1) * y
    return float(half * abs(terms.sum() if closed else terms[:-1].sum()))


def _signed(polygon):
    x, y = polygon[0::2], polygon[1::2]
    return float(0.5 * (x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _box_area(polygon):
    x, y = polygon[0::2], polygon[1::2]
    return float(np.ptp(x) * np.ptp(y))


def _chosen(groups, every):
    names = np.unique(groups)
    return np.isin(groups, names[::every])


def _each_photo(groups, every):
    return np.arange(len(groups)) % every == 0


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(17)
_BOXES = np.array([[10.0, 20, 38, 48], [0, 0, 5.5, 2]])
_BLOCK = np.zeros((3, 4), bool)
_BLOCK[1:, 1] = True
_CORNER = np.zeros((3, 4), bool)
_CORNER[0, 0] = _CORNER[2, 3] = True
_FOUR = np.array([0.0, 0, 4, 0, 2, 3, 0, 3])
_TRIANGLE = np.array([0.0, 0, 4, 0, 0, 3])
_ARROW = np.array([0.0, 0, 4, 2, 0, 4, 2, 2])


def _random_boxes(rng):
    corner = rng.uniform(0, 50, (4, 2))
    return dict(boxes=np.concatenate([corner, corner + rng.uniform(1, 30, (4, 2))], axis=1))


# -------------------------------------------------------------------------------------------------------------- checks

coco_boxes = Check(
    reference=lambda boxes: np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
    cases={
        "from 10, 20 to 38, 48, and one in the corner": dict(boxes=_BOXES),
        "no boxes": dict(boxes=np.zeros((0, 4))),
    },
    random=_random_boxes,
    covers="several boxes, one, none",
    mistakes={
        "the boxes unchanged: COCO has x, y, width, height": lambda boxes: boxes.copy(),
        "the center of each box instead of its upper left corner": lambda boxes: np.concatenate(
            [(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1
        ),
        "one added to width and height: the width is x2 - x1": lambda boxes: np.concatenate(
            [boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1], axis=1
        ),
        "height and width swapped": lambda boxes: np.concatenate(
            [boxes[:, :2], (boxes[:, 2:] - boxes[:, :2])[:, ::-1]], axis=1
        ),
    },
)

rle_counts = Check(
    reference=_counts,
    cases={
        "two pixels one below the other: 4 zeros, 2 ones, 6 zeros": dict(mask=_BLOCK),
        "the first pixel is a one: 0 zeros come first": dict(mask=_CORNER),
        "an empty mask": dict(mask=np.zeros((3, 4), bool)),
        "a full mask": dict(mask=np.ones((2, 3), bool)),
    },
    random=lambda rng: dict(mask=rng.random((5, 4)) < 0.4),
    covers="masks that begin with zeros and with ones, empty and full masks",
    mistakes={
        "row by row: COCO goes column by column": lambda mask: _counts(mask, order="C"),
        "a mask that begins with a one needs a first count of 0": lambda mask: _counts(mask, first=int(mask[0, 0])),
        "where the runs begin instead of how long they are": _starts,
        "ones counted first: the first count is that of zeros": lambda mask: _counts(~mask),
    },
)

polygon_area = Check(
    reference=_area,
    cases={
        "four corners: 4 x 3 without a triangle of 2 x 3, which is 9": dict(polygon=_FOUR),
        "a triangle of 4 x 3: 6": dict(polygon=_TRIANGLE),
        "the same in the opposite direction": dict(polygon=np.array([0.0, 3, 4, 0, 0, 0])),
        "a rectangle away from the corner": dict(polygon=np.array([10.0, 20, 38, 20, 38, 48, 10, 48])),
        "an arrow, which is not convex": dict(polygon=_ARROW),
    },
    random=lambda rng: dict(polygon=rng.uniform(0, 20, 6)),
    covers="both directions, a non-convex polygon, triangles anywhere",
    mistakes={
        "the area of the box around it": _box_area,
        "the sign depends on the direction: take the absolute value": _signed,
        "the factor 1/2 is missing": lambda polygon: _area(polygon, half=1.0),
        "the edge from the last point back to the first is missing": lambda polygon: _area(polygon, closed=False),
    },
)

split_by_group = Check(
    reference=_chosen,
    cases={
        "three photos of place 4, two of place 7, one of place 9": dict(groups=np.array([4, 4, 4, 7, 7, 9]), every=2),
        "out of order": dict(groups=np.array([9, 4, 7, 4, 9, 1]), every=3),
        "one place only": dict(groups=np.array([5, 5]), every=4),
    },
    random=lambda rng: dict(groups=rng.integers(0, 8, 12), every=int(rng.integers(2, 5))),
    covers="groups of any size and order",
    mistakes={
        "every nth photo: photos of the same place end up on both sides": _each_photo,
        "the photos for training marked instead of those for validation": lambda *a: ~_chosen(*a),
        "every nth group number instead of every nth group": (lambda groups, every: groups % every == 0),
    },
)
