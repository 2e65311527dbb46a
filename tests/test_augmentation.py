"""Mirrored and turned samples, compared with numbers worked out by hand."""

import numpy as np
import pytest

from minimask.datasets.augmentation import flip, flip_order, turn
from minimask.structures import Sample
from tests.helpers import make_sample


def test_flip_order():
    names = ["nose", "left_eye", "right_eye", "tail", "left_foot"]
    assert flip_order(names).tolist() == [0, 2, 1, 3, 4]


def test_flip_worked_numbers():
    sample = make_sample(2, 4, objects=0)
    sample.boxes = np.array([[0, 0, 1, 2]], np.float32)
    sample.masks = np.array([[[1, 0, 0, 0], [1, 0, 0, 0]]], np.uint8)
    sample.keypoints = np.array([[[0.5, 1, 2], [0, 0, 0]]], np.float32)
    mirrored = flip(sample, np.array([1, 0]))
    assert mirrored.boxes.tolist() == [[3, 0, 4, 2]]
    assert mirrored.masks[0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert mirrored.keypoints.tolist() == [[[0, 0, 0], [3.5, 1, 2]]]
    assert np.array_equal(mirrored.image, sample.image[:, ::-1])


def test_flip_twice_is_the_same():
    sample = make_sample(40, 60, 3, 4)
    twice = flip(flip(sample, np.array([1, 0, 2, 3])), np.array([1, 0, 2, 3]))
    for name in ("image", "boxes", "masks", "keypoints"):
        assert np.allclose(getattr(twice, name), getattr(sample, name), atol=1e-5)


def test_flip_and_turn_do_not_change_their_input():
    sample = make_sample(40, 60, 2, 3)
    before = [a.copy() for a in (sample.image, sample.boxes, sample.masks, sample.keypoints)]
    flip(sample, np.array([1, 0, 2]))
    turn(sample)
    for a, b in zip(before, (sample.image, sample.boxes, sample.masks, sample.keypoints)):
        np.testing.assert_array_equal(a, b)


def test_a_quarter_turn_by_hand():
    image = np.arange(2 * 3 * 3).reshape(2, 3, 3).astype(np.uint8)  # height 2, width 3
    masks = np.zeros((1, 2, 3), np.uint8)
    masks[0, 0, 2] = 1  # the pixel at the top right
    boxes, keypoints = np.array([[2, 0, 3, 1]], np.float32), np.array([[[2.5, 0.5, 2], [0, 0, 0]]], np.float32)
    sample = Sample(image, boxes, np.array([1]), masks, np.zeros(1, bool), 0, "a", keypoints)
    turned = turn(sample)
    assert turned.image.shape == (3, 2, 3) and (turned.image[0, 0] == image[0, 2]).all()
    np.testing.assert_array_equal(turned.boxes, [[0, 0, 1, 1]])  # now at the top left
    assert turned.masks.shape == (1, 3, 2) and turned.masks[0, 0, 0] == 1 and turned.masks.sum() == 1
    np.testing.assert_array_equal(turned.keypoints, [[[0.5, 0.5, 2], [0, 0, 0]]])
    for _ in range(3):
        turned = turn(turned)
    for name in ("image", "boxes", "masks", "keypoints"):
        np.testing.assert_array_equal(getattr(turned, name), getattr(sample, name))


@pytest.mark.parametrize("order", [None, np.array([1, 0, 2])])
def test_flip_leaves_the_callers_keypoints_alone(order):
    sample = make_sample(keypoints=3)
    before = sample.keypoints.copy()
    mirrored = flip(sample, order)
    np.testing.assert_array_equal(sample.keypoints, before)
    assert not np.shares_memory(mirrored.keypoints, sample.keypoints) and (mirrored.keypoints != before).any()
