"""Published weights: every naming, layout and kind of file gives the same model, and messages say what does not fit."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from minimask import checkpoint, weights
from minimask.anchors import cell_anchors
from minimask.backbone import RESNETS
from minimask.datasets import coco_names
from minimask.errors import InputError
from minimask.mask_rcnn import build
from minimask.presets import merge
from minimask.weights import detectron2
from tests.references import tiny
from tests.weight_files import BOTTLENECKS, PEOPLE, SHAPE, SIZES, old_names, plain, published, small_model, write

COCO_FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_open" / "instances_val2017.json"


def picture():
    return tiny.pictures()[0][0]


def assert_same_detections(model, other):
    """Check that both models find the same, bit for bit, and that it is not nothing."""
    ours, theirs = model.predict([picture()])[0], other.predict([picture()])[0]
    assert len(ours.labels) >= 5
    for name in ("boxes", "labels", "scores", "soft_masks", "keypoints"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


# ------------------------------------------------------------------------------------------------ files and their names


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pkl", "pth"])
@pytest.mark.parametrize("naming", [dict, old_names])
def test_the_same_model_from_every_file(tmp_path, ending, naming):
    model = small_model()
    state = naming(published(model))
    if naming is old_names:
        assert "backbone.fpn.inner_blocks.3.weight" in state and "roi_heads.mask_head.mask_fcn2.bias" in state
    path = write(tmp_path / f"weights.{ending}", state)
    opened = weights.open_file(path, **SIZES, detection=dict(score_threshold=0.02))
    assert opened.model.settings == {
        "preset": "resnet50_fpn",
        "num_classes": 5,
        "seed": 0,
        **SHAPE,
        **SIZES,
        "detection": {"score_threshold": 0.02},
    }
    report = opened.report
    assert len(report.loaded) == len(state) and not report.skipped + report.missing + report.misfit + report.replaced
    assert_same_detections(model, opened.model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "optimizer": {"state": [1]}, "epoch": 25},
        lambda state: {"state_dict": {f"module.{name}": array for name, array in state.items()}},
        lambda state: {"model_state": state},
        lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}, "loss": 0.3},
        lambda state: {"net": state},
        lambda state: {"weights": state, "ema": {}},
        lambda state: {"model_ema": {"module": state}},
        lambda state: {f"_orig_mod.{name}": array for name, array in state.items()},
        lambda state: {"model": {f"module._orig_mod.{name}": array for name, array in state.items()}},
        lambda state: {"state_dict": {f"model.{name}": array for name, array in state.items()}, "hyper_parameters": {}},
        lambda state: {**state, "backbone.body.bn1.num_batches_tracked": np.array(7)},
    ],
)
def test_weights_are_found_where_training_scripts_put_them(tmp_path, wrap):
    model = small_model()
    path = write(tmp_path / "weights.pkl", wrap(published(model)))
    opened = weights.open_file(path, **SIZES, detection=dict(score_threshold=0.02))
    assert not opened.report.skipped
    assert_same_detections(model, opened.model)


def test_half_precision_is_read_as_the_same_numbers(tmp_path):
    state = {name: array.astype(np.float16) for name, array in published(small_model()).items()}
    model = weights.load(write(tmp_path / "half.npz", state), **SIZES)
    assert all(array.dtype == np.float32 for array in model.state_dict().values())
    for name, array in published(model).items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_saved_in_torchvisions_layout_and_back(tmp_path, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    model = small_model()
    weights.save(tmp_path / f"mine.{ending}", model)
    if ending == "npz":
        with np.load(tmp_path / "mine.npz") as file:
            assert file["roi_heads.box_head.fc6.weight"].shape == (24, 16 * 7 * 7)
            assert file["roi_heads.mask_predictor.conv5_mask.weight"].shape == (12, 20, 2, 2)
    again = weights.load(tmp_path / f"mine.{ending}", **SIZES, detection=dict(score_threshold=0.02))
    assert_same_detections(model, again)
    with pytest.raises(InputError, match="mine.pth: weights are saved as .npz or .safetensors"):
        weights.save(tmp_path / "mine.pth", model)


def test_a_preset_of_ours_may_be_named(tmp_path):
    model = build("toy", 4)
    weights.save(tmp_path / "toy.npz", model)
    again = weights.load(tmp_path / "toy.npz", preset="toy")
    assert again.settings == {"preset": "toy", "num_classes": 4, "seed": 0}
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, again.state_dict()[name], err_msg=name)


def test_other_sizes_of_the_pooled_features():
    """How RoI features are flattened follows from the shapes, even if the layer is wider than its input."""
    for settings in ({"roi": dict(box_size=5)}, {"heads": dict(box_width=1500)}):
        state = small_model(**settings).state_dict()
        theirs = weights.to_torchvision(state)
        side = settings.get("roi", {}).get("box_size", 7)
        weight = theirs["roi_heads.box_head.fc6.weight"]  # (out, C * y * x)
        ours = state["roi_heads.box_head.fc6.weight"]  # (y * x * C, out)
        y, x, c, out = 2, 3, 11, 20
        assert weight[out, (c * side + y) * side + x] == ours[(y * side + x) * 16 + c, out]
        for name, array in weights.from_torchvision(theirs).items():
            np.testing.assert_array_equal(array, state[name], err_msg=name)


# ---------------------------------------------------------------------------------------------------- which model it is


def resnet_shapes(name):
    """The shapes of a published ResNet, by parameter (He et al. 2016, table 1; Xie et al. 2017, table 1)."""
    block, layers, groups, group_width = RESNETS[name]
    shapes = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "fc.weight": (1000, 512), "fc.bias": (1000,)}
    inside = 64
    for i, count in enumerate(layers):
        for j in range(count):
            start, width = f"layer{i + 1}.{j}.", 64 * 2**i
            if block == "basic":
                shapes |= {f"{start}conv1.weight": (width, inside, 3, 3), f"{start}conv2.weight": (width, width, 3, 3)}
                inside = width
            else:
                middle = group_width * groups * 2**i
                shapes |= {
                    f"{start}conv1.weight": (middle, inside, 1, 1),
                    f"{start}conv2.weight": (middle, middle // groups, 3, 3),
                    f"{start}conv3.weight": (4 * width, middle, 1, 1),
                }
                inside = 4 * width
    return shapes


def empty(shapes):
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", RESNETS)
def test_backbones_are_recognized_by_their_shapes(name):
    state = {f"backbone.body.{name}": array for name, array in empty(resnet_shapes(name)).items()}
    settings = weights.recognize(weights.Published(Path("file.pth"), state))
    assert settings.pop("preset") == "resnet50_fpn"
    assert settings.get("backbone", {}) == ({} if name == "resnet50" else {"name": name})


def test_deeper_and_wider_backbones():
    """ResNet-152 and Wide ResNet-50-2 have no name here but are described by settings."""
    shapes = resnet_shapes("resnet50")
    for i in range(3, 8):
        shapes |= {f"layer2.{i}.conv{k}.weight": shapes[f"layer2.2.conv{k}.weight"] for k in (1, 2, 3)}
    state = {f"backbone.body.{name}": array for name, array in empty(shapes).items()}
    settings = weights.recognize(weights.Published(Path("file.pth"), state))
    assert settings["backbone"] == dict(layers=(3, 8, 6, 3))
    for i in range(1, 5):
        for name in list(state):
            if name.startswith(f"backbone.body.layer{i}.") and name.endswith("conv2.weight"):
                out, inside = np.multiply(state[name].shape[:2], 2)
                state[name] = np.broadcast_to(np.float32(0), (out, inside, 3, 3))
    settings = weights.recognize(weights.Published(Path("file.pth"), state))
    assert settings["backbone"] == dict(layers=(3, 8, 6, 3), group_width=128)


def test_settings_of_the_published_detectors(tmp_path):
    """Names show masks, only boxes, or keypoints. The hash in the file's name shows the epsilon of the norms."""
    mask, box, person = (
        published(small_model(5)),
        published(small_model(5, heads=dict(mask=None))),
        published(small_model(2, heads=PEOPLE)),
    )
    found = weights.recognize(write(tmp_path / "boxes-258fb6c6.npz", box))
    assert found == {
        "preset": "resnet50_fpn",
        "num_classes": 5,
        "backbone": {**SHAPE["backbone"], "norm_eps": 0.0},
        "heads": {"box_width": 24, "mask": None},
    }
    found = weights.recognize(write(tmp_path / "people.npz", person))
    assert found == {
        "preset": "resnet50_fpn",
        "num_classes": 2,
        "backbone": SHAPE["backbone"],
        "heads": {"box_width": 24, **PEOPLE},
    }
    path = write(tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.npz", mask)
    model = weights.load(path)
    assert model.backbone.body.bn1.eps == model.backbone.body.layer4[1].bn2.eps == 0
    model = weights.load(path, backbone={"norm_eps": 1e-5})
    assert model.backbone.body.bn1.eps == 1e-5 and model.backbone.body.out_channels == [8, 8, 16, 16]
    assert weights.load(write(tmp_path / "mine.npz", mask)).backbone.body.bn1.eps == 1e-5


def test_anchors_that_cannot_be_recognized(tmp_path):
    model = small_model(rpn=dict(anchor_sizes=((16, 24),) * 5))
    path = write(tmp_path / "file.npz", published(model))
    with pytest.raises(InputError, match=r"file.npz: has 6 anchors per location instead of the usual 3.*anchor_sizes"):
        weights.load(path)
    settings = dict(rpn=dict(anchor_sizes=((16, 24),) * 5), **SIZES, detection=dict(score_threshold=0.02))
    assert_same_detections(model, weights.load(path, **settings))


def test_names_of_the_labels():
    labels = coco_names.meanings(91)
    assert labels["class_names"].count("N/A") == 10 and len(labels["class_names"]) == 90
    assert labels["class_names"][17 - 1] == "cat" and labels["category_ids"] == list(range(1, 91))
    labels = coco_names.meanings(81)
    assert len(labels["class_names"]) == 80 and labels["class_names"][15] == "cat" and labels["category_ids"][15] == 17
    assert labels["class_names"][-1] == "toothbrush" and labels["category_ids"][-1] == 90
    labels = coco_names.meanings(2, keypoints=17)
    assert labels["class_names"] == ["person"] and len(labels["keypoint_names"]) == 17
    left, right = (labels["keypoint_names"].index(name) for name in ("left_elbow", "left_wrist"))
    assert [left, right] in labels["skeleton"] and [0, 16] not in labels["skeleton"]
    assert coco_names.meanings(4)["class_names"] == ["class 1", "class 2", "class 3"]


def test_names_are_those_of_cocos_files():
    if not COCO_FILE.exists():
        pytest.skip(f"{COCO_FILE} is not there")
    import json

    categories = json.loads(COCO_FILE.read_text())["categories"]
    assert coco_names.CATEGORIES == {category["id"]: category["name"] for category in categories}
    people = json.loads((COCO_FILE.parent / "person_keypoints_val2017.json").read_text())["categories"][0]
    assert list(coco_names.PERSON_KEYPOINTS) == people["keypoints"]
    assert [[a + 1, b + 1] for a, b in coco_names.PERSON_SKELETON] == people["skeleton"]


# ----------------------------------------------------------------------------------------------------------- Detectron2

D2_RATIOS = (0.5, 1.0, 2.0)


def to_detectron2(state, model):
    """torchvision's state dict as Detectron2 would write the same model: the inverse, written independently."""
    objects = model.num_classes - 1
    bottom_up = "backbone.bottom_up." if model.neck == "fpn" else "backbone."
    out = {}
    for name, array in state.items():
        parts = name.split(".")
        end = parts[-1]
        if name.startswith(("backbone.body.", "roi_heads.res5.")):
            if parts[2] in ("conv1", "bn1"):
                start, parts = f"{bottom_up}stem.", parts[2:]
            elif parts[0] == "backbone":
                start, parts = f"{bottom_up}res{int(parts[2][-1]) + 1}.{parts[3]}.", parts[4:]
            else:
                start, parts = f"roi_heads.res5.{parts[2]}.", parts[3:]
            if parts[0] == "downsample":
                new = start + ("shortcut." if parts[1] == "0" else "shortcut.norm.") + end
            else:
                new = start + f"conv{parts[0][-1]}." + ("norm." if parts[0].startswith("bn") else "") + end
            if new.endswith("stem.conv1.weight"):
                array = array[:, [2, 1, 0]]
        elif name.startswith("backbone.fpn."):
            new = f"backbone.fpn_{'lateral' if parts[2] == 'inner_blocks' else 'output'}{int(parts[3]) + 2}.{end}"
        elif name.startswith("rpn."):
            new = {"conv": "conv", "cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}[parts[2]]
            new = f"proposal_generator.rpn_head.{new}.{end}"
            numbers = {"cls_logits": 1, "bbox_pred": 4}.get(parts[2])
            if numbers:  # from [ratio][size] to [size][ratio]
                shape = array.shape
                array = array.reshape(len(D2_RATIOS), -1, numbers, *shape[1:]).swapaxes(0, 1).reshape(shape)
        elif "box_head" in name:
            new = name.replace("fc6", "fc1").replace("fc7", "fc2")
        elif "cls_score" in name:
            new, array = name, np.concatenate([array[1:], array[:1]])
        elif "box_predictor.bbox_pred" in name:
            new, array = name, array[4:]
        elif "mask_fcn_logits" in name:
            new, array = f"roi_heads.mask_head.predictor.{end}", array[1:]
            assert len(array) == objects
        elif "conv5_mask" in name:
            new = f"roi_heads.mask_head.deconv.{end}"
        elif "mask_head" in name:
            new = f"roi_heads.mask_head.mask_fcn{int(parts[2]) + 1}.{end}"
        elif "kps_score_lowres" in name:
            new = f"roi_heads.keypoint_head.score_lowres.{end}"
        else:
            assert parts[1] == "keypoint_head", name
            new = f"roi_heads.keypoint_head.conv_fcn{int(parts[2]) // 2 + 1}.{end}"
        out[new] = np.ascontiguousarray(array)
    out["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    return out


D2_SETTINGS = dict(
    conventions=dict(name="detectron2", stride_in_1x1=True),
    roi=dict(sampling_ratio=0),
    transform=dict(mean=[123.675 / 255, 116.28 / 255, 103.53 / 255], std=[1 / 255, 1 / 255, 1 / 255]),
)
D2_FPN = dict(rpn=dict(pre_nms=(2000, 1000), post_nms=(1000, 1000)), **D2_SETTINGS)
D2_C4 = dict(rpn=dict(pre_nms=(12000, 6000), post_nms=(2000, 1000)), **D2_SETTINGS)
D2_MODELS = {
    "mask FPN": dict(**D2_FPN),
    "box FPN": dict(heads=dict(mask=None), **D2_FPN),
    "keypoint FPN": dict(num_classes=2, heads=PEOPLE, **D2_FPN),
    "mask C4": dict(preset="resnet50_c4", **D2_C4),
    "mask dilated C5": dict(preset="resnet50_dilated_c5", **D2_C4),
}


@pytest.mark.parametrize("kind", D2_MODELS)
def test_detectron2(tmp_path, kind):
    settings = {**BOTTLENECKS, **D2_MODELS[kind]}
    model = small_model(**settings)
    state = {"model": to_detectron2(published(model), model), "__author__": "Detectron2 Model Zoo"}
    path = write(tmp_path / "model_final.pkl", state)
    changes = dict(**SIZES, detection=dict(score_threshold=0.02))
    opened = weights.open_file(path, **changes)
    found = opened.model.settings
    assert found["rpn"] == settings["rpn"] and found["backbone"]["layers"] == (1, 1, 2, 1)
    assert found["conventions"] == D2_SETTINGS["conventions"] and found["roi"] == D2_SETTINGS["roi"]
    assert found["transform"] == {**D2_SETTINGS["transform"], **SIZES["transform"]}
    assert opened.model.conventions["stride_in_1x1"] and opened.model.conventions["aligned"]
    assert opened.model.neck == model.neck
    report = opened.report
    assert len(report.loaded) == len(model.state_dict()) and not report.skipped + report.misfit
    # the background's own channels, which nothing reads, are zeros there
    assert not opened.model.state_dict()["roi_heads.box_predictor.bbox_pred.weight"][:, :4].any()
    assert_same_detections(model, opened.model)


def test_detectron2_without_statistics_of_the_norms(tmp_path):
    """Old files have only a weight and a bias; then the mean is 0 and the variance 1."""
    model = small_model(**BOTTLENECKS, **D2_FPN)
    state = to_detectron2(published(model), model)
    state = {name: array for name, array in state.items() if "running_" not in name}
    opened = weights.open_file(write(tmp_path / "old.pkl", {"model": state}))
    norm = opened.model.backbone.body.layer1[0].downsample[1]
    assert not opened.report.missing and (norm.running_var == 1).all() and (norm.running_mean == 0).all()
    np.testing.assert_array_equal(norm.weight, model.backbone.body.layer1[0].downsample[1].weight)


def test_detectron2_colors():
    """Their first convolution on (blue, green, red) - mean equals ours on normalized red, green, blue."""
    rng = np.random.default_rng(0)
    theirs = rng.standard_normal((4, 3, 7, 7))
    patch = rng.integers(0, 256, (7, 7, 3)).astype(np.float64)  # red, green, blue
    for mean, std, in_1x1 in (
        ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), True),
        ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), False),
    ):
        state = {
            "backbone.bottom_up.stem.conv1.weight": theirs,
            "pixel_mean": np.reshape(mean, (3, 1, 1)),
            "pixel_std": np.reshape(std, (3, 1, 1)),
        }
        ours, settings = detectron2.to_torchvision(state)
        normal = (patch / 255 - settings["transform"]["mean"]) / settings["transform"]["std"]
        expected = np.einsum("oiyx,yxi->o", theirs, (patch[..., ::-1] - mean) / std)
        got = np.einsum("oiyx,yxi->o", ours["backbone.body.conv1.weight"], normal)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        assert settings["conventions"]["stride_in_1x1"] == in_1x1
        assert settings["transform"]["mean"][0] == 123.675 / 255
    # a mean that begins with red says that the model takes red, green, blue: nothing is turned
    state = {"backbone.bottom_up.stem.conv1.weight": theirs, "pixel_mean": np.array([123.675, 116.28, 103.53])}
    ours, settings = detectron2.to_torchvision(state)
    np.testing.assert_array_equal(ours["backbone.body.conv1.weight"], theirs)
    assert settings["transform"]["mean"][0] == 123.675 / 255


def test_detectron2_anchors():
    """Output k of our RPN belongs to our anchor k: sizes within ratios, where theirs are ratios within sizes."""
    sizes = (32, 64, 128, 256, 512)
    theirs = [(size / ratio**0.5, size * ratio**0.5) for size in sizes for ratio in D2_RATIOS]  # width, height
    state = {"proposal_generator.rpn_head.objectness_logits.weight": np.arange(15.0).reshape(15, 1, 1, 1)}
    state["proposal_generator.rpn_head.anchor_deltas.bias"] = np.arange(60.0)
    ours, _ = detectron2.to_torchvision(state)
    x1, y1, x2, y2 = cell_anchors(sizes, D2_RATIOS).T
    for k in range(15):
        width, height = theirs[int(ours["rpn.head.cls_logits.weight"][k, 0, 0, 0])]
        assert x2[k] - x1[k] == pytest.approx(width, abs=1) and y2[k] - y1[k] == pytest.approx(height, abs=1)
        index = int(ours["rpn.head.cls_logits.weight"][k, 0, 0, 0])
        np.testing.assert_array_equal(ours["rpn.head.bbox_pred.bias"][4 * k : 4 * k + 4], 4 * index + np.arange(4))


def test_detectron2_background():
    state = {
        "roi_heads.box_predictor.cls_score.bias": np.array([1.0, 2, 3, 0]),  # three kinds of object, the background
        "roi_heads.box_predictor.cls_score.weight": np.array([[1.0], [2], [3], [0]]),
        "roi_heads.box_predictor.bbox_pred.bias": np.arange(1.0, 13),
        "roi_heads.mask_head.predictor.weight": np.array([1.0, 2, 3]).reshape(3, 1, 1, 1),
    }
    ours, _ = detectron2.to_torchvision(state)
    np.testing.assert_array_equal(ours["roi_heads.box_predictor.cls_score.bias"], [0, 1, 2, 3])
    np.testing.assert_array_equal(ours["roi_heads.box_predictor.cls_score.weight"], [[0], [1], [2], [3]])
    np.testing.assert_array_equal(ours["roi_heads.box_predictor.bbox_pred.bias"], [0] * 4 + list(range(1, 13)))
    logits = ours["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    np.testing.assert_array_equal(logits.reshape(-1), [0, 1, 2, 3])


# ----------------------------------------------------------------------------------------------- into an existing model


def changed(model, before):
    """The names of the arrays that have changed."""
    return {name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])}


def copies(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def test_new_heads(tmp_path):
    """A different number of classes is refused with advice, or everything is loaded except what depends on it."""
    path = write(tmp_path / "coco.npz", published(small_model(5)))
    model = build("resnet50_fpn", 3, **SHAPE)
    before = copies(model)
    with pytest.raises(InputError) as caught:
        weights.load_into(model, path)
    message = str(caught.value)
    assert "coco.npz: holds weights for 5 classes (the background and 4 kinds of object), but the model here" in message
    assert "--new-heads" in message and "\n" not in message
    assert "misfit 6: roi_heads.box_predictor.cls_score.weight is (5, 24) in the file, (3, 24) in the model" in message
    assert not changed(model, before)
    report = weights.load_into(model, path, replace_heads=True)
    new = [
        f"roi_heads.{layer}.{kind}"
        for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
        for kind in ("weight", "bias")
    ]
    assert report.replaced == new and not report.missing + report.misfit + report.skipped
    assert changed(model, before) | set(new) == set(before) and not changed(model, before) & set(new)
    assert "\nnew 6 (not from the file, to be trained): roi_heads.box_predictor (4), roi_heads.mask" in str(report)


def test_a_branch_that_the_file_does_not_have(tmp_path):
    path = write(tmp_path / "boxes.npz", published(small_model(5, heads=dict(mask=None))))
    model = build("resnet50_fpn", 5, **SHAPE)
    with pytest.raises(InputError, match=r"boxes.npz: .*missing 8 \(in the model, not in the file\): roi_heads"):
        weights.load_into(model, path)
    report = weights.load_into(model, path, replace_heads=True)
    assert [name for name in report.replaced if "mask_" in name] == [
        name for name in model.state_dict() if name.startswith("roi_heads.mask_")
    ]
    other = build("resnet50_fpn", 5, **merge(SHAPE, dict(heads=dict(mask=None))))
    report = weights.load_into(other, write(tmp_path / "masks.npz", published(small_model(5))))
    assert len(report.skipped) == 8
    assert "\nskipped 8 (in the file, not in the model): roi_heads.mask_head (4), roi_heads.mask_pre" in str(report)


def test_a_backbone(tmp_path):
    source = small_model(5)
    path = write(tmp_path / "resnet.npz", plain(source))
    assert weights.recognize(path) == {
        "preset": "resnet50_fpn",
        "backbone": {"name": "resnet18", "channels": (8, 8, 16, 16)},
    }
    model = build("resnet50_fpn", 3, **SHAPE)
    before = copies(model)
    report = weights.load_into(model, path)
    assert len(report.loaded) == len(plain(source)) - 2 and report.skipped == ["fc.weight", "fc.bias"]
    assert all(not name.startswith("backbone.body.") for name in report.replaced) and not report.missing
    for name, array in source.state_dict().items():
        if name.startswith("backbone.body."):
            np.testing.assert_array_equal(model.state_dict()[name], array)
        else:
            np.testing.assert_array_equal(model.state_dict()[name], before[name])
    with pytest.raises(InputError, match="resnet.npz: is a backbone, which finds nothing by itself"):
        weights.load(path)


def test_a_backbone_for_c4(tmp_path):
    """With C4, the last stage is part of the heads."""
    source = small_model(5, **BOTTLENECKS)
    path = write(tmp_path / "resnet.npz", plain(source))
    model = build("resnet50_c4", 3, **BOTTLENECKS)
    report = weights.load_into(model, path)
    assert len(report.loaded) == len(plain(source)) - 2
    stages = model.roi_heads.res5, source.backbone.body.layer4
    np.testing.assert_array_equal(*(stage[0].conv2.weight.data for stage in stages))


def test_our_own_checkpoint_with_other_classes(tmp_path):
    source = small_model(5)
    checkpoint.write_model(tmp_path / "run" / "checkpoint-00000004.npz", source, {})
    model = build("resnet50_fpn", 3, **SHAPE)
    with pytest.raises(InputError, match="5 classes"):
        weights.load_into(model, tmp_path / "run")
    assert len(weights.load_into(model, tmp_path / "run", replace_heads=True).replaced) == 6
    np.testing.assert_array_equal(model.roi_heads.box_head.fc6.weight.data, source.roi_heads.box_head.fc6.weight.data)


def test_what_does_not_fit_is_reported_in_one_line(tmp_path):
    path = write(tmp_path / "other.npz", published(small_model(5)))
    model = build("resnet50_fpn", 5, **merge(SHAPE, {"backbone": {"fpn_channels": 32}}))
    before = copies(model)
    with pytest.raises(InputError) as caught:
        weights.load_into(model, path)
    message = str(caught.value)
    assert "these weights are not for the model: loaded " in message and message.count("\n") == 0
    assert "backbone.fpn.inner_blocks.0.0.weight is (16, 8, 1, 1) in the file, (32, 8, 1, 1) in the model" in message
    assert ", and 18 more" in message and len(message) < 1000
    assert not changed(model, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_numbers(tmp_path, value):
    state = published(small_model(5))
    state["rpn.head.cls_logits.bias"] = np.array([0, value, 0], np.float32)
    with pytest.raises(InputError, match="bad.npz: rpn.head.cls_logits.bias must hold finite floating-point numbers"):
        weights.load(write(tmp_path / "bad.npz", state))


def test_quantized_weights_are_refused(tmp_path):
    state = {name: array.astype(np.int8) for name, array in published(small_model(5)).items()}
    with pytest.raises(InputError, match="backbone.body.conv1.weight must hold finite floating-point numbers"):
        weights.load(write(tmp_path / "int8.npz", state))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.pkl", pickle.dumps([1, 2]), "a.pkl: contains no weights"),
        ("a.pkl", pickle.dumps({"epoch": 3}), "a.pkl: contains no weights"),
        ("a.pkl", pickle.dumps({"features.0.bias": np.zeros(3)}), "neither a ResNet nor a detector .*features.0.bias"),
        ("a.pth", b"no weights", "a.pth: not a checkpoint of minimask, and no file of weights"),
        ("a.pth", b"<!DOCTYPE html>", "a.pth: .*a web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1", "a.pth: .*git lfs pull"),
        ("a.safetensors", b"no weights", "a.safetensors: "),
        ("a.npz", b"PK\x03\x04 cut off", "a.npz: .*cut off"),
        ("a.npz", b"", "a.npz: the file is empty"),
        ("a.bin", b"no weights", "a.bin: not a checkpoint of minimask"),
        ("nowhere/a.pth", None, "a.pth: there is no such file or folder"),
    ],
)
def test_files_of_something_else(tmp_path, name, content, message):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        weights.load(tmp_path / name)


def test_no_pickle_in_npz_files(tmp_path):
    np.savez(tmp_path / "a.npz", **{"conv1.weight": np.array([print], dtype=object)})
    with pytest.raises(InputError, match="a.npz: cannot be read .*pickle"):
        weights.load(tmp_path / "a.npz")


def test_other_architectures_of_torchvision_are_refused(tmp_path):
    """torchvision's second versions have norms in the pyramid and four convolutions in the box head."""
    state = published(small_model(5))
    for name in list(state):
        if "fpn" in name and name.endswith("bias"):
            state[name.replace(".0.bias", ".1.bias")] = state.pop(name)
    state["backbone.fpn.inner_blocks.0.1.weight"] = np.ones(16, np.float32)
    with pytest.raises(InputError, match="v2.npz: is one of torchvision's v2 models"):
        weights.load(write(tmp_path / "v2.npz", state))
    state = {name: array for name, array in published(small_model(5)).items() if not name.startswith("rpn.")}
    with pytest.raises(InputError, match="has no 'rpn.head.cls_logits.weight', so the model cannot be recognized"):
        weights.load(write(tmp_path / "no_rpn.npz", state))


# --------------------------------------------------------------------------------------------------- torchvision itself


@pytest.fixture(scope="module")
def torchvision():
    pytest.importorskip("torch")
    return pytest.importorskip("torchvision")


@pytest.mark.parametrize(
    "name, arrays, found",
    [
        ("maskrcnn_resnet50_fpn", 307, {"num_classes": 91}),
        ("fasterrcnn_resnet50_fpn", 295, {"num_classes": 91, "heads": {"mask": None}}),
        ("keypointrcnn_resnet50_fpn", 313, {"num_classes": 2, "heads": {"mask": None, "keypoints": 17}}),
    ],
)
def test_torchvisions_own_files(torchvision, tmp_path, name, arrays, found):
    """What torchvision saves is recognized, nothing is missing or left over, and each array is its transpose."""
    import torch

    state = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).state_dict()
    torch.save(state, tmp_path / "model.pth")
    opened = weights.open_file(tmp_path / "model.pth")
    assert opened.model.settings == {"preset": "resnet50_fpn", "seed": 0, **found}
    report = opened.report
    assert len(report.loaded) == arrays and not report.skipped + report.missing + report.misfit + report.replaced
    ours = opened.model.state_dict()
    for key, shape in (("backbone.body.layer2.0.conv2.weight", (3, 3, 128, 128)), ("rpn.head.conv.0.0.bias", (256,))):
        np.testing.assert_array_equal(ours[key], state[key].numpy().T.swapaxes(0, 1) if len(shape) > 1 else state[key])
        assert ours[key].shape == shape


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnext50_32x4d"])
def test_torchvisions_backbones(torchvision, tmp_path, name):
    import torch

    theirs = getattr(torchvision.models, name)(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    model = build(num_classes=3, **weights.recognize(tmp_path / "model.pth"))
    report = weights.load_into(model, tmp_path / "model.pth")
    body = [key for key in model.state_dict() if key.startswith("backbone.body.")]
    assert report.loaded == body and report.skipped == ["fc.weight", "fc.bias"]


def test_torchvisions_names_of_the_labels(torchvision):
    detection = torchvision.models.detection
    theirs = detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert coco_names.meanings(91)["class_names"] == theirs[1:]
    theirs = detection.KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta
    assert coco_names.meanings(2, 17)["class_names"] == theirs["categories"][1:]
    assert coco_names.meanings(2, 17)["keypoint_names"] == theirs["keypoint_names"]
