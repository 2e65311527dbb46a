"""Masks to and from boxes on the GPU: crop masks to targets, paste masks into an image; see paste_mask.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, launch
from minimask.mask_head import with_border

THREADS = 128
PIXELS_PER_BLOCK = 16 * THREADS  # of an image: a box has fewer, so each thread writes some of them


@takes(lambda *_, **__: True)
def mask_targets(masks, boxes, matches, size=28, aligned=False, binary=False):
    """See `minimask.mask_head.mask_targets`; computes in float32."""
    xp = array_module(boxes)
    (n, g, h, w), s = masks.shape, boxes.shape[1]
    masks = xp.ascontiguousarray(masks, np.uint8)
    boxes = xp.ascontiguousarray(boxes, np.float32)
    matches = xp.ascontiguousarray(xp.clip(matches, 0, g - 1), np.int64)
    targets = xp.empty((n, s, size, size), np.float32)
    arguments = masks, boxes, matches, n, g, h, w, s, size, aligned, targets
    launch("paste_mask", "crop_masks", blocks_for(targets.size, THREADS), THREADS, *arguments)
    return (targets >= 0.5).astype(np.float32) if binary else targets


@takes(lambda *_, **__: True)
def paste_masks(masks, boxes, height, width, threshold=0.5, whole_pixels=True):
    """See `minimask.mask_head.paste_masks`."""
    xp = array_module(masks)
    masks, edges = with_border(masks, boxes, whole_pixels)
    out = xp.zeros((len(masks), height, width), np.float32 if threshold is None else bool)
    if out.size:
        name = "fill_boxes<float>" if threshold is None else "fill_boxes<bool>"
        blocks = len(masks), blocks_for(height * width, PIXELS_PER_BLOCK, most=65535)
        limit = np.float32(0 if threshold is None else threshold)
        arguments = masks, xp.ascontiguousarray(edges), masks.shape[1], height, width, limit, out
        launch("paste_mask", name, blocks, THREADS, *arguments)
    return out
