"""The records that travel between the stages: a Sample from a dataset, a Batch for the model, what it finds."""

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np

from minimask import device as device_module
from minimask.device import array_module, on_cpu


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
    """N pictures resized, normalized and padded to one size, with ground truth padded to G >= 1 objects."""

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

    def to(self, device):
        """The same batch on "cpu" or "cuda": itself if it is there. The original sizes stay on the CPU, for `restore`.

        The copy to the card is made in the order of the current stream, through page-locked memory: nobody waits.
        """
        return self if device_module.device_of(self.images) == device else _moved(self, device, ("original_sizes",))


class RoIs(NamedTuple):
    """The boxes that the heads learn from: S per image, positives first."""

    boxes: np.ndarray  # (N, S, 4) in pixels of the resized image
    labels: np.ndarray  # (N, S) int, 0 for the background
    matches: np.ndarray  # (N, S) int, index of the object that a box overlaps most
    positive: np.ndarray  # (N, S) bool
    valid: np.ndarray  # (N, S) bool, False where there were not enough boxes

    def first(self, count):
        """The first `count` RoIs of each image."""
        return RoIs(*(array[:, :count] for array in self))


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

    def to(self, device):
        """The same detections on "cpu" or "cuda": themselves if they are there. To the CPU it waits for the card."""
        return self if device_module.device_of(self.boxes) == device else _moved(self, device)


@dataclass
class Prediction:
    """What was found in one picture: D objects in pixels of the original picture, best first."""

    boxes: np.ndarray  # (D, 4) float32: x1, y1, x2, y2
    labels: np.ndarray  # (D,) int64
    scores: np.ndarray  # (D,) float32
    masks: np.ndarray | None = None  # (D, H, W) bool: pasted into the picture, thresholded at 0.5
    soft_masks: np.ndarray | None = None  # (D, M, M) float32
    keypoints: np.ndarray | None = None  # (D, K, 3) float32


def _moved(record, device, but=()):
    """A record with its arrays on another device, `but` for some fields."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in but}
    arrays = {name: value for name, value in values.items() if hasattr(value, "dtype")}
    return replace(record, **{name: device_module.to(array, device) for name, array in arrays.items()})


def in_use(boxes, valid=None):
    """The boxes (N, S, 4) of all images in one row -> index among all N*S, boxes (R, 4), the image of each (R,).

    valid (N, S): on the CPU only boxes that are valid are taken, at least one so that no array is empty. On the GPU all
    are taken, because a size that depends on values would have to wait for the card.
    """
    n, s, _ = boxes.shape
    slots, images = slice(None), array_module(boxes).arange(n).repeat(s)
    if valid is not None and on_cpu(valid) and not valid.all():
        slots = np.flatnonzero(valid) if valid.any() else np.zeros(1, np.int64)
    return slots, boxes.reshape(n * s, 4)[slots], images[slots]


def spread(values, slots, shape):
    """Put `values` (R, ...) at the places `slots` of zeros (N, S, ...): the inverse of `in_use`."""
    if isinstance(slots, slice):
        return values.reshape(*shape, *values.shape[1:])
    result = array_module(values).zeros((shape[0] * shape[1], *values.shape[1:]), values.dtype)
    result[slots] = values
    return result.reshape(*shape, *values.shape[1:])
