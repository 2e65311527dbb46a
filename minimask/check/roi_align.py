"""Checks of notebook 08: the weights of a point and of a bin, then RoIAlign of one box, forward and backward.

One image, one level, one box, average pooling: features (H, W, C), box (4,) in pixels, `size` x `size` bins with
`samples` x `samples` points in each. The center of cell (y, x) is at (y, x).
"""

import numpy as np

from minimask import roi_align as library
from minimask.check.engine import Check


def _weights(points, height, width):
    """The weight of each cell, (height, width), in the average of the map's values at some points (..., 2) x, y."""
    weights = np.zeros((height, width))
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    for y, x, weight, _ in library.neighbors(points, height, width):
        np.add.at(weights, (y, x), weight / len(points))
    return weights


def _bin_points(left, top, bin_width, bin_height, samples):
    inside = (np.arange(samples) + 0.5) / samples
    x, y = np.meshgrid(left + bin_width * inside, top + bin_height * inside)
    return np.stack([x, y], axis=-1)  # (samples, samples, 2)


def _forward(feature, box, scale, size, samples, aligned):
    zero = np.zeros(1, np.int64)
    settings = [scale], size, samples, aligned
    return library.roi_align_forward.plain([feature[None]], box[None], zero, zero, *settings)[0][0]


def _backward(gy, shape, box, scale, size, samples, aligned):
    zero, feature = np.zeros(1, np.int64), np.zeros((1, *shape))
    settings = [scale], size, samples, aligned, "average"
    gradients, _ = library.roi_align_backward.plain(gy[None], None, [feature], box[None], zero, zero, *settings)
    return gradients[0][0]


# ------------------------------------------------------------------------------------------------ what goes wrong often


def _weights_unclamped(x, y, height, width):
    return np.maximum(0, 1 - abs(np.arange(height) - y))[:, None] * np.maximum(0, 1 - abs(np.arange(width) - x))


def _weights_clamped_everywhere(x, y, height, width):
    return _weights([np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)], height, width)


def _nearest(x, y, height, width):
    weights = np.zeros((height, width))
    weights[int(np.clip(np.round(y), 0, height - 1)), int(np.clip(np.round(x), 0, width - 1))] = 1
    return weights


def _box_without_clamp(feature, box, scale, size, samples, aligned):
    points = library.sampling_points(box, scale, size, samples, aligned)
    values = np.zeros((*points.shape[:-1], feature.shape[2]))
    for place in np.ndindex(points.shape[:-1]):
        values[place] = np.tensordot(_weights_unclamped(*points[place], *feature.shape[:2]), feature, 2)
    return values.mean((2, 3))


def _box_at_least_one_cell(feature, box, scale, size, samples, aligned):
    """Not aligned, but without the minimum size of a box: what `aligned` does, half a cell further."""
    return _forward(feature, box + (0.0 if aligned else 0.5 / scale), scale, size, samples, True)


def _maximum(feature, box, scale, size, samples, aligned):
    return library.bilinear(feature, library.sampling_points(box, scale, size, samples, aligned)).max((2, 3))


def _assigned(gy, shape, box, scale, size, samples, aligned):
    """The last sample that touches a cell wins."""
    gfeature = np.zeros(shape)
    points = library.sampling_points(box, scale, size, samples, aligned)
    for i, j, a, b in np.ndindex(points.shape[:-1]):
        for y, x, weight, _ in library.neighbors(points[i, j, a, b], *shape[:2]):
            gfeature[y, x] = weight * gy[i, j] / samples**2
    return gfeature


def _assigned_by_bin(gy, shape, box, scale, size, samples, aligned):
    """The last bin that touches a cell wins."""
    gfeature = np.zeros(shape)
    points = library.sampling_points(box, scale, size, samples, aligned)
    for i, j in np.ndindex(size, size):
        weights = _weights(points[i, j], *shape[:2])
        gfeature[weights > 0] = weights[weights > 0][:, None] * gy[i, j]
    return gfeature


HALF = "the box is not moved by half a cell where aligned is True"
SUM = "the sum over the samples of a bin instead of their average"
CORNERS = "samples at the corners of a bin's s x s parts instead of their centers"
IN_PIXELS = "the box is still in pixels: it was not multiplied by the scale"
SWAPPED = "x and y swapped in the box"


def _swapped(box):
    return box[[1, 0, 3, 2]]


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(8)
_RAMP = np.tile(np.arange(8.0), (6, 1))[:, :, None] + [0.0, 10.0]  # f(y, x) = x, and x + 10: (6, 8, 2)
_NOISE = _rng.standard_normal((7, 9, 2))
_SHAPE = (7, 9, 2)

# Pixels, for a scale of 1/4 and a map of 7 x 9 cells: 28 x 36 pixels.
_BOXES = {
    "a box inside": (6.3, 5.1, 30.2, 22.7),
    "a flat box": (4.0, 9.0, 29.0, 12.0),
    "a box that begins outside the map, where samples take the value at the border": (-3.0, -2.5, 17.3, 14.0),
    "a box that ends outside the map": (20.0, 12.0, 37.9, 29.9),
    "a box so far outside that some samples are more than one cell away and are 0": (-22.0, 3.0, 20.0, 20.0),
    "a box smaller than a cell": (12.2, 12.3, 13.4, 13.7),
}


def _box_cases(first):
    """Every box, not aligned and aligned. first: function that returns the arguments before the box."""
    return {
        f"{name}, aligned={aligned}": dict(**first(), box=np.array(box), scale=0.25, size=2, samples=2, aligned=aligned)
        for name, box in _BOXES.items()
        for aligned in (False, True)
    }


def _random_box(rng):
    corner = rng.uniform(-6, 24, 2)
    return dict(
        box=np.concatenate([corner, corner + rng.uniform(0.5, 20, 2)]),
        scale=float(rng.choice([0.25, 0.5])),
        size=int(rng.integers(1, 4)),
        samples=int(rng.integers(1, 4)),
        aligned=bool(rng.integers(2)),
    )


def _random_gradient(rng):
    box = _random_box(rng)
    return dict(gy=rng.standard_normal((box["size"], box["size"], 2)), shape=_SHAPE, **box)


# -------------------------------------------------------------------------------------------------------------- checks

bilinear_weights = Check(
    reference=lambda x, y, height, width: _weights([x, y], height, width),
    cases={
        "a quarter of a cell to the right, three quarters down": dict(x=1.25, y=0.75, height=3, width=4),
        "exactly on a cell": dict(x=2.0, y=1.0, height=3, width=4),
        "on the last cell": dict(x=3.0, y=2.0, height=3, width=4),
        "half a cell outside on the left: the cell at the border counts": dict(x=-0.5, y=1.5, height=3, width=4),
        "half a cell outside below": dict(x=1.5, y=2.5, height=3, width=4),
        "more than one cell outside: nothing counts": dict(x=1.5, y=-1.01, height=3, width=4),
        "more than one cell outside on the right": dict(x=4.1, y=1.0, height=3, width=4),
        "a map of one cell": dict(x=0.3, y=0.0, height=1, width=1),
    },
    random=lambda rng: dict(x=float(rng.uniform(-2, 7)), y=float(rng.uniform(-2, 6)), height=5, width=6),
    covers="inside, on a cell, at the border, outside",
    mistakes={
        "x and y swapped: x counts columns, y counts rows": lambda x, y, h, w: _weights([y, x], h, w),
        "only the nearest cell: that is rounding, not interpolation": _nearest,
        "the weights swapped: the nearer cell has the greater weight": lambda x, y, h, w: _weights(
            [2 * np.floor(x) + 1 - x, 2 * np.floor(y) + 1 - y], h, w
        ),
        "a point outside is not moved to the border": _weights_unclamped,
        "a point is moved to the border no matter how far outside it is": _weights_clamped_everywhere,
    },
)

bin_weights = Check(
    reference=lambda left, top, bin_width, bin_height, samples, height, width: _weights(
        _bin_points(left, top, bin_width, bin_height, samples), height, width
    ),
    cases={
        "one sample, at the center": dict(
            left=1.0, top=0.5, bin_width=2.0, bin_height=3.0, samples=1, height=5, width=6
        ),
        "2 x 2 samples": dict(left=0.6, top=1.1, bin_width=2.2, bin_height=1.5, samples=2, height=5, width=6),
        "a bin smaller than a cell, where all samples share their cells": dict(
            left=2.1, top=1.2, bin_width=0.4, bin_height=0.6, samples=2, height=5, width=6
        ),
        "a bin across the border": dict(
            left=4.0, top=-0.9, bin_width=1.9, bin_height=1.9, samples=2, height=5, width=6
        ),
        "3 x 3 samples, some more than one cell outside": dict(
            left=-4.0, top=1.0, bin_width=6.0, bin_height=2.0, samples=3, height=5, width=6
        ),
    },
    random=lambda rng: dict(
        left=float(rng.uniform(-1, 4)),
        top=float(rng.uniform(-1, 3)),
        bin_width=float(rng.uniform(0.2, 3)),
        bin_height=float(rng.uniform(0.2, 3)),
        samples=int(rng.integers(1, 4)),
        height=5,
        width=6,
    ),
    covers="one and several samples, small bins, bins across the border",
    mistakes={
        SUM: lambda x, y, bw, bh, s, h, w: s**2 * _weights(_bin_points(x, y, bw, bh, s), h, w),
        CORNERS: lambda x, y, bw, bh, s, h, w: _weights(_bin_points(x - bw / s / 2, y - bh / s / 2, bw, bh, s), h, w),
        "width and height of the bin swapped": lambda x, y, bw, bh, s, h, w: _weights(
            _bin_points(x, y, bh, bw, s), h, w
        ),
        "always one sample at the center of the bin, regardless of `samples`": lambda x, y, bw, bh, s, h, w: _weights(
            _bin_points(x, y, bw, bh, 1), h, w
        ),
    },
)

roi_align = Check(
    reference=_forward,
    cases={
        "a ramp, f(y, x) = x: each bin is the x of its center": dict(
            feature=_RAMP, box=np.array([4.0, 4.0, 16.8, 12.0]), scale=0.25, size=2, samples=2, aligned=True
        ),
        "the same box, not aligned: half a cell further": dict(
            feature=_RAMP, box=np.array([4.0, 4.0, 16.8, 12.0]), scale=0.25, size=2, samples=2, aligned=False
        ),
        **_box_cases(lambda: dict(feature=_NOISE)),
        "three bins and three samples": dict(
            feature=_NOISE, box=np.array([3.0, 2.0, 31.0, 25.0]), scale=0.25, size=3, samples=3, aligned=True
        ),
    },
    random=lambda rng: dict(feature=rng.standard_normal(_SHAPE), **_random_box(rng)),
    covers="inside, across and outside the border, boxes smaller than a cell, aligned and not",
    grid=(0, 1),
    mistakes={
        SWAPPED: lambda f, box, *rest: _forward(f, _swapped(box), *rest),
        "rows and columns of the result swapped: the first index is the row, y": lambda *a: _forward(*a).transpose(
            1, 0, 2
        ),
        IN_PIXELS: lambda f, box, scale, *rest: _forward(f, box, 1.0, *rest),
        "the box divided by the scale: 1/16 is the scale, 16 the stride": lambda f, box, scale, *rest: _forward(
            f, box, 1 / scale, *rest
        ),
        HALF: lambda f, box, scale, k, s, aligned: _forward(f, box + 0.5 / scale * aligned, scale, k, s, aligned),
        "half a pixel subtracted before scaling instead of half a cell after it": (
            lambda f, box, scale, k, s, aligned: _forward(f, box + (0.5 / scale - 0.5) * aligned, scale, k, s, aligned)
        ),
        SUM: lambda f, box, scale, k, s, aligned: s**2 * _forward(f, box, scale, k, s, aligned),
        "the largest sample of a bin instead of the average": _maximum,
        "samples outside the map do not take the value at the border": _box_without_clamp,
        "a box smaller than a cell is not enlarged to one cell where aligned is False": _box_at_least_one_cell,
    },
)

roi_align_backward = Check(
    reference=_backward,
    cases={
        "only the first bin has a gradient": dict(
            gy=np.array([[[1.0, 0], [0, 0]], [[0, 0], [0, 0]]]),
            shape=_SHAPE,
            box=np.array([6.3, 5.1, 30.2, 22.7]),
            scale=0.25,
            size=2,
            samples=2,
            aligned=True,
        ),
        **_box_cases(lambda: dict(gy=_rng.standard_normal((2, 2, 2)), shape=_SHAPE)),
    },
    random=_random_gradient,
    covers="bins that share cells, the border, boxes smaller than a cell, aligned and not",
    grid=(0, 1),
    mistakes={
        "a cell keeps only what the last sample sent: `=` instead of `+=`": _assigned,
        "a cell keeps only what the last bin sent: `=` instead of `+=`": _assigned_by_bin,
        "the gradient is not divided by the number of samples": (
            lambda gy, shape, box, scale, k, s, aligned: s**2 * _backward(gy, shape, box, scale, k, s, aligned)
        ),
        SWAPPED: lambda gy, shape, box, *rest: _backward(gy, shape, _swapped(box), *rest),
        "rows and columns of gy swapped: its first index is the row, y": lambda gy, *rest: _backward(
            gy.transpose(1, 0, 2), *rest
        ),
        HALF: lambda gy, shape, box, scale, k, s, aligned: _backward(
            gy, shape, box + 0.5 / scale * aligned, scale, k, s, aligned
        ),
    },
)
