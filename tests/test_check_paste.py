"""Checks of notebook 13: right answers pass, typical wrong ones are named, and pasting works as in the library."""

import numpy as np
import pytest

from minimask.check import CHECKS
from minimask.mask_head import paste_masks
from tests import answers


def cell_positions(pixels, start, end, cells, pixel=0.5, cell=0.5):
    return (pixels + pixel - start) * cells / (end - start) - cell


def stretch_weights(cells, start, end, limit, clip=True, **halves):
    position = cell_positions(np.arange(limit), start, end, cells, **halves)
    position = np.clip(position, 0, cells - 1) if clip else position
    return np.maximum(0, 1 - abs(position[:, None] - np.arange(cells)))


def nearest_weights(cells, start, end, limit):
    position = cell_positions(np.arange(limit), start, end, cells).round().clip(0, cells - 1)
    return (position[:, None] == np.arange(cells)).astype(float)


def grow_box(box, cells, whole_pixels, border=2, last=1, cut=np.trunc):
    center, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * (cells + border) / cells
    grown = np.concatenate([center - half, center + half])
    return cut(grown) + np.array([0, 0, last, last]) if whole_pixels else grown


def paste_mask(mask, box, height, width, whole_pixels, border=1, weights=stretch_weights):
    padded = np.pad(mask, border)
    x1, y1, x2, y2 = grow_box(box, len(mask), whole_pixels, 2 * border)
    return weights(len(padded), y1, y2, height) @ padded @ weights(len(padded), x1, x2, width).T


RIGHT = dict(cell_positions=cell_positions, stretch_weights=stretch_weights, grow_box=grow_box, paste_mask=paste_mask)
PIXEL_12, EXACT = "pixel 12 of a box from 10.9 to 26.9", "the notebook's example: 10.9 to 26.9, exactly"
FULL, RANDOM = "a full mask over 4 x 4 pixels, exactly", "a box from 10.9 to 26.9 in an image"
WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("cell_positions", lambda *a: cell_positions(*a, pixel=0), PIXEL_12, "the position of a pixel's left edge"),
    ("cell_positions", lambda *a: cell_positions(*a, cell=0), PIXEL_12, "the position of a cell's left edge"),
    ("cell_positions", lambda *a: cell_positions(*a, pixel=0, cell=0), PIXEL_12, "the left edges of pixels and cells"),
    (
        "cell_positions",
        lambda p, start, end, cells: (p - start) * (cells - 1) / (end - start - 1),
        PIXEL_12,
        "the first pixel aligned with the first cell and the",
    ),
    (
        "stretch_weights",
        lambda *a: stretch_weights(*a, pixel=0),
        "as many cells as pixels",
        "the position of a pixel's left edge",
    ),
    ("stretch_weights", nearest_weights, "two cells over four pixels", "only the nearest cell"),
    (
        "stretch_weights",
        lambda *a: stretch_weights(*a, clip=False),
        "two cells over four pixels",
        "not moved to the outermost cell",
    ),
    ("stretch_weights", lambda *a: stretch_weights(*a).T, "two cells over four pixels", "It looks transposed."),
    ("grow_box", lambda *a: grow_box(*a, border=0), EXACT, "the box is not enlarged"),
    ("grow_box", lambda *a: grow_box(*a, border=1), EXACT, "half a cell on each side instead of one"),
    ("grow_box", lambda *a: grow_box(*a, last=0), "the same in integer pixels", "without the pixel after the last"),
    ("grow_box", lambda *a: grow_box(*a, cut=np.round), "across the image's border", "rounded to the nearest"),
    (
        "grow_box",
        lambda *a: grow_box(*a, cut=np.floor),
        "truncated toward 0",
        "negative numbers rounded down instead of truncated",
    ),
    ("paste_mask", lambda *a: paste_mask(*a, border=0), FULL, "no border of zeros"),
    ("paste_mask", lambda m, box, *rest: paste_mask(m, box[[1, 0, 3, 2]], *rest), FULL, "x and y swapped"),
    (
        "paste_mask",
        lambda m, *rest: paste_mask(m.T, *rest),
        RANDOM,
        "the mask is transposed: its first index is the row",
    ),
    (
        "paste_mask",
        lambda *a: (paste_mask(*a) >= 0.5).astype(float),
        RANDOM,
        "the mask after the threshold of 0.5, which is the",
    ),
    ("paste_mask", lambda *a: paste_mask(*a) >= 0.5, FULL, "booleans"),
    ("paste_mask", lambda *a: paste_mask(*a, weights=nearest_weights), RANDOM, "the nearest cell of each pixel"),
    (
        "paste_mask",
        lambda m, box, h, w, whole: paste_mask(m, box, h, w, True),
        FULL,
        "always integer pixels, regardless of whole_pixels",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


@pytest.mark.parametrize("whole_pixels", [False, True])
def test_the_reference_is_the_librarys_paste(whole_pixels):
    rng = np.random.default_rng(0)
    masks = rng.random((40, 28, 28))
    boxes = np.concatenate([rng.uniform(-10, 20, (40, 2)), rng.uniform(21, 60, (40, 2))], axis=1)
    theirs = paste_masks.plain(masks, boxes, 40, 50, None, whole_pixels)
    reference = CHECKS["paste_mask"].reference
    for mask, box, expected in zip(masks, boxes, theirs):
        np.testing.assert_allclose(reference(mask, box, 40, 50, whole_pixels), expected, atol=1e-4)


def test_numbers_of_torchvision():
    rows = answers.shown_in("13_from_28x28_to_the_mask", "TORCHVISION")
    mask, box = np.array([[[1, 0.25], [0.5, 0.75]]], np.float32), np.array([[1.2, 0.8, 4.6, 4.9]], np.float32)
    ours = paste_masks(mask, box, 6, 7, threshold=None)[0]
    for row, numbers in rows.items():
        np.testing.assert_allclose(ours[row], numbers, atol=2e-6)
    torch = pytest.importorskip("torch")
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    theirs = roi_heads.paste_masks_in_image(torch.tensor(mask[:, None]), torch.tensor(box), (6, 7))[0, 0].numpy()
    for row, numbers in rows.items():
        np.testing.assert_allclose(theirs[row], numbers, atol=2e-6)
