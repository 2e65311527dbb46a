"""Deep watershed: the landscape of drawn objects, the loss of directions, the cut, and a training that learns."""

import numpy as np
import pytest

import minimask
from minimask.losses import Loss
from minimask.systems.deep_watershed import islands, landscape, squared_angle
from tests.gradcheck import check_gradients
from tests.pixel_training import check_training

pytest.importorskip("scipy")

SMALL = {"backbone": {"channels": [8, 8, 16, 16]}, "transform": {"min_size": 64, "max_size": 64}}


def test_the_landscape_of_two_squares_that_touch():
    objects = np.full((1, 7, 12), -1)
    objects[0, 1:6, 1:6], objects[0, 1:6, 6:11] = 0, 2  # there is no object 1
    height, uphill = landscape(objects)
    hill = [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 2, 3, 2, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_allclose(height[0, 1:6, 1:6], hill)
    np.testing.assert_allclose(height[0, 1:6, 6:11], hill)
    assert height.sum() == 2 * np.sum(hill)

    np.testing.assert_allclose(uphill[0, 3, 4], [-1, 0])  # left of the border between the two: uphill is to the left
    np.testing.assert_allclose(uphill[0, 3, 7], [1, 0])
    np.testing.assert_allclose(uphill[0, 2, 3], [0, 1])
    np.testing.assert_allclose(np.linalg.norm(uphill, axis=3), objects >= 0)


def test_the_border_of_the_image_is_a_border_of_the_object():
    height, uphill = landscape(np.zeros((1, 4, 4), int))
    np.testing.assert_allclose(height[0, 1], [1, 2, 2, 1])
    np.testing.assert_allclose(uphill[0, 1, 0], [1, 0])


def test_the_loss_is_the_squared_angle_whatever_the_length():
    z = np.array([[2.0, 0], [0, 3], [-1, 1], [-5, 0]])
    t = np.array([[1.0, 0], [1, 0], [-1, 0], [1, 0]])
    loss, _ = squared_angle(z, t, np.array([1.0, 1, 2, 0.5]))
    assert loss == pytest.approx((0 + 1 + 2 / 4 + 0.5 * 4) * (np.pi / 2) ** 2)


def test_the_gradient_of_the_angle():
    rng = np.random.default_rng(0)
    z, angle = rng.standard_normal((3, 4, 2)), rng.uniform(0, 2 * np.pi, (3, 4))
    z *= np.maximum(1, 0.2 / np.linalg.norm(z, axis=2, keepdims=True))  # not so short that the gradient is limited
    t, w = np.stack([np.cos(angle), np.sin(angle)], axis=2), rng.random((3, 4))
    check_gradients(lambda z: Loss(squared_angle, t, w)(z), z)


def test_islands_above_the_water_grow_back_to_their_shores():
    area = np.array([[0, 1, 1, 1, 1, 1, 1, 1, 0, 1]]) > 0
    high = np.array([[1, 0, 1, 0, 0, 0, 1, 0, 0, 0]]) > 0  # the first pixel is not of this class
    one, two = islands(area, high, 1)
    assert one.astype(int).tolist() == [[0, 1, 1, 1, 0, 0, 0, 0, 0, 0]]
    assert two.astype(int).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0, 0]]
    one, two = islands(area, high, 3)
    assert not (one & two).any() and (one | two)[0].tolist() == area[0].tolist()  # the gap goes to the nearer island
    assert islands(area, np.zeros_like(high), 3) == []


def test_training_finds_objects_and_the_checkpoint_comes_back(tmp_path):
    model = minimask.build("deep_watershed", classes=["cat", "dog", "duck"], system={"width": 16}, **SMALL)
    before, after, _ = check_training(model, tmp_path, steps=200, learning_rate=0.02, ap50=0.5)
    assert after["loss_direction"] < 0.4 * before["loss_direction"]
    assert after["loss_energy"] < 0.3 * before["loss_energy"]


def test_settings_are_checked():
    with pytest.raises(minimask.errors.InputError, match="system.cut must be an integer of at least 1"):
        minimask.build("deep_watershed", system={"cut": 0})
    with pytest.raises(minimask.errors.InputError, match="system.cut must be at most 2, the number of heights, got 3"):
        minimask.build("deep_watershed", system={"heights": [2, 4], "cut": 3})
