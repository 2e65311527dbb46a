"""Checks of notebook 04: enlarging a map, one top-down step, the whole pyramid, the level of a box.

Maps are (H, W, C), levels go from fine to coarse. 1 x 1 weights are matrices (Cin, Cout), 3 x 3 ones (3, 3, Cin, Cout).
"""

import numpy as np

from minimask import image
from minimask.check.backbone import _conv
from minimask.check.engine import Check
from minimask.roi_align import assign_levels
from minimask.tensor import Tensor


def _enlarge(x, height, width):
    return image.resize_nearest(Tensor(x[None]), (height, width)).data[0]


def _at(x, rows, columns):
    return x[np.clip(rows, 0, len(x) - 1).astype(int)][:, np.clip(columns, 0, x.shape[1] - 1).astype(int)]


def _enlarged_from_middles(x, height, width):
    """Each pixel copies the one whose center is nearest to its own."""
    return _at(x, *((np.arange(n) + 0.5) * m / n for n, m in zip((height, width), x.shape)))


def _enlarged_rounded(x, height, width):
    return _at(x, *(np.round(np.arange(n) * m / n) for n, m in zip((height, width), x.shape)))


def _enlarged_corners(x, height, width):
    return _at(x, *(np.round(np.arange(n) * (m - 1) / max(n - 1, 1)) for n, m in zip((height, width), x.shape)))


def _tiled(x, height, width):
    return x[np.arange(height) % len(x)][:, np.arange(width) % x.shape[1]]


def _spaced(x, height, width):
    """Zeros between the pixels."""
    result = np.zeros((height, width, x.shape[2]))
    result[np.arange(len(x))[:, None] * height // len(x), np.arange(x.shape[1]) * width // x.shape[1]] = x
    return result


def _step(coarse, fine, w):
    return _enlarge(coarse, *fine.shape[:2]) + fine @ w


def _pyramid(levels, laterals, smooths, hand_down_smoothed=False, smooth=_conv, step=_step):
    """The feature pyramid. Each of the options makes a mistake."""
    pyramid, down = [], None
    for fine, w, v in zip(levels[::-1], laterals[::-1], smooths[::-1]):
        merged = fine @ w if down is None else step(down, fine, w)
        result = smooth(merged, v)
        pyramid.insert(0, result)
        down = result if hand_down_smoothed else merged
    return pyramid


def _levels(boxes, finest, coarsest, canonical_size):
    return assign_levels(boxes, finest, coarsest - finest + 1, canonical_size) + finest


def _levels_by(side, boxes, finest, coarsest, canonical_size, logarithm=np.log2, whole=np.floor):
    """The formula with a different measure, `side`, of a box's width and height."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    level = whole(4 + logarithm(np.maximum(side(width, height), 1e-9) / canonical_size))
    return np.clip(level, finest, coarsest).astype(int)


def _root(width, height):
    return np.sqrt(width * height)


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(4)


def _normal(*shape):
    return _rng.standard_normal(shape)


_COARSE = np.array([[10.0, 20.0], [30.0, 40.0]])[:, :, None]
_FINE = np.arange(16.0).reshape(4, 4, 1)
_IDENTITY = np.zeros((3, 3, 1, 1))
_IDENTITY[1, 1] = 1  # a 3 x 3 convolution that changes nothing


def _maps(rng, sizes, channels, out):
    """The arguments of the pyramid: random maps of these sizes and channels, and weights."""
    return dict(
        levels=[rng.standard_normal((*size, c)) for size, c in zip(sizes, channels)],
        laterals=[rng.standard_normal((c, out)) for c in channels],
        smooths=[rng.standard_normal((3, 3, out, out)) for _ in channels],
    )


def _random_enlarging(rng):
    h, w = map(int, rng.integers(1, 7, 2))
    height, width = int(rng.integers(h, 2 * h + 1)), int(rng.integers(w, 2 * w + 1))
    return dict(x=rng.standard_normal((h, w, 2)), height=height, width=width)


def _random_step(rng):
    (h, w), c, d = rng.integers(1, 4, 2), *rng.integers(1, 4, 2)
    shape = 2 * h - rng.integers(0, 2), 2 * w - rng.integers(0, 2), c
    return dict(coarse=rng.standard_normal((h, w, d)), fine=rng.standard_normal(shape), w=rng.standard_normal((c, d)))


def _random_boxes(rng):
    corner = rng.uniform(0, 200, (6, 2))
    return np.concatenate([corner, corner + np.exp(rng.uniform(np.log(8), np.log(900), (6, 2)))], axis=1)


def _boxes(*sides):
    return np.array([[10.0, 20.0, 10 + width, 20 + height] for width, height in sides])


# -------------------------------------------------------------------------------------------------------------- checks

enlarge_nearest = Check(
    reference=_enlarge,
    cases={
        "2 x 2 becomes 4 x 4": dict(x=_COARSE, height=4, width=4),
        "7 columns become 13": dict(x=np.arange(7.0)[None, :, None], height=1, width=13),
        "rows and columns by different factors": dict(x=_normal(2, 3, 1), height=6, width=6),
        "three channels": dict(x=_normal(3, 2, 3), height=6, width=4),
        "nothing to enlarge": dict(x=_normal(3, 2, 1), height=3, width=2),
        "25 x 34 becomes 50 x 67, as for a photo": dict(x=_normal(25, 34, 1), height=50, width=67),
    },
    random=_random_enlarging,
    covers="integer and other factors, several channels",
    grid=(0, 1),
    mistakes={
        "the whole map repeated like tiles, where each pixel must be repeated": _tiled,
        "zeros between the pixels": _spaced,
        "the pixel with the nearest center, floor((i + 0.5) H / height); here it is floor(i H / height)": (
            _enlarged_from_middles
        ),
        "rounded to the nearest instead of rounded down": _enlarged_rounded,
        "corner pixels aligned with corner pixels": _enlarged_corners,
        "interpolation between the pixels": lambda x, height, width: image.resize_bilinear(
            Tensor(x[None]), (height, width)
        ).data[0],
        "height and width swapped": lambda x, height, width: _enlarge(x, width, height),
    },
)

top_down = Check(
    reference=_step,
    cases={
        "the numbers by hand": dict(coarse=_COARSE, fine=_FINE, w=np.array([[2.0]])),
        "as many output channels as input channels": dict(
            coarse=_normal(2, 2, 2), fine=_normal(4, 4, 2), w=_normal(2, 2)
        ),
        "two channels become one": dict(coarse=_normal(2, 3, 1), fine=_normal(4, 6, 2), w=_normal(2, 1)),
        "three channels become two": dict(coarse=_normal(2, 2, 2), fine=_normal(4, 4, 3), w=_normal(3, 2)),
        "an odd number of columns": dict(coarse=_normal(2, 4, 2), fine=_normal(4, 7, 3), w=_normal(3, 2)),
    },
    random=_random_step,
    covers="several channels, odd sizes",
    grid=(0, 1),
    mistakes={
        "only the lateral part: what comes from above is missing": lambda coarse, fine, w: fine @ w,
        "only what comes from above: the lateral part is missing": lambda coarse, fine, w: _enlarge(
            coarse, *fine.shape[:2]
        ),
        "the average of the two instead of their sum": lambda *a: _step(*a) / 2,
        "the coarse map repeated like tiles, where each of its pixels must be repeated": lambda coarse, fine, w: (
            _tiled(coarse, *fine.shape[:2]) + fine @ w
        ),
        "the matrix is transposed: it is (input channels, output channels)": lambda coarse, fine, w: _step(
            coarse, fine, w.T
        ),
        "the matrix applied to the sum: it belongs to the fine map only": lambda coarse, fine, w: (
            (_enlarge(coarse, *fine.shape[:2]) + fine) @ w
        ),
    },
)

feature_pyramid = Check(
    reference=_pyramid,
    cases={
        "the numbers by hand, and a 3 x 3 convolution that changes nothing": dict(
            levels=[_FINE, _COARSE], laterals=[np.array([[2.0]]), np.array([[1.0]])], smooths=[_IDENTITY, _IDENTITY]
        ),
        "two levels": _maps(_rng, [(4, 4), (2, 2)], (2, 3), 2),
        "three levels": _maps(_rng, [(8, 12), (4, 6), (2, 3)], (1, 2, 3), 2),
        "odd sizes": _maps(_rng, [(7, 9), (4, 5), (2, 3)], (1, 2, 3), 2),
        "one level": _maps(_rng, [(3, 4)], (2,), 2),
        "as many output channels as input channels": _maps(_rng, [(4, 4), (2, 2)], (2, 2), 2),
    },
    random=lambda rng: _maps(rng, [(8, 6), (4, 3), (2, 2)], rng.integers(1, 4, 3), int(rng.integers(1, 4))),
    covers="one to three levels, odd sizes, several channels",
    results=("the finest level", "the next one", "the next one"),
    grid=(0, 1),
    mistakes={
        "the result is in the wrong order: it goes from fine to coarse, like the levels": lambda *a: _pyramid(*a)[::-1],
        "no smoothing": lambda *a: _pyramid(*a, smooth=lambda x, w: x),
        "the smoothed map passed down, instead of the sum before the 3 x 3 convolution": lambda *a: _pyramid(
            *a, hand_down_smoothed=True
        ),
        "nothing passed down: every level on its own": lambda *a: _pyramid(*a, step=lambda coarse, fine, w: fine @ w),
    },
)

_HEADS = dict(finest=2, coarsest=5, canonical_size=224)

pyramid_levels = Check(
    reference=_levels,
    cases={
        "224 x 224, 112 x 112, 448 x 448": dict(boxes=_boxes((224, 224), (112, 112), (448, 448)), **_HEADS),
        "448 x 112 and 112 x 448: as large as 224 x 224": dict(boxes=_boxes((448, 112), (112, 448)), **_HEADS),
        "just below and just above a boundary": dict(boxes=_boxes((223, 223), (225, 225)), **_HEADS),
        "L10's three regions": dict(
            boxes=np.array([[112.0, 45, 219, 213], [268, 44, 361, 280], [67, 106, 177, 195]]), **_HEADS
        ),
        "so small or so large that the level does not exist": dict(boxes=_boxes((9, 12), (1200, 900)), **_HEADS),
        "a box without area: the finest level": dict(boxes=_boxes((0, 40)), **_HEADS),
        "the toy model's four levels": dict(
            boxes=_boxes((16, 20), (60, 70), (100, 127)), finest=1, coarsest=4, canonical_size=224
        ),
        "another canonical size": dict(boxes=_boxes((60, 70), (100, 127)), finest=2, coarsest=5, canonical_size=112),
        "no boxes": dict(boxes=np.zeros((0, 4)), **_HEADS),
    },
    random=lambda rng: dict(boxes=_random_boxes(rng), **_HEADS),
    covers="the boundaries, long boxes, boxes beyond the levels, boxes without area, no boxes",
    mistakes={
        "the longer side instead of the square root of the area": lambda *a: _levels_by(np.maximum, *a),
        "the shorter side instead of the square root of the area": lambda *a: _levels_by(np.minimum, *a),
        "only the width": lambda *a: _levels_by(lambda width, height: width, *a),
        "the area instead of its square root": lambda *a: _levels_by(np.multiply, *a),
        "the natural logarithm instead of the one to base 2": lambda *a: _levels_by(_root, *a, logarithm=np.log),
        "rounded to the nearest level instead of rounded down": lambda *a: _levels_by(_root, *a, whole=np.round),
        "rounded up": lambda *a: _levels_by(_root, *a, whole=np.ceil),
        "levels that do not exist": lambda boxes, finest, coarsest, size: _levels_by(_root, boxes, -99, 99, size),
        "levels counted from 0: the finest has its own number": lambda boxes, finest, *a: (
            _levels(boxes, finest, *a) - finest
        ),
    },
)
