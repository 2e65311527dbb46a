"""Boxes as Tensors, for a loss that depends on where a predicted box lies: Dai et al. 2016 (MNC), section 4.

Elsewhere a predicted box is a constant for what follows: RoIAlign reads inside it, and no gradient flows to whoever
predicted it. RoIAlign does return a gradient of the box's coordinates. The way from there to the RPN is here.
"""

import math

from minimask import boxes as box_ops
from minimask import functional as F
from minimask.device import array_module
from minimask.roi_align import roi_align
from minimask.roi_pool import round_boxes
from minimask.targets import take
from minimask.tensor import Function, Tensor


def move(deltas, boxes, weights=(1.0, 1.0, 1.0, 1.0)):
    """boxes.decode for Tensors: boxes (..., 4) moved and stretched by deltas (..., 4), both with a gradient."""
    wx, _, ww, _ = weights  # x and y, and width and height, have the same weights
    size = boxes[..., 2:] - boxes[..., :2]
    center = (boxes[..., 2:] + boxes[..., :2]) * 0.5 + deltas[..., :2] * size * (1 / wx)
    half = F.exp(F.clip(deltas[..., 2:] * (1 / ww), -math.inf, box_ops.LARGEST_LOG_SCALE)) * size * 0.5
    return F.concatenate([center - half, center + half], axis=boxes.ndim - 1)


def moved_anchors(deltas, anchors, origin, rois, sizes, share=1.0):
    """The boxes of the RoIs as a Tensor (N, S, 4), through which a gradient flows to the deltas of their anchors.

    deltas: Tensor (N, A, 4) of the RPN. anchors: list of (A_level, 4).
    origin: (N, R) int, the anchor of each proposal.
    rois: RoIs that were sampled from the R proposals, followed by the true boxes, which have no gradient.
    sizes: (N, 2) height and width of each image; no gradient flows to a coordinate that was clipped.
    share: what the gradient is multiplied by.
    """
    xp = array_module(rois.boxes)
    count = origin.shape[1]
    proposed = (rois.index < count)[..., None]
    which = take(origin, xp.minimum(rois.index, count - 1))  # (N, S)
    images = xp.arange(len(which))[:, None]
    moved = move(deltas[images, which], Tensor(xp.concatenate(anchors)[which].astype(deltas.dtype)))
    free = box_ops.clip(moved.data, sizes) == moved.data
    return Follow(rois.boxes, (proposed & free) * deltas.dtype.type(share))(moved)


def warp(features, boxes, image_index, scale, size, rounding=True):
    """RoIWarp, through which a gradient flows to the boxes, a Tensor (R, 4): (R, size, size, C).

    Four samples per bin, of which the largest counts. features: Tensor (N, H, W, C). scale: cells per pixel.
    rounding: round boxes to whole cells; the gradient takes that for the identity.
    """
    levels = array_module(boxes.data).zeros(len(boxes), int)
    if rounding:
        boxes = Follow(round_boxes(boxes.data, levels, [scale]))(boxes)
    return roi_align([features], boxes, image_index, levels, [scale], size, 2, aligned=True, pooling="max")


def best_boxes(boxes, deltas, logits, sizes, weights, share=1.0):
    """The boxes moved by the deltas of their likeliest class, the background aside, and clipped: a Tensor (N, R, 4).

    boxes: Tensor (N, R, 4). deltas: Tensor (N R, 4 C). logits: (N R, C) array. sizes, weights: as in boxes.predicted.
    share: what the gradient is multiplied by.
    """
    xp = array_module(logits)
    best = logits[:, 1:].argmax(1) + 1
    own = deltas[xp.arange(len(best))[:, None], best[:, None] * 4 + xp.arange(4)]  # (N R, 4)
    moved = move(own.reshape(*boxes.shape), boxes, weights)
    clipped = box_ops.clip(moved.data, sizes)
    moves = (clipped == moved.data) * moved.dtype.type(share)
    return Follow(clipped, moves)(moved) if share else Tensor(clipped)


class Follow(Function):
    """y = value;  gx = gy moves: a value that moves with x (1) or does not (0), after rounding or clipping, say."""

    def __init__(self, value, moves=1):
        self.value, self.moves = value, moves

    def forward(self, x):
        return self.value

    def backward(self, gy):
        return (gy * self.moves,)
