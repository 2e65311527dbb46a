"""The records that travel between the stages: a Sample from a dataset, a Batch for the model, what the model finds."""

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np

from minimask import device as device_module
from minimask.device import array_module, on_cpu
from minimask.run.show import Showable, count_text, extras, size_text


@dataclass(repr=False)
class Sample:
    """One image and its G objects, in pixels of that image."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    boxes: np.ndarray  # (G, 4) float32: x1, y1, x2, y2
    labels: np.ndarray  # (G,) int64: 1 .. num_classes - 1 (0 is the background)
    masks: np.ndarray  # (G, H, W) uint8: 0 or 1. A COCO dataset gives EncodedMasks, which can be used like an array
    crowd: np.ndarray  # (G,) bool: a crowd is neither a positive nor a negative
    image_id: int
    name: str  # for messages: file name or "toy train 17"
    keypoints: np.ndarray | None = None  # (G, K, 3) float32: x, y, visibility (0 none, 1 hidden, 2 visible)

    def __repr__(self):
        parts = [f"{self.name!r}", size_text(self.image.shape[:2]), count_text(len(self.boxes), "object")]
        return f"Sample({', '.join(parts + extras(self.masks, self.keypoints))})"


@dataclass(repr=False)
class Batch:
    """N images resized, normalized and padded to one size, with ground truth padded to G >= 1 objects."""

    images: np.ndarray  # (N, H, W, 3) float32, zero outside each image
    sizes: np.ndarray  # (N, 2) int64: height, width of each resized image inside the padding
    original_sizes: np.ndarray  # (N, 2) int64: height, width before resizing
    image_ids: list = field(default_factory=list)
    names: list = field(default_factory=list)
    boxes: np.ndarray | None = None  # (N, G, 4) float32, pixels of the resized image
    labels: np.ndarray | None = None  # (N, G) int64, 0 where not valid
    masks: np.ndarray | None = None  # (N, G, H, W) uint8
    crowd: np.ndarray | None = None  # (N, G) bool
    valid: np.ndarray | None = None  # (N, G) bool: False is padding
    keypoints: np.ndarray | None = None  # (N, G, K, 3) float32

    def to(self, device):
        """The same batch on "cpu" or "cuda", itself if it is there already. The original sizes stay on the CPU.

        The copy to the card joins the current stream and reads page-locked memory, so the CPU does not wait for it.
        """
        return self if device_module.device_of(self.images) == device else _moved(self, device, ("original_sizes",))

    def __repr__(self):
        parts = [count_text(len(self.images), "image"), size_text(self.images.shape[1:3])]
        if self.valid is not None:
            parts += [count_text(int(self.valid.sum()), "object"), *extras(self.masks, self.keypoints)]
        return f"Batch({', '.join(parts)})"


class RoIs(NamedTuple):
    """The boxes that the heads learn from: S per image, positives first."""

    boxes: np.ndarray  # (N, S, 4) in pixels of the resized image
    labels: np.ndarray  # (N, S) int, 0 for the background
    matches: np.ndarray  # (N, S) int, index of the object that a box overlaps most
    positive: np.ndarray  # (N, S) bool
    valid: np.ndarray  # (N, S) bool, False where there were not enough boxes
    index: np.ndarray  # (N, S) int, the place of each box among the proposals followed by the true boxes

    def first(self, count):
        """The first `count` RoIs of each image."""
        return RoIs(*(array[:, :count] for array in self))


@dataclass(repr=False)
class Detections:
    """What the model finds in a Batch, at fixed size: D places per image, best first; `valid` says which are real."""

    boxes: np.ndarray  # (N, D, 4) float32, pixels of the resized image
    labels: np.ndarray  # (N, D) int64
    scores: np.ndarray  # (N, D) float32
    valid: np.ndarray  # (N, D) bool
    masks: np.ndarray | None = None  # (N, D, M, M) float32: probability inside the box, of the detected class
    keypoints: np.ndarray | None = None  # (N, D, K, 3) float32: x, y, score
    whole_pixels: bool = True  # masks are pasted at whole pixels, as in torchvision; else exactly where the box lies
    whole_image: bool = False  # the masks are (N, D, H, W): of the padded image, not of the boxes

    def to(self, device):
        """The same detections on "cpu" or "cuda", themselves if they are there. A copy to the CPU waits for it."""
        return self if device_module.device_of(self.boxes) == device else _moved(self, device)

    def __repr__(self):
        counts = ", ".join(str(int(count)) for count in self.valid.sum(axis=1))
        parts = [count_text(len(self.boxes), "image"), f"{counts} of {self.valid.shape[1]} places used"]
        return f"Detections({', '.join(parts + extras(self.masks, self.keypoints))})"


@dataclass(repr=False)
class Prediction(Showable):
    """What was found in one image: D objects in pixels of the original image, best first.

    `names` are the classes of the objects; `show()` and `save("found.png")` draw them. In a notebook it draws itself.
    """

    boxes: np.ndarray  # (D, 4) float32: x1, y1, x2, y2
    labels: np.ndarray  # (D,) int64
    scores: np.ndarray  # (D,) float32
    masks: np.ndarray | None = None  # (D, H, W) bool: pasted into the image, thresholded at 0.5
    soft_masks: np.ndarray | None = None  # (D, M, M) float32
    keypoints: np.ndarray | None = None  # (D, K, 3) float32: x, y, score
    image: np.ndarray | None = None  # (H, W, 3) uint8
    class_names: tuple = ()  # of labels 1, 2, ...
    keypoint_names: tuple = ()
    skeleton: tuple = ()  # pairs of keypoint indices that a drawing joins

    def __repr__(self):
        shown = [f"{name} {score:.2f}" for name, score in zip(self.names[:4], self.scores)]
        more = ["..."] if len(self.scores) > 4 else []
        parts = [count_text(len(self.scores), "object") + (": " if shown else "") + ", ".join(shown + more)]
        return f"Prediction({', '.join(parts + extras(self.masks, self.keypoints))})"


def _moved(record, device, but=()):
    """A record with its arrays on another device, except for the fields in `but`."""
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
