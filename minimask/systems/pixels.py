"""What the systems share that classify pixels first and find objects afterwards (slides T05, T07).

Such a system has a body like Mask R-CNN's, but no RPN and no heads for boxes. It learns maps of the size of the image;
objects are read off these maps afterwards, and their boxes come from their masks.
"""

from dataclasses import dataclass

import numpy as np

from minimask import functional as F
from minimask import nn
from minimask.backbone import resnet
from minimask.conventions import resolve
from minimask.device import array_module, to_cpu
from minimask.image import ImageTransform
from minimask.losses import class_loss
from minimask.machine import distributed
from minimask.presets import PRESETS
from minimask.run.model_settings import BodySettings, ConventionSettings, TransformSettings
from minimask.run.predictor import Predictor, check_batch
from minimask.run.settings import Settings, setting
from minimask.structures import Detections
from minimask.tensor import Tensor

IGNORED = -1  # the label of pixels from which nothing is learned: crowds and padding


@dataclass(frozen=True, repr=False)
class PixelSettings(Settings):
    """Which of the regions that a system of pixels finds are detections."""

    owner = "system."
    max_detections: int = setting(50, "detections per image", least=1)
    smallest_area: int = setting(20, "smaller regions are dropped; in pixels of the resized image", least=1)


class PixelSystem(nn.Module, Predictor):
    """Base of these systems: a body, and the two halves of `forward`.

    A system says what it learns in `pixel_losses(levels, batch)` and how it finds objects in `objects(levels, batch)`;
    `levels` are the feature maps C2 to C5 of the body.
    """

    preset = {
        **{name: PRESETS["toy"][name] for name in ("transform", "conventions")},
        "backbone": {n: v for n, v in PRESETS["toy"]["backbone"].items() if n in BodySettings.__dataclass_fields__},
    }
    groups = ("backbone", "transform", "conventions")
    kinds = {"backbone": BodySettings}  # there is no neck
    Settings = PixelSettings

    def __init__(self, num_classes, system=None, backbone=None, transform=None, conventions=None):
        self.num_classes = num_classes
        self.system = self.Settings.of(system)
        backbone, transform = BodySettings.of(backbone), TransformSettings.of(transform)
        self.conventions = resolve(**vars(ConventionSettings.of(conventions)))
        self.backbone = nn.Module()
        self.backbone.body = resnet(stride_in_1x1=self.conventions["stride_in_1x1"], **backbone.body())
        self.transform = ImageTransform(**vars(transform), divisor=32)

    def forward(self, batch, rng=None):
        """Losses if `rng` is given (a Batch with ground truth), else Detections with masks of the whole image."""
        check_batch(batch, rng, self.training)
        batch = batch.to(self.device)
        levels = self.levels(batch)
        if rng is not None:
            return self.pixel_losses(levels, batch)
        return whole_image_detections(self.objects(levels, batch), batch, self.system.max_detections)

    def levels(self, batch):
        """The feature maps C2 to C5 of a batch, Tensors (N, h, w, C)."""
        body = self.backbone.body
        return body(Tensor(batch.images.astype(body.conv1.weight.dtype, copy=False)))

    def losses(self, batch, rng):
        """The losses of a Batch with ground truth, in training or (for validation) in inference mode."""
        if rng is None:
            raise ValueError(f"{type(self).__name__}.losses: needs rng=sampling_generator(seed, step)")
        return self.forward(batch, rng)

    def detect(self, batch):
        """Batch -> Detections, in inference mode and without gradients, whatever mode the model is in."""
        with self.inference():
            return self.forward(batch)


def instance_map(batch):
    """Which object each pixel shows: (N, H, W) int, 0 .. G - 1, -1 where there is none.

    Where objects overlap, the smaller one lies on top.
    """
    xp = array_module(batch.masks)
    real = batch.valid & ~batch.crowd
    area = batch.masks.sum(axis=(2, 3), dtype=np.int64)  # (N, G)
    rank = xp.argsort(xp.argsort(xp.where(real, area, 1 << 40), axis=1), axis=1)  # 0: the smallest
    absent = batch.masks.shape[1]
    here = (batch.masks > 0) & real[..., None, None]
    order = xp.where(here, rank[..., None, None], absent)  # (N, G, H, W)
    return xp.where(here.any(axis=1), order.argmin(axis=1), -1)


def semantic_map(batch):
    """The class of each pixel: (N, H, W) int, 0 for the background, IGNORED in crowds and in the padding."""
    xp = array_module(batch.masks)
    objects = instance_map(batch)
    labels = batch.labels[xp.arange(len(objects))[:, None, None], objects.clip(0)]
    labels = xp.where(objects >= 0, labels, 0)
    crowd = ((batch.masks > 0) & (batch.crowd & batch.valid)[..., None, None]).any(axis=1)
    return xp.where((crowd & (objects < 0)) | ~inside(batch), IGNORED, labels)


def inside(batch):
    """(N, H, W) bool: the pixels of each image, without its padding."""
    xp = array_module(batch.images)
    h, w = batch.images.shape[1:3]
    rows = xp.arange(h)[None, :, None] < batch.sizes[:, 0, None, None]
    return rows & (xp.arange(w)[None, None, :] < batch.sizes[:, 1, None, None])


def pixel_class_loss(scores, labels):
    """Cross-entropy per pixel. scores: Tensor (N, H, W, C). labels: (N, H, W) int, IGNORED ones do not count."""
    scores, labels = scores.reshape(-1, scores.shape[3]), labels.reshape(-1)
    return class_loss(scores, labels.clip(0), labels != IGNORED)


def shares(weights, dtype):
    """Weights of pixels, divided by their sum over the images of all workers."""
    return (weights / distributed.total(weights.sum()).clip(1e-6)).astype(dtype)


def best_classes(scores, batch):
    """The best class of each pixel and its probability, (N, H, W) each, on the CPU; the padding is background.

    scores: Tensor (N, H, W, C).
    """
    probabilities = F.softmax_array(scores.data)
    return to_cpu(probabilities.argmax(axis=3) * inside(batch)), to_cpu(probabilities.max(axis=3))


def whole_image_detections(objects, batch, count):
    """Detections, best first, of the objects that each image holds: at most `count` per image.

    objects: for each image a list of (label, score, mask), the mask (H, W) bool in pixels of the padded image.
    """
    xp, n = array_module(batch.images), len(objects)
    boxes, masks = np.zeros((n, count, 4), np.float32), np.zeros((n, count, *batch.images.shape[1:3]), np.float32)
    labels, scores = np.zeros((n, count), np.int64), np.zeros((n, count), np.float32)
    valid = np.zeros((n, count), bool)
    for i, found in enumerate(objects):
        best = sorted(found, key=lambda one: -one[1])[:count]
        for d, (label, score, mask) in enumerate(best):
            boxes[i, d], labels[i, d], scores[i, d] = box_of(mask), label, score
            masks[i, d], valid[i, d] = mask, True
    arrays = (xp.asarray(array) for array in (boxes, labels, scores, valid, masks))
    return Detections(*arrays, whole_image=True)


def box_of(mask):
    """The box x1, y1, x2, y2 around a mask (H, W) that is not empty."""
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return x[0], y[0], x[-1] + 1, y[-1] + 1


def components(labels, scores, smallest_area, batch):
    """Connected regions of one class as objects, for `whole_image_detections`.

    labels (N, H, W): the class of each pixel. scores (N, H, W): its probability; an object's score is their mean.
    """
    from minimask.systems import needs

    ndimage = needs("scipy.ndimage", "scipy")
    labels, scores = to_cpu(labels), to_cpu(scores)
    real, found = to_cpu(inside(batch)), []
    for classes, values, where in zip(labels, scores, real):
        objects = []
        for label in np.unique(classes[where & (classes > 0)]):
            regions, count = ndimage.label((classes == label) & where)
            for region in range(1, count + 1):
                mask = regions == region
                if mask.sum() >= smallest_area:
                    objects.append((label, values[mask].mean(), mask))
        found.append(objects)
    return found


def confusion(predicted, true, num_classes):
    """How many pixels of true class i were given class j: (C, C) int64.

    predicted, true: int arrays of one shape; pixels whose true label is IGNORED do not count.
    """
    seen = true != IGNORED
    pairs = true[seen].astype(np.int64) * num_classes + predicted[seen]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(counts):
    """Mean IoU over the classes that occur, background included, and the IoU of each class (C,), NaN if it is absent.

    counts: (C, C), the sum of `confusion` over all images. Long et al. 2015, section 5.
    """
    both, union = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    iou = np.where(union > 0, both / np.maximum(union, 1), np.nan)
    return float(np.nanmean(iou)), iou
