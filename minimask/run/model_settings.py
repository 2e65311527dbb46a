"""The settings of the model, in one group per stage: what each means, what it may be, and its default.

Defaults are those of ResNet-50 with a feature pyramid, as in torchvision. presets.py changes them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from minimask.backbone import RESNETS
from minimask.conventions import CONVENTIONS
from minimask.errors import InputError
from minimask.image import IMAGENET_MEAN, IMAGENET_STD
from minimask.run.settings import Settings, setting


@dataclass(frozen=True, repr=False)
class BodySettings(Settings):
    """The body: a residual network (backbone.py)."""

    owner = "backbone."
    name: str = setting("resnet50", "the body", choices=tuple(RESNETS))
    norm: str = setting("frozen", "its normalization", choices=("batch", "frozen", "group"))
    stem: str = setting("large", "how the image is reduced before stage 1", choices=("large", "small", "fine"))
    channels: tuple[int, ...] = setting((64, 128, 256, 512), "channels of the four stages", least=1)
    layers: tuple[int, ...] | None = setting(None, "blocks in the four stages (none: those of the name)", least=1)
    groups: int | None = setting(None, "groups of a 3x3 convolution (none: those of the name)", least=1)
    group_width: int | None = setting(None, "channels of a group in stage 1 (none: those of the name)", least=1)
    norm_eps: float = setting(1e-5, "added to the variances before normalizing", least=0)

    def body(self):
        """Those settings that are arguments of `backbone.resnet`, as a dict."""
        names = ("name", "norm", "stem", "channels", "layers", "groups", "group_width", "norm_eps")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, repr=False)
class BackboneSettings(BodySettings):
    """The body (backbone.py) and the neck that makes feature maps of it (fpn.py)."""

    neck: str = setting(
        "fpn", "maps for RPN and heads: a pyramid, C4 (stage 5 is a head then) or a dilated C5", ("fpn", "c4", "c5")
    )
    fpn_channels: int = setting(256, "channels of the pyramid's maps", least=1)
    fpn_pool: bool = setting(True, "one more, coarser level: every second pixel of the last one")


@dataclass(frozen=True, repr=False)
class RPNSettings(Settings):
    """Anchors, how the RPN is trained on them, and how many proposals it makes (anchors.py, rpn.py)."""

    owner = "rpn."
    first_level: int = setting(0, "pyramid levels that the RPN leaves to the RoIs, counted from the finest", least=0)
    anchor_sizes: tuple[tuple[float, ...], ...] = setting(
        ((32,), (64,), (128,), (256,), (512,)), "sides in pixels: for each level a list", above=0
    )
    anchor_ratios: tuple[float, ...] | tuple[tuple[float, ...], ...] = setting(
        (0.5, 1.0, 2.0), "height divided by width, for all levels or for each", above=0
    )
    samples: int = setting(256, "anchors per image in the loss", least=1)
    positive_fraction: float = setting(0.5, "how many of them may be positive", least=0, most=1)
    low: float = setting(0.3, "an anchor is background below this IoU", least=0, most=1)
    high: float = setting(0.7, "an anchor is an object from this IoU on", least=0, most=1)
    pre_nms: tuple[int, int] = setting((2000, 1000), "proposals per level before NMS: training, inference", least=1)
    post_nms: tuple[int, int] = setting((2000, 1000), "proposals per image after NMS: training, inference", least=1)
    nms_threshold: float = setting(0.7, "IoU above which the weaker of two proposals goes", least=0, most=1)
    smallest_side: float = setting(1e-3, "narrower proposals are dropped; in pixels", least=0)


@dataclass(frozen=True, repr=False)
class RoISettings(Settings):
    """Which boxes the heads learn from, and how their features are pooled (targets.py, roi_align.py)."""

    owner = "roi."
    samples: int = setting(512, "RoIs per image in the losses of the heads", least=1)
    positive_fraction: float = setting(0.25, "how many of them may be positive", least=0, most=1)
    iou: float = setting(0.5, "a RoI is positive from this IoU with an object on", least=0, most=1)
    canonical_size: float = setting(224, "a RoI of this side is pooled from the level of stride 16", above=0)
    pooling: str | Callable = setting("roi_align", "the method", choices=("roi_align", "roi_pool", "roi_warp"))
    sampling_ratio: int = setting(2, "RoIAlign takes this squared samples per bin; 0: about one per cell", least=0)
    box_size: int = setting(7, "side of the features that the box head reads", least=1)
    mask_size: int = setting(14, "side of the features that the mask head reads; masks are twice as large", least=1)
    keypoint_size: int = setting(14, "side of the features that the keypoint head reads", least=1)


@dataclass(frozen=True, repr=False)
class HeadSettings(Settings):
    """Widths and branches of the heads (box_head.py, mask_head.py, keypoint_head.py)."""

    owner = "heads."
    box_width: int = setting(1024, "units in each of the box head's two layers", least=1)
    mask: str | None = setting("fcn", "the mask head; none: boxes alone", choices=("fcn", "mlp"))
    mask_channels: tuple[int, ...] = setting((256, 256, 256, 256), "of its convolutions", least=1)
    mask_width: int = setting(256, "channels (or units) of its last hidden layer", least=1)
    mask_loss: str = setting("sigmoid", "masks independent per class, or competing", choices=("sigmoid", "softmax"))
    class_agnostic_masks: bool = setting(False, "one mask per RoI instead of one per class")
    keypoints: int = setting(0, "points per object; 0: no keypoint head", least=0)
    keypoint_channels: tuple[int, ...] = setting((512,) * 8, "of the keypoint head's convolutions", least=1)


@dataclass(frozen=True, repr=False)
class DetectionSettings(Settings):
    """Which of the boxes that the box head predicts are detections (box_head.detect)."""

    owner = "detection."
    score_threshold: float = setting(0.05, "boxes of at most this score are dropped", least=0, most=1)
    nms_threshold: float = setting(0.5, "IoU above which the weaker of two boxes of a class goes", least=0, most=1)
    max_detections: int = setting(100, "detections per image", least=1)
    smallest_side: float = setting(1e-2, "narrower boxes are dropped; in pixels", least=0)


@dataclass(frozen=True, repr=False)
class TransformSettings(Settings):
    """How an image is resized and normalized (image.ImageTransform)."""

    owner = "transform."
    min_size: int = setting(800, "the short side becomes this many pixels ...", least=1)
    max_size: int = setting(1333, "... unless the long side would become longer than this", least=1)
    mean: tuple[float, float, float] = setting(IMAGENET_MEAN, "subtracted from red, green and blue in 0..1")
    std: tuple[float, float, float] = setting(IMAGENET_STD, "then they are divided by this", above=0)


@dataclass(frozen=True, repr=False)
class ConventionSettings(Settings):
    """Half pixels and the like, in which implementations differ (conventions.py). none: what `name` does."""

    owner = "conventions."
    name: str = setting("torchvision", "whose conventions", choices=tuple(CONVENTIONS))
    aligned: bool | None = setting(None, "half pixels count in RoIAlign and mask targets")
    stride_in_1x1: bool | None = setting(None, "a bottleneck's stride is in its first 1x1 convolution")
    anchor_rounding: str | None = setting(None, "how anchors are rounded", choices=("none", "pixels", "cells"))
    binary_mask_targets: bool | None = setting(None, "mask targets are 0 or 1, not shares of a cell")
    whole_pixels: bool | None = setting(None, "masks are pasted at whole pixels")


GROUPS = {
    "backbone": BackboneSettings,
    "rpn": RPNSettings,
    "roi": RoISettings,
    "heads": HeadSettings,
    "detection": DetectionSettings,
    "transform": TransformSettings,
    "conventions": ConventionSettings,
}


# ------------------------------------------------------------------------------------------------- what goes together

STAGES = 4  # of a ResNet
NORM_GROUPS = 8  # of group norm


def check_together(groups):
    """Raises InputError for settings that are each allowed, but not together.

    groups: name -> object of its class: all of them, or those of a system with region proposals.
    """
    _check_body(groups["backbone"])
    _check_anchors(groups["rpn"], groups["backbone"])
    heads = groups.get("heads")
    if heads and heads.keypoints and not heads.keypoint_channels:
        raise InputError("heads.keypoint_channels must not be empty in a model that finds keypoints")
    if groups["rpn"].low > groups["rpn"].high:
        raise InputError(f"rpn.low must not exceed rpn.high, got {groups['rpn'].low} and {groups['rpn'].high}")


def _check_body(backbone):
    for name in ("channels", "layers"):
        value = getattr(backbone, name)
        if value is not None and len(value) != STAGES:
            raise InputError(f"backbone.{name} must be {STAGES} integers, one for each stage, got {list(value)}")
    block, _, groups, group_width = RESNETS[backbone.name]
    groups, group_width = backbone.groups or groups, backbone.group_width or group_width
    if block == "basic" and (groups, group_width) != (1, 64):
        raise InputError(
            f"backbone.groups and backbone.group_width are not for {backbone.name}, which has basic blocks"
        )
    for channels in backbone.channels:
        width = channels if block == "basic" else channels * group_width // 64 * groups
        if width == 0 or width % groups:
            raise InputError(
                f"backbone.channels {list(backbone.channels)} do not go with groups {groups} and group_width "
                f"{group_width}: {channels} * {group_width} / 64 must be at least 1"
            )
        if backbone.norm == "group" and any(side % min(NORM_GROUPS, side) for side in (channels, width)):
            raise InputError(
                f"backbone.norm group needs channels that are multiples of {NORM_GROUPS}, got {list(backbone.channels)}"
            )


def _check_anchors(rpn, backbone):
    levels = 1 if backbone.neck != "fpn" else max(0, STAGES + backbone.fpn_pool - rpn.first_level)
    if levels == 0:
        raise InputError(
            f"rpn.first_level must leave a level to the RPN, got {rpn.first_level} of {STAGES} or 5 levels"
        )
    sizes, ratios = rpn.anchor_sizes, rpn.anchor_ratios
    if len(sizes) != levels:
        raise InputError(
            f"rpn.anchor_sizes must be {levels} list{'s' * (levels > 1)}, one for each level that the RPN reads "
            f"(backbone.neck {backbone.neck}, fpn_pool {str(backbone.fpn_pool).lower()}, "
            f"rpn.first_level {rpn.first_level}), got {len(sizes)}: {_lists(sizes)}"
        )
    if not ratios or not isinstance(ratios[0], tuple):
        ratios = (ratios,) * levels
    if len(ratios) != levels:
        raise InputError(
            f"rpn.anchor_ratios must be one list for all levels, or {levels} lists, got {len(ratios)}: {_lists(ratios)}"
        )
    counts = {len(size) * len(ratio) for size, ratio in zip(sizes, ratios)}
    if len(counts) > 1 or 0 in counts:
        raise InputError(
            "rpn.anchor_sizes and rpn.anchor_ratios must make the same number of anchors on each level, at least one, "
            f"got sizes {_lists(sizes)} and ratios {_lists(rpn.anchor_ratios)}"
        )


def _lists(value):
    """Tuples as they are written for --set: "[[14,20],[28,40]]"."""
    if isinstance(value, tuple):
        return f"[{','.join(_lists(v) for v in value)}]"
    return f"{value:g}"
