"""FCIS, hard example mining and mask voting: numbers by hand, and a short training."""

import numpy as np
import pytest

import minimask
from minimask import losses
from minimask.datasets.toy import ToyScenes
from minimask.mask_rcnn import sampling_generator
from minimask.systems import ohem
from minimask.systems.voting import detect_and_vote
from minimask.tensor import Tensor

SMALL = {
    "backbone": {"channels": [8, 8, 16, 16]},
    "rpn": {"pre_nms": [60, 60], "post_nms": [30, 30]},
    "roi": {"samples": 16},
    "transform": {"min_size": 64, "max_size": 64},
}


def test_the_hardest_valid_rois_learn():
    values = np.array([[3.0, 1, 2, 9], [0, 0, 5, 0]])
    valid = np.array([[True, True, True, False], [False, False, True, False]])
    expected = [[True, False, True, False], [False, False, True, False]]
    assert ohem.hardest(values, valid, 2).tolist() == expected
    assert ohem.hardest(values, valid, 10).tolist() == valid.tolist()


def test_the_losses_of_the_rois_add_up_to_the_loss_of_the_stage():
    rng = np.random.default_rng(0)
    logits, labels, ones = rng.standard_normal((6, 4)), rng.integers(0, 4, 6), np.ones(6)
    expected, _ = losses.cross_entropy(logits, labels, ones)
    assert ohem.class_losses(logits, labels).sum() == pytest.approx(float(expected))

    deltas, targets = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    deltas[0] = targets[0] + 0.01  # in the square part
    expected, _ = losses.smooth_l1(deltas, targets, np.ones((6, 4)), 1 / 9)
    assert ohem.box_losses(deltas, targets).sum() == pytest.approx(float(expected))

    logits, targets = rng.standard_normal((6, 3, 3, 4)), rng.random((6, 3, 3))
    expected, _ = losses.sigmoid_mask_loss(logits, labels, targets, ones > 0, 9.0)
    assert ohem.mask_losses(logits, labels, targets).sum() == pytest.approx(float(expected))


def votes(boxes, scores, masks, **settings):
    """detect_and_vote for one image, all RoIs valid; scores (R,) of class 1 of 2, masks (R, M, M)."""
    boxes, scores, masks = (np.array(x, np.float32) for x in (boxes, scores, masks))
    scores = np.stack([1 - scores, scores], axis=1)
    return detect_and_vote(
        boxes[None], np.ones((1, len(boxes)), bool), scores[None], masks[None, ..., None], **settings
    )


def test_rois_in_the_same_place_vote_with_their_scores():
    masks = np.zeros((3, 2, 2))
    masks[0], masks[2] = 1, 1  # the third is somewhere else
    found = votes([[0, 0, 4, 4], [0, 0, 4, 4], [50, 50, 60, 60]], [0.6, 0.2, 0.5], masks)
    assert found.valid.tolist() == [[True, True, False]]
    np.testing.assert_allclose(found.scores[0], [0.6, 0.5, 0])
    np.testing.assert_allclose(found.masks[0, 0], np.full((2, 2), 0.6 / 0.8))
    np.testing.assert_allclose(found.masks[0, 1], np.ones((2, 2)))
    assert not found.masks[0, 2:].any()


def test_a_vote_is_cast_in_the_place_where_the_voter_lies():
    # IoU 0.6. The voter's mask covers x = 1 .. 3 of its box 1 .. 5. The detection's cells have centers 1 and 3: one
    # lies at the voter's edge, the other on the border between its cells.
    masks = [np.zeros((2, 2)), [[1, 0], [1, 0]]]
    found = votes([[0, 0, 4, 4], [1, 0, 5, 4]], [0.6, 0.2], masks)
    np.testing.assert_allclose(found.masks[0, 0], np.array([[1, 0.5]] * 2) * 0.2 / 0.8, rtol=1e-6)
    alone = votes([[0, 0, 4, 4], [1, 0, 5, 4]], [0.6, 0.2], masks, overlap=0.7)
    assert not alone.masks[0, 0].any()


def test_boxes_can_be_averaged_too_and_the_mask_then_lies_in_the_average():
    masks = [[[1, 0], [1, 0]]] * 2
    found = votes([[0, 0, 4, 4], [1, 0, 5, 4]], [0.6, 0.2], masks, vote_boxes=True)
    np.testing.assert_allclose(found.boxes[0, 0], [0.25, 0, 4.25, 4], rtol=1e-6)
    # Cell centers 1.25 and 3.25. The first mask is 1 up to x = 1, 0 from 3 on; the voter's lies a pixel to the right.
    expected = (0.6 * np.array([0.875, 0]) + 0.2 * np.array([1, 0.375])) / 0.8
    np.testing.assert_allclose(found.masks[0, 0], [expected] * 2, rtol=1e-6)


@pytest.fixture
def model():
    return minimask.build("fcis", classes=["cat", "dog", "duck"], system={"parts": 2, "cells": 4}, **SMALL)


def test_class_and_mask_are_read_from_inside_and_outside(model):
    maps = np.zeros((1, 8, 8, 4, 12))  # 2 x 2 parts, then inside (4 classes), outside (4), deltas (4)
    maps[..., 1] = np.array([3.0, 0, 0, 0])  # inside class 1: only in the upper left part
    maps[..., 5] = np.array([1.0, 2, 2, 2])  # outside of it: everywhere else
    maps[..., 8] = np.array([4.0, 0, 0, 0])
    box = np.array([[[8.0, 8, 40, 40]]])
    logits, deltas, masks = model.read(Tensor(maps.reshape(1, 8, 8, 48)), box)
    np.testing.assert_allclose(logits.data, [[0, (3 + 2 + 2 + 2) / 4, 0, 0]])
    np.testing.assert_allclose(deltas.data, [[1, 0, 0, 0]])
    assert masks.data[0, :, :, 1].tolist() == [[2, 2, -2, -2]] * 2 + [[-2, -2, -2, -2]] * 2


def test_the_hardest_rois_are_chosen_among_all_proposals(model, monkeypatch):
    seen = {}
    hardest = ohem.hardest

    def spy(values, valid, count):
        seen["shape"], seen["chosen"] = values.shape, hardest(values, valid, count)
        return seen["chosen"]

    monkeypatch.setattr(ohem, "hardest", spy)
    mining = minimask.build("fcis", system={"hardest": 5}, **SMALL)
    scenes = ToyScenes("train", size=64, count=2)
    batch = mining.transform([scenes[0], scenes[1]])
    mining.losses(batch, sampling_generator(0, 0))
    assert seen["shape"] == (2, 30 + batch.boxes.shape[1])
    assert seen["chosen"].sum(axis=1).tolist() == [5, 5]


def test_training_lowers_the_loss_and_the_checkpoint_comes_back(tmp_path, model):
    scenes = ToyScenes("train", size=64, count=4)
    batch = model.transform([scenes[i] for i in range(4)])
    before = {name: loss.item() for name, loss in model.losses(batch, sampling_generator(0, 0)).items()}
    assert before["loss_classifier"] == pytest.approx(np.log(4), rel=0.02)
    assert before["loss_mask"] == pytest.approx(3 * np.log(2), rel=0.02)  # the weight of the masks is 3

    run = minimask.train(model, scenes, steps=80, batch_size=4, learning_rate=3e-3, output=tmp_path / "run", quiet=True)
    again = minimask.load(run.folder)
    found, expected = again.detect(batch), model.detect(batch)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.masks, expected.masks)
    assert found.masks.shape[2:] == (4, 4) and 0 <= found.masks.min() and found.masks.max() <= 1
    assert minimask.evaluate(again, scenes, quiet=True)["bbox"]["AP50"] > 0.05  # it was 0.13 and 0.12 with two seeds

    after = {name: loss.item() for name, loss in model.losses(batch, sampling_generator(0, 0)).items()}
    assert after["loss_classifier"] < 0.7 * before["loss_classifier"]
    assert after["loss_mask"] < 0.8 * before["loss_mask"]


def test_settings_are_checked():
    with pytest.raises(
        minimask.errors.InputError, match="system.parts must be an integer of at least 1 and at most 32"
    ):
        minimask.build("fcis", system={"parts": 0})
    with pytest.raises(minimask.errors.InputError, match="fcis has no group of settings heads"):
        minimask.build("fcis", heads={"mask": "mlp"})
