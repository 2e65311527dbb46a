"""Presets: the usual combinations of the model's settings, by name.

    build("toy", num_classes=4, rpn={"samples": 64})      a preset with one setting changed
    python -m minimask train --set rpn.samples=64         the same on the command line

Settings come in groups, one per stage; run/model_settings.py documents each of them.
"""

import dataclasses
from numbers import Integral

from minimask.errors import InputError
from minimask.run.model_settings import GROUPS, check_together
from minimask.run.settings import Settings, check_name
from minimask.systems import SYSTEMS, system_class


def merge(settings, changes):
    """Groups of settings with `changes`: a group that is in both is merged, field by field.

    A group may also be an object of its class; `backbone` and `conventions` may be a name alone.
    """
    merged = dict(settings)
    for name, value in changes.items():
        if name in ("backbone", "conventions") and isinstance(value, str):
            value = {"name": value}
        if isinstance(value, Settings):
            value = vars(value)
        merged[name] = {**(merged.get(name) or {}), **value} if isinstance(value, dict) else value
    return merged


PRESETS = {
    # Trains on drawn 128 x 128 scenes on two CPU cores in minutes. RoIs read a level of stride 2 too: an animal of 16
    # pixels is 4 x 4 cells at stride 4, too few for ears and tails.
    "toy": {
        "backbone": dict(
            name="resnet18", norm="batch", channels=(32, 64, 128, 128), stem="fine", fpn_channels=64, fpn_pool=False
        ),
        "rpn": dict(
            first_level=1,
            anchor_sizes=((14, 20), (28, 40), (56, 80)),
            samples=128,
            pre_nms=(500, 500),
            post_nms=(200, 200),
        ),
        "roi": dict(samples=64),
        "heads": dict(box_width=256, mask_channels=(64, 64, 64, 64), mask_width=64, keypoint_channels=(64, 64, 64, 64)),
        "transform": dict(min_size=128, max_size=256),
        "conventions": dict(aligned=True, whole_pixels=False),
    },
    # For your own small data set: group norm needs no large batch, anchors begin at 12 pixels.
    "small": {
        "backbone": dict(
            name="resnet18", norm="group", channels=(32, 32, 64, 128), stem="small", fpn_channels=64, fpn_pool=False
        ),
        "rpn": dict(anchor_sizes=((12,), (24,), (48,), (96,)), samples=128, pre_nms=(500, 500), post_nms=(300, 300)),
        "roi": dict(samples=128, canonical_size=112),
        "heads": dict(box_width=256, mask_channels=(64, 64, 64, 64), mask_width=64, keypoint_channels=(64, 64, 64, 64)),
        "detection": dict(max_detections=200),
        "transform": dict(min_size=256, max_size=384),
        "conventions": dict(aligned=True, whole_pixels=False),
    },
    "resnet50_fpn": {},
    "resnet101_fpn": {"backbone": dict(name="resnet101")},
    "resnext50_fpn": {"backbone": dict(name="resnext50_32x4d")},
    "resnext101_fpn": {"backbone": dict(name="resnext101_32x8d")},
    "resnet50_c4": {"backbone": dict(neck="c4"), "rpn": dict(anchor_sizes=((32, 64, 128, 256, 512),))},
    "resnet50_dilated_c5": {"backbone": dict(neck="c5"), "rpn": dict(anchor_sizes=((32, 64, 128, 256, 512),))},
}


# The systems of the talk that are settings of the preset "toy". One map instead of a pyramid takes the anchors of all
# its levels; with the fine stem C4 has stride 8, and so has the dilated C5.
ONE_LEVEL = {"rpn": dict(anchor_sizes=((14, 20, 28, 40, 56, 80),))}
BOXES_ALONE = {"heads": dict(mask=None)}
ROI_POOL = {"roi": dict(pooling="roi_pool")}
BOTTLENECKS = dict(name="resnet50", layers=(2, 2, 2, 2), channels=(16, 32, 64, 64))
RESNEXT = dict(name="resnext50_32x4d", groups=8, group_width=16)  # 8 groups of 4 channels in stage 1

PRESETS["toy_c4"] = merge(PRESETS["toy"], {"backbone": dict(neck="c4"), **ONE_LEVEL})
PRESETS["toy_c5"] = merge(PRESETS["toy"], {"backbone": dict(neck="c5"), **ONE_LEVEL})
PRESETS["toy_bottleneck"] = merge(PRESETS["toy"], {"backbone": BOTTLENECKS})  # what ResNeXt is compared with
PRESETS["toy_resnext"] = merge(PRESETS["toy_bottleneck"], {"backbone": RESNEXT})
PRESETS["toy_faster_rcnn"] = merge(PRESETS["toy"], BOXES_ALONE)  # the talk's "Faster R-CNN, RoIAlign": a pyramid
PRESETS["toy_faster_rcnn_c4"] = merge(PRESETS["toy_c4"], {**BOXES_ALONE, **ROI_POOL})
PRESETS["toy_faster_rcnn_c5"] = merge(PRESETS["toy_c5"], {**BOXES_ALONE, **ROI_POOL})


OPTIONS = {  # what people look for among the settings
    "num_classes": "it is an argument of build; training counts the classes of the data",
    "classes": "they are an argument of build; training takes those of the data",
    "seed": "it is an argument of build, and the option --seed of training",
    "preset": "it is an argument of build, and the option --preset of training",
}


def check_num_classes(number):
    """Raises InputError unless `number` can be a number of classes."""
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 2:
        raise InputError(f"num_classes must be an integer of at least 2 (the background and one class), got {number!r}")


def complete(groups, preset=None):
    """All groups, those of a preset changed by `groups`: name -> object of its class.

    preset: name of a preset or a system; a system has the groups that it understands, and its own ("system").

    Without a pyramid there is one level: its anchor sizes are those of all the preset's levels, if none are given.

    Raises InputError for an unknown name, with a suggestion, for a bad value, and for values that do not go together.
    """
    if preset is not None:
        check_name("preset", preset, [*PRESETS, *SYSTEMS])
    kinds = kinds_of(preset)
    check_groups(groups, preset)
    merged = merge(system_class(preset).preset if preset in SYSTEMS else PRESETS.get(preset, {}), groups)
    chosen = {name: kind.of(merged.get(name)) for name, kind in kinds.items()}
    if "rpn" not in chosen:
        return chosen
    if chosen["backbone"].neck != "fpn" and "anchor_sizes" not in merge({}, {"rpn": groups.get("rpn") or {}})["rpn"]:
        sizes = sum(chosen["rpn"].anchor_sizes, ())
        chosen["rpn"] = dataclasses.replace(chosen["rpn"], anchor_sizes=(sizes,))
    check_together(chosen)
    return chosen


def class_of(preset, usual):
    """The class of the model that a preset or a system names; `usual` is that of the presets."""
    return system_class(preset) if preset in SYSTEMS else usual


def kinds_of(preset):
    """The groups of settings that a preset or a system understands: name -> class."""
    if preset not in SYSTEMS:
        return GROUPS
    system = system_class(preset)
    own = getattr(system, "kinds", {})
    return {**{name: own.get(name, GROUPS[name]) for name in system.groups}, "system": system.Settings}


def check_groups(groups, preset=None):
    """Raises InputError if a group, or a setting in it, is unknown or has a value that it cannot have.

    preset: name of the preset or the system that the groups are for.
    """
    kinds = kinds_of(preset)
    for name, value in groups.items():
        homes = [
            (group, setting)
            for group, kind in kinds.items()
            for setting in kind.__dataclass_fields__
            if name in (setting, f"{group}_{setting}")
        ]
        if name not in kinds and homes:
            group, setting = homes[0]
            raise InputError(
                f"unknown model setting {name}; it is part of a group: {group}={{{setting!r}: ...}} "
                f"(on the command line --set {group}.{setting}=...)"
            )
        if name in OPTIONS:
            raise InputError(f"{name} is no setting of the model's groups: {OPTIONS[name]}")
        if name == "system" and name not in kinds:
            raise InputError(f"the group system belongs to the systems of the decks: {', '.join(SYSTEMS)}")
        if name in GROUPS and name not in kinds:
            raise InputError(f"{preset} has no group of settings {name}; its groups are {', '.join(kinds)}")
        check_name("model setting", name, kinds)
        kinds[name].of(merge({}, {name: value})[name])


def saved(groups):
    """The same groups as json can hold them: a function is kept as its name, which tells what to pass again."""
    return {name: _saved_group(group) for name, group in merge({}, groups).items() if group}


def _saved_group(group):
    return {name: value.__name__ if callable(value) else value for name, value in group.items()}
