"""Checks of notebook 13: positions of pixels in a mask, its border, the weights along an axis, the mask in its image.

A mask (M, M) of numbers from 0 to 1 covers a box (4,) in pixels. Pixel p covers p to p + 1; its center is p + 0.5.
"""

import numpy as np

from minimask.check.engine import Check


def _positions(pixels, start, end, cells):
    return (pixels + 0.5 - start) * cells / (end - start) - 0.5


def _weights(cells, start, end, limit, positions=_positions, clip=True):
    position = positions(np.arange(limit), start, end, cells)
    position = position.clip(0, cells - 1) if clip else position
    return np.maximum(0, 1 - abs(position[:, None] - np.arange(cells)))


def _grown(box, cells, whole_pixels, border=1):
    center, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * (cells + 2 * border) / cells
    edges = np.concatenate([center - half, center + half])
    return np.trunc(edges) + [0.0, 0, 1, 1] if whole_pixels else edges


def _paste(mask, box, height, width, whole_pixels, border=1, weights=_weights):
    mask = np.pad(mask, border)
    x1, y1, x2, y2 = _grown(box, len(mask) - 2 * border, whole_pixels, border)
    return weights(len(mask), y1, y2, height) @ mask @ weights(len(mask), x1, x2, width).T


# ------------------------------------------------------------------------------------------------ what goes wrong often


def _corner_to_corner(pixels, start, end, cells):
    return (pixels - start) * (cells - 1) / (end - start - 1)


def _no_half_pixel(pixels, start, end, cells):
    return (pixels - start) * cells / (end - start) - 0.5


def _no_half_cell(pixels, start, end, cells):
    return (pixels + 0.5 - start) * cells / (end - start)


def _neither(pixels, start, end, cells):
    return (pixels - start) * cells / (end - start)


def _nearest(cells, start, end, limit):
    position = _positions(np.arange(limit), start, end, cells).round().clip(0, cells - 1)
    return (position[:, None] == np.arange(cells)).astype(float)


def _with(positions):
    return lambda cells, start, end, limit: _weights(cells, start, end, limit, positions)


NO_HALF_PIXEL = "the position of a pixel's left edge: its center is half a pixel further"
NO_HALF_CELL = "the position of a cell's left edge: its center is half a cell further, so subtract half a cell"
NEITHER = "the left edges of pixels and cells: the center of each is half a step further"
CORNERS = "the first pixel aligned with the first cell and the last with the last: centers are not on the box's edges"

# --------------------------------------------------------------------------------------------------------------- checks

cell_positions = Check(
    reference=_positions,
    cases={
        "the notebook's example: pixel 12 of a box from 10.9 to 26.9": dict(
            pixels=np.array([12]), start=10.9, end=26.9, cells=28
        ),
        "as many cells as pixels: pixel 7 is cell 2": dict(pixels=np.arange(5, 10), start=5.0, end=10.0, cells=5),
        "cells twice as large as pixels": dict(pixels=np.arange(4), start=0.0, end=4.0, cells=2),
        "cells half as large": dict(pixels=np.arange(3, 6), start=3.0, end=6.0, cells=6),
        "pixels to the left and right of the box": dict(pixels=np.arange(-2, 9), start=0.5, end=6.5, cells=4),
    },
    random=lambda rng: dict(
        pixels=np.arange(rng.integers(1, 12)),
        start=float(rng.uniform(-5, 5)),
        end=float(rng.uniform(6, 30)),
        cells=int(rng.integers(1, 30)),
    ),
    covers="larger and smaller cells, pixels outside",
    mistakes={
        NO_HALF_PIXEL: _no_half_pixel,
        NO_HALF_CELL: _no_half_cell,
        NEITHER: _neither,
        CORNERS: _corner_to_corner,
    },
)

grow_box = Check(
    reference=_grown,
    cases={
        "the notebook's example: 10.9 to 26.9, exactly": dict(
            box=np.array([10.9, 10.9, 26.9, 26.9]), cells=28, whole_pixels=False
        ),
        "the same in integer pixels": dict(box=np.array([10.9, 10.9, 26.9, 26.9]), cells=28, whole_pixels=True),
        "two cells of 4 pixels: 4 pixels on each side": dict(
            box=np.array([10.0, 20, 18, 28]), cells=2, whole_pixels=False
        ),
        "wide and low": dict(box=np.array([3.0, 50, 87, 57]), cells=28, whole_pixels=False),
        "across the image's border, in integer pixels: truncated toward 0": dict(
            box=np.array([-6.4, 3.3, 9.1, 9.9]), cells=28, whole_pixels=True
        ),
    },
    random=lambda rng: dict(
        box=np.concatenate([rng.uniform(-5, 20, 2), rng.uniform(21, 60, 2)]),
        cells=int(rng.integers(1, 30)),
        whole_pixels=bool(rng.integers(2)),
    ),
    covers="exact and integer pixels, boxes that are not square, boxes across the border",
    mistakes={
        "a border of one pixel instead of one cell": lambda box, cells, whole: _grown(
            box + [-1, -1, 1, 1] - np.tile((box[2:] - box[:2]) / cells, 2) * [-1, -1, 1, 1], cells, whole
        ),
        "half a cell on each side instead of one": lambda box, cells, whole: _grown(box, cells, whole, border=0.5),
        "the width of a cell used for its height: cells need not be square": lambda box, cells, whole: (
            _grown(box, cells, whole, 0) + (box[2] - box[0]) / cells * np.array([-1.0, -1, 1, 1])
        ),
        "integer pixels without the pixel after the last one": lambda box, cells, whole: (
            _grown(box, cells, whole) - whole * np.array([0.0, 0, 1, 1])
        ),
        "numbers rounded to the nearest instead of truncated": lambda box, cells, whole: (
            np.round(_grown(box, cells, False)) + [0.0, 0, 1, 1] if whole else _grown(box, cells, False)
        ),
        "negative numbers rounded down instead of truncated toward 0": lambda box, cells, whole: (
            np.floor(_grown(box, cells, False)) + [0.0, 0, 1, 1] if whole else _grown(box, cells, False)
        ),
        "the box is not enlarged": lambda box, cells, whole: _grown(box, cells, whole, border=0),
    },
)

stretch_weights = Check(
    reference=_weights,
    cases={
        "as many cells as pixels: each pixel is one cell": dict(cells=4, start=0.0, end=4.0, limit=4),
        "two cells over four pixels": dict(cells=2, start=0.0, end=4.0, limit=4),
        "pixels to the left and right of the box: the outermost cells": dict(cells=3, start=2.0, end=8.0, limit=10),
        "30 cells over a box from 10.3 to 27.5": dict(cells=30, start=10.33, end=27.47, limit=32),
        "a box that begins outside the image": dict(cells=5, start=-6.5, end=7.0, limit=10),
    },
    random=lambda rng: dict(
        cells=int(rng.integers(1, 9)), start=float(rng.uniform(-5, 5)), end=float(rng.uniform(6, 15)), limit=12
    ),
    covers="larger and smaller cells, pixels and boxes outside",
    mistakes={
        NO_HALF_PIXEL: _with(_no_half_pixel),
        NO_HALF_CELL: _with(_no_half_cell),
        NEITHER: _with(_neither),
        CORNERS: _with(_corner_to_corner),
        "only the nearest cell: that is not interpolation": _nearest,
        "positions outside are not moved to the outermost cell": lambda *a: _weights(*a, clip=False),
    },
)

_rng = np.random.default_rng(13)
_FULL = np.ones((4, 4))

paste_mask = Check(
    reference=_paste,
    cases={
        "a full mask over 4 x 4 pixels, exactly: one cell per pixel": dict(
            mask=_FULL, box=np.array([2.0, 3, 6, 7]), height=9, width=8, whole_pixels=False
        ),
        "a box from 10.9 to 26.9 in an image of 20 x 30": dict(
            mask=_rng.random((28, 28)), box=np.array([10.9, 2.2, 26.9, 17.7]), height=20, width=30, whole_pixels=False
        ),
        "a box across the image's border": dict(
            mask=_rng.random((6, 6)), box=np.array([-4.3, 6.1, 5.2, 15.8]), height=12, width=10, whole_pixels=False
        ),
        "a full mask in integer pixels": dict(
            mask=_FULL, box=np.array([2.0, 3, 6, 7]), height=9, width=8, whole_pixels=True
        ),
        "a small box": dict(
            mask=_rng.random((28, 28)), box=np.array([3.2, 4.1, 8.3, 7.9]), height=12, width=12, whole_pixels=True
        ),
    },
    random=lambda rng: dict(
        mask=rng.random((5, 5)),
        box=np.concatenate([rng.uniform(-4, 6, 2), rng.uniform(8, 18, 2)]),
        height=14,
        width=16,
        whole_pixels=bool(rng.integers(2)),
    ),
    covers="exact and integer pixels, small boxes, boxes across the border",
    mistakes={
        "no border of zeros: the outermost cells extend over the whole image": lambda *a: _paste(*a, border=0),
        "x and y swapped: rows go along y, columns along x": lambda mask, box, *rest: _paste(
            mask, box[[1, 0, 3, 2]], *rest
        ),
        "the mask is transposed: its first index is the row": lambda mask, *rest: _paste(mask.T, *rest),
        "the mask after the threshold of 0.5, which is the next step": lambda *a: (_paste(*a) >= 0.5).astype(float),
        "the nearest cell of each pixel, without interpolation": lambda *a: _paste(*a, weights=_nearest),
        "the left edges of pixels and cells": lambda *a: _paste(*a, weights=_with(_neither)),
        "a padded mask over a box that is not enlarged": lambda mask, box, height, width, whole: (
            _weights(len(mask) + 2, *(_grown(box, 1, whole, 0)[[1, 3]]), height)
            @ np.pad(mask, 1)
            @ _weights(len(mask) + 2, *(_grown(box, 1, whole, 0)[[0, 2]]), width).T
        ),
        "always integer pixels, regardless of whole_pixels": lambda mask, box, height, width, whole: _paste(
            mask, box, height, width, True
        ),
    },
)
