"""Selective search: boxes and masks of what might be objects, from the picture alone, without learning.

Uijlings et al. 2013, section 3; slides T07 and T09. The detectors before the RPN read their proposals from it. Small
segments of similar color (Felzenszwalb & Huttenlocher 2004, from scikit-image) are the start. Then the two most similar
neighbors are merged, again and again, until one region covers the picture. Every region on the way is a proposal, so
there are proposals of all sizes. Two regions are similar if they have the same colors and the same texture, if both are
small, and if together they fill their box:

    similarity = shared color histogram + shared texture histogram + (1 - size) + (1 - part of the box left empty)

Simplified: two hierarchies (in Lab and in HSV) instead of up to 80; the texture is a histogram of 8 gradient directions
per channel, not of derivatives at 8 orientations in 10 bins; and if there are too many proposals, the smallest go.

P pixels and S segments of a picture, R places for its regions.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from minimask.systems import needs
from minimask.systems.segments import histograms, tight_boxes, touching

SEGMENT_SCALE, SEGMENT_SIGMA, SMALLEST_SEGMENT = 100, 0.8, 10  # Felzenszwalb's k and blur, pixels of a segment
SHORTEST_SIDE = 6  # pixels; narrower regions are dropped
LARGEST_SHARE = 0.9  # so are those that cover more of the picture than this


@dataclass
class Regions:
    """The regions of one picture, in R places, the largest first."""

    boxes: np.ndarray  # (R, 4) float32, pixels: tight around each region
    valid: np.ndarray  # (R,) bool: False where there were fewer regions
    segments: np.ndarray  # (H, W) int32: the segment that each pixel belongs to
    members: np.ndarray  # (R, S) bool: the segments that a region consists of

    def masks(self, index=slice(None)):
        """The regions at `index` as masks (.., H, W) bool."""
        return self.members[index][..., self.segments]

    def overlaps(self, masks):
        """The IoU of each region with each mask: (G, H, W) of 0 and 1 -> (R, G)."""
        count = self.members.shape[1]
        flat = self.segments.ravel()
        inside = np.stack([np.bincount(flat, mask.ravel(), count) for mask in masks])  # (G, S) pixels of each segment
        size = self.members @ np.bincount(flat, minlength=count).astype(np.float32)  # (R,)
        shared = self.members.astype(np.float32) @ inside.T.astype(np.float32)  # (R, G)
        return shared / np.maximum(size[:, None] + inside.sum(1) - shared, 1)

    def crops(self, index, boxes, size):
        """The regions at `index` (B,), each seen in its box of `boxes` (B, 4): (B, size, size) bool, False outside."""
        step = (np.arange(size) + 0.5) / size
        columns, rows = (
            np.floor(boxes[:, i, None] + (boxes[:, i + 2] - boxes[:, i])[:, None] * step).astype(int) for i in (0, 1)
        )  # (B, size) each: the pixel that a cell's center lies in
        height, width = self.segments.shape
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        seen = self.segments[rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :]]
        return inside & self.members[np.asarray(index)[:, None, None], seen]  # (B, size, size)

    def mirrored(self):
        """The same regions in the mirrored picture."""
        x1, y1, x2, y2 = self.boxes.T
        width = self.segments.shape[1] * self.valid
        boxes = np.stack([width - x2, y1, width - x1, y2], axis=1).astype(np.float32)
        return Regions(boxes, self.valid, self.segments[:, ::-1], self.members)


def selective_search(picture, count=200):
    """The Regions of a picture (H, W, 3) uint8, in `count` places."""
    color = needs("skimage.color", "scikit-image")
    felzenszwalb = needs("skimage.segmentation", "scikit-image").felzenszwalb

    lab = color.rgb2lab(picture) / (100, 200, 200) + (0, 0.5, 0.5)  # all channels from 0 to 1
    segmentations, groups = [], []
    for colors in (lab, color.rgb2hsv(picture)):
        segments = felzenszwalb(colors, SEGMENT_SCALE, SEGMENT_SIGMA, SMALLEST_SEGMENT)
        segmentations.append(segments.ravel())
        groups.append(group(segments, colors))

    # Lay the segmentations over one another: a common segment lies within one segment of each.
    parts, segments = np.unique(np.stack(segmentations), axis=1, return_inverse=True)  # (2, S), (P,)
    members = np.concatenate([own[:, part] for (own, _), part in zip(groups, parts)])  # (regions, S)
    boxes = np.concatenate([boxes for _, boxes in groups])
    return _places(boxes, members, segments.reshape(picture.shape[:2]).astype(np.int32), count)


def _places(boxes, members, segments, count):
    """The Regions among all `boxes` (A, 4): one for each box, neither tiny nor the whole picture, the largest first."""
    _, first = np.unique(boxes, axis=0, return_index=True)
    width, height = boxes[first, 2] - boxes[first, 0], boxes[first, 3] - boxes[first, 1]
    good = (np.minimum(width, height) >= SHORTEST_SIDE) & (width * height <= LARGEST_SHARE * segments.size)
    chosen = first[good][np.argsort(-(width * height)[good], kind="stable")][:count]

    valid, places = np.arange(count) < len(chosen), np.zeros((count, members.shape[1]), bool)
    regions = Regions(np.zeros((count, 4), np.float32), valid, segments, places)
    regions.boxes[: len(chosen)], regions.members[: len(chosen)] = boxes[chosen], members[chosen]
    return regions


def group(segments, colors):
    """Merge the two most similar neighbors until one region is left.

    segments: (H, W) int, from 0 to S - 1. colors: (H, W, 3) float from 0 to 1.
    Returns which segments each of the 2 S - 1 regions consists of (2 S - 1, S) bool, and its box (2 S - 1, 4).
    """
    start = int(segments.max()) + 1
    total = 2 * start - 1
    members, boxes = np.zeros((total, start), bool), np.zeros((total, 4))
    members[:start], boxes[:start] = np.eye(start, dtype=bool), tight_boxes(segments, start)
    size = np.zeros(total)
    size[:start] = np.bincount(segments.ravel())
    first = histograms(segments, colors, start)
    look = np.zeros((total, first.shape[1]))
    look[:start] = first

    def similarity(a, b):
        corners = np.minimum(boxes[a, :2], boxes[b, :2]), np.maximum(boxes[a, 2:], boxes[b, 2:])
        empty = (corners[1] - corners[0]).prod(axis=1) - size[a] - size[b]
        return np.minimum(look[a], look[b]).sum(axis=1) + 2 - (size[a] + size[b] + empty) / segments.size

    pairs = touching(segments)
    neighbors = [set() for _ in range(total)]
    for a, b in pairs.tolist():
        neighbors[a].add(b), neighbors[b].add(a)
    queue = [(-s, a, b) for s, (a, b) in zip(similarity(*pairs.T).tolist(), pairs.tolist())]
    heapq.heapify(queue)
    alive = [True] * start

    for new in range(start, total):
        _, a, b = heapq.heappop(queue)
        while not (alive[a] and alive[b]):
            _, a, b = heapq.heappop(queue)
        alive[a], alive[b] = False, False
        alive.append(True)

        members[new], size[new] = members[a] | members[b], size[a] + size[b]
        boxes[new, :2], boxes[new, 2:] = np.minimum(boxes[a, :2], boxes[b, :2]), np.maximum(boxes[a, 2:], boxes[b, 2:])
        look[new] = (size[a] * look[a] + size[b] * look[b]) / size[new]

        near = sorted(n for n in neighbors[a] | neighbors[b] if alive[n])
        neighbors[new] = set(near)
        for n, s in zip(near, similarity(np.full(len(near), new), np.array(near, int)).tolist()):
            neighbors[n].add(new)
            heapq.heappush(queue, (-s, n, new))
    return members, boxes
