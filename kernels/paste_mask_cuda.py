"""Masks to and from boxes on the GPU: crop masks to targets, paste masks into a picture; see paste_mask.cu."""

import numpy as np

from minimask.kernels.cuda import blocks_for, launch

THREADS = 128
PIXELS_A_BLOCK = 16 * THREADS  # of a picture: a box has fewer, so each thread writes some


def crop_masks(masks, boxes, matches, aligned, out):
    """out[n, s] (M, M) = average of mask matches[n, s] over each bin of box boxes[n, s], about a sample a pixel.

    masks (N, G, H, W) uint8, boxes (N, S, 4) float32, matches (N, S) int64 of 0 to G - 1, out (N, S, M, M) float32.
    """
    (n, g, h, w), (_, s, bins, _) = masks.shape, out.shape
    arguments = masks, boxes, matches, n, g, h, w, s, bins, aligned, out
    launch("paste_mask", "crop_masks", blocks_for(out.size, THREADS), THREADS, *arguments)


def paste_masks(masks, edges, threshold, out):
    """Stretch each mask over its box and write it to its picture.

    masks (D, M, M) float32, edges (D, 4) float64: x1, y1, x2, y2 of each in pixels, which may lie outside the
    picture; out (D, H, W), zero before the call: bool (value >= threshold), or float32 if threshold is None.
    """
    d, h, w = out.shape
    name = "paste_masks<float>" if threshold is None else "paste_masks<bool>"
    blocks = d, blocks_for(h * w, PIXELS_A_BLOCK, most=65535)
    limit = np.float32(0 if threshold is None else threshold)
    if out.size:
        launch("paste_mask", name, blocks, THREADS, masks, edges, masks.shape[1], h, w, limit, out)
