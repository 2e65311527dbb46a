"""Published weights: reads their files, and recognizes the model from the names and shapes of its arrays.

These can be read: torchvision's Faster, Mask and Keypoint R-CNN with a ResNet or ResNeXt, with today's names or those
of older files; plain ResNets and ResNeXts; Detectron2's models (detectron2.py). Files (files.py) are those of PyTorch
and pickles (none is executed, see torch_file.py), .safetensors and .npz.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from minimask import presets
from minimask.backbone import RESNETS
from minimask.errors import InputError
from minimask.presets import merge
from minimask.weights import detectron2, files

COUNTERS = "num_batches_tracked"  # counters of batch norm, which are not needed here

# torchvision's COCO_V1 files were trained with an epsilon of 0 in their norms. The weights do not show this, but the
# name of the file does, because it ends with the first digits of its SHA-256: maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth.
NORM_EPS_0 = ("258fb6c6", "bf2d0c1e", "fc266e95")  # Faster, Mask and Keypoint R-CNN

# What arrays of other shapes than those of the known models raise here.
FOREIGN = (IndexError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError, MemoryError)

BODY = "backbone.body."
SCORES = "roi_heads.box_predictor.cls_score.weight"
FC6 = "roi_heads.box_head.fc6.weight"
MASK_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
KEYPOINT_LOGITS = "roi_heads.keypoint_predictor.kps_score_lowres.weight"

# ------------------------------------------------------------------------------------------------------- reading a file


@dataclass
class Published:
    """The content of a file.

    state: dict of arrays with torchvision's names of today, in its layout.
    settings: arguments of `mask_rcnn.build` that the weights do not show.
    origin: the library whose layout the file has.
    """

    path: Path
    state: dict
    settings: dict = field(default_factory=dict)
    origin: str = "torchvision"

    def is_backbone(self):
        """Whether it is just a ResNet and not a detector."""
        return SCORES not in self.state


def read(path):
    """Read a file. Returns a Published. Raises InputError if it cannot be read or contains something else."""
    path = Path(path)
    state, settings, origin = files.read(path), {}, "torchvision"
    for name, array in state.items():
        if 0 in array.shape:
            raise InputError(f"{path}: {name} is an empty array, of shape {array.shape}")
    try:
        if detectron2.is_detectron2(state):
            origin = "Detectron2"
            state, settings = detectron2.to_torchvision(state)
    except FOREIGN as error:
        raise InputError(f"{path}: has shapes that fit no known model ({error})") from error
    state = {_today(name): value for name, value in state.items() if not name.endswith(COUNTERS)}
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        state = {name if name.startswith("fc.") else BODY + name: value for name, value in state.items()}
    if "roi_heads.box_head.0.0.weight" in state or "backbone.fpn.inner_blocks.0.1.weight" in state:
        raise InputError(
            f"{path}: is one of torchvision's v2 models (such as maskrcnn_resnet50_fpn_v2), which have norms in the "
            "pyramid and convolutions in the box head; minimask reads the first versions (maskrcnn_resnet50_fpn)"
        )
    if f"{BODY}layer1.0.conv1.weight" not in state:
        some = ", ".join(list(state)[:3])
        raise InputError(f"{path}: contains neither a ResNet nor a detector with one (its arrays are {some}, ...)")
    if SCORES in state and state[SCORES].ndim != 2:
        raise InputError(f"{path}: {SCORES} must have two axes, got shape {state[SCORES].shape}")
    if any(digits in path.name for digits in NORM_EPS_0):
        settings = {"backbone": {"norm_eps": 0.0}}
    return Published(path, state, settings, origin)


def _today(name):
    """torchvision's name of today for a parameter of an older file."""
    name = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    name = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
    return re.sub(r"^(roi_heads\.mask_head)\.mask_fcn(\d)\.", lambda match: f"{match[1]}.{int(match[2]) - 1}.0.", name)


# ---------------------------------------------------------------------------------------------------- which model it is


def recognize(source, **changes):
    """Find the settings for `mask_rcnn.build` that fit a file, from the names and shapes of its arrays.

    source: a Published.
    changes: settings that override what is found. If they name a `preset`, only the classes are counted.
    Returns the settings; for a backbone, without num_classes.
    Raises InputError if the model cannot be recognized.
    """
    found = {} if source.is_backbone() else {"num_classes": len(source.state[SCORES])}
    if "preset" in changes:
        return {**found, **changes}
    if "preset" in source.settings:
        return merge({**found, **source.settings}, changes)
    try:
        found.update(_architecture(source, changes))
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{source.path}: has no {error}, so the model cannot be recognized") from error
    except FOREIGN as error:
        raise InputError(f"{source.path}: has shapes that fit no known model ({error})") from error
    return merge(merge(_unusual(found, found["preset"]), source.settings), changes)


def _unusual(found, preset):
    """The settings found, without those that the preset has anyway."""
    usual = presets.complete({}, preset)
    kept = {}
    for name, value in found.items():
        if isinstance(value, dict):
            value = {key: v for key, v in value.items() if v != getattr(usual[name], key)}
        if value != {}:
            kept[name] = value
    return kept


def _architecture(source, changes):
    """The preset, backbone and heads of a file."""
    if source.is_backbone():
        return {"preset": "resnet50_fpn", "backbone": _backbone(source, "layer4")}
    if _first_kernel(source) != 7:
        found = {"preset": _preset_trained_here(source)}
    elif "roi_heads.res5.0.conv1.weight" in source.state:
        found = {"preset": "resnet50_c4", "backbone": _backbone(source, "res5")}
    else:
        pyramid = "backbone.fpn.inner_blocks.0.0.weight" in source.state
        preset = "resnet50_fpn" if pyramid else "resnet50_dilated_c5"
        found = {"preset": preset, "backbone": _backbone(source, "layer4")}
    return merge(found, _heads(source, presets.complete({}, found["preset"])["rpn"], changes))


def _first_kernel(source):
    """Height of the first convolution of the ResNet in a file: 7 in published ones."""
    return source.state[f"{BODY}conv1.weight"].shape[2]


def _preset_trained_here(source):
    """The preset "toy" or "small", if a file holds a model of that preset under torchvision's names."""
    state = source.state
    channels = tuple(len(state[f"{BODY}layer{i}.0.conv2.weight"]) for i in (1, 2, 3, 4))
    norm = "batch" if f"{BODY}bn1.running_mean" in state else "group"
    for preset in ("toy", "small"):
        usual = presets.complete({}, preset)["backbone"]
        if (usual.norm, usual.channels) == (norm, channels):
            return preset
    raise _unknown_body(source)


def _unknown_body(source):
    return InputError(
        f"{source.path}: its first layer is not the 7x7 convolution of published ResNets, and the weights do not "
        'show what it is; name a preset, in Python: minimask.load(path, preset="toy", ...)'
    )


def _count(state, start):
    """The number of parts `start`0, `start`1, ..."""
    return len({name[len(start) :].split(".")[0] for name in state if name.startswith(start)})


def _backbone(source, last_stage):
    """The "backbone" settings of the ResNet in a file: its name, and what the name does not imply."""
    state = source.state
    stages = [f"{BODY}layer{i}." for i in (1, 2, 3)]
    stages.append("roi_heads.res5." if last_stage == "res5" else f"{BODY}layer4.")
    if _first_kernel(source) != 7:
        raise _unknown_body(source)
    bottleneck = f"{stages[0]}0.conv3.weight" in state
    last, expansion = ("conv3", 4) if bottleneck else ("conv2", 1)
    layers = tuple(_count(state, stage) for stage in stages)
    channels = tuple(len(state[f"{stage}0.{last}.weight"]) // expansion for stage in stages)
    width, per_group = state[f"{stages[0]}0.conv2.weight"].shape[:2]
    groups, group_width = width // per_group, per_group * 64 // channels[0]
    if not bottleneck:
        groups, group_width = 1, 64
    block, found = "bottleneck" if bottleneck else "basic", (layers, groups, group_width)
    names = [name for name, settings in RESNETS.items() if settings == (block, *found)]
    name = names[0] if names else ("resnet50" if bottleneck else "resnet18")
    usual = (*RESNETS[name][1:], (64, 128, 256, 512))
    keys = ("layers", "groups", "group_width", "channels")
    settings = {key: value for key, value, other in zip(keys, (*found, channels), usual) if value != other}
    return {"name": name, **settings}


def _heads(source, preset, changes):
    """The settings of a detector's neck and heads.

    preset: the preset's "rpn" settings, whose anchors the file should have.
    """
    state, backbone, roi, heads = source.state, {}, {}, {}
    anchors, rpn = len(state["rpn.head.cls_logits.weight"]), changes.get("rpn")
    usual, levels = len(preset.anchor_sizes[0]) * len(preset.anchor_ratios), len(preset.anchor_sizes)
    if anchors != usual and not (isinstance(rpn, dict) and "anchor_sizes" in rpn):
        raise InputError(
            f"{source.path}: has {anchors} anchors per location instead of the usual {usual}, and the weights do not "
            f"show their sizes; say them (and rpn.anchor_ratios) to train or convert, for example --set "
            f"rpn.anchor_sizes={str([[32, 64]] * levels).replace(' ', '')} (in Python rpn={{'anchor_sizes': ...}}): "
            f"a list for each of the {levels} level{'s' * (levels > 1)}"
        )
    if "backbone.fpn.inner_blocks.0.0.weight" in state:
        backbone["fpn_channels"] = len(state["backbone.fpn.inner_blocks.0.0.weight"])
    if FC6 in state:
        width, features = state[FC6].shape
        channels = len(state["rpn.head.conv.0.0.weight"])  # the RPN reads the same features
        heads["box_width"], roi["box_size"] = width, round((features / channels) ** 0.5)
    if MASK_LOGITS in state:
        depth = _count(state, "roi_heads.mask_head.")
        heads["mask_width"] = state[MASK_LOGITS].shape[1]
        heads["class_agnostic_masks"] = len(state[MASK_LOGITS]) == 1
        if depth:  # with C4 there is none
            heads["mask_channels"] = tuple(len(state[f"roi_heads.mask_head.{i}.0.weight"]) for i in range(depth))
    else:
        heads["mask"] = None
    if KEYPOINT_LOGITS in state:
        depth = _count(state, "roi_heads.keypoint_head.")
        heads["keypoints"] = state[KEYPOINT_LOGITS].shape[1]
        heads["keypoint_channels"] = tuple(len(state[f"roi_heads.keypoint_head.{2 * i}.weight"]) for i in range(depth))
    return {"backbone": backbone, "roi": roi, "heads": heads}
