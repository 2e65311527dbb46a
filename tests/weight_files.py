"""Small models with the names of published weights, and files of these weights as other programs write them."""

import pickle

import numpy as np
import pytest

from minimask import weights
from minimask.mask_rcnn import build
from minimask.presets import merge
from tests.references import tiny

SIZES = dict(transform=dict(min_size=96, max_size=128))
SHAPE = dict(  # what the weights show
    backbone=dict(name="resnet18", channels=(8, 8, 16, 16), fpn_channels=16),
    heads=dict(box_width=24, mask_channels=(16, 12), mask_width=20),
)
BOTTLENECKS = dict(backbone=dict(name="resnet50", channels=(8, 8, 16, 32), layers=(1, 1, 2, 1)))
PEOPLE = dict(mask=None, keypoints=17, keypoint_channels=(8, 12))  # a model that finds boxes and keypoints


def small_model(num_classes=5, **settings):
    """A small model with the published names, and with weights that make it find objects."""
    preset = settings.pop("preset", "resnet50_fpn")
    usual = {**SHAPE, **SIZES, "detection": dict(score_threshold=0.02)}
    model = build(preset, num_classes, **merge(usual, settings)).eval()
    shapes = {name: array.shape for name, array in weights.to_torchvision(model.state_dict()).items()}
    state = weights.from_torchvision(tiny.state(shapes))
    for name in ("weight", "bias"):
        state[f"roi_heads.box_predictor.cls_score.{name}"] *= 4
    if "std" in settings.get("transform", {}):  # 1 / 255: then the input values are larger
        state["backbone.body.conv1.weight"] *= 0.02
    model.load_state_dict(state)
    return model


def published(model):
    """The model's state dict as torchvision saves it."""
    return weights.to_torchvision(model.state_dict())


def write(path, state):
    """Write a file of weights in the format of its extension."""
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(state, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array.copy()) for name, array in state.items()}, path)
    return path


def old_names(state):
    """The arrays under the names that torchvision used when the published files were made."""
    replacements = [
        *((f"blocks.{i}.0.", f"blocks.{i}.") for i in range(4)),
        ("rpn.head.conv.0.0.", "rpn.head.conv."),
        *((f"roi_heads.mask_head.{i}.0.", f"roi_heads.mask_head.mask_fcn{i + 1}.") for i in range(4)),
    ]
    renamed = {}
    for name, array in state.items():
        for new, old in replacements:
            name = name.replace(new, old)
        renamed[name] = array
    return renamed


def plain(model):
    """The ResNet of a model as a separate file, with the classifier that such files have."""
    start = "backbone.body."
    state = {name.removeprefix(start): array for name, array in published(model).items() if name.startswith(start)}
    return {**state, "fc.weight": np.ones((10, 16), np.float32), "fc.bias": np.ones(10, np.float32)}
