"""Selective search, and the systems that read their proposals from it: slow and Fast R-CNN, SDS, CFM; hypercolumns."""

import importlib

import numpy as np
import pytest

import minimask
from minimask.boxes import iou
from minimask.datasets.toy import ToyScenes
from minimask.mask_rcnn import sampling_generator
from minimask.systems.crops import with_context
from minimask.systems.hypercolumns import grid_weights
from minimask.systems.proposals import Kept, proposals_of
from minimask.systems.selective_search import Regions, group, selective_search, touching
from minimask.tensor import Tensor

SMALL = {
    "backbone": {"channels": [8, 8, 16, 16]},
    "heads": {"box_width": 32},
    "transform": {"min_size": 64, "max_size": 64},
}
BY_REGIONS = ("slow_rcnn", "fast_rcnn", "sds", "cfm")


@pytest.fixture(autouse=True)
def libraries():
    for name in ("skimage", "sklearn", "scipy"):
        pytest.importorskip(name)


def three_colors():
    """A dark picture (40, 60) with a red square and, beside it, an orange one."""
    picture = np.full((40, 60, 3), 30, np.uint8)
    picture[10:30, 10:30] = 220, 40, 40
    picture[10:30, 30:50] = 230, 120, 40
    return picture


def test_the_regions_of_a_picture_of_three_colors_by_hand():
    regions = selective_search(three_colors(), 50)
    wanted = np.array([[10, 10, 50, 30], [10, 10, 30, 30], [30, 10, 50, 30]])  # both squares together, then each alone
    overlap = iou(wanted, regions.boxes)
    assert (overlap.max(axis=1) >= 0.9).all()
    pair = regions.masks(overlap[0].argmax())
    assert pair[11:29, 11:49].all() and not pair[:8].any()
    assert regions.boxes.shape == (50, 4) and not regions.boxes[~regions.valid].any()


def test_the_most_similar_neighbors_are_merged_first():
    segments = np.repeat([[0, 1, 2]], 4, axis=0).repeat(4, axis=1)
    colors = np.zeros((4, 12, 3))
    colors[:, 4:8], colors[:, 8:] = 0.5, 0.5
    assert touching(segments).tolist() == [[0, 1], [1, 2]]
    members, boxes = group(segments, colors)
    assert members[3].tolist() == [False, True, True] and boxes[3].tolist() == [4, 0, 12, 4]
    assert members[4].all() and boxes[4].tolist() == [0, 0, 12, 4]


def test_overlaps_and_crops_of_regions_by_hand():
    segments = np.array([[0, 0, 1, 1], [0, 0, 2, 2]])
    members = np.array([[True, False, False], [True, True, False]])
    regions = Regions(np.array([[0, 0, 2, 2], [0, 0, 4, 2]], np.float32), np.ones(2, bool), segments, members)
    mask = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(regions.overlaps(mask[None])[:, 0], [2 / 6, 4 / 6])
    crops = regions.crops([1, 0], np.array([[0, 0, 4, 2], [-2, 0, 2, 2]], np.float32), 2)
    assert crops.tolist() == [[[True, True], [True, False]], [[False, True], [False, True]]]
    mirror = regions.mirrored()
    assert mirror.boxes.tolist() == [[2, 0, 4, 2], [0, 0, 4, 2]]
    assert (mirror.masks() == regions.masks()[:, :, ::-1]).all()


def test_nine_of_ten_drawn_objects_have_a_proposal():
    scenes, best = ToyScenes("val", count=8), []
    for i in range(8):
        regions = selective_search(scenes[i].image, 200)
        best += iou(scenes[i].boxes, regions.boxes).max(axis=1).tolist()
    recall = np.mean(np.array(best) >= 0.5)
    assert len(best) >= 20 and recall >= 0.9


def test_a_picture_is_searched_once_and_its_mirror_image_has_the_mirrored_regions(monkeypatch):
    module = importlib.import_module("minimask.systems.proposals")
    searched = []

    def counted(picture, count):
        searched.append(picture.shape)
        return selective_search(picture, count)

    monkeypatch.setattr(module, "selective_search", counted)
    kept, picture = Kept(), three_colors()
    one, two = kept.find(picture, 8), kept.find(picture[:, ::-1], 8)
    assert len(searched) == 1
    assert (two.masks() == one.masks()[:, :, ::-1]).all()
    assert (Kept().find(picture[:, ::-1], 8).boxes == two.boxes).all()  # whichever is seen first
    small = Kept(most_bytes=1)
    small.find(picture, 8), small.find(picture + 1, 8)
    assert len(small.regions) == 1


def test_context_around_a_box_by_hand():
    box = np.array([[10, 10, 50, 30]], np.float32)
    np.testing.assert_allclose(with_context(box, 48, 4), [[6, 8, 54, 32]])


def test_weights_of_the_grid_of_classifiers():
    weights = grid_weights(2, 4)
    np.testing.assert_allclose(weights.sum(axis=2), 1)
    np.testing.assert_allclose(weights[0, 1], [0.75, 0.25, 0, 0])  # upper row, a quarter of the way to the right


def batch_for(model, count=3):
    scenes = ToyScenes("train", size=64, count=count)
    return model.transform([scenes[i] for i in range(count)])


@pytest.mark.parametrize("name", [*BY_REGIONS, "hypercolumns"])
def test_training_lowers_the_loss_and_the_checkpoint_comes_back(name, tmp_path):
    system = {"svm_images": 3} if name == "slow_rcnn" else {}
    model = minimask.build(name, classes=["cat", "dog", "duck"], system=system, **SMALL)
    batch, scenes = batch_for(model), ToyScenes("train", size=64, count=3)

    def loss():
        return sum(part.item() for part in model.losses(batch, sampling_generator(0, 0)).values())

    before = loss()
    run = minimask.train(model, scenes, steps=20, batch_size=3, learning_rate=3e-3, output=tmp_path / "run", quiet=True)
    again, found = minimask.load(run.folder), model.detect(batch)
    assert found.valid.any() and np.isfinite(found.scores).all()
    np.testing.assert_array_equal(again.detect(batch).boxes, found.boxes)
    assert loss() < 0.8 * before  # last, because in training mode it moves the batch norm's averages
    if name in ("sds", "cfm"):
        assert found.whole_image and found.masks[found.valid].any(axis=(1, 2)).all()
    if name == "slow_rcnn":
        assert model.svm_weight[:, 1:].any() and again.ridge_weight.any()
        assert (again.svm_weight == model.svm_weight).all()


def test_forward_passes_per_image():
    slow, fast = (minimask.build(name, **SMALL) for name in ("slow_rcnn", "fast_rcnn"))
    batch = batch_for(slow)
    counts = proposals_of(batch, slow.transform, 200).valid.sum(axis=1).tolist()
    assert slow.forward_passes(batch) == counts and min(counts) > 10
    assert fast.forward_passes(batch) == [1, 1, 1]


def test_an_svm_separates_and_a_ridge_fits():
    from minimask.systems.svm import fit_ridge, fit_svm

    rng = np.random.default_rng(0)
    positives = rng.normal((3, 0), 0.3, (40, 2))
    negatives = rng.normal((-3, 0), 0.3, (400, 2))
    weight, bias = fit_svm(positives, negatives)
    assert (positives @ weight + bias > 0).all() and (negatives @ weight + bias < 0).all()

    x = rng.normal(size=(5000, 3))
    weight, bias = fit_ridge(x, x @ np.ones((3, 4)) + 2)
    np.testing.assert_allclose(weight, 5000 / 6000, atol=0.02)  # n / (n + lambda): shrunk towards 0
    np.testing.assert_allclose(bias, 2, atol=0.02)


def test_the_spatial_pyramid_by_hand():
    from minimask.systems.cfm import pyramid

    x = np.arange(144, dtype=np.float32).reshape(1, 12, 12, 1)
    y = pyramid(Tensor(x)).data.ravel()
    assert y.shape == (50,) and y[0] == 13 and y[-1] == 143
    assert y[45:49].tolist() == [65, 71, 137, 143]
