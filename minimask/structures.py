"""The records that travel between the stages: a Sample from a dataset, a Batch for the model, what it finds."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Sample:
    """One picture and its G objects, in pixels of that picture."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    boxes: np.ndarray  # (G, 4) float32: x1, y1, x2, y2
    labels: np.ndarray  # (G,) int64: 1 .. num_classes - 1 (0 is the background)
    masks: np.ndarray  # (G, H, W) uint8: 0 or 1
    crowd: np.ndarray  # (G,) bool: a crowd is neither a positive nor a negative
    image_id: int
    name: str  # for messages: file name or "toy train 17"
    keypoints: np.ndarray | None = None  # (G, K, 3) float32: x, y, visibility (0 none, 1 hidden, 2 visible)


@dataclass
class Batch:
    """N pictures resized, normalised and padded to one size, with ground truth padded to G >= 1 objects."""

    images: np.ndarray  # (N, H, W, 3) float32, zero outside each picture
    sizes: np.ndarray  # (N, 2) int64: height, width of each resized picture inside the padding
    original_sizes: np.ndarray  # (N, 2) int64: height, width before resizing
    image_ids: list = field(default_factory=list)
    names: list = field(default_factory=list)
    boxes: np.ndarray | None = None  # (N, G, 4) float32, pixels of the resized picture
    labels: np.ndarray | None = None  # (N, G) int64, 0 where not valid
    masks: np.ndarray | None = None  # (N, G, H, W) uint8
    crowd: np.ndarray | None = None  # (N, G) bool
    valid: np.ndarray | None = None  # (N, G) bool: False is padding
    keypoints: np.ndarray | None = None  # (N, G, K, 3) float32


@dataclass
class Detections:
    """What the model finds in a Batch, at fixed size: D places an image, best first, `valid` says which are real."""

    boxes: np.ndarray  # (N, D, 4) float32, pixels of the resized picture
    labels: np.ndarray  # (N, D) int64
    scores: np.ndarray  # (N, D) float32
    valid: np.ndarray  # (N, D) bool
    masks: np.ndarray | None = None  # (N, D, M, M) float32: probability inside the box, of the detected class
    keypoints: np.ndarray | None = None  # (N, D, K, 3) float32: x, y, score
    whole_pixels: bool = True  # masks are pasted at whole pixels, as in torchvision; else exactly where the box lies


@dataclass
class Prediction:
    """What was found in one picture: D objects in pixels of the original picture, best first."""

    boxes: np.ndarray  # (D, 4) float32: x1, y1, x2, y2
    labels: np.ndarray  # (D,) int64
    scores: np.ndarray  # (D,) float32
    masks: np.ndarray | None = None  # (D, H, W) bool: pasted into the picture, thresholded at 0.5
    soft_masks: np.ndarray | None = None  # (D, M, M) float32
    keypoints: np.ndarray | None = None  # (D, K, 3) float32
