"""Mean field for a conditional random field over pixels. Kraehenbuehl & Koltun 2011; slide T07.

Each pixel has a distribution over labels, and hears those of its neighbors. Simplified: neighbors are a window of 7 x 7
pixels, two pixels apart, instead of all pixels of the image, so no fast high-dimensional filter is needed.
"""

import numpy as np

from minimask import functional as F
from minimask.device import array_module

RADIUS, GAP = 3, 2  # neighbors: up to this many to each side, this many pixels apart


def mean_field(unary, images, strength, near, alike, steps):
    """The labels of pixels once neighbors have been heard: q (N, H, W, K), sum 1 over K.

    unary: (N, H, W, K), at least 0. images: (N, H, W, 3), whose colors decide which neighbors count. The others are
    those of CRFSettings.
    """
    xp = array_module(unary)
    log_unary = xp.log(unary + 1e-6)
    q = F.softmax_array(log_unary)
    offsets = [(dy * GAP, dx * GAP) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]
    kernels, total = [], 1e-6
    for here, there, distance in (shifted(unary.shape, *offset) for offset in offsets if offset != (0, 0)):
        difference = ((images[here] - images[there]) ** 2).sum(axis=3, keepdims=True)
        weight = xp.zeros((*unary.shape[:3], 1), unary.dtype)
        weight[here] = xp.exp(-(distance**2) / (2 * near**2) - difference / (2 * alike**2))
        kernels.append((here, there, weight[here]))
        total = total + weight

    for _ in range(steps):
        message = xp.zeros_like(q)
        for here, there, weight in kernels:
            message[here] += weight * q[there]
        q = F.softmax_array(log_unary + strength * message / total)
    return q


def shifted(shape, dy, dx):
    """The index of the pixels of (N, H, W, ...) that have a neighbor dy below and dx to the right, that of these
    neighbors, and the distance between the two.
    """
    here, there = [slice(None)], [slice(None)]
    for length, move in zip(shape[1:3], (dy, dx)):
        here.append(slice(max(0, -move), max(0, min(length, length - move))))
        there.append(slice(max(0, move), max(0, min(length, length + move))))
    return tuple(here), tuple(there), np.hypot(dy, dx)
