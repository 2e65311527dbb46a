"""Mask targets and pasted masks on the GPU, against the array code and the CPU kernels."""

from contextlib import nullcontext

import numpy as np
import pytest

from minimask.mask_head import mask_targets, paste_masks


def target_case(height=40, width=50):
    rng = np.random.default_rng(0)
    masks = (rng.random((2, 3, height, width)) < 0.5).astype(np.uint8)
    masks[0, 0] = 1
    boxes = [
        [[3.2, 4.1, 30.7, 33.3], [-5, -6, 12, 14], [40, 30, 70, 90], [0, 0, 50, 40], [5, 5, 5, 5]],
        [[0, 0, 0, 0], [100, 100, 120, 130], [-90, -80, -30, -20], [10.1, 10.2, 10.9, 11.1], [-400, -3, 400, 9]],
    ]
    return masks, np.array(boxes, np.float32), rng.integers(0, 3, (2, 5))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [1, 7, 28])
def test_targets(gpu, size, aligned):
    case = target_case()
    arrays = [gpu.asarray(x) for x in case]
    with getattr(gpu, "no_sync", nullcontext)():
        found = mask_targets(*arrays, size, aligned)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.get(), mask_targets.plain(*case, size, aligned), atol=2e-6)
    np.testing.assert_allclose(found.get(), mask_targets(*case, size, aligned), atol=2e-6)


def test_targets_where_height_and_width_differ_much(gpu):
    masks, boxes, matches = target_case(height=9, width=70)
    found = mask_targets(gpu.asarray(masks), gpu.asarray(boxes), gpu.asarray(matches), 5)
    np.testing.assert_allclose(found.get(), mask_targets.plain(masks, boxes, matches, 5), atol=2e-6)
    masks = masks[..., :1, :1].copy()  # images of one pixel
    found = mask_targets(gpu.asarray(masks), gpu.asarray(boxes), gpu.asarray(matches), 5)
    np.testing.assert_allclose(found.get(), mask_targets.plain(masks, boxes, matches, 5), atol=2e-6)


def test_binary_targets_round_one_half_up(gpu):
    masks = np.zeros((1, 1, 8, 8), np.uint8)
    masks[0, 0, :, :4] = 1  # the left half; halfway between pixels 3 and 4 the mask is 1/2, which becomes 1
    boxes, matches = np.array([[[0, 0, 4, 4]]], np.float32), np.zeros((1, 1), int)
    found = mask_targets(gpu.asarray(masks), gpu.asarray(boxes), gpu.asarray(matches), 4, binary=True)
    np.testing.assert_array_equal(found.get()[0, 0], 1)
    boxes += np.float32(0.25)
    found = mask_targets(gpu.asarray(masks), gpu.asarray(boxes), gpu.asarray(matches), 4, binary=True)
    np.testing.assert_array_equal(found.get()[0, 0], np.tile([1, 1, 1, 0], (4, 1)))


def test_targets_of_no_boxes_nan_boxes_and_padding(gpu):
    masks, boxes, matches = target_case()
    none = mask_targets(gpu.asarray(masks), gpu.asarray(boxes[:, :0]), gpu.asarray(matches[:, :0]), 7)
    assert none.shape == (2, 0, 7, 7)
    boxes[0, 0], boxes[0, 1, 2], boxes[1, 1], matches[1] = np.nan, np.inf, [0, 0, 1e9, 1e9], [-1, 5, 0, 1, 2]
    found = mask_targets(gpu.asarray(masks), gpu.asarray(boxes), gpu.asarray(matches), 7)
    np.testing.assert_allclose(found.get(), mask_targets(masks, boxes, matches, 7), atol=2e-6)
    as_bool = mask_targets(gpu.asarray(masks > 0), gpu.asarray(boxes), gpu.asarray(matches), 7)
    np.testing.assert_array_equal(as_bool.get(), found.get())


def paste_case():
    boxes = [[3.2, 4.1, 30.7, 33.3], [-5, -6, 12, 14], [40, 30, 70, 90], [0, 0, 50, 40], [5, 5, 5, 5]]
    boxes += [[100, 100, 120, 130], [-90, -80, -30, -20], [10.1, 10.2, 10.9, 11.1], [-40, -3, 140, 9], [9, 9, 7, 8]]
    boxes += [[5.5, 6.5, 5.5, 6.5], [20.7, 3, 20.3, 9]]
    masks = np.random.default_rng(2).random((len(boxes), 28, 28)).astype(np.float32)
    return masks, np.array(boxes, np.float32)


@pytest.mark.parametrize("whole_pixels", [True, False])
@pytest.mark.parametrize("height, width", [(40, 50), (1, 1), (90, 7)])
def test_paste(gpu, height, width, whole_pixels):
    masks, boxes = paste_case()
    arguments = height, width, None, whole_pixels
    with getattr(gpu, "no_sync", nullcontext)():
        found = paste_masks(gpu.asarray(masks), gpu.asarray(boxes), *arguments)
    expected = paste_masks.plain(masks, boxes, *arguments)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found.get(), expected, atol=1e-5)
    np.testing.assert_allclose(found.get(), paste_masks(masks, boxes, *arguments), atol=2e-6)


@pytest.mark.parametrize("size", [1, 5])
def test_paste_with_a_threshold(gpu, size):
    masks, boxes = paste_case()
    masks = masks[:, :size, :size].copy()
    found = paste_masks(gpu.asarray(masks), gpu.asarray(boxes), 40, 50, 0.5)
    soft = paste_masks.plain(masks, boxes, 40, 50, None)
    clear = abs(soft - 0.5) > 1e-5
    assert found.dtype == bool and clear.mean() > 0.99
    np.testing.assert_array_equal(found.get()[clear], soft[clear] >= 0.5)
    half = paste_masks(gpu.asarray(np.full((1, 4, 4), 0.5, np.float32)), gpu.asarray(boxes[3:4]), 40, 50, 0.5)
    assert half.get()[0, 8:32, 10:40].all()  # a probability equal to the threshold counts as the object


def test_paste_of_no_boxes_and_nan_boxes(gpu):
    masks, boxes = paste_case()
    assert paste_masks(gpu.asarray(masks[:0]), gpu.asarray(boxes[:0]), 4, 5).shape == (0, 4, 5)
    boxes[0], boxes[1, 2] = np.nan, np.inf
    found = paste_masks(gpu.asarray(masks), gpu.asarray(boxes), 40, 50, None)
    np.testing.assert_allclose(found.get(), paste_masks(masks, boxes, 40, 50, None), atol=2e-6)
