"""Keypoints decoded on the GPU, against the array code and the CPU kernel."""

from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest

from minimask import keypoint_head
from minimask.keypoint_head import decode_keypoints, find_peaks


def decode(gpu, logits, boxes):
    arrays = gpu.asarray(logits), gpu.asarray(boxes)
    with getattr(gpu, "no_sync", nullcontext)():
        found = decode_keypoints(*arrays)
    return found.get()


def decode_plain(logits, boxes):
    """The array code, on the CPU."""
    with mock.patch.object(keypoint_head, "find_peaks", find_peaks.plain):
        return decode_keypoints(logits, boxes)


@pytest.mark.parametrize("shape", [(56, 56, 3), (5, 9, 1), (2, 6, 2), (40, 3, 2)])
def test_peaks(gpu, shape):
    rng = np.random.default_rng(0)
    sides = np.array([[1, 1], [7, 50], [90, 33], [65, 32], [3, 130], [0, 0], [5, -3]])
    corners = rng.uniform(-20, 60, (len(sides), 2))
    boxes = np.concatenate([corners, corners + sides - 0.3], axis=1).astype(np.float32)
    logits = rng.standard_normal((len(sides), *shape)).astype(np.float32)
    found, expected = decode(gpu, logits, boxes), decode_plain(logits, boxes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, decode_keypoints(logits, boxes), rtol=1e-5, atol=1e-5)


def test_map_of_one_cell(gpu):
    maps = np.array([-3, 5], np.float32).reshape(1, 1, 1, 2)
    found = find_peaks(gpu.asarray(maps), gpu.asarray([[7, 40]])).get()
    np.testing.assert_allclose(found[..., 2], [[-3, 5]], rtol=1e-6)  # the same everywhere, so the position is arbitrary


def test_worked_example(gpu):
    logits = np.zeros((1, 3, 3, 1), np.float32)
    logits[0, 1, 1] = 2  # the middle of 3 x 3 cells, in a box of 3 x 3 pixels
    found = decode(gpu, logits, np.array([[10, 20, 12.5, 23]], np.float32))
    np.testing.assert_allclose(found[0, 0], [10 + 1.5 * 2.5 / 3, 21.5, 2], rtol=1e-6)


@pytest.mark.parametrize("height, width", [(70, 100), (200, 40)])
def test_the_first_of_equal_logits_wins(gpu, height, width):
    maps = np.zeros((1, height, width, 2), np.float32)  # each cell is one pixel, so nothing is rounded
    maps[0, 40, [33, 34], 0] = 1
    maps[0, 41, 3, 0] = 1  # farther left, but later
    maps[..., 1] = -2
    pixels = np.array([[width, height]])
    found = find_peaks(gpu.asarray(maps), gpu.asarray(pixels)).get()
    np.testing.assert_array_equal(found, [[[33, 40, 1], [0, 0, -2]]])
    np.testing.assert_array_equal(found, find_peaks(maps, pixels))


def test_the_peak_is_found_in_each_stripe(gpu):
    maps = np.zeros((1, 70, 100, 12), np.float32)  # 3 x 4 stripes of 32 x 32 pixels, for 8 warps
    for k in range(12):
        maps[0, 20 + 24 * (k // 4), 31 + 22 * (k % 4), k] = 1
    found = find_peaks(gpu.asarray(maps), gpu.asarray([[100, 70]])).get()
    np.testing.assert_array_equal(found[0], [[31 + 22 * (k % 4), 20 + 24 * (k // 4), 1] for k in range(12)])


def test_no_boxes_and_nan_boxes(gpu):
    logits = np.random.default_rng(1).standard_normal((2, 4, 4, 3)).astype(np.float32)
    assert decode(gpu, logits[:0], np.zeros((0, 4), np.float32)).shape == (0, 3, 3)
    boxes = np.array([[0, np.nan, 10, 5], [0, 0, 1e9, 2]], np.float32)
    found = decode(gpu, logits, boxes)  # a box of 1e9 pixels is limited to 65,536
    assert np.isfinite(found).all()
    boxes[0, 1], boxes[1, 2] = 0, 65536
    expected = decode_plain(logits, boxes)  # 16,384 pixels per cell, so the peak is flat
    np.testing.assert_allclose(found, expected, rtol=3e-4)
    np.testing.assert_allclose(found[..., 2], expected[..., 2], rtol=1e-5)
