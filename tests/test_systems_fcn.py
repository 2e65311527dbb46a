"""FCN, and what the systems of pixels share: maps of the truth, regions as objects, mean IoU."""

import json

import numpy as np
import pytest

import minimask
from minimask.datasets.toy import ToyScenes
from minimask.mask_head import restore
from minimask.mask_rcnn import sampling_generator
from minimask.structures import Batch
from minimask.systems.fcn import bilinear_upsampling
from minimask.systems.pixels import (
    IGNORED,
    components,
    confusion,
    instance_map,
    mean_iou,
    semantic_map,
    whole_image_detections,
)
from minimask.tensor import Tensor

SMALL = {"backbone": {"channels": [8, 8, 16, 16]}, "transform": {"min_size": 64, "max_size": 64}}


def batch_of(masks, labels, crowd=None, sizes=None):
    """A Batch of one image with these masks (G, H, W) and labels."""
    masks = np.array(masks, np.uint8)[None]
    n, g, h, w = masks.shape
    size = np.array([[h, w]]) if sizes is None else np.array([sizes])
    crowd = np.zeros((1, g), bool) if crowd is None else np.array([crowd])
    return Batch(
        images=np.zeros((1, h, w, 3), np.float32),
        sizes=size,
        original_sizes=size,
        boxes=np.zeros((1, g, 4), np.float32),
        labels=np.array([labels]),
        masks=masks,
        crowd=crowd,
        valid=np.ones((1, g), bool),
    )


def test_the_smaller_object_lies_on_top_and_crowds_and_padding_are_ignored():
    large = [[1, 1, 1, 0, 0]] * 2
    small = [[0, 1, 0, 0, 0]] * 2
    crowd = [[0, 0, 1, 1, 0]] * 2
    batch = batch_of([large, small, crowd], [3, 1, 2], crowd=[False, False, True], sizes=(2, 4))
    assert instance_map(batch)[0].tolist() == [[0, 1, 0, -1, -1]] * 2
    assert semantic_map(batch)[0].tolist() == [[3, 1, 3, IGNORED, IGNORED]] * 2


def test_mean_iou_by_hand():
    true = np.array([0, 0, 0, 1, 1, 2, IGNORED])
    found = np.array([0, 0, 1, 1, 0, 2, 2])
    mean, iou = mean_iou(confusion(found, true, 4))
    np.testing.assert_allclose(iou, [2 / 4, 1 / 3, 1, np.nan])
    assert mean == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)


def test_upsampling_begins_as_bilinear_interpolation():
    layer = bilinear_upsampling(2)
    x = np.array([[0, 0], [4, 8]], np.float32).reshape(1, 1, 2, 2).repeat(3, axis=1)
    y = layer(Tensor(x)).data[0, 2]  # a row away from the border: columns at -1/4, 1/4, 3/4, 5/4 of the input
    np.testing.assert_allclose(y[1:3], [[1, 2], [3, 6]])


def test_regions_of_one_class_are_objects_with_their_mean_score():
    pytest.importorskip("scipy")
    labels = np.array([[[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 2, 0]]])
    scores = np.array([[[0.9, 0.8, 0.5, 0.7], [1.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.6, 0.5]]])
    batch = batch_of(np.zeros((1, 3, 4)), [1])
    found = whole_image_detections(components(labels, scores, 2, batch), batch, 3)
    assert found.valid.tolist() == [[True, True, False]]
    np.testing.assert_allclose(found.scores[0], [0.9, 0.6, 0])
    assert found.labels[0].tolist() == [1, 1, 0]
    assert found.boxes[0].tolist() == [[0, 0, 2, 2], [3, 0, 4, 2], [0, 0, 0, 0]]

    batch.original_sizes = np.array([[6, 8]])  # twice the size
    prediction = restore(found, batch)[0]
    assert prediction.boxes[1].tolist() == [6, 0, 8, 4]
    assert prediction.masks[1].sum() == 2 * 4 and prediction.masks[1, :4, 6:].all()


def test_training_finds_pixels_and_objects_and_the_checkpoint_comes_back(tmp_path):
    model = minimask.build("fcn", classes=["cat", "dog", "duck"], seed=0, **SMALL)
    scenes = ToyScenes("train", size=64, count=4)
    batch = model.transform([scenes[i] for i in range(4)])
    before = model.losses(batch, sampling_generator(0, 0))["loss_pixels"].item()
    assert before == pytest.approx(np.log(4), rel=1e-6)  # four classes, all equally likely

    settings = dict(steps=200, batch_size=4, learning_rate=0.02, quiet=True)
    run = minimask.train(model, scenes, output=tmp_path / "run", **settings)
    again = minimask.load(run.folder)
    np.testing.assert_array_equal(again.segment(batch), model.segment(batch))
    output = run.folder / "evaluation"
    numbers = minimask.evaluate(again, scenes, output=output, quiet=True)
    assert 0.6 < numbers["pixels"]["mean IoU"] <= 1  # 0.21 if everything is background
    assert numbers["segm"]["AP50"] > 0.6
    assert json.loads((output / "average_precision.json").read_text())["pixels"] == numbers["pixels"]
    mean = f"{numbers['pixels']['mean IoU']:.3f}"
    assert f"mean IoU of the pixels' classes: {mean}" in (output / "report.html").read_text().replace("&#x27;", "'")
    assert f"mean IoU {mean}; see" in str(minimask.inspect(run.folder))
    after = model.losses(batch, sampling_generator(0, 0))["loss_pixels"].item()
    assert after < 0.2 * before


def test_settings_that_a_system_does_not_have_are_refused():
    with pytest.raises(
        minimask.errors.InputError, match="fcn has no group of settings rpn; its groups are backbone, transform"
    ):
        minimask.build("fcn", rpn={"samples": 64})
    for name, value in {"neck": "c5", "fpn_channels": 32, "fpn_pool": True}.items():
        with pytest.raises(minimask.errors.InputError, match=f"backbone.*{name}"):
            minimask.build("fcn", backbone={name: value})
    with pytest.raises(minimask.errors.InputError, match="system.smallest_area must be an integer of at least 1"):
        minimask.build("fcn", system={"smallest_area": 0})
    with pytest.raises(ValueError, match="FCN.losses: needs rng"):
        minimask.build("fcn").losses(None, None)
    with pytest.raises(minimask.errors.InputError, match="the group system belongs to the systems of the decks: .*fcn"):
        minimask.build("toy", system={"smallest_area": 5})
