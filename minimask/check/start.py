"""Checks of notebook 00: areas of masks, the box around a mask, a class map made from the masks of several objects.

Masks are NumPy arrays, (H, W) or (k, H, W) bool. A pixel in column 3 covers x from 3 to 4.
"""

import numpy as np

from minimask.check.engine import Check


def _areas(masks):
    return masks.sum(axis=(1, 2), dtype=np.int64)


def _box(mask, end=1, half=0.0):
    """The box around a mask. end: added to the last column and row. half: added to all four numbers."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + end, y.max() + end], dtype=np.float64) + half


def _area_of_box(mask):
    x1, y1, x2, y2 = _box(mask).astype(np.int64)
    return (x2 - x1) * (y2 - y1)


def _box_of_first_row(mask):
    y = np.flatnonzero(mask.any(axis=1))
    x = np.flatnonzero(mask[y[0]])
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], dtype=np.float64)


def _map(masks, labels, order=-1):
    """The class of each pixel, painted from the last object to the first, or the other way with order=1."""
    classes = np.zeros(masks.shape[1:], dtype=np.int64)
    for mask, label in list(zip(masks, labels))[::order]:
        classes[mask] = label
    return classes


# --------------------------------------------------------------------------------------------------------------- cases


def _rectangles(*places, height=5, width=7):
    """Masks of rectangles x1, y1, x2, y2: (k, height, width) bool."""
    masks = np.zeros((len(places), height, width), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, places):
        mask[y1:y2, x1:x2] = True
    return masks


def _random_masks(rng):
    """One to four random masks, none of them empty."""
    masks = rng.random((int(rng.integers(1, 5)), 5, 7)) < 0.3
    masks[:, 2, 3] = True
    return masks


_RING = _rectangles((1, 1, 6, 5))[0] & ~_rectangles((2, 2, 5, 4))[0]
_PIECES = _rectangles((0, 0, 2, 2))[0] | _rectangles((5, 3, 6, 5))[0]

# -------------------------------------------------------------------------------------------------------------- checks

mask_areas = Check(
    reference=_areas,
    cases={
        "3 x 2 and 1 x 4 pixels": dict(masks=_rectangles((1, 1, 4, 3), (5, 0, 6, 4))),
        "a ring: its hole does not count": dict(masks=_RING[None]),
        "two pieces, and the whole image": dict(masks=np.stack([_PIECES, np.ones((5, 7), bool)])),
        "an empty mask": dict(masks=np.zeros((1, 5, 7), bool)),
        "no objects: an empty result": dict(masks=np.zeros((0, 5, 7), bool)),
    },
    random=lambda rng: dict(masks=_random_masks(rng)),
    covers="rings, pieces, an empty mask, no objects",
    mistakes={
        "the area of the box around each mask": lambda masks: np.array([_area_of_box(mask) for mask in masks]),
        "the pixels of all objects added up": lambda masks: np.full(len(masks), masks.sum()),
        "all pixels of the image, whether in the mask or not": lambda masks: np.full(len(masks), masks[0].size),
    },
)

box_of_mask = Check(
    reference=_box,
    cases={
        "columns 2 to 4, rows 1 to 2": dict(mask=_rectangles((2, 1, 5, 3))[0]),
        "a single pixel is 1 wide and 1 high": dict(mask=_rectangles((5, 2, 6, 3))[0]),
        "a ring": dict(mask=_RING),
        "two pieces have one box": dict(mask=_PIECES),
        "the whole image": dict(mask=np.ones((5, 7), dtype=bool)),
    },
    random=lambda rng: dict(mask=_random_masks(rng)[0]),
    covers="a pixel, a ring, two pieces, the whole image",
    mistakes={
        "the box ends where the last pixel starts: pixel 3 ends at 4": lambda mask: _box(mask, end=0),
        "x and y swapped: the first index of a mask is the row, y": lambda mask: _box(mask.T),
        "the last two numbers are width and height instead of x2 and y2": lambda mask: np.concatenate(
            [_box(mask)[:2], _box(mask)[2:] - _box(mask)[:2]]
        ),
        "from center to center of the outermost pixels: half a pixel is missing on each side": lambda mask: _box(
            mask, end=0, half=0.5
        ),
        "x taken from the first row only": _box_of_first_row,
    },
)

semantic_map = Check(
    reference=_map,
    cases={
        "a cat (1) and a duck (3) apart": dict(masks=_rectangles((0, 0, 3, 2), (4, 2, 6, 5)), labels=np.array([1, 3])),
        "two cats that touch get the same number": dict(
            masks=_rectangles((0, 1, 3, 4), (3, 1, 6, 4)), labels=np.array([1, 1])
        ),
        "a pixel in both masks belongs to the first object": dict(
            masks=_rectangles((0, 0, 4, 3), (2, 1, 7, 5)), labels=np.array([2, 1])
        ),
        "no objects: background, 0, everywhere": dict(
            masks=np.zeros((0, 5, 7), dtype=bool), labels=np.zeros(0, dtype=np.int64)
        ),
    },
    random=lambda rng: (lambda masks: dict(masks=masks, labels=rng.integers(1, 4, len(masks))))(_random_masks(rng)),
    covers="objects that are apart, touch or overlap; no objects",
    mistakes={
        "the last object wins where objects overlap": lambda masks, labels: _map(masks, labels, order=1),
        "the indices of the objects instead of their classes": lambda masks, labels: _map(
            masks, np.arange(1, len(masks) + 1)
        ),
        "0 or 1 for object or not, regardless of the class": lambda masks, labels: _map(masks, np.ones_like(labels)),
        "labels are added up where objects overlap": lambda masks, labels: (masks * labels[:, None, None]).sum(axis=0),
    },
)
