"""Masks to and from boxes on the CPU: crop objects' masks to M x M targets, paste M x M masks into an image.

Both interpolate along one axis after the other: first rows are added up (contiguous, vectorized), then columns.
Cropping reads each pixel of a box about twice; pasting writes each pixel of a box once. Both are serial and take a few
milliseconds. The arithmetic is that of `minimask.mask_head`, with sums in another order.
"""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.roi_align import sample_axis
from minimask.mask_head import with_border


@takes(lambda *_, **__: True)
def mask_targets(masks, boxes, matches, size=28, aligned=False, binary=False):
    """See `minimask.mask_head.mask_targets`; computes in float32."""
    masks = np.ascontiguousarray(masks, np.uint8)
    boxes = np.ascontiguousarray(boxes, np.float32)
    matches = np.ascontiguousarray(np.clip(matches, 0, masks.shape[1] - 1), np.int64)
    targets = np.empty((*matches.shape, size, size), np.float32)
    crop_masks(masks, boxes, matches, aligned, targets)
    return (targets >= 0.5).astype(np.float32) if binary else targets


@takes(lambda *_, **__: True)
def paste_masks(masks, boxes, height, width, threshold=0.5, whole_pixels=True):
    """See `minimask.mask_head.paste_masks`."""
    masks, edges = with_border(masks, boxes, whole_pixels)
    out = np.zeros((len(masks), height, width), np.float32 if threshold is None else bool)
    fill_boxes(masks, np.ascontiguousarray(edges), None if threshold is None else float(threshold), out)
    return out


@njit(cache=True, error_model="numpy", nogil=True)
def crop_masks(masks, boxes, matches, aligned, out):
    """out[n, s] (M, M) = average of mask matches[n, s] over each bin of box boxes[n, s], about one sample per pixel.

    masks (N, G, H, W) uint8, boxes (N, S, 4), matches (N, S) int64, out (N, S, M, M) float32.
    """
    one = np.float32(1)
    row = np.empty(masks.shape[3], np.float32)
    bins = out.shape[2]
    for n in range(boxes.shape[0]):
        for s in range(boxes.shape[1]):
            mask, box, result = masks[n, matches[n, s]], boxes[n, s], out[n, s]
            ny, ys, y_weights = sample_axis(box[1], box[3], one, aligned, bins, 0, mask.shape[0])
            nx, xs, x_weights = sample_axis(box[0], box[2], one, aligned, bins, 0, mask.shape[1])
            share = one / np.float32(max(nx * ny, 1))
            first, last = row.size, 0  # the columns of the mask that the box touches
            for q in range(bins * nx):
                if x_weights[q, 0] > 0:
                    first, last = min(first, xs[q, 0]), max(last, xs[q, 1] + 1)
            for i in range(bins):
                total = row[min(first, last) : last]
                for x in range(total.size):
                    total[x] = 0
                for p in range(2 * i * ny, 2 * (i + 1) * ny):
                    weight = share * y_weights[p // 2, p % 2]
                    if weight > 0:
                        source = mask[ys[p // 2, p % 2], min(first, last) : last]
                        for x in range(total.size):
                            total[x] += weight * np.float32(source[x])
                for j in range(bins):
                    value = np.float32(0)
                    for q in range(j * nx, (j + 1) * nx):
                        if x_weights[q, 0] > 0:  # inside
                            value += x_weights[q, 0] * row[xs[q, 0]] + x_weights[q, 1] * row[xs[q, 1]]
                    result[i, j] = value


@njit(cache=True, error_model="numpy")
def stretch_axis(cells, start, end, limit):
    """`cells` values stretched from `start` to `end`: the two neighbors of each pixel there, within 0 .. limit.

    Returns the first of these pixels, then for each one its lower and higher neighbor and the weight of the higher.
    """
    first, last = int(max(np.floor(start), 0)), int(min(np.ceil(end), limit))
    count = max(last - first, 0) if end > start else 0
    low, high, share = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
    ratio = np.float32(cells) / np.float32(end - start)
    for i in range(count):
        position = max(ratio * (np.float32(first - start + i) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
        low[i] = min(int(position), cells - 1)
        high[i] = min(low[i] + 1, cells - 1)
        share[i] = position - np.float32(low[i])
    return first, low, high, share


@njit(cache=True, error_model="numpy", nogil=True)
def fill_boxes(masks, edges, threshold, out):
    """Stretch each mask over its box and write it to its image.

    masks (D, M, M); edges (D, 4) float64: x1, y1, x2, y2 in pixels, which may lie outside the image; out (D, H, W),
    zero before the call: bool (value >= threshold), or float if threshold is None.
    """
    for d in range(masks.shape[0]):
        mask = masks[d]
        x1, y1, x2, y2 = edges[d]
        left, x_low, x_high, x_share = stretch_axis(mask.shape[1], x1, x2, out.shape[2])
        top, y_low, y_high, y_share = stretch_axis(mask.shape[0], y1, y2, out.shape[1])
        row = np.empty(mask.shape[1], mask.dtype)
        for i in range(y_low.size):
            for c in range(row.size):
                row[c] = mask[y_low[i], c] + y_share[i] * (mask[y_high[i], c] - mask[y_low[i], c])
            line = out[d, top + i, left:]
            for j in range(x_low.size):
                value = row[x_low[j]] + x_share[j] * (row[x_high[j]] - row[x_low[j]])
                if threshold is None:
                    line[j] = value
                else:
                    line[j] = value >= threshold


def warm_up():
    """Compile (or load from the disk cache) what training and inference use."""
    boxes, index = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int64)
    mask_targets(np.zeros((1, 1, 2, 2), np.uint8), boxes, index, 1)
    paste_masks(np.zeros((1, 2, 2), np.float32), boxes[0], 2, 2)
