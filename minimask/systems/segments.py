"""What the segments of a picture are like: their boxes, colors and textures, and which of them touch.

Selective search (selective_search.py) groups segments by these; Uijlings et al. 2013, section 3.2; slide T07.

segments: (H, W) int, for each pixel the number of its segment, from 0 on.
"""

import numpy as np

COLOR_BINS, DIRECTIONS = 25, 8


def tight_boxes(segments, count):
    """The box (count, 4) around each segment."""
    boxes = np.full((count, 4), segments.size)
    rows, columns = np.indices(segments.shape)
    for side, position in enumerate((columns, rows, -columns - 1, -rows - 1)):
        np.minimum.at(boxes[:, side], segments, position)
    return boxes * (1, 1, -1, -1)


def histograms(segments, colors, count):
    """What each segment looks like, (count, 3 * 25 + 3 * 8): colors and gradient directions, each half of sum 1."""
    down, across = np.gradient(colors, axis=(0, 1))
    direction = np.round(np.arctan2(down, across) / (2 * np.pi) * DIRECTIONS) % DIRECTIONS
    color = np.minimum(colors * COLOR_BINS, COLOR_BINS - 1)
    halves = []
    for bins, values, weights in (
        (COLOR_BINS, color, np.ones_like(colors)),
        (DIRECTIONS, direction, np.hypot(down, across) + 1e-6),
    ):
        channels = np.arange(3) * bins
        place = segments[..., None] * 3 * bins + channels + values.astype(int)  # (H, W, 3)
        half = np.bincount(place.ravel(), weights.ravel(), count * 3 * bins).reshape(count, 3 * bins)
        halves.append(half / half.sum(axis=1, keepdims=True))
    return np.concatenate(halves, axis=1)


def touching(segments):
    """Pairs (B, 2) of different segments that share an edge of a pixel, the smaller number first."""
    across = np.stack([segments[:, :-1].ravel(), segments[:, 1:].ravel()], axis=1)
    down = np.stack([segments[:-1].ravel(), segments[1:].ravel()], axis=1)
    pairs = np.sort(np.concatenate([across, down]), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
