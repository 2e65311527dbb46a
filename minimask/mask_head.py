"""The mask branch: its network, what it should predict, and its masks pasted back into the image.

He et al. 2017, sections 3 and 3.1, figure 4; slides L18 to L25, T11, T12. In parallel with the box branch, a small
fully convolutional network predicts an M x M mask (28 x 28) per class, and the class branch chooses one of them (L20).
"""

import math

import numpy as np

from minimask import nn
from minimask.device import accelerated, array_module, to_cpu
from minimask.errors import check_shape
from minimask.functional import sigmoid_array, softmax_array
from minimask.image import bilinear, resize_boxes, resize_keypoints
from minimask.losses import check_mask_logits, own_channel
from minimask.roi_align import roi_align_forward
from minimask.structures import Prediction
from minimask.tensor import Tensor

# ------------------------------------------------------------------------------------------------------------- network


class FCNMaskHead(nn.Sequential):
    """3x3 convolutions with ReLU keep the grid: (R, 14, 14, in_channels) -> (R, 14, 14, channels[-1]); L19, L21."""

    def __init__(self, in_channels, channels=(256, 256, 256, 256)):
        layers = []
        for out_channels in channels:
            layers.append(nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, relu=True)))
            in_channels = out_channels
        super().__init__(*layers)


class MaskPredictor(nn.Module):
    """Twice the side, then a logit per class: (R, 14, 14, in_channels) -> (R, 28, 28, num_classes); slides L23, L25.

    A transposed 2x2 convolution of stride 2 with ReLU, then a 1x1 convolution. num_classes counts the background, whose
    channel is never used; it is 1 for class-agnostic masks.
    """

    def __init__(self, in_channels, channels, num_classes):
        self.conv5_mask = nn.ConvTranspose2d(in_channels, channels, 2, stride=2, relu=True)
        self.mask_fcn_logits = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x, labels=None):
        """The logits of all classes, a Tensor (R, 28, 28, num_classes).

        labels: (R,) int, for inference: compute the masks of these classes alone, (R, 28, 28, 1). Only one class of 80
        is needed per box, and the 1x1 convolution for all of them is most of the work of this layer.
        """
        x = self.conv5_mask(x)
        if labels is None:
            return self.mask_fcn_logits(x)
        r, h, w, channels = x.shape
        weight = self.mask_fcn_logits.weight.data[0, 0].T[labels]  # (R, channels)
        logits = array_module(x.data).matmul(x.data.reshape(r, h * w, channels), weight[:, :, None])  # (R, h * w, 1)
        logits += self.mask_fcn_logits.bias.data[labels][:, None, None]
        return Tensor(logits.reshape(r, h, w, 1))


class MLPMaskHead(nn.Module):
    """Masks from fully connected layers, which lose the layout: the contrast of slide L19; He et al. 2017, table 2e.

    (R, h, w, c) with h * w * c = in_features -> two layers of `width` -> logits (R, size, size, num_classes).
    """

    def __init__(self, in_features, width, num_classes, size=28):
        self.fc1 = nn.Linear(in_features, width, relu=True)
        self.fc2 = nn.Linear(width, width, relu=True)
        self.logits = nn.Linear(width, size * size * num_classes)
        self.size = size

    def forward(self, x):
        x = x.reshape(x.shape[0], int(np.prod(x.shape[1:])))  # (R, h * w * c)
        x = self.logits(self.fc2(self.fc1(x)))
        return x.reshape(x.shape[0], self.size, self.size, x.shape[1] // self.size**2)


def mask_probabilities(logits, labels, kind="sigmoid"):
    """The mask of each box's class: raw logits (R, M, M, C), labels (R,) -> probabilities (R, M, M).

    kind: "sigmoid" looks at the class's own channel; with "softmax" the classes compete at each pixel. If C is 1
    (class-agnostic masks, or a predictor that was given the labels), the only channel is taken, whatever the label.
    """
    check_mask_logits("mask_probabilities", logits, labels, kind)
    if kind == "softmax":
        return own_channel(softmax_array(logits), labels)
    return sigmoid_array(own_channel(logits, labels))


# ------------------------------------------------------------------------------------------------------------- targets


def _check_targets(masks, boxes, matches, size=28, aligned=False, binary=False):
    check_shape("mask_targets", "masks", masks, ("N", "G", "H", "W"))
    check_shape("mask_targets", "boxes", boxes, (len(masks), "S", 4))
    check_shape("mask_targets", "matches", matches, boxes.shape[:2])
    if not masks.shape[1]:
        raise ValueError(f"mask_targets: masks must have room for at least one object, got shape {masks.shape}")


@accelerated("paste_mask", check=_check_targets)
def mask_targets(masks, boxes, matches, size=28, aligned=False, binary=False):
    """What the mask branch should predict in each box: the mask of its object, cropped and averaged to size x size.

    masks: (N, G, H, W) uint8, 0 or 1.
    boxes: (N, S, 4) float, pixels of the masks.
    matches: (N, S) int, the object of each box.
    aligned: as in `roi_align`. Without it, as in torchvision, the mask is off by half a pixel: 1/32 of an object of 16
        pixels, and too little to notice in a large one.
    binary: round the targets to 0 or 1, with 0.5 becoming 1 (Detectron2).

    A mask is a feature map of one channel, read by RoIAlign with about one sample per pixel.
    Returns (N, S, size, size) float32 from 0 to 1. Raises ValueError if the shapes do not fit together.
    """
    xp = array_module(boxes)
    n, g, h, w = masks.shape
    maps = masks.reshape(n * g, h, w, 1).astype(np.float32)
    which = (xp.clip(matches, 0, g - 1) + xp.arange(n)[:, None] * g).reshape(-1)  # (N * S,)
    level = xp.zeros(which.shape, int)

    targets, _ = roi_align_forward.plain(
        [maps], boxes.reshape(-1, 4), which, level, [1.0], size, sampling_ratio=0, aligned=aligned
    )
    targets = targets.reshape(*boxes.shape[:2], size, size)
    return (targets >= 0.5).astype(np.float32) if binary else targets


# ------------------------------------------------------------------------------------------------------ into the image


def _check_paste(masks, boxes, height, width, threshold=0.5, whole_pixels=True):
    check_shape("paste_masks", "masks", masks, ("D", "M", "M"))
    check_shape("paste_masks", "boxes", boxes, (len(masks), 4))


@accelerated("paste_mask", check=_check_paste)
def paste_masks(masks, boxes, height, width, threshold=0.5, whole_pixels=True):
    """Masks stretched over their boxes in an image: slide T12, from 28 x 28 to the final mask.

    masks: (D, M, M) float, probabilities.
    boxes: (D, 4) float, pixels of the image, which is height x width.
    threshold: a pixel belongs to the object if its interpolated value is at least this; None returns the values.
    whole_pixels: first cut the corners of the box to whole pixels, as torchvision does; otherwise the mask lies exactly
        where the box lies. Worked number: a box from 10.9 to 26.9 then begins at pixel 10 instead of 10.9.

    Each axis has a matrix of bilinear weights: y = A m B^T. Around the mask lies a border of zeros, one cell wide.
    Returns (D, height, width) bool, or float32 if threshold is None. Raises ValueError if the shapes do not fit.
    """
    xp = array_module(masks)
    masks, edges = with_border(masks, boxes, whole_pixels)
    out = xp.zeros((len(masks), height, width), np.float32)
    for mask, picture, (x1, y1, x2, y2) in zip(masks, out, edges.tolist()):
        rows, down = stretch(mask.shape[0], y1, y2, height, xp)
        columns, across = stretch(mask.shape[1], x1, x2, width, xp)
        picture[rows, columns] = down @ mask @ across.T
    return out if threshold is None else out >= threshold


def stretch(cells, start, end, limit, xp=np):
    """`cells` values stretched from `start` to `end`: the pixels (a slice of 0 .. limit), and weights (P, cells)."""
    first = min(max(math.floor(start), 0), limit)
    last = min(max(math.ceil(end), first), limit) if end > start else first
    centers = xp.arange(first, last) + 0.5
    position = ((centers - start) * cells / max(end - start, 1e-9) - 0.5).clip(0, cells - 1)  # (P,)
    weights = (1 - abs(position[:, None] - xp.arange(cells))).clip(0, None)
    return slice(first, last), weights.astype(np.float32)


def with_border(masks, boxes, whole_pixels):
    """Masks (D, M, M) with a border of zeros, one cell wide, and the edges (D, 4) float64 of boxes grown as much."""
    xp = array_module(boxes)
    masks = xp.pad(masks.astype(np.float32, copy=False), ((0, 0), (1, 1), (1, 1)))  # (D, M + 2, M + 2)
    growth = masks.shape[1] / (masks.shape[1] - 2)
    boxes = xp.nan_to_num(boxes).clip(-(2**29), 2**29)
    center, half = (boxes[:, 2:] + boxes[:, :2]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5 * growth
    edges = xp.concatenate([center - half, center + half], axis=1).astype(np.float64)
    if whole_pixels:  # the first pixel, and the one after the last
        edges = xp.trunc(edges)
        edges[:, 2:] += 1
    return masks, edges


def restore(detections, batch, threshold=0.5):
    """What was found in the resized images of a batch, in pixels of the original ones.

    detections: the Detections of `batch`. threshold: as in `paste_masks`.
    Returns a list of N Predictions that hold the valid detections, with their masks pasted.
    """
    detections, sizes = detections.to("cpu"), to_cpu(batch.sizes).tolist()
    predictions = []
    for n, ((h, w), original) in enumerate(zip(sizes, batch.original_sizes.tolist())):
        valid = detections.valid[n]
        boxes = resize_boxes(detections.boxes[n, valid], (h, w), original)
        found = Prediction(boxes, detections.labels[n, valid], detections.scores[n, valid])
        if detections.whole_image:
            found.masks = bilinear(detections.masks[n, valid, :h, :w, None], original)[..., 0] >= threshold
        elif detections.masks is not None:
            found.soft_masks = detections.masks[n, valid]
            found.masks = paste_masks(found.soft_masks, found.boxes, *original, threshold, detections.whole_pixels)
        if detections.keypoints is not None:
            found.keypoints = resize_keypoints(detections.keypoints[n, valid], (h, w), original)
        predictions.append(found)
    return predictions
