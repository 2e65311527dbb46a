"""Whether a file can hold the model that it describes: a damaged or crafted file may describe one of any size."""

import math

from minimask import presets
from minimask.backbone import RESNETS
from minimask.errors import InputError

BLOCK = 1000  # an allowance for each layer: making one takes time, however small it is
FREE = 30_000_000  # numbers that are made without asking, in less than a second


def check_size(path, settings, arrays):
    """Raises InputError if the model of `settings` needs several times the numbers in `arrays`.

    settings: arguments of `mask_rcnn.build`. arrays: dict from name to array.
    """
    groups = {name: value for name, value in settings.items() if name not in ("preset", "num_classes", "seed")}
    there = sum(math.prod(array.shape) for array in arrays.values())
    needed = _least(settings.get("num_classes", 2), presets.complete(groups, settings.get("preset", "toy")))
    if needed > FREE + 2 * there:
        raise InputError(f"{path}: describes a model of at least {needed:,} numbers, but holds only {there:,}")


def _least_of_body(body):
    """The same for a ResNet alone."""
    block, layers, groups, group_width = RESNETS[body.name]
    groups, group_width = body.groups or groups, body.group_width or group_width
    total = 0
    for blocks, channels in zip(body.layers or layers, body.channels):
        width = channels * group_width // 64 * groups  # of the 3x3 convolution of a bottleneck
        kernels = 9 * channels**2 if block == "basic" else 9 * width**2 // groups + 4 * width * channels
        total += blocks * (BLOCK + kernels)
    return total


def _least(classes, groups):
    """About the least count of numbers in a model: its largest kernels, without normalization and shortcuts."""
    body = groups["backbone"]
    total = _least_of_body(body)
    if "heads" not in groups:  # a system that classifies pixels
        return total
    roi, heads, width = groups["roi"], groups["heads"], body.channels[-1]
    if body.neck == "fpn":
        width = body.fpn_channels
        total += 4 * 9 * width**2
    total += 9 * width**2  # of the RPN
    if body.neck != "c4":
        total += roi.box_size**2 * width * heads.box_width + heads.box_width**2
    total += 5 * heads.box_width * classes if body.neck != "c4" else 5 * width * classes
    if heads.mask == "fcn" and body.neck != "c4":
        sides = (width, *heads.mask_channels)
        total += sum(BLOCK + 9 * a * b for a, b in zip(sides, sides[1:])) + 4 * sides[-1] * heads.mask_width
    if heads.mask == "mlp":
        total += heads.mask_width * (2 * roi.mask_size) ** 2 * (1 if heads.class_agnostic_masks else classes)
        total += roi.mask_size**2 * width * heads.mask_width
    if heads.keypoints:
        sides = (width, *heads.keypoint_channels)
        total += sum(BLOCK + 9 * a * b for a, b in zip(sides, sides[1:])) + 16 * sides[-1] * heads.keypoints
    return total
