"""Systems that are settings: one map instead of a pyramid, ResNeXt, Faster R-CNN. Numbers by hand, short trainings."""

import numpy as np
import pytest

import minimask
from minimask.__main__ import main
from minimask.datasets.toy import ToyScenes
from minimask.mask_rcnn import sampling_generator
from minimask.presets import PRESETS
from minimask.tensor import Tensor
from tests.helpers import set_options

NAMES = [name for name in PRESETS if name.startswith("toy_")]
BODIES = {"basic": "toy", "bottleneck": "toy_bottleneck", "resnext": "toy_resnext"}
SMALL = {
    "backbone": dict(channels=(8, 8, 16, 16), fpn_channels=16),
    "rpn": dict(pre_nms=(60, 60), post_nms=(30, 30)),
    "roi": dict(samples=16),
    "heads": dict(box_width=32, mask_channels=(16,), mask_width=16),
    "transform": dict(min_size=64, max_size=64),
}


def one_map(neck):
    return {"backbone": {"neck": neck}, "roi": {"sampling_ratio": 1}}


@pytest.mark.parametrize("body", BODIES)
def test_c4_heads_begin_with_stage_5_on_the_cells_of_the_roi(body):
    model = minimask.build(BODIES[body], **one_map("c4")).eval()
    assert model.roi_strides == [8] and len(model.backbone.body.out_channels) == 3
    features = model.features(Tensor(np.random.default_rng(0).random((1, 128, 128, 3), np.float32)))
    assert [x.shape[1:3] for x in features] == [(16, 16)]

    box = np.array([[8.0, 16, 120, 128]])  # cells 1 to 14 in x and 2 to 15 in y, one sample in the middle of each
    x = model.pool(features, box, np.zeros(1, int), size=7, branch="box")
    crop = features[0].data[:, 2:16, 1:15]
    np.testing.assert_allclose(x.data, crop, atol=1e-5)

    heads = model.roi_heads
    stage5 = heads.res5(Tensor(crop)).data
    assert stage5.shape[1:3] == (7, 7)
    scores = stage5.mean(axis=(1, 2)) @ heads.box_predictor.cls_score.weight.data.reshape(-1, 4)
    logits, deltas = model.box_branch(x)
    np.testing.assert_allclose(logits.data, scores + heads.box_predictor.cls_score.bias.data, rtol=1e-3, atol=1e-5)
    assert deltas.shape == (1, 16) and model.mask_branch(x).shape == (1, 14, 14, 4)


@pytest.mark.parametrize("body", BODIES)
def test_c5_keeps_the_stride_of_c4(body):
    model = minimask.build(BODIES[body], **one_map("c5")).eval()
    assert model.backbone.body.strides == [2, 4, 8, 8] and model.roi_strides == [8]
    features = model.features(Tensor(np.ones((1, 64, 128, 3), np.float32)))
    assert [x.shape for x in features] == [(1, 8, 16, model.backbone.body.out_channels[-1])]


def test_a_3x3_convolution_of_the_dilated_c5_reaches_two_cells_far():
    stage = minimask.build("toy_c5").eval().backbone.body.layer4
    for block in stage:
        for layer in (block.conv1, block.conv2):
            layer.weight.data[...] = 0
    for layer in (stage[0].conv1, stage[0].conv2):
        layer.weight.data[0, 1] = np.eye(128)  # reads the neighbor above
    for block in stage:
        block.bn1.eps = block.bn2.eps = 0
    x = np.random.default_rng(0).random((1, 8, 6, 128)).astype(np.float32)
    expected = x.copy()
    expected[:, 4:] += x[:, :-4]  # two convolutions of two cells each, and the shortcut
    np.testing.assert_allclose(stage(Tensor(x)).data, expected, rtol=1e-5)


def test_resnext_and_its_bottleneck_have_about_the_same_number_of_parameters():
    counts = {
        name: sum(p.size for p in minimask.build(name).parameters()) for name in ("toy_bottleneck", "toy_resnext")
    }
    assert 1 < counts["toy_resnext"] / counts["toy_bottleneck"] < 1.05
    block = minimask.build("toy_resnext").backbone.body.layer1[0]
    assert block.conv2.weight.shape == (3, 3, 4, 32)  # 8 groups of 4 channels


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_the_checkpoint_comes_back(tmp_path, name):
    model = minimask.build(name, classes=["cat", "dog", "duck"], **SMALL)
    masks = "faster_rcnn" not in name
    assert (model.heads.mask == "fcn") == masks
    assert (model.roi.pooling == "roi_pool") == (name in ("toy_faster_rcnn_c4", "toy_faster_rcnn_c5"))
    assert model.neck == {"4": "c4", "5": "c5"}.get(name[-1], "fpn")

    scenes = ToyScenes("train", size=64, count=4)
    batch = model.transform([scenes[i] for i in range(4)])
    before = {key: loss.item() for key, loss in model.losses(batch, sampling_generator(0, 0)).items()}
    assert ("loss_mask" in before) == masks

    options = dict(steps=45, batch_size=4, learning_rate=4e-3, workers=0, quiet=True)
    run = minimask.train(model, scenes, output=tmp_path / "run", **options)
    again = minimask.load(run.folder)
    assert again.settings["preset"] == name
    found = model.detect(batch)
    np.testing.assert_array_equal(again.detect(batch).boxes, found.boxes)
    assert (found.masks is not None) == masks

    after = {key: loss.item() for key, loss in model.losses(batch, sampling_generator(0, 0)).items()}
    assert sum(after.values()) < 0.8 * sum(before.values())


def test_the_command_line_takes_preset_and_set_and_lists_them(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = "".join(capsys.readouterr().out.split())  # long lines are broken anywhere
    assert all(f"{name}," in text for name in NAMES) and "--setGROUP.NAME=VALUE" in text

    settings = {**SMALL, "heads": {"mask": "mlp", "mask_width": 16}}
    options = ["--steps", "1", "--batch-size", "1", "--toy-size", "64", "--workers", "0", "--quiet"]
    output = str(tmp_path / "run")
    assert main(["train", "--preset", "toy_c4", *set_options(settings), *options, "--output", output]) == 0
    model = minimask.load(output)
    assert (model.neck, model.heads.mask, model.backbone.body.out_channels) == ("c4", "mlp", [8, 8, 16])
