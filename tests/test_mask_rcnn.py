"""The whole model: parameter names, settings, learning, what inference returns, variants, messages."""

import json

import numpy as np
import pytest

from minimask.device import generator
from minimask.errors import InputError
from minimask.mask_rcnn import build
from minimask.optim import AdamW
from minimask.presets import PRESETS, merge
from minimask.roi_align import roi_align
from minimask.structures import Batch

TINY = dict(
    backbone=dict(channels=(8, 8, 8, 16), layers=(1, 1, 1, 1), fpn_channels=16),
    rpn=dict(samples=32, pre_nms=(60, 60), post_nms=(30, 30)),
    roi=dict(samples=16),
    heads=dict(box_width=32, mask_channels=(16,), mask_width=16),
    transform=dict(min_size=64, max_size=96),
)
C4 = dict(backbone=dict(neck="c4"), rpn=dict(anchor_sizes=((16, 32),)))


def my_pooling(features, boxes, image_index, levels, scales, size, sampling_ratio, aligned):
    """A custom pooling: RoIAlign that reads only the finest level."""
    return roi_align(features[:1], boxes, image_index, 0 * levels, scales[:1], size, sampling_ratio, aligned)


def two_squares():
    """Two 64 x 64 images: a bright and a dark square, classes 1 and 2."""
    images = np.full((2, 64, 64, 3), 0.5, np.float32)
    masks = np.zeros((2, 1, 64, 64), np.uint8)
    boxes = np.array([[[8, 12, 40, 44]], [[24, 16, 56, 48]]], np.float32)
    for n, (x1, y1, x2, y2) in enumerate(boxes[:, 0].astype(int)):
        images[n, y1:y2, x1:x2] = 1 - n
        masks[n, 0, y1:y2, x1:x2] = 1
    sizes, valid = np.full((2, 2), 64), np.ones((2, 1), bool)
    return Batch(
        images, sizes, sizes, [0, 1], ["a", "b"], boxes, np.array([[1], [2]]), masks, crowd=~valid, valid=valid
    )


def train(model, batch, steps, lr=3e-3):
    optimizer, history = AdamW(model.parameters(), lr), []
    model.train()
    for step in range(steps):
        losses = model(batch, generator(0, step))
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    return history


def test_learns_two_squares():
    model, batch = build("toy", 3, **TINY), two_squares()
    history = train(model, batch, steps=110) + train(model, batch, steps=50, lr=3e-4)
    last = np.mean(
        [sum(losses.values()) for losses in history[-20:]]
    )  # with only two images, losses of single steps vary a lot
    assert last < 0.2 * sum(history[0].values())
    model.eval()
    for _ in range(30):  # let the running statistics approach those of this constant batch
        model.train(), model.losses(batch, generator(0)), model.eval()
    found = model(batch)
    for n in range(2):
        assert found.labels[n, 0] == n + 1 and found.scores[n, 0] > 0.5
        np.testing.assert_allclose(found.boxes[n, 0], batch.boxes[n, 0], atol=6)
        assert found.masks[n, 0].mean() > 0.7  # the square fills its box


def test_parameter_names_and_count_are_torchvisions():
    model = build("resnet50_fpn", 91)
    state = model.state_dict()
    # torchvision with frozen batch norm: 307 tensors, including 4 buffers for each of 53 norms; 44,401,393 parameters.
    assert len(state) == 307
    frozen = sum(a.size for name, a in state.items() if ".bn" in name or "downsample.1" in name)
    assert sum(a.size for a in state.values()) - frozen == 44_401_393
    for name in (
        "backbone.body.conv1.weight",
        "backbone.body.layer1.0.downsample.1.running_var",
        "backbone.fpn.inner_blocks.3.0.bias",
        "rpn.head.conv.0.0.weight",
        "rpn.head.bbox_pred.bias",
        "roi_heads.box_head.fc6.weight",
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.mask_head.3.0.weight",
        "roi_heads.mask_predictor.conv5_mask.weight",
        "roi_heads.mask_predictor.mask_fcn_logits.bias",
    ):
        assert name in state, name


def test_state_dict_names_equal_live_torchvision():
    pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    theirs = {name for name in theirs.state_dict() if "num_batches" not in name}
    assert set(build("resnet50_fpn", 91).state_dict()) == theirs


def test_settings_rebuild_the_model():
    model = build("toy", 3, seed=5, **TINY)
    again = build(**json.loads(json.dumps(model.settings)))
    for (a, x), (b, y) in zip(model.state_dict().items(), again.state_dict().items()):
        assert a == b and (x == y).all()


def test_inference_returns_a_fixed_number_of_entries_in_descending_order_of_score():
    model, batch = build("toy", 3, **TINY, detection=dict(score_threshold=0.0, max_detections=12)).eval(), two_squares()
    found = model(batch)
    assert found.boxes.shape == (2, 12, 4) and found.masks.shape == (2, 12, 28, 28) and found.valid.all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert ((found.masks > 0) & (found.masks < 1)).all() and set(found.labels.ravel()) <= {1, 2}


def test_an_image_alone_and_in_a_batch_give_the_same():
    model = build("toy", 3, **TINY, detection=dict(score_threshold=0.0, max_detections=5))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64, 3)).astype(np.uint8) for _ in range(3)]
    together = model.predict(images)
    for image, expected in zip(images, together):
        alone = model.predict([image])[0]
        np.testing.assert_allclose(alone.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(alone.scores, expected.scores, atol=1e-5)


def test_images_of_different_sizes_and_of_one_pixel():
    model = build("toy", 3, **TINY, detection=dict(score_threshold=0.0, max_detections=5))
    images = [np.zeros(size + (3,), np.uint8) for size in ((30, 200), (64, 64), (1, 1))]
    for image, found in zip(images, model.predict(images)):
        assert found.masks.shape[1:] == image.shape[:2] and np.isfinite(found.boxes).all()


def test_no_objects_trains_as_background():
    model, batch = build("toy", 3, **TINY).train(), two_squares()
    batch.valid[:] = False
    losses = model(batch, generator(0))
    assert losses["loss_mask"].item() == losses["loss_box_reg"].item() == losses["loss_rpn_box_reg"].item() == 0
    assert losses["loss_classifier"].item() > 0
    sum(losses.values()).backward()
    assert all(p.grad is None or np.isfinite(p.grad).all() for p in model.parameters())


def test_the_same_seed_gives_the_same_bits():
    runs = []
    for _ in range(2):
        model = build("toy", 3, **TINY)
        train(model, two_squares(), steps=3)
        runs.append(model.state_dict())
    assert all((a == b).all() for a, b in zip(*(run.values() for run in runs)))


@pytest.mark.parametrize(
    "settings",
    [
        C4,
        merge(C4, dict(backbone="resnet50")),
        merge(C4, dict(heads=dict(mask="mlp"))),
        merge(C4, dict(backbone=dict(neck="c5"))),
        dict(backbone="resnet50"),
        dict(backbone=dict(name="resnext50_32x4d", norm="frozen", group_width=8, groups=4)),
        dict(backbone=dict(norm="group")),
        dict(heads=dict(mask="mlp")),
        dict(heads=dict(mask_loss="softmax")),
        dict(heads=dict(class_agnostic_masks=True)),
        dict(roi=dict(pooling="roi_pool")),
        dict(roi=dict(pooling="roi_warp")),
        dict(roi=dict(pooling=my_pooling)),
        dict(roi=dict(sampling_ratio=0), conventions=dict(aligned=False)),
    ],
    ids=lambda groups: str(groups).split(" at 0x")[0],
)
def test_variants_learn(settings):
    model = build("toy", 3, **merge(TINY, settings))
    history = train(model, two_squares(), steps=25)
    assert all(np.isfinite(list(h.values())).all() for h in history)
    assert sum(history[-1].values()) < 0.7 * sum(history[0].values())
    found = model.eval()(two_squares())
    assert found.masks.shape[:2] == found.valid.shape and np.isfinite(found.masks).all()


@pytest.mark.parametrize(
    "groups, message",
    [
        (dict(color=3), "unknown model setting color .known: backbone, rpn, roi"),
        (dict(haeds={}), "unknown model setting haeds; did you mean heads?"),
        (dict(samples=64), "samples; it is part of a group: rpn={'samples': ...}"),
        (dict(rpn=dict(sampels=64)), "unknown setting rpn.sampels; did you mean samples?"),
        (dict(rpn=dict(samples="64")), "rpn.samples must be an integer of at least 1, got '64'"),
        (dict(rpn=dict(samples=0)), "rpn.samples must be an integer of at least 1, got 0"),
        (dict(rpn=dict(samples=True)), "rpn.samples must be an integer of at least 1, got True"),
        (dict(rpn=dict(pre_nms=(100,))), "rpn.pre_nms must be 2 integers of at least 1, got .100,"),
        (dict(roi=dict(positive_fraction=1.5)), "roi.positive_fraction must be a number of at least 0 and at most 1"),
        (
            dict(roi=dict(pooling="mean")),
            "roi.pooling must be roi_align, roi_pool or roi_warp or a function, got 'mean'",
        ),
        (dict(roi=64), "roi must be a dict of settings, got 64"),
        (dict(backbone="resnet5"), "backbone.name must be resnet18, .* got 'resnet5'"),
        (dict(backbone=dict(neck="giraffe")), "backbone.neck must be fpn, c4 or c5, got 'giraffe'"),
        (dict(heads=dict(mask="unet")), "heads.mask must be fcn or mlp, or none, got 'unet'"),
        (dict(conventions="mine"), "conventions.name must be torchvision, detectron2 or paper, got 'mine'"),
        (dict(transform=dict(min_size=300, max_size=200)), "min_size <= max_size"),
    ],
)
def test_settings_are_checked(groups, message):
    with pytest.raises(InputError, match=message):
        build("toy", 3, **groups)


def test_unknown_presets():
    with pytest.raises(InputError, match="unknown preset smal; did you mean small?"):
        build("smal")


def test_groups_are_merged_into_the_presets():
    model = build("toy", 3, rpn={"samples": 64}, conventions="paper")
    assert model.rpn.settings.samples == 64 and model.rpn.settings.pre_nms == (500, 500) and model.rpn_first_level == 1
    assert model.conventions["aligned"] and model.conventions["binary_mask_targets"]  # from the preset, from "paper"
    assert model.settings["rpn"] == {"samples": 64} and model.settings["conventions"] == {"name": "paper"}


def test_a_custom_pooling_function_is_saved_by_its_name():
    model = build("toy", 3, **merge(TINY, dict(roi=dict(pooling=my_pooling))))
    assert json.loads(json.dumps(model.settings))["roi"] == {"samples": 16, "pooling": "my_pooling"}
    with pytest.raises(InputError, match="roi.pooling must be .* or a function, got 'my_pooling'"):
        build(**model.settings)
    assert build(**merge(model.settings, dict(roi=dict(pooling=my_pooling)))).roi == model.roi


def test_keypoints_with_c4():
    model = build("toy", 3, **merge(merge(TINY, C4), dict(heads=dict(keypoints=2, keypoint_channels=(8,)))))
    batch = two_squares()
    batch.keypoints = np.full((2, 1, 2, 3), 30, np.float32)
    assert np.isfinite(model(batch, generator(0))["loss_keypoint"].item())
    found = model.detect(batch)
    assert found.keypoints.shape == (*found.valid.shape, 2, 3)


def test_inference_restores_every_mode():
    model = build("toy", 3, **TINY)
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError), model.inference():
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    found, batch = model.eval()(two_squares()), two_squares()
    np.testing.assert_array_equal(model.train().detect(batch).boxes, found.boxes)


def test_messages():
    for number in (1, "4", True):
        with pytest.raises(InputError, match=rf"num_classes must be an integer of at least 2 .* got {number!r}"):
            build("toy", number)
    model = build("toy", 3, **TINY)
    with pytest.raises(ValueError, match="takes a Batch, .* got list"):
        model.detect([np.zeros((4, 4, 3))])
    with pytest.raises(ValueError, match=r"in training mode it needs .*; to find objects call model.eval\(\) first"):
        model.train()(two_squares())
    with pytest.raises(ValueError, match="losses need a Batch with ground truth"):
        model(model.transform([np.zeros((64, 64, 3), np.uint8)]), generator(0))
    batch = two_squares()
    batch.images = batch.images[..., :1]
    with pytest.raises(ValueError, match=r"images must be \(N, H, W, 3\), got shape \(2, 64, 64, 1\)"):
        model.detect(batch)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset):
    model = build(preset, 2)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert shapes["roi_heads.box_predictor.cls_score.bias"] == (2,)
    assert shapes["roi_heads.box_predictor.bbox_pred.bias"] == (8,)
