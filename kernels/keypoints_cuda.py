"""Keypoints on the GPU: the largest value of each map, stretched to the pixels of its box; see keypoints.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import launch

THREADS = 256  # a constant of the kernel too, which shares the work among 8 warps


@takes(lambda logits, *_, **__: logits.dtype == np.float32)
def find_peaks(logits, pixels):
    """See `minimask.keypoint_head.find_peaks`; sides are 1 to 65,536 pixels."""
    xp = array_module(logits)
    r, h, w, k = logits.shape
    maps = xp.ascontiguousarray(logits.transpose(0, 3, 1, 2))  # (R, K, H, W)
    peaks = xp.zeros((r, k, 3), np.float32)
    if peaks.size:
        launch("keypoints", "find_peaks", r * k, THREADS, maps, xp.ascontiguousarray(pixels, np.int64), k, h, w, peaks)
    return peaks
