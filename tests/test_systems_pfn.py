"""PFN: boxes that pixels name, clustering by hand, counts, and a training that learns."""

import numpy as np
import pytest

import minimask
from minimask.datasets.toy import ToyScenes
from minimask.systems.pfn import cluster, here, six_numbers
from minimask.tensor import Tensor
from tests.pixel_training import check_training

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

SMALL = {"backbone": {"channels": [8, 8, 16, 16]}, "transform": {"min_size": 64, "max_size": 64}}


def test_six_numbers_of_a_box():
    assert six_numbers(np.array([2.0, 4, 10, 8])).tolist() == [6, 6, 2, 4, 10, 8]


def test_pixels_that_name_the_same_box_are_one_group():
    rng = np.random.default_rng(0)
    first, second, third = (six_numbers(np.array(b)) for b in ([0.0, 0, 20, 20], [22.0, 0, 40, 20], [0.0, 50, 30, 90]))
    owner = rng.permutation(np.repeat([0, 1, 2], [30, 20, 50]))
    boxes = np.stack([first, second, third])[owner] + rng.normal(0, 2, (100, 6))
    for most in (300, 40):  # all points, and a part of them
        groups = cluster(boxes, 3, 8.0, most)
        assert [len(set(groups[owner == k])) for k in range(3)] == [1, 1, 1]
        assert len(set(groups)) == 3
    two = cluster(boxes, 2, 8.0, 300)  # the two that lie next to each other become one
    assert len(set(two[owner < 2])) == 1 and set(two[owner == 2]) != set(two[owner < 2])
    assert not cluster(boxes, 1, 8.0, 300).any()
    assert not cluster(boxes[:2], 5, 8.0, 300).any()


@pytest.fixture
def model():
    return minimask.build("pfn", classes=["cat", "dog", "duck"], system={"width": 16}, **SMALL)


def test_true_maps_give_the_true_objects(model, monkeypatch):
    from minimask.systems.pixels import instance_map, semantic_map

    scenes = ToyScenes("train", size=64, count=6)
    batch = model.transform([scenes[i] for i in range(6)])
    owner = instance_map(batch)
    names = six_numbers(batch.boxes[np.arange(6)[:, None, None], owner.clip(0)]) - here(batch)
    counts = np.stack([(batch.labels == c).sum(axis=1) for c in (1, 2, 3)], axis=1)
    scores = 20.0 * (semantic_map(batch)[..., None] == np.arange(4))
    monkeypatch.setattr(model, "maps", lambda levels, batch: (Tensor(scores), Tensor(names / 16), Tensor(counts + 0.3)))
    found = model.objects(None, batch)
    for n in range(6):
        true = {mask.tobytes() for mask in batch.masks[n].astype(bool) if mask.sum() >= 20}
        assert {mask.tobytes() for _, _, mask in found[n]} == true
    assert counts.max() > 1  # there was something to divide


def test_the_losses_of_true_maps_are_zero_and_of_wrong_ones_are_known(model, monkeypatch):
    from minimask.systems.pixels import instance_map

    scenes = ToyScenes("train", size=64, count=2)
    batch = model.transform([scenes[0], scenes[1]])
    names = six_numbers(batch.boxes[np.arange(2)[:, None, None], instance_map(batch).clip(0)]) - here(batch)
    counts = np.stack([(batch.labels == c).sum(axis=1) for c in (1, 2, 3)], axis=1).astype(float)
    scores = Tensor(np.zeros((2, 64, 64, 4)))
    maps = [scores, Tensor(names / 16), Tensor(counts)]
    monkeypatch.setattr(model, "maps", lambda levels, batch: maps)
    losses = model.pixel_losses(None, batch)
    assert losses["loss_pixel_boxes"].item() == losses["loss_count"].item() == 0
    maps[1:] = Tensor(names / 16 + 3), Tensor(counts + 0.5)
    losses = model.pixel_losses(None, batch)
    assert losses["loss_pixel_boxes"].item() == pytest.approx(3 - 0.5)
    assert losses["loss_count"].item() == pytest.approx(0.5 * 0.5**2)


def test_training_finds_objects_and_the_checkpoint_comes_back(tmp_path, model):
    before, after, _ = check_training(model, tmp_path, steps=200, learning_rate=0.01, ap50=0.4)
    assert after["loss_pixel_boxes"] < 0.1 * before["loss_pixel_boxes"]
    assert after["loss_count"] < 0.1 * before["loss_count"]


def test_settings_are_checked():
    with pytest.raises(minimask.errors.InputError, match="system.points must be an integer of at least 2"):
        minimask.build("pfn", system={"points": 1})
