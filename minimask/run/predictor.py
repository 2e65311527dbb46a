"""Using a model: it knows what its labels mean, takes photos in any form, and its predictions know their names.

`Predictor` is the part of a model that is neither network nor training: whatever has `transform(images) -> Batch` and
`detect(batch) -> Detections` becomes usable with it.
"""

import os

import numpy as np

from minimask.errors import InputError
from minimask.machine.card import enough_memory
from minimask.machine.process import tuned_process
from minimask.mask_head import restore
from minimask.structures import Batch

AT_ONCE = 16  # images in a batch


class Predictor:
    """Base of models that find objects.

    class_names: names of labels 1, 2, ... (label 0, the background, has none); empty if they are not known.
    category_ids: the ids of these labels in COCO, or in the data set that the model was trained on.
    keypoint_names: names of the keypoints, if the model finds any.
    skeleton: pairs of keypoint indices (from 0) that a drawing joins by lines.
    """

    class_names = ()
    category_ids = ()
    keypoint_names = ()
    skeleton = ()

    def name_classes(self, class_names, category_ids=None, keypoint_names=None, skeleton=None):
        """Say what the labels mean, and the keypoints; returns the model. category_ids: by default 1, 2, ..."""
        count = getattr(self, "num_classes", len(class_names) + 1) - 1
        if isinstance(class_names, str) or len(class_names) != count:
            raise InputError(
                f"class_names must be a list of {count} names (the background has none), got {class_names!r}"
            )
        self.class_names = [str(name) for name in class_names]
        ids = range(1, count + 1) if category_ids is None or not len(category_ids) else category_ids
        self.category_ids = [int(i) for i in ids]
        self.keypoint_names = list(keypoint_names or ())
        self.skeleton = [list(pair) for pair in skeleton or ()]
        return self

    @tuned_process()
    def predict(self, images):
        """Find objects.

        images: a path of a photo, a PIL image, or an array (H, W, 3), uint8 or float from 0 to 1; or a list of these,
            which may have different sizes.
        Returns a Prediction in pixels of the image; for a list, a list of Predictions.
        Raises InputError for a file that cannot be read, ValueError for an array of another kind.
        """
        single = not isinstance(images, (list, tuple))
        pictures = [as_array(image) for image in ([images] if single else images)]
        found = []
        for start in range(0, len(pictures), AT_ONCE):
            batch = self.transform(pictures[start : start + AT_ONCE])
            with enough_memory("predict fewer images at once"):
                found += restore(self.detect(batch), batch)
        for prediction, picture in zip(found, pictures):
            prediction.image = picture if picture.dtype == np.uint8 else np.round(picture * 255).astype(np.uint8)
            prediction.class_names, prediction.skeleton = self.class_names, self.skeleton
            prediction.keypoint_names = self.keypoint_names
        return found[0] if single else found


def as_array(image):
    """(H, W, 3), uint8 or float from 0 to 1, of a path, a PIL image or an array."""
    from minimask.datasets.photos import read_image, rgb_array

    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if hasattr(image, "convert") and hasattr(image, "getbands"):  # a PIL image
        return rgb_array(image)
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None:
        raise ValueError(
            f"predict: takes paths, PIL images, arrays (H, W, 3) or a list of these, got {type(image).__name__}"
        )
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)  # gray
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or (dtype != np.uint8 and image.dtype.kind != "f"):
        raise ValueError(f"predict: an array must be (H, W, 3), uint8 or float from 0 to 1, got shape {shape}, {dtype}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError("predict: the array holds NaN or infinity")
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"predict: a float array must lie between 0 and 1, got {image.min():.4g} to {image.max():.4g}; "
            "divide by 255, or pass uint8"
        )
    return image


def check_batch(batch, rng, training):
    """Raises ValueError if a MaskRCNN cannot use the batch: what is wrong, and what to call instead."""
    if not isinstance(batch, Batch):
        raise ValueError(
            f"MaskRCNN: takes a Batch, which model.transform(images) makes, got {type(batch).__name__}; "
            "model.predict takes images themselves"
        )
    if batch.images.ndim != 4 or batch.images.shape[3] != 3:
        raise ValueError(f"MaskRCNN: images must be (N, H, W, 3), got shape {batch.images.shape}")
    if rng is None and training:
        raise ValueError(
            "MaskRCNN: in training mode it needs a Batch with ground truth and rng=sampling_generator(seed, step); "
            "to find objects call model.eval() first, or model.detect(batch) or model.predict(images)"
        )
    if rng is not None and batch.boxes is None:
        raise ValueError("MaskRCNN: losses need a Batch with ground truth; model.transform makes one of Samples")
