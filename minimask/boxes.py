"""Boxes: area and overlap, from boxes to deltas and back, clipping, non-maximum suppression.

A box is x1, y1, x2, y2 in pixels. The corners are real numbers: pixel 3 covers 3.0 to 4.0, so the box around pixels
3 to 7 goes from 3 to 8, and its width is 8 - 3 = 5, without "+ 1".

Arrays have any number of leading axes. Lists and integer arrays are converted to float64; a Tensor is refused, because
nothing here has a gradient. Girshick et al. 2014 (appendix C), Ren et al. 2015 (section 3.1.2); slides T04, L06.
"""

import math

import numpy as np

from minimask.device import accelerated, array_module
from minimask.errors import check_shape
from minimask.tensor import Tensor

LARGEST_LOG_SCALE = math.log(1000 / 16)  # a side grows at most 62.5 times, so exp() cannot overflow
SMALLEST_SIDE = 1e-6  # pixels; keeps the deltas of padding (boxes without a size) finite


def area(boxes):
    """The area of each box in square pixels: (..., 4) -> (...)."""
    boxes = _box_array("area", "boxes", boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a, b):
    """The area that each box of `a` shares with each box of `b`: (..., A, 4), (..., B, 4) -> (..., A, B)."""
    a, b = _box_array("intersection", "a", a), _box_array("intersection", "b", b)
    xp = array_module(a)
    x1, y1, x2, y2 = (a[..., :, None, i] for i in range(4))  # (..., A, 1) each
    u1, v1, u2, v2 = (b[..., None, :, i] for i in range(4))  # (..., 1, B) each

    width = xp.minimum(x2, u2)
    width -= xp.maximum(x1, u1)
    height = xp.minimum(y2, v2)
    height -= xp.maximum(y1, v1)
    shared = xp.maximum(width, 0, out=width)
    shared *= xp.maximum(height, 0, out=height)
    return shared


def iou(a, b):
    """Intersection over union of each box of `a` with each box of `b`: (..., A, 4), (..., B, 4) -> (..., A, B).

    Worked number: (0, 0, 2, 2) and (1, 0, 3, 2) share 2 of 4 + 4 - 2 = 6 square pixels, so their IoU is 1/3.
    The IoU of two boxes without an area is 0.
    """
    a, b = _box_array("iou", "a", a), _box_array("iou", "b", b)
    xp = array_module(a)
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :]
    union -= shared
    return xp.divide(shared, xp.maximum(union, xp.finfo(union.dtype).tiny, out=union), out=shared)


def _check_encode(boxes, anchors, weights=None):
    _box_array("encode", "boxes", boxes), _box_array("encode", "anchors", anchors)


@accelerated("boxes", check=_check_encode)
def encode(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """The deltas that move `anchors` onto `boxes`, which is what the network should predict: (..., 4) each.

    dx = wx (x - xa) / width_a for the centers x and xa, and dw = ww log(width / width_a); dy and dh likewise.
    weights: the factors wx, wy, ww, wh. The box head uses 10, 10, 5, 5, which give the deltas similar variances.
    Sides count as at least 1e-6 pixels, so the deltas of padding are finite.
    """
    boxes, anchors = _box_array("encode", "boxes", boxes), _box_array("encode", "anchors", anchors)
    xp = array_module(boxes)
    x, y, width, height = _center_and_size(boxes)
    xa, ya, width_a, height_a = _center_and_size(anchors)
    width, height, width_a, height_a = (xp.maximum(side, SMALLEST_SIDE) for side in (width, height, width_a, height_a))

    wx, wy, ww, wh = weights
    dx = wx * (x - xa) / width_a
    dy = wy * (y - ya) / height_a
    dw = ww * xp.log(width / width_a)
    dh = wh * xp.log(height / height_a)
    return xp.stack([dx, dy, dw, dh], axis=-1)


def decode(deltas, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Move and stretch `anchors` by the predicted `deltas`, the inverse of `encode`: (..., 4) each.

    x = xa + width_a dx / wx and width = width_a exp(min(dw / ww, log(1000 / 16))); y and height likewise.
    The leading axes broadcast: deltas (R, C, 4) of C classes with anchors (R, 1, 4).
    """
    deltas, anchors = _box_array("decode", "deltas", deltas, "dx, dy, dw, dh"), _box_array("decode", "anchors", anchors)
    xp = array_module(deltas)
    xa, ya, width_a, height_a = _center_and_size(anchors)
    wx, wy, ww, wh = weights

    x = deltas[..., 0] / wx * width_a + xa
    y = deltas[..., 1] / wy * height_a + ya
    half_width = xp.exp(xp.minimum(deltas[..., 2] / ww, LARGEST_LOG_SCALE)) * width_a * 0.5
    half_height = xp.exp(xp.minimum(deltas[..., 3] / wh, LARGEST_LOG_SCALE)) * height_a * 0.5
    return xp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


@accelerated("boxes")
def predicted(deltas, anchors, sizes, weights=(1.0, 1.0, 1.0, 1.0), side=0.0):
    """The boxes that the network predicts: decoded, clipped to their image, and whether anything is left of them.

    deltas: (N, R, C, 4) float, one box per class for each of the anchors (N, R, 4).
    sizes: (N, 2) heights and widths of the images in pixels.
    side: a box is large enough if both sides have at least so many pixels.

    Returns boxes (N, R, C, 4) with the dtype of the deltas, and large (N, R, C) bool.
    """
    boxes = clip(decode(deltas, anchors[:, :, None], weights), sizes).astype(deltas.dtype)
    return boxes, large_enough(boxes, side)


def clip(boxes, sizes):
    """Boxes clipped to the image: x to 0 .. width, y to 0 .. height. (..., 4) -> (..., 4).

    sizes: one (height, width) in pixels, or (N, 2) heights and widths for boxes (N, ..., 4).
    """
    boxes = _box_array("clip", "boxes", boxes)
    xp = array_module(boxes)
    sizes = xp.asarray(sizes)
    if sizes.shape != (2,) and sizes.shape != (boxes.shape[0], 2):
        raise ValueError(f"clip: sizes must be (height, width) or ({boxes.shape[0]}, 2), got shape {sizes.shape}")

    height, width = sizes[..., 0], sizes[..., 1]
    limit = xp.stack([width, height, width, height], axis=-1).astype(boxes.dtype)  # (4,) or (N, 4)
    if sizes.ndim == 2:
        limit = limit.reshape(limit.shape[:1] + (1,) * (boxes.ndim - 2) + (4,))  # (N, 1, ..., 4)
    return xp.minimum(xp.maximum(boxes, 0), limit)


def large_enough(boxes, side):
    """Whether both sides of a box are at least `side` pixels: (..., 4) -> (...) bool."""
    boxes = _box_array("large_enough", "boxes", boxes)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width >= side) & (height >= side)


def _check_nms(boxes, scores, valid, threshold, max_kept=None, groups=None):
    for name, array in (("boxes", boxes), ("scores", scores)):
        found = getattr(array, "dtype", None)
        if isinstance(array, Tensor) or found is None or found.kind != "f":
            found = type(array).__name__ if isinstance(array, Tensor) or found is None else f"an array of {found}"
            raise ValueError(f"nms: {name} must be a float array, got {found}")
    check_shape("nms", "boxes", boxes, ("N", "R", 4))
    for name, array in (("scores", scores), ("valid", valid), ("groups", groups)):
        check_shape("nms", name, array, boxes.shape[:2])


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


def _center_and_size(boxes):
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height, width, height


def _box_array(operation, name, boxes, columns="x1, y1, x2, y2"):
    """An argument as a float array (..., 4). Raises ValueError that names the operation and the argument."""
    if isinstance(boxes, Tensor):
        raise ValueError(f"{operation}: {name} must be an array, not a Tensor (there is no gradient): pass {name}.data")
    if not hasattr(boxes, "dtype"):
        try:
            boxes = np.array(boxes, np.float64)
        except (TypeError, ValueError):  # rows of different lengths, or not numbers
            raise ValueError(f"{operation}: {name} must be numbers (..., 4): {columns}, got {boxes!r:.60}") from None
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{operation}: {name} must be (..., 4): {columns}, got shape {boxes.shape}")
    return boxes if boxes.dtype.kind == "f" else boxes.astype(np.float64)
