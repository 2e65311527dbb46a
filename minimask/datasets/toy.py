"""Drawn scenes of cats, dogs and ducks with exact boxes, masks and keypoints. No files are needed.

Scene i of a split is a function of (seed, split, i) alone.

`case` selects one of the talk's special cases: "crowded" (an object surrounded by others of its category, slide T20),
"disconnected" (one instance in several pieces, T21), "small" (small objects, T22).
"""

import numpy as np

from minimask.datasets.animals import CLASSES, KEYPOINTS, SKELETON
from minimask.datasets.augmentation import flip_order
from minimask.datasets.coco import to_coco
from minimask.datasets.scenes import CASES, draw_scene
from minimask.device import generator
from minimask.errors import InputError
from minimask.structures import Sample

SPLITS = ("train", "val", "test")


class ToyScenes:
    """A dataset of drawn scenes. dataset[i] is a Sample with 1 to 6 objects.

    Masks cover what is visible of each animal, and boxes are tight around them. Keypoints have visibility 2 (visible),
    1 (hidden by another object) or 0 (absent, or outside the image).

    split: "train", "val" or "test"; no two splits share a scene.
    size: height and width of the image in pixels.
    count: number of scenes.
    seed: another seed gives other scenes.
    case: None, "crowded", "disconnected" or "small".

    Attributes: keypoint_sigmas says how precisely each keypoint can be placed, in square roots of the object's area,
    for `evaluate`. The numbers are COCO's for the corresponding part of a person: nose and eyes, shoulder, hip, wrist,
    ankle.

    Raises InputError if a setting is out of its range.
    """

    class_names = CLASSES
    category_ids = (1, 2, 3)  # COCO id of label 1, of label 2, ...
    keypoint_names = KEYPOINTS
    keypoint_order = flip_order(KEYPOINTS)  # for augmentation.flip
    keypoint_sigmas = (0.026, 0.025, 0.025, 0.079, 0.107, 0.062, 0.089, 0.089)
    skeleton = SKELETON

    def __init__(self, split="train", size=128, count=1000, seed=0, case=None):
        if split not in SPLITS:
            raise InputError(f"toy scenes: split must be one of {', '.join(SPLITS)}, got {split!r}")
        if case not in CASES:
            raise InputError(f"toy scenes: case must be one of {', '.join(map(str, CASES))}, got {case!r}")
        if not 32 <= size <= 2048:
            raise InputError(f"toy scenes: size must be 32 to 2048 pixels, got {size}")
        if count < 0 or seed < 0:
            raise InputError(f"toy scenes: count and seed must not be negative, got {count} and {seed}")
        self.split, self.size, self.count, self.seed, self.case = split, size, count, seed, case

    def __len__(self):
        return self.count

    def __repr__(self):
        case = f", {self.case}" if self.case else ""
        return f"ToyScenes({self.split!r}: {self.count} scenes of {self.size} x {self.size}{case}; cat, dog, duck)"

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(f"toy scenes: scene {index} of {self.count}")
        rng = generator(self.seed, SPLITS.index(self.split), CASES.index(self.case), index)
        name = f"toy {self.split} {index}"
        return _sample(
            draw_scene(rng, self.size, self.case), index, name if self.case is None else f"{name} {self.case}"
        )

    def to_coco(self):
        """The ground truth as a COCO dict; see `coco.to_coco`."""
        return to_coco(self)


def _sample(scene, index, name):
    """The Sample of a scene: mask, tight box, label and keypoints of what is visible of each animal."""
    animals = [k for k, sprite in enumerate(scene.layers) if sprite.label]
    masks = np.stack([scene.owner == k for k in animals])
    boxes = np.empty((len(animals), 4), np.float32)
    for g, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[g] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    keypoints = np.stack([_seen_keypoints(scene, k) for k in animals])
    image = np.clip(scene.canvas + np.float32(0.5), 0, 255).astype(np.uint8)
    return Sample(
        image=np.ascontiguousarray(image.transpose(1, 2, 0)),
        boxes=boxes,
        labels=np.array([scene.layers[k].label for k in animals], np.int64),
        masks=masks.view(np.uint8),
        crowd=np.zeros(len(animals), bool),
        image_id=index,
        name=name,
        keypoints=keypoints,
    )


def _seen_keypoints(scene, layer):
    """The keypoints (K, 3) of one animal. Visibility is 2, or 1 behind something, or 0 (with x = y = 0) if absent."""
    sprite = scene.layers[layer]
    keypoints = sprite.keypoints.copy()
    keypoints[:, :2] += (sprite.left, sprite.top)
    x, y = keypoints[:, 0], keypoints[:, 1]
    inside = (keypoints[:, 2] > 0) & (x >= 0) & (y >= 0) & (x < scene.size) & (y < scene.size)
    keypoints[~inside] = 0
    in_front = scene.owner[y[inside].astype(int), x[inside].astype(int)] > layer
    keypoints[inside, 2] = np.where(in_front, 1, 2)
    return keypoints
