"""Checks of notebook 05: area and overlap of boxes, anchors of a cell and of a grid, boxes to deltas and back.

A box is x1, y1, x2, y2 in pixels, and corners are real numbers. Arrays are NumPy arrays (R, 4), without leading axes.
"""

import numpy as np

from minimask import anchors as anchors_module
from minimask import boxes as library
from minimask.check.engine import Check
from minimask.draw import COLORS

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
PLUS_ONE = "one pixel too many per side: the width is x2 - x1, without + 1"
AS_SIZES = "the last two numbers treated as width and height: they are x2 and y2"
NO_CLAMP = "negative sides are not set to 0: boxes that are apart share nothing"


def _iou(a, b, plus=0.0, least=0.0, subtract=1.0, side=lambda s: s):
    """IoU with a mistake of one kind. Without a mistake it is IoU, and 0 for two boxes without area."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = side(np.maximum(high - low + plus, least))  # (A, B, 2)
    overlap = sides[..., 0] * sides[..., 1]
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2] + plus, axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1] - subtract * overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union != 0)


def _iou_of_one(a, b, smaller=False):
    overlap = _iou(a, b) * (library.area(a)[:, None] + library.area(b)) / (1 + _iou(a, b))
    own = np.broadcast_to(library.area(a)[:, None], overlap.shape)
    return overlap / (np.minimum(own, library.area(b)) if smaller else own)


def _iou_around(a, b):
    low, high = np.minimum(a[:, None, :2], b[None, :, :2]), np.maximum(a[:, None, 2:], b[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=2) / (library.area(a)[:, None] + library.area(b))


def _iou_nan(a, b):
    found = _iou(a, b)
    return np.where((library.area(a)[:, None] == 0) & (library.area(b) == 0), np.nan, found)


def _from_sizes(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _swapped(array):
    return array[:, [1, 0, 3, 2]]


def _center_and_size(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def _encode(boxes, anchors, weights, origin=None, unit=None, log=np.log):
    """Deltas with a mistake of one kind. origin: where the way starts. unit: what it is divided by."""
    (center, size), (center_a, size_a) = _center_and_size(boxes), _center_and_size(anchors)
    start, stop = origin(boxes, anchors) if origin else (center_a, center)
    unit = size_a if unit is None else unit(boxes, anchors)
    return np.concatenate([(stop - start) / unit, log(size / size_a)], axis=1) * weights


def _decode(deltas, anchors, weights, grow=np.exp, limit=library.LARGEST_LOG_SCALE, divide=True, half=0.5, unit=None):
    """Boxes with a mistake of one kind. grow: applied to the log scales. half: the part of the size on the left."""
    center, size = _center_and_size(anchors)
    deltas = deltas / weights if divide else deltas * weights
    center = center + deltas[:, :2] * (size if unit is None else unit)
    size = size * grow(np.minimum(deltas[:, 2:], limit))
    return np.concatenate([center - half * size, center + (1 - half) * size], axis=1)


def _cell(size, ratios, width=lambda r: r**-0.5, height=lambda r: r**0.5, left=-0.5):
    """Anchors around the origin with a mistake of one kind."""
    sides = size * np.stack([width(ratios), height(ratios)], axis=1)  # (P, 2)
    return np.concatenate([left * sides, (1 + left) * sides], axis=1)


def _grid(cell, shape, stride, offset=0.0, axes=(0, 1, 2), swap=False):
    """Anchors of a grid with a mistake of one kind. axes: the order of y, x, anchor."""
    y, x = np.meshgrid(*(np.arange(n) * stride + offset for n in shape), indexing="ij")
    x, y = (y, x) if swap else (x, y)
    moved = np.stack([x, y, x, y], axis=-1)[:, :, None] + cell  # (h, w, P, 4)
    return moved.transpose(*axes, 3).reshape(-1, 4)


# ------------------------------------------------------------------------------------------- what a notebook then shows


def draw_pair(found, expected, index, arguments):
    """A Matplotlib figure of the two boxes whose overlap is wrong, with their intersection filled."""
    a, b = (boxes[i] for boxes, i in zip(arguments.values(), index))
    shared = np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])])
    title = f"pair {list(index)}: found {found[index]:.4g}, expected {expected[index]:.4g}"
    filled = {"intersection": shared} if (shared[2:] > shared[:2]).all() else {}
    return _figure(title, {f"a[{index[0]}]": a, f"b[{index[1]}]": b}, filled)


def draw_row(found, expected, index, arguments):
    """A Matplotlib figure of the first wrong box, found and expected."""
    return _figure(f"box {index[0]}", {"expected": expected[index[0]], "found": found[index[0]]})


def _figure(title, outlines, filled=()):
    """A figure of boxes with their names: the first solid and blue, the second dashed and vermillion."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x1, y1, x2, y2) in dict(filled).items():
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, color=COLORS[1] / 255, alpha=0.5, label=name))
    for (name, (x1, y1, x2, y2)), color, style in zip(outlines.items(), COLORS[[4, 2]] / 255, ("-", "--")):
        label = f"{name}: {x1:.4g}, {y1:.4g}, {x2:.4g}, {y2:.4g}"
        look = dict(fill=False, edgecolor=color, linestyle=style, linewidth=4, label=label)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **look))
    axes.autoscale()
    axes.margins(0.1)
    axes.invert_yaxis()
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(title, fontsize=14)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=12)
    return figure


# --------------------------------------------------------------------------------------------------------------- cases


def _boxes(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _random_boxes(rng, count, corner=30.0, side=30.0):
    low = rng.uniform(-corner / 3, corner, (count, 2))
    return np.concatenate([low, low + rng.uniform(1.0, side, (count, 2))], axis=1)


_RATIOS = np.array([0.5, 1.0, 2.0])
_ROI = _boxes((112, 45, 219, 213))  # slide L10
_P4 = _boxes((80, 80, 208, 208))

# -------------------------------------------------------------------------------------------------------------- checks

box_area = Check(
    reference=lambda boxes: library.area(boxes),
    cases={
        "pixels 3 to 7 and rows 0 to 1": dict(boxes=_boxes((3, 0, 8, 2))),
        "real numbers, a negative corner": dict(boxes=_boxes((-1.5, 2.0, 2.5, 2.5), (0.2, 0.1, 0.7, 10.1))),
        "a line and a point have no area": dict(boxes=_boxes((4, 4, 9, 4), (4, 4, 4, 4))),
        "no boxes: an empty result": dict(boxes=_boxes()),
    },
    random=lambda rng: dict(boxes=_random_boxes(rng, 5)),
    covers="non-integer corners, boxes without area, no boxes",
    mistakes={
        PLUS_ONE: lambda b: library.area(b + [0, 0, 1, 1]),
        AS_SIZES: lambda b: b[:, 2] * b[:, 3],
        "x and y mixed up: each side is a difference of two x or of two y": lambda b: (
            (b[:, 2] - b[:, 1]) * (b[:, 3] - b[:, 0])
        ),
        "the sides added instead of multiplied": lambda b: (b[:, 2:] - b[:, :2]).sum(axis=1),
    },
)

iou = Check(
    reference=lambda a, b: library.iou(a, b),
    cases={
        "2 of 20 square pixels are shared": dict(a=_boxes((2, 0, 6, 4)), b=_boxes((0, 0, 3, 2))),
        "the same box": dict(a=_boxes((1, 2, 5, 9)), b=_boxes((1, 2, 5, 9))),
        "one inside the other": dict(a=_boxes((0, 0, 10, 10)), b=_boxes((2, 3, 6, 8))),
        "apart, one to the right of the other": dict(a=_boxes((0, 0, 2, 2)), b=_boxes((5, 0, 9, 2))),
        "apart in x and in y": dict(a=_boxes((0, 0, 2, 2)), b=_boxes((5, 6, 9, 8))),
        "they touch along an edge": dict(a=_boxes((0, 0, 2, 2)), b=_boxes((2, 0, 4, 2))),
        "two boxes without area: 0, not 0/0": dict(a=_boxes((3, 3, 3, 3)), b=_boxes((3, 3, 3, 3))),
        "each of two with each of three": dict(
            a=_boxes((0, 0, 4, 4), (10, 10, 30, 20)), b=_boxes((0, 0, 4, 4), (2, 2, 6, 6), (12, 8, 25, 19))
        ),
    },
    random=lambda rng: dict(a=_random_boxes(rng, 5), b=_random_boxes(rng, 4)),
    covers="equal, disjoint, nested, touching and empty boxes",
    draw=draw_pair,
    mistakes={
        "0 divided by 0 where neither box has an area": _iou_nan,
        PLUS_ONE: lambda a, b: _iou(a, b, plus=1.0),
        NO_CLAMP: lambda a, b: _iou(a, b, least=-np.inf),
        "absolute values instead of max(..., 0): the gap between two boxes counts as overlap": lambda a, b: _iou(
            a, b, least=-np.inf, side=np.abs
        ),
        "the intersection counted twice in the union: subtract it once": lambda a, b: _iou(a, b, subtract=0.0),
        "the intersection subtracted from the union twice": lambda a, b: _iou(a, b, subtract=2.0),
        "the intersection divided by the area of the first box": _iou_of_one,
        "the intersection divided by the area of the smaller box": lambda a, b: _iou_of_one(a, b, smaller=True),
        "min and max swapped: the box around both instead of the intersection": _iou_around,
        AS_SIZES: lambda a, b: _iou(_from_sizes(a), _from_sizes(b)),
    },
)

cell_anchors = Check(
    reference=lambda size, ratios: anchors_module.cell_anchors(size, ratios, "none").astype(np.float64),
    cases={
        "size 32, ratio 0.5": dict(size=32.0, ratios=np.array([0.5])),
        "three ratios, three anchors of the same area": dict(size=32.0, ratios=_RATIOS),
        "a square": dict(size=10.0, ratios=np.array([1.0])),
        "long anchors": dict(size=64.0, ratios=np.array([0.1, 4.0])),
    },
    random=lambda rng: dict(size=float(rng.uniform(8, 512)), ratios=rng.uniform(0.2, 5.0, 3)),
    rtol=1e-5,
    covers="one and several ratios, squares, long anchors",
    draw=draw_row,
    mistakes={
        "the ratio taken as width / height: it is height / width": lambda s, r: _cell(s, 1 / r),
        "no square root: with height = size * ratio, the areas differ": lambda s, r: _cell(
            s, r, width=np.ones_like, height=lambda r: r
        ),
        "no square root: width = size / ratio and height = size * ratio square the ratio": (
            lambda s, r: _cell(s, r, width=lambda r: 1 / r, height=lambda r: r)
        ),
        "sides twice as long: half of each side lies on either side of the center": lambda s, r: _cell(2 * s, r),
        "the upper left corner at the origin instead of the center": lambda s, r: _cell(s, r, left=0.0),
        "sides rounded to integers: that is torchvision's convention, which comes later": lambda s, r: np.round(
            _cell(s, r)
        ),
    },
)

grid_anchors = Check(
    reference=lambda cell, shape, stride: anchors_module.grid_anchors(cell, shape, (stride, stride)),
    cases={
        "one anchor, a map of 2 x 3 cells": dict(cell=_boxes((-4, -2, 4, 2)), shape=(2, 3), stride=16),
        "two anchors per location": dict(cell=_boxes((-4, -2, 4, 2), (-1, -8, 1, 8)), shape=(3, 2), stride=8),
        "one cell": dict(cell=_boxes((-4, -4, 4, 4), (-2, -2, 2, 2)), shape=(1, 1), stride=32),
    },
    random=lambda rng: dict(
        cell=np.concatenate([-rng.uniform(1, 9, (2, 2)), rng.uniform(1, 9, (2, 2))], axis=1),
        shape=(int(rng.integers(2, 5)), int(rng.integers(2, 5))),
        stride=int(rng.choice([4, 8, 16])),
    ),
    covers="wide and tall maps, one and several anchors per location",
    draw=draw_row,
    mistakes={
        "x and y swapped: columns are counted along x": lambda *a: _grid(*a, swap=True),
        "all locations of the first anchor come first: the order is row, column, anchor": lambda *a: _grid(
            *a, axes=(2, 0, 1)
        ),
        "columns come first: the order is row, column, anchor": lambda *a: _grid(*a, axes=(1, 0, 2)),
        "locations shifted by half a stride: here they begin at the image's corner, (0, 0)": lambda c, s, stride: _grid(
            c, s, stride, offset=stride / 2
        ),
        "locations one pixel apart: multiply by the stride": lambda c, shape, stride: _grid(c, shape, 1),
        "height and width of the map swapped": lambda c, shape, stride: _grid(c, shape[::-1], stride),
    },
)

encode = Check(
    reference=lambda boxes, anchors, weights: library.encode(boxes, anchors, weights),
    cases={
        "13 pixels to the right, twice as wide": dict(
            boxes=_boxes((8, 0, 28, 10)), anchors=_boxes((0, 0, 10, 10)), weights=(1.0, 1.0, 1.0, 1.0)
        ),
        "all four change": dict(
            boxes=_boxes((2, 3, 10, 19)), anchors=_boxes((0, 0, 10, 20)), weights=(1.0, 1.0, 1.0, 1.0)
        ),
        "the box head's weights": dict(boxes=_boxes((2, 3, 10, 19)), anchors=_boxes((0, 0, 10, 20)), weights=WEIGHTS),
        "the lecture's first RoI from a square of 128": dict(boxes=_ROI, anchors=_P4, weights=(1.0, 1.0, 1.0, 1.0)),
        "the anchor itself": dict(boxes=_P4, anchors=_P4.copy(), weights=WEIGHTS),
    },
    random=lambda rng: dict(boxes=_random_boxes(rng, 4), anchors=_random_boxes(rng, 4), weights=WEIGHTS),
    covers="moved, stretched and equal boxes, with and without weights",
    mistakes={
        "a distance in pixels: divide the distance between the centers by the anchor's sides": lambda b, a, w: _encode(
            b, a, w, unit=lambda b, a: 1.0
        ),
        "the distance divided by the sides of the box instead of the anchor": lambda b, a, w: _encode(
            b, a, w, unit=lambda b, a: _center_and_size(b)[1]
        ),
        "the distance between the corners instead of the centers": lambda b, a, w: _encode(
            b, a, w, origin=lambda b, a: (a[:, :2], b[:, :2])
        ),
        "the ratio of the sides without the logarithm": lambda b, a, w: _encode(b, a, w, log=lambda r: r),
        "the logarithm to base 2 instead of the natural one, np.log": lambda b, a, w: _encode(b, a, w, log=np.log2),
        "box and anchor swapped": lambda b, a, w: library.encode(a, b, w),
        "the weights are missing": lambda b, a, w: library.encode(b, a),
        "divided by the weights: encoding multiplies": lambda b, a, w: library.encode(b, a, 1 / np.array(w)),
        "x and y swapped": lambda b, a, w: _swapped(library.encode(b, a, w)),
    },
)

decode = Check(
    reference=lambda deltas, anchors, weights: library.decode(deltas, anchors, weights),
    cases={
        "one width to the right, twice as wide": dict(
            deltas=_boxes((1, 0, np.log(2), 0)), anchors=_boxes((0, 0, 10, 10)), weights=(1.0, 1.0, 1.0, 1.0)
        ),
        "all four change": dict(
            deltas=_boxes((0.1, -0.2, 0.3, -0.4)), anchors=_boxes((4, 8, 14, 28)), weights=(1.0, 1.0, 1.0, 1.0)
        ),
        "the box head's weights": dict(
            deltas=_boxes((1, -2, 1.5, -2)), anchors=_boxes((4, 8, 14, 28)), weights=WEIGHTS
        ),
        "nothing changes": dict(deltas=_boxes((0, 0, 0, 0)), anchors=_P4, weights=WEIGHTS),
        "a delta of 100: the box grows by 62.5, not by exp(100)": dict(
            deltas=_boxes((0, 0, 100, 5)), anchors=_boxes((0, 0, 10, 10)), weights=(1.0, 1.0, 1.0, 1.0)
        ),
        "a delta that is large only before the division by the weight": dict(
            deltas=_boxes((0, 0, 10, 0)), anchors=_boxes((0, 0, 10, 10)), weights=WEIGHTS
        ),
    },
    random=lambda rng: dict(
        deltas=rng.normal(0, 1, (4, 4)), anchors=_random_boxes(rng, 4), weights=(1.0, 1.0, 1.0, 1.0)
    ),
    covers="moved and stretched anchors, weights, deltas that are too large",
    draw=draw_row,
    mistakes={
        "the move in pixels: its unit is the side of the anchor": lambda d, a, w: _decode(d, a, w, unit=1.0),
        "sides multiplied by the delta itself instead of its exponential": lambda d, a, w: _decode(
            d, a, w, grow=lambda d: d
        ),
        "1 + delta instead of exp(delta)": lambda d, a, w: _decode(d, a, w, grow=lambda d: 1 + d),
        "no limit for the logarithm: exp(100) pixels is wider than the universe": lambda d, a, w: _decode(
            d, a, w, limit=np.inf
        ),
        "the limit applied before the division by the weights": lambda d, a, w: library.decode(
            np.minimum(d, [np.inf, np.inf, library.LARGEST_LOG_SCALE, library.LARGEST_LOG_SCALE]), a, w
        ),
        "the center treated as the upper left corner": lambda d, a, w: _decode(d, a, w, half=0.0),
        "multiplied by the weights: decoding divides": lambda d, a, w: _decode(d, a, w, divide=False),
        "the weights are missing": lambda d, a, w: library.decode(d, a),
        "x and y swapped": lambda d, a, w: library.decode(_swapped(d), a, w),
    },
)
