"""Boxes: area, overlap, the four numbers a network predicts for a box, clipping, non-maximum suppression.

A box is x1, y1, x2, y2 in pixels, the corners as real numbers: pixel 3 covers 3.0 to 4.0, so a box around pixels
3..7 is 3, 8 and its width is 8 - 3 = 5, with no "+ 1". Everything here takes raw arrays with any leading axes.
Girshick et al. 2014 (appendix C) and Ren et al. 2015 (section 3.1.2); slides T04, L06.
"""

import math

import numpy as np

from minimask.device import accelerated, array_module, fits_gpu_kernel, kernels

LARGEST_LOG_SCALE = math.log(1000 / 16)  # a predicted box grows at most 62.5 times: exp() cannot overflow
SMALLEST_SIDE = 1e-6  # pixels; keeps the encoding of padding (a box of no size) finite


def area(boxes):
    """Area in square pixels: boxes (..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a, b):
    """Intersection over union of each box of `a` with each of `b`: (..., A, 4), (..., B, 4) -> (..., A, B).

    Worked number: (0, 0, 2, 2) and (1, 0, 3, 2) share 2 of 4 + 4 - 2 = 6 square pixels: 1/3.
    Two boxes of no area overlap by 0.
    """
    xp = array_module(a)
    _check_boxes("iou", a)
    _check_boxes("iou", b)
    x1, y1, x2, y2 = (a[..., :, None, i] for i in range(4))  # (..., A, 1)
    u1, v1, u2, v2 = (b[..., None, :, i] for i in range(4))  # (..., 1, B)
    width = xp.minimum(x2, u2)
    width -= xp.maximum(x1, u1)
    height = xp.minimum(y2, v2)
    height -= xp.maximum(y1, v1)
    overlap = xp.maximum(width, 0, out=width)
    overlap *= xp.maximum(height, 0, out=height)
    union = area(a)[..., :, None] + area(b)[..., None, :]
    union -= overlap
    return xp.divide(overlap, xp.maximum(union, xp.finfo(union.dtype).tiny, out=union), out=overlap)


def encode(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """What the network should predict to move `anchors` onto `boxes`: (..., 4), (..., 4) -> (..., 4).

    dx = wx (x - xa) / width_a, dy likewise for centers; dw = ww log(width / width_a), dh likewise.
    weights: the factors wx, wy, ww, wh (10, 10, 5, 5 in the box head, which gives them similar variance).
    Sides are taken as at least 1e-6 pixels, so that padding encodes to finite numbers.
    """
    xp = array_module(boxes)
    _check_boxes("encode", boxes)
    if fits_gpu_kernel(boxes, anchors) and boxes.shape == anchors.shape:
        return kernels("boxes", boxes).encode(boxes, anchors, weights, SMALLEST_SIDE)
    x, y, width, height = _center_and_size(boxes, "encode")
    xa, ya, width_a, height_a = _center_and_size(anchors, "encode")
    width, height, width_a, height_a = (xp.maximum(side, SMALLEST_SIDE) for side in (width, height, width_a, height_a))
    wx, wy, ww, wh = weights
    return xp.stack(
        [
            wx * (x - xa) / width_a,
            wy * (y - ya) / height_a,
            ww * xp.log(width / width_a),
            wh * xp.log(height / height_a),
        ],
        axis=-1,
    )


def decode(deltas, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Move and stretch `anchors` by what the network predicts: the inverse of `encode`. (..., 4), (..., 4) -> (..., 4).

    x = xa + width_a dx / wx;  width = width_a exp(min(dw / ww, log(1000 / 16))). Leading axes broadcast: deltas
    (R, C, 4) of C classes with anchors (R, 1, 4).
    """
    xp = array_module(deltas)
    if deltas.shape[-1:] != (4,):
        raise ValueError(f"decode: deltas must be (..., 4), got shape {deltas.shape}")
    xa, ya, width_a, height_a = _center_and_size(anchors, "decode")
    wx, wy, ww, wh = weights
    x = deltas[..., 0] / wx * width_a + xa
    y = deltas[..., 1] / wy * height_a + ya
    half_width = xp.exp(xp.minimum(deltas[..., 2] / ww, LARGEST_LOG_SCALE)) * width_a * 0.5
    half_height = xp.exp(xp.minimum(deltas[..., 3] / wh, LARGEST_LOG_SCALE)) * height_a * 0.5
    return xp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def predicted(deltas, anchors, sizes, weights=(1.0, 1.0, 1.0, 1.0), side=0.0):
    """Boxes the network predicts, within their image: decoded, cut at the border, and whether they have a size left.

    deltas (N, R, C, 4) for anchors (N, R, 4); sizes (N, 2): heights and widths of the images; side: pixels.
    -> boxes (N, R, C, 4) of the dtype of deltas, large_enough (N, R, C) bool.
    """
    if fits_gpu_kernel(deltas, anchors):
        return kernels("boxes", deltas).decode(deltas, anchors, sizes, weights, LARGEST_LOG_SCALE, side)
    boxes = clip(decode(deltas, anchors[:, :, None], weights), sizes).astype(deltas.dtype)
    return boxes, large_enough(boxes, side)


def clip(boxes, sizes):
    """Boxes cut at the picture's border: x to 0..width, y to 0..height. (..., 4) -> (..., 4).

    sizes: one (height, width), or (N, 2) heights and widths for boxes (N, ..., 4).
    """
    xp = array_module(boxes)
    _check_boxes("clip", boxes)
    sizes = xp.asarray(sizes)
    if sizes.shape != (2,) and sizes.shape != (boxes.shape[0], 2):
        raise ValueError(f"clip: sizes must be (height, width) or ({boxes.shape[0]}, 2), got shape {sizes.shape}")
    height, width = sizes[..., 0], sizes[..., 1]
    limit = xp.stack([width, height, width, height], axis=-1).astype(boxes.dtype)  # (4,) or (N, 4)
    if sizes.ndim == 2:
        limit = limit.reshape(limit.shape[:1] + (1,) * (boxes.ndim - 2) + (4,))  # (N, 1, ..., 4)
    return xp.minimum(xp.maximum(boxes, 0), limit)


def large_enough(boxes, side):
    """Whether both sides are at least `side` pixels: boxes (..., 4) -> (...) bool."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width >= side) & (height >= side)


def _check_nms(boxes, scores, valid, threshold, max_kept=None, groups=None):
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ValueError(f"nms: boxes must be (N, R, 4), got shape {boxes.shape}")
    for name, array in (("scores", scores), ("valid", valid), ("groups", groups)):
        if array is not None and array.shape != boxes.shape[:2]:
            raise ValueError(f"nms: {name} must be {boxes.shape[:2]} like the boxes, got shape {array.shape}")


@accelerated("nms", check=_check_nms)
def nms(boxes, scores, valid, threshold, max_kept=None, groups=None):
    """Non-maximum suppression: keep the best box, drop the boxes that overlap it, repeat with the rest.

    boxes: (N, R, 4) float, pixels.
    scores: (N, R) float. Of equal scores, the one with the lower index is better.
    valid: (N, R) bool; boxes that are not valid take no part.
    threshold: a box is dropped if its IoU with a better one is greater than this.
    max_kept: K, how many boxes to return per image (default: all R).
    groups: (N, R) int; only boxes of the same group (a class, a pyramid level) suppress each other.

    Returns indices (N, K) int64 in descending order of score, 0 where there is no box, and valid (N, K) bool.
    Raises ValueError if the shapes do not fit together.
    """
    xp = array_module(boxes)
    count = scores.shape[1]
    max_kept = count if max_kept is None else min(max_kept, count)

    # NaN and -inf rank below all other scores, but above what is not valid.
    lowest = np.finfo(scores.dtype).min
    order = xp.argsort(-xp.where(valid, xp.fmax(scores, lowest), -xp.inf), axis=1, kind="stable")  # (N, R)
    ordered = xp.take_along_axis(boxes, order[..., None], 1)
    alive = xp.take_along_axis(valid, order, 1)

    suppresses = iou(ordered, ordered) > threshold  # (N, R, R)
    if groups is not None:
        group = xp.take_along_axis(groups, order, 1)
        suppresses &= group[:, :, None] == group[:, None, :]
    suppresses &= xp.arange(count)[:, None] < xp.arange(count)[None, :]  # only the better suppresses the worse

    for i in range(count):
        alive &= ~(suppresses[:, i] & alive[:, i, None])

    first = xp.argsort(~alive, axis=1, kind="stable")[:, :max_kept]  # where the survivors are, in order
    kept_valid = xp.take_along_axis(alive, first, 1)
    return xp.where(kept_valid, xp.take_along_axis(order, first, 1), 0), kept_valid


def _center_and_size(boxes, who):
    _check_boxes(who, boxes)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height, width, height


def _check_boxes(who, boxes):
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{who}: boxes must be (..., 4): x1, y1, x2, y2, got shape {boxes.shape}")

