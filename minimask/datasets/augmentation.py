"""Augmentation: mirrored and turned Samples, with their boxes, masks and keypoints."""

from dataclasses import replace

import numpy as np


def flip_order(names):
    """Where each keypoint goes in a mirrored image: left_X and right_X change places.

    names: K keypoint names.
    Returns (K,) int64 with flipped[k] = original[order[k]].
    """
    places = {name: k for k, name in enumerate(names)}
    return np.array([places.get(_other_side(name), k) for k, name in enumerate(names)], np.int64)


def _other_side(name):
    for side, other in (("left", "right"), ("right", "left")):
        if name.startswith(side):
            return other + name[len(side) :]
    return name


def flip(sample, keypoint_order=None):
    """The mirrored Sample: x becomes W - x, and left and right keypoints change places.

    keypoint_order: (K,) from `flip_order`; without it, keypoints keep their places.
    """
    width = sample.image.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, 0], boxes[:, 2] = width - sample.boxes[:, 2], width - sample.boxes[:, 0]

    keypoints = sample.keypoints
    if keypoints is not None:
        keypoints = keypoints.copy() if keypoint_order is None else keypoints[:, keypoint_order]
        keypoints[..., 0] = np.where(keypoints[..., 2] > 0, width - keypoints[..., 0], 0)

    image = np.ascontiguousarray(sample.image[:, ::-1])
    return replace(sample, image=image, boxes=boxes, masks=sample.masks[:, :, ::-1], keypoints=keypoints)


def turn(sample):
    """The Sample turned left by 90 degrees: its right side becomes the top. (x, y) becomes (y, W - x)."""
    width = sample.image.shape[1]
    x1, y1, x2, y2 = sample.boxes.T
    boxes = np.stack([y1, width - x2, y2, width - x1], axis=1)

    keypoints = sample.keypoints
    if keypoints is not None:
        x, y, visibility = np.moveaxis(keypoints, -1, 0)
        keypoints = np.stack([y, np.where(visibility > 0, width - x, 0), visibility], axis=-1)

    image, masks = np.ascontiguousarray(np.rot90(sample.image)), sample.masks[:, :, ::-1].swapaxes(1, 2)
    return replace(sample, image=image, boxes=boxes, masks=masks, keypoints=keypoints)
