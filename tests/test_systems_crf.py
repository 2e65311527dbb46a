"""The field of boxes and pixels: unaries and mean field by hand, and a training that learns."""

import numpy as np
import pytest

import minimask
from minimask.structures import Detections
from minimask.systems.crf import unaries
from minimask.systems.mean_field import mean_field
from tests.pixel_training import check_training

SMALL = {
    "backbone": {"channels": [8, 8, 16, 16], "fpn_channels": 16},
    "rpn": {"pre_nms": [60, 60], "post_nms": [30, 30]},
    "roi": {"samples": 16},
    "heads": {"box_width": 32},
    "transform": {"min_size": 64, "max_size": 64},
}


def test_unaries_by_hand():
    probabilities = np.array([0.2, 0.5, 0.3]).reshape(1, 1, 1, 3).repeat(3, axis=2)
    found = Detections(
        boxes=np.array([[[0, 0, 1, 1], [1, 0, 3, 1], [0, 0, 3, 1]]], float),
        labels=np.array([[1, 2, 1]]),
        scores=np.array([[0.8, 0.4, 0.9]]),
        valid=np.array([[True, True, False]]),
    )
    values = unaries(probabilities, found, box_weight=0.9)
    box, everywhere = np.array([0.9 * 0.8 * 0.5, 0.9 * 0.4 * 0.3]), np.array([0.1 * 0.5, 0.1 * 0.3])
    expected = [
        [0.2, box[0] + everywhere[0], everywhere[1], 0],
        [0.2, everywhere[0], box[1] + everywhere[1], 0],
        [0.2, everywhere[0], box[1] + everywhere[1], 0],
    ]
    np.testing.assert_allclose(values[0, 0], expected)


def test_mean_field_by_hand():
    unary = np.zeros((1, 1, 3, 2))
    unary[0, 0] = [[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]]  # the first and the third are neighbors, two pixels apart
    images = np.zeros((1, 1, 3, 3))
    settings = dict(strength=2.0, near=4.0, alike=0.5)
    q = mean_field(unary, images, steps=0, **settings)
    np.testing.assert_allclose(q, unary, rtol=1e-5)
    q = mean_field(unary, images, steps=1, **settings)[0, 0]
    first, third = np.array([0.9, 0.1]) * np.exp([2 * 0.4, 2 * 0.6]), np.array([0.4, 0.6]) * np.exp([1.8, 0.2])
    np.testing.assert_allclose(q, [first / first.sum(), [0.5, 0.5], third / third.sum()], rtol=1e-4)


def test_neighbors_of_like_color_count_and_others_do_not():
    unary = np.full((1, 9, 12, 2), 0.5)
    unary[:, :, :6], unary[:, :, 6:] = [0.8, 0.2], [0.3, 0.7]
    unary[0, 4, 2] = [0.3, 0.7]  # a mistake amid others that agree
    images = np.zeros((1, 9, 12, 3))
    images[:, :, 6:] = 2
    settings = dict(strength=5.0, near=4.0, alike=0.5, steps=5)
    q = mean_field(unary, images, **settings)
    expected = np.broadcast_to(np.arange(12) >= 6, (9, 12))
    assert (q.argmax(axis=3)[0] == expected).all()
    np.testing.assert_allclose(q.sum(axis=3), 1)

    apart = mean_field(unary[:, :, 6:].copy(), images[:, :, 6:], **settings)
    np.testing.assert_allclose(q[0, :, 6:], apart[0], atol=1e-5)  # the other color might as well not be there


def test_training_finds_objects_and_the_checkpoint_comes_back(tmp_path):
    pytest.importorskip("scipy")
    model = minimask.build("crf", classes=["cat", "dog", "duck"], **SMALL)
    before, after, batch = check_training(model, tmp_path, steps=150, learning_rate=0.01, ap50=0.25)
    assert model.detect(batch).masks.sum(axis=1).max() == 1  # no pixel is given twice
    assert after["loss_classifier"] < 0.3 * before["loss_classifier"]


def test_settings_are_checked():
    with pytest.raises(minimask.errors.InputError, match="crf draws masks itself: heads.mask must be none"):
        minimask.build("crf", heads={"mask": "fcn"})
    with pytest.raises(minimask.errors.InputError, match="system.steps must be an integer"):
        minimask.build("crf", system={"steps": -1})
