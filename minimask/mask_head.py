"""The mask branch: its network, what it is trained towards, its loss, and masks back in the picture.

He et al. 2017, sections 3 and 3.1, figure 4; slides L18 to L29, T11, T12. In parallel with the box branch, a small
fully convolutional network predicts an M x M mask (28 x 28) for each class; the class branch chooses one (L20).
"""

import math

import numpy as np

from minimask import functional as F
from minimask import nn
from minimask.device import array_module, kernels, to_cpu
from minimask.functional import sigmoid_array, softmax_array
from minimask.image import resize_boxes, resize_keypoints
from minimask.losses import has_kernel
from minimask.machine import distributed
from minimask.roi_align import roi_align_forward
from minimask.structures import Prediction
from minimask.tensor import Function, Tensor

KINDS = ("sigmoid", "softmax")

# ------------------------------------------------------------------------------------------------------------- network


class FCNMaskHead(nn.Sequential):
    """3x3 convolutions that keep the grid: (R, 14, 14, in_channels) -> (R, 14, 14, channels[-1]); slides L19, L21.

    norm: None, or a function channels -> layer (nn.GroupNorm) that stands in place of the convolutions' biases.
    """

    def __init__(self, in_channels, channels=(256, 256, 256, 256), norm=None):
        layers = []
        for out_channels in channels:
            plain = norm is None
            layer = [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=plain, relu=plain)]
            if not plain:
                layer += [norm(out_channels), ReLU()]
            layers.append(nn.Sequential(*layer))
            in_channels = out_channels
        super().__init__(*layers)


class ReLU(nn.Module):
    """max(x, 0) as a layer."""

    def forward(self, x):
        return F.relu(x)


class MaskPredictor(nn.Module):
    """Twice the side, then a logit for each class: (R, 14, 14, in_channels) -> (R, 28, 28, num_classes); L23, L25.

    A transposed convolution 2x2 of stride 2 with ReLU, then a 1x1 convolution. num_classes counts the background,
    whose channel is never used, or is 1 for class-agnostic masks.
    """

    def __init__(self, in_channels, channels, num_classes):
        self.conv5_mask = nn.ConvTranspose2d(in_channels, channels, 2, stride=2, relu=True)
        self.mask_fcn_logits = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x, labels=None):
        """Logits of all classes; or, for inference, of the class labels (R,) of each box alone: (R, 28, 28, 1).

        One class in 80 is wanted of each box, and the 1x1 convolution for all of them is most of this layer's work.
        """
        x = self.conv5_mask(x)
        if labels is None:
            return self.mask_fcn_logits(x)
        xp = array_module(x.data)
        r, h, w, channels = x.shape
        weight = self.mask_fcn_logits.weight.data[0, 0].T[labels]  # (R, channels)
        logits = xp.matmul(x.data.reshape(r, h * w, channels), weight[:, :, None])  # (R, h * w, 1)
        logits += self.mask_fcn_logits.bias.data[labels][:, None, None]
        return Tensor(logits.reshape(r, h, w, 1))


class MLPMaskHead(nn.Module):
    """Masks from fully connected layers, which lose the layout: slide L19's contrast, He et al. 2017, table 2e.

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

    kind: "sigmoid" looks at the class's own channel; "softmax" makes the classes compete at each pixel. With C = 1
    (class-agnostic masks, or the predictor given the labels) the only channel is taken, whatever the label.
    """
    _check_logits("mask_probabilities", logits, labels, kind)
    if kind == "softmax":
        return _channel(softmax_array(logits), labels)
    return sigmoid_array(_channel(logits, labels))


# ------------------------------------------------------------------------------------------------------------- targets


def mask_targets(masks, boxes, matches, size=28, aligned=False, binary=False):
    """What the mask branch should predict in each box: its object's mask, cropped and averaged to size x size.

    masks: (N, G, H, W) uint8 0 or 1; boxes: (N, S, 4) float, pixels of the masks; matches: (N, S) int, the object of
    each box; aligned: as in RoIAlign; binary: whether targets are 1 from 0.5 on, else 0 (Detectron2). -> (N, S, size,
    size) float32 from 0 to 1: RoIAlign of the mask with about a sample a pixel. Not aligned, as in torchvision, the
    mask lies half a pixel off: of an object of 16 pixels a thirty-second part, which no large object shows.
    """
    xp = array_module(boxes)
    if masks.ndim != 4 or boxes.ndim != 3 or boxes.shape[2] != 4 or len(masks) != len(boxes) or not masks.shape[1]:
        raise ValueError(
            "mask_targets: masks must be (N, G, H, W) with G >= 1 and boxes (N, S, 4), "
            f"got {masks.shape} and {boxes.shape}"
        )
    if matches.shape != boxes.shape[:2]:
        raise ValueError(f"mask_targets: matches must be {boxes.shape[:2]} like the boxes, got shape {matches.shape}")
    matches = xp.clip(matches, 0, masks.shape[1] - 1)
    masks = xp.ascontiguousarray(masks, np.uint8)
    boxes = xp.ascontiguousarray(boxes, np.float32)
    matches = xp.ascontiguousarray(matches, np.int64)
    targets = xp.empty((*matches.shape, size, size), np.float32)
    kernels("paste_mask", boxes).crop_masks(masks, boxes, matches, aligned, targets)
    return (targets >= 0.5).astype(np.float32) if binary else targets


def mask_targets_specification(masks, boxes, matches, size=28, aligned=False, binary=False):
    """`mask_targets` as what it is: each object's mask is a feature map of one channel, read by RoIAlign."""
    xp = array_module(boxes)
    n, g, h, w = masks.shape
    maps = masks.reshape(n * g, h, w, 1).astype(np.float32)
    which = (matches + xp.arange(n)[:, None] * g).reshape(-1)  # (N * S,)
    targets, _ = roi_align_forward.plain(
        [maps], boxes.reshape(-1, 4), which, 0 * which, [1.0], size, sampling_ratio=0, aligned=aligned
    )
    targets = (targets >= 0.5).astype(np.float32) if binary else targets
    return targets.reshape(*boxes.shape[:2], size, size)


# ---------------------------------------------------------------------------------------------------------------- loss


def mask_loss(logits, labels, targets, valid, kind="sigmoid"):
    """How far the masks are from the truth, averaged over pixels and boxes (slides L27 to L29): -> Tensor ().

    logits: Tensor (R, M, M, C); labels: (R,) int, the true class of each box, whose channel alone is looked at (C = 1:
    the only one); targets: (R, M, M) float, 0 to 1; valid: (R,) bool, boxes that count. Without any, 0.
    kind: "sigmoid" is binary cross-entropy of the class's own mask; "softmax" makes the classes compete at each
    pixel, with background (class 0) where the mask is 0 (He et al. 2017, table 2b).
    """
    _check_logits("mask_loss", logits.data, labels, kind)
    if targets.shape != logits.shape[:3] or valid.shape != logits.shape[:1]:
        raise ValueError(
            f"mask_loss: for logits {logits.shape}, targets must be {logits.shape[:3]} and valid {logits.shape[:1]}, "
            f"got {targets.shape} and {valid.shape}"
        )
    loss = SigmoidMaskLoss if kind == "sigmoid" else SoftmaxMaskLoss
    return loss(labels, targets, valid)(logits)


def mask_loss_specification(logits, labels, targets, valid):
    """The lecture's formula (L28) on raw arrays: L = -1/N sum (t log p + (1 - t) log(1 - p)), N = M * M.

    p: the predicted, t: the true value at each point of a box's map. Averaged over the valid boxes.
    """
    xp = array_module(logits)
    losses = [
        -xp.mean(t * xp.log(p) + (1 - t) * xp.log(1 - p))
        for p, t in zip(mask_probabilities(logits, labels)[valid], targets[valid])
    ]
    return sum(losses) / max(len(losses), 1)


class SigmoidMaskLoss(Function):
    """y = sum (max(z, 0) - z t + log(1 + e^-|z|)) / n;  gz = (sigmoid(z) - t) gy / n;  n = M * M * valid boxes.

    z is the logit of the box's own class; y equals -(t log p + (1 - t) log(1 - p)) with p = sigmoid(z), without the
    logarithm of a rounded 0. The gradient is computed on the way, for both need e^-|z|.
    """

    def __init__(self, labels, targets, valid):
        self.labels, self.targets, self.valid = labels, targets, valid

    def forward(self, logits):
        xp = array_module(logits)
        self.channels, self.has_kernel = logits.shape[3], has_kernel(logits)
        if self.has_kernel:
            n = _count(self.valid, logits[..., 0])
            y, self.gz = kernels("losses", logits).sigmoid_mask_loss(logits, self.labels, self.targets, self.valid, n)
            return y
        z, t, valid = _channel(logits, self.labels), self.targets.astype(logits.dtype), self.valid[:, None, None]
        n = _count(self.valid, z)
        e = xp.exp(-abs(z))
        loss = xp.maximum(z, 0) - z * t + xp.log1p(e)
        if self.needs[0]:
            self.gz = xp.where(valid, sigmoid_array(z) - t, 0) / n
        return xp.asarray(xp.where(valid, loss, 0).sum() / n)

    def backward(self, gy):
        if self.has_kernel:
            return (kernels("losses", gy).sigmoid_mask_gradient(self.gz, self.labels, gy, self.channels),)
        gx = array_module(gy).zeros((*self.gz.shape, self.channels), self.gz.dtype)
        gx[_channel_index(self.labels, self.channels)] = self.gz * gy
        return (gx,)


class SoftmaxMaskLoss(Function):
    """y = -sum (t log p_label + (1 - t) log p_0) / n, p = softmax(z) over the classes;  gz = (p - q) gy / n.

    q is the wanted distribution at a pixel: t for the box's class, 1 - t for the background, 0 for the others.
    """

    def __init__(self, labels, targets, valid):
        self.labels, self.targets, self.valid = labels, targets, valid

    def forward(self, z):
        xp = array_module(z)
        if has_kernel(z):
            n = _count(self.valid, z[..., 0])
            y, self.gz = kernels("losses", z).softmax_mask_loss(z, self.labels, self.targets, self.valid, n)
            return y
        t = self.targets.astype(z.dtype)[..., None]
        q = _one_hot(self.labels, z.shape[3]) * t
        q[..., :1] += 1 - t
        n = _count(self.valid, z[..., 0])
        valid = self.valid[:, None, None, None]
        z = z - z.max(axis=3, keepdims=True)
        log_p = z - xp.log(xp.exp(z).sum(axis=3, keepdims=True))
        if self.needs[0]:
            self.gz = xp.where(valid, xp.exp(log_p) - q, 0) / n
        return xp.asarray(-xp.where(valid, q * log_p, 0).sum() / n)

    def backward(self, gy):
        return (self.gz * gy,)


def _count(valid, z):
    """The number of pixels (R, M, M) of valid boxes (of all workers), at least 1, as a number of z's dtype."""
    return array_module(z).maximum(distributed.total(valid.sum()) * z[:1].size, 1).astype(z.dtype)


def _places(labels, channels):
    """labels (R,) -> (R,) indices into the last axis; the only channel if there is one."""
    xp = array_module(labels)
    return xp.clip(labels, 0, channels - 1).astype(xp.int64)


def _one_hot(labels, channels):
    """(R, 1, 1, C) bool: True at each box's channel."""
    return _places(labels, channels)[:, None, None, None] == array_module(labels).arange(channels)


def _channel_index(labels, channels):
    """The index that takes from (R, M, M, C) the channel of each box's label: (R, M, M)."""
    return array_module(labels).arange(len(labels)), slice(None), slice(None), _places(labels, channels)


def _channel(x, labels):
    """Of x (R, M, M, C) the channel of each box's label: (R, M, M)."""
    return x[_channel_index(labels, x.shape[3])]


def _check_logits(who, logits, labels, kind):
    if kind not in KINDS:
        raise ValueError(f"{who}: kind must be one of {KINDS}, got {kind!r}")
    if logits.ndim != 4 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"{who}: logits must be (R, M, M, C) and labels (R,), got shapes {logits.shape} and {labels.shape}"
        )


# ----------------------------------------------------------------------------------------------------- into the picture


def restore(detections, batch, threshold=0.5):
    """From the resized images of a batch back to the original ones.

    detections: Detections of `batch`.
    threshold: the probability from which a pixel belongs to the object.
    Returns a list of N Predictions in pixels of the original images, valid detections only, with pasted masks.
    """
    detections, sizes = detections.to("cpu"), to_cpu(batch.sizes).tolist()
    predictions = []
    for n, (size, original) in enumerate(zip(sizes, batch.original_sizes.tolist())):
        valid = detections.valid[n]
        found = Prediction(
            boxes=resize_boxes(detections.boxes[n, valid], size, original),
            labels=detections.labels[n, valid],
            scores=detections.scores[n, valid],
        )
        if detections.masks is not None:
            found.soft_masks = detections.masks[n, valid]
            found.masks = paste_masks(found.soft_masks, found.boxes, *original, threshold, detections.whole_pixels)
        if detections.keypoints is not None:
            found.keypoints = resize_keypoints(detections.keypoints[n, valid], size, original)
        predictions.append(found)
    return predictions


def paste_masks(masks, boxes, height, width, threshold=0.5, whole_pixels=True):
    """Masks stretched over their boxes, in a picture: slide T12, from 28 x 28 to the final mask.

    masks: (D, M, M) float, 0 to 1; boxes: (D, 4) float, pixels of the picture, which is height x width. -> (D, height,
    width) bool, where the interpolated mask is at least `threshold`; float32 probabilities if threshold is None.
    A mask gets a border of zeros one cell wide, and the box grows along; pixel centers are interpolated between cell
    centers. whole_pixels: first the box's corners are cut to whole pixels, as in torchvision; else the mask lies where
    the box lies. Worked number: a box from 10.9 to 26.9 begins at pixel 10 in the one case, in the other at 10.9.
    """
    xp = array_module(masks)
    _check_paste(masks, boxes)
    masks = xp.pad(masks.astype(np.float32, copy=False), ((0, 0), (1, 1), (1, 1)))  # (D, M + 2, M + 2)
    out = xp.zeros((len(masks), height, width), np.float32 if threshold is None else bool)
    threshold = None if threshold is None else float(threshold)
    edges = xp.ascontiguousarray(_edges(boxes, masks.shape[1], whole_pixels))
    kernels("paste_mask", masks).paste_masks(masks, edges, threshold, out)
    return out


def paste_masks_specification(masks, boxes, height, width, threshold=0.5, whole_pixels=True):
    """`paste_masks` mask by mask: y = A m B^T with a matrix of interpolation weights for each axis."""
    xp = array_module(masks)
    _check_paste(masks, boxes)
    masks = xp.pad(masks.astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    out = xp.zeros((len(masks), height, width), np.float32)
    for mask, picture, (x1, y1, x2, y2) in zip(masks, out, _edges(boxes, masks.shape[1], whole_pixels).tolist()):
        rows, down = _stretch(mask.shape[0], y1, y2, height, xp)
        columns, across = _stretch(mask.shape[1], x1, x2, width, xp)
        picture[rows, columns] = down @ mask @ across.T
    return out if threshold is None else out >= threshold


def _stretch(cells, start, end, limit, xp):
    """`cells` values stretched from `start` to `end`: the pixels (a slice of 0 .. limit), their weights (P, cells)."""
    first = min(max(math.floor(start), 0), limit)
    last = min(max(math.ceil(end), first), limit) if end > start else first
    centers = xp.arange(first, last) + 0.5
    position = ((centers - start) * cells / max(end - start, 1e-9) - 0.5).clip(0, cells - 1)  # (P,)
    weights = (1 - abs(position[:, None] - xp.arange(cells))).clip(0, None)
    return slice(first, last), weights.astype(np.float32)


def _edges(boxes, padded, whole_pixels):
    """The edges (D, 4) float64 of each box, grown by the border: padded / (padded - 2) times as large."""
    xp = array_module(boxes)
    growth = padded / (padded - 2)
    boxes = xp.nan_to_num(boxes).clip(-(2**29), 2**29)
    center, half = (boxes[:, 2:] + boxes[:, :2]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5 * growth
    edges = xp.concatenate([center - half, center + half], axis=1).astype(np.float64)
    if whole_pixels:  # the first pixel and the one after the last
        edges = xp.trunc(edges)
        edges[:, 2:] += 1
    return edges


def _check_paste(masks, boxes):
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(f"paste_masks: masks must be (D, M, M) and boxes (D, 4), got {masks.shape} and {boxes.shape}")
