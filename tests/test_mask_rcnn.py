"""The whole model: names, settings, losses that fall, what inference returns, variants, messages."""

import json

import numpy as np
import pytest

from minimask import nn
from minimask.device import generator
from minimask.errors import InputError
from minimask.mask_rcnn import PRESETS, build
from minimask.optim import AdamW
from minimask.structures import Batch

TINY = dict(
    backbone_settings=dict(channels=(8, 8, 8, 16), layers=(1, 1, 1, 1)), fpn_channels=16, box_width=32,
    mask_channels=(16,), mask_width=16, rpn=dict(samples=32, pre_nms=(60, 60), post_nms=(30, 30)), roi_samples=16,
    min_size=64, max_size=96,
)  # fmt: skip


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
    assert sum(history[-1].values()) < 0.3 * sum(history[0].values())
    model.eval()
    for _ in range(30):  # batch statistics of a constant batch: let the running ones arrive
        model.train(), model.losses(batch, generator(0)), model.eval()
    found = model(batch)
    for n in range(2):
        assert found.labels[n, 0] == n + 1 and found.scores[n, 0] > 0.5
        np.testing.assert_allclose(found.boxes[n, 0], batch.boxes[n, 0], atol=6)
        assert found.masks[n, 0].mean() > 0.7  # the square fills its box


def test_parameter_names_and_count_are_torchvisions():
    model = build("resnet50_fpn", 91)
    state = model.state_dict()
    # torchvision: 307 tensors with frozen batch norm, among them 4 buffers for each of 53 norms; 44,401,393 parameters.
    assert len(state) == 307
    frozen = sum(a.size for name, a in state.items() if ".bn" in name or "downsample.1" in name)
    assert sum(a.size for a in state.values()) - frozen == 44_401_393
    for name in (
        "backbone.body.conv1.weight", "backbone.body.layer1.0.downsample.1.running_var",
        "backbone.fpn.inner_blocks.3.0.bias",
        "rpn.head.conv.0.0.weight", "rpn.head.bbox_pred.bias", "roi_heads.box_head.fc6.weight",
        "roi_heads.box_predictor.cls_score.bias", "roi_heads.mask_head.3.0.weight",
        "roi_heads.mask_predictor.conv5_mask.weight",
        "roi_heads.mask_predictor.mask_fcn_logits.bias",
    ):  # fmt: skip
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


def test_inference_returns_fixed_places_in_falling_order():
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
        dict(neck="c4", anchor_sizes=((16, 32),)),
        dict(neck="c5", anchor_sizes=((16, 32),)),
        dict(backbone="resnet50"),
        dict(backbone="resnext50_32x4d", norm="frozen", backbone_settings=dict(group_width=8, groups=4)),
        dict(norm="group"),
        dict(mask_head="mlp"),
        dict(mask_loss="softmax"),
        dict(class_agnostic_masks=True),
        dict(roi_pooling="roi_pool"),
        dict(roi_pooling="roi_warp"),
        dict(sampling_ratio=0, aligned=False),
    ],
    ids=str,
)  # fmt: skip
def test_variants_learn(settings):
    settings = {**TINY, **settings}
    settings["backbone_settings"] = {**TINY["backbone_settings"], **settings.get("backbone_settings", {})}
    model = build("toy", 3, **settings)
    history = train(model, two_squares(), steps=25)
    assert all(np.isfinite(list(h.values())).all() for h in history)
    assert sum(history[-1].values()) < 0.7 * sum(history[0].values())
    found = model.eval()(two_squares())
    assert found.masks.shape[:2] == found.valid.shape and np.isfinite(found.masks).all()


def test_messages():
    with pytest.raises(InputError, match=r"num_classes must be at least 2 .* got 1"):
        build("toy", 1)
    with pytest.raises(InputError, match="preset must be one of toy, small, .* got 'huge'"):
        build("huge")
    with pytest.raises(InputError, match="unknown model setting 'color'"):
        build("toy", color=3)
    with pytest.raises(InputError, match='neck must be "fpn", "c4" or "c5"'):
        build("toy", neck="giraffe")
    model = build("toy", 3, **TINY)
    with pytest.raises(ValueError, match="takes a Batch .* got list"):
        model.detect([np.zeros((4, 4, 3))])
    with pytest.raises(ValueError, match="Batch with ground truth and rng"):
        model.train()(two_squares())
    batch = two_squares()
    batch.images = batch.images[..., :1]
    with pytest.raises(ValueError, match=r"images must be \(N, H, W, 3\), got shape \(2, 64, 64, 1\)"):
        model.detect(batch)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset):
    assert isinstance(build(preset, 2), nn.Module)
