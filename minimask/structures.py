"""The records that travel between the stages: a Sample from a dataset, a Batch for the model, what it finds."""

from dataclasses import dataclass, field, fields, replace

import numpy as np

from minimask import device as device_module


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
