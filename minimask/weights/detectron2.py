"""Detectron2's published models in torchvision's names and layout: Mask, Faster and Keypoint R-CNN; FPN, C4 and DC5.

    what                   Detectron2                            torchvision, and here
    ResNet                 stem.conv1, res2 .. res5, shortcut    conv1, layer1 .. layer4, downsample
    norm of a convolution  conv1.norm                            bn1, beside conv1
    colors                 blue, green, red from 0 to 255        red, green, blue from 0 to 1
    background             the last class score; no box          class 0 of scores, boxes and masks
                           deltas, no mask
    anchors per location   for each size, each ratio             for each ratio, each size (only C4 and DC5 have
                                                                 several sizes)

The order of the colors is reversed in the weights of the first convolution, so that images stay as they are. Where the
background has no channel, one of zeros is added, which nothing reads. What the weights do not show (RoIAlign with
adaptive sampling and half pixels, the stride in the 1x1 convolution, ...) is in the settings, taken from Detectron2's
configuration files.
"""

import re

import numpy as np

RATIOS = 3
MEAN = (103.53, 116.28, 123.675)  # blue, green, red: used in training if the file does not contain a mean
RESNEXT_STD = (57.375, 57.12, 58.395)

NAMES = [  # mask_fcn1 to 4 are also torchvision's older names
    (r"^backbone\.bottom_up\.", "backbone."),
    (r"^backbone\.stem\.", "backbone.body."),
    (r"^backbone\.res(\d)\.", lambda match: f"backbone.body.layer{int(match[1]) - 1}."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^backbone\.fpn_lateral(\d)\.", lambda match: f"backbone.fpn.inner_blocks.{int(match[1]) - 2}.0."),
    (r"^backbone\.fpn_output(\d)\.", lambda match: f"backbone.fpn.layer_blocks.{int(match[1]) - 2}.0."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"^roi_heads\.box_head\.fc1\.", "roi_heads.box_head.fc6."),
    (r"^roi_heads\.box_head\.fc2\.", "roi_heads.box_head.fc7."),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    (r"^roi_heads\.keypoint_head\.conv_fcn(\d)\.", lambda match: f"roi_heads.keypoint_head.{2 * int(match[1]) - 2}."),
    (r"^roi_heads\.keypoint_head\.score_lowres\.", "roi_heads.keypoint_predictor.kps_score_lowres."),
]


def is_detectron2(state):
    """Whether a state dict has Detectron2's names."""
    return any(name.startswith("proposal_generator.rpn_head.") for name in state)


def to_torchvision(state):
    """Convert a state dict of Detectron2.

    Returns a state dict in torchvision's names and layout, and the settings for mask_rcnn.build.
    """
    state = {name: array for name, array in state.items() if "anchor_generator.cell_anchors" not in name}
    mean = np.asarray(state.pop("pixel_mean", MEAN), np.float64).reshape(3)
    std = state.pop("pixel_std", None)
    state = {_rename(name): array for name, array in state.items()}
    _add_missing_statistics(state)
    if std is None:
        std = RESNEXT_STD if _is_resnext(state) else (1, 1, 1)
    std = np.asarray(std, np.float64).reshape(3)
    settings = _settings(state, std)
    if mean[0] < mean[2]:  # ImageNet is more red than blue: the file's order is blue, green, red
        mean, std = mean[::-1], std[::-1]
        _change(state, "backbone.body.conv1.weight", lambda weight: weight[:, ::-1])
    settings["transform"] = dict(mean=(mean / 255).tolist(), std=(std / 255).tolist())
    _order_anchors(state)
    _put_background_first(state)
    return state, settings


def _rename(name):
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _change(state, name, function):
    """Replace the array of this name, if there is one, by function(array)."""
    if name in state:
        state[name] = function(np.asarray(state[name]))


def _add_missing_statistics(state):
    """Add mean 0 and variance 1 to norms that have only a weight and a bias, as in old files."""
    for name, array in list(state.items()):
        if re.search(r"(\.bn\d|\.downsample\.1)\.weight$", name):
            start = name.removesuffix("weight")
            state.setdefault(f"{start}running_mean", np.zeros_like(array))
            state.setdefault(f"{start}running_var", np.ones_like(array))


def _is_resnext(state):
    """Whether the first 3x3 convolution has groups."""
    weight = state.get("backbone.body.layer1.0.conv2.weight")
    return weight is not None and weight.shape[0] != weight.shape[1]


def _settings(state, std):
    """What configs/Base-RCNN-FPN.yaml, -C4, -DilatedC5 and config/defaults.py say but the weights do not show."""
    fpn = "backbone.fpn.inner_blocks.0.0.weight" in state
    pre_nms, post_nms = ((2000, 1000), (1000, 1000)) if fpn else ((12000, 6000), (2000, 1000))
    # Microsoft's ResNets have the standard deviation in their weights, and the stride in the 1x1 convolution.
    conventions = dict(name="detectron2", stride_in_1x1=bool((std == 1).all()))
    return dict(conventions=conventions, roi=dict(sampling_ratio=0), rpn=dict(pre_nms=pre_nms, post_nms=post_nms))


def _order_anchors(state):
    """Reorder the RPN's output channels from (size, ratio) to (ratio, size)."""
    name = "rpn.head.cls_logits.weight"
    if name not in state or len(state[name]) % RATIOS:
        return
    count = len(state[name])
    order = np.arange(count).reshape(-1, RATIOS).T.reshape(-1)  # ours <- theirs
    for end in ("weight", "bias"):
        _change(state, f"rpn.head.cls_logits.{end}", lambda x: x[order])
        _change(state, f"rpn.head.bbox_pred.{end}", lambda x: x.reshape(count, 4, *x.shape[1:])[order].reshape(x.shape))


def _put_background_first(state):
    """Move the background from the last class score to the first; elsewhere add zeros for it in front."""
    scores = "roi_heads.box_predictor.cls_score.weight"
    objects = len(state[scores]) - 1 if scores in state else 0

    def add_background(x):
        per_class = {objects: 1, 4 * objects: 4}.get(len(x))
        return x if per_class is None else np.concatenate([np.zeros_like(x[:per_class]), x])

    for end in ("weight", "bias"):
        _change(state, f"roi_heads.box_predictor.cls_score.{end}", lambda x: np.roll(x, 1, axis=0))
        _change(state, f"roi_heads.box_predictor.bbox_pred.{end}", add_background)
        _change(state, f"roi_heads.mask_predictor.mask_fcn_logits.{end}", add_background)
