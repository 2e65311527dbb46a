"""Test time augmentation and box refinement: the "+++" that a trained model gets for free, except for time.

He et al. 2016, appendix B ("box refinement", "multi-scale testing"); Gidaris & Komodakis 2015 (box voting);
slides T14, T16 (Faster R-CNN+++, FCIS+++).

    better = Augmented(model, scales=(1, 1.5), flip=True, refine=1)
    better.predict("photo.jpg")        # and minimask.evaluate(better, data)

The model looks at each image several times: at several scales, and mirrored. What it finds is brought back to the
original pixels, and detections of the same class that overlap become one. NMS keeps the best of them; its box becomes
the average of their boxes and its mask the average of their masks (voting.py), weighted by their scores. With `refine`
the box head reads its own boxes again, as it reads proposals, before that.

The third "+", global context, is a layer that must be trained, and is not here.
"""

import dataclasses

import numpy as np

from minimask.errors import InputError
from minimask.image import resize_bilinear
from minimask.mask_rcnn import MaskRCNN
from minimask.run.predictor import Predictor
from minimask.systems.voting import detect_and_vote
from minimask.tensor import Tensor

DIVISOR = 32  # sides of a batch are multiples of it


class Augmented(Predictor):
    """A model that looks several times; it predicts and is evaluated like the model itself.

    model: a MaskRCNN, or a system whose masks lie inside boxes.
    scales: how much larger each view is than the image that the model is used to.
    flip: look at each of them mirrored, too.
    refine: how often the boxes that were found go through the box head again; only for a MaskRCNN.
    """

    def __init__(self, model, scales=(1.0,), flip=True, refine=0):
        if not len(scales) or min(scales) <= 0:
            raise InputError(f"Augmented: scales must be positive numbers, at least one, got {scales}")
        if not isinstance(model, MaskRCNN):
            raise InputError(f"Augmented: {type(model).__name__} has no boxes whose detections could be merged")
        if refine and type(model).forward is not MaskRCNN.forward:
            raise InputError(f"Augmented: {type(model).__name__} cannot refine boxes with a box head; use refine=0")
        self.model, self.scales, self.flip, self.refine = model, tuple(scales), flip, refine
        self.num_classes, self.transform = model.num_classes, model.transform
        self.class_names, self.category_ids = model.class_names, model.category_ids

    @property
    def device(self):
        """Where the model is: "cpu" or "cuda"."""
        return self.model.device

    def to(self, device):
        """Move the model to a device; returns this."""
        self.model.to(device)
        return self

    def detect(self, batch):
        """Batch -> Detections, in pixels of its images; keypoints are left out."""
        views = [(scale, flip) for scale in self.scales for flip in ((False, True) if self.flip else (False,))]
        found = [self.look(batch.to("cpu"), scale, flip) for scale, flip in views]
        return merge(found, self.num_classes, self.model.detection)

    def look(self, batch, scale, flip):
        """The detections in one view of a batch, in pixels of the batch."""
        view, factors = resized(batch, scale)
        view = mirrored(view) if flip else view
        with self.model.inference():
            found = self.find(view).to("cpu")
        found = mirrored_back(found, view.sizes) if flip else found
        return dataclasses.replace(found, boxes=(found.boxes * factors).astype(np.float32), keypoints=None)

    def find(self, batch):
        """What the model finds; with `refine`, the stages of MaskRCNN.forward with the box head again and again."""
        model = self.model
        if not self.refine:
            return model.detect(batch)
        batch = batch.to(model.device)
        features = model.features(Tensor(batch.images))
        logits, deltas, anchors = model.rpn(features[model.rpn_first_level :], batch.images.shape[1:3])
        boxes, _, valid = model.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)
        rounds = []
        for _ in range(1 + self.refine):
            found = model.find_boxes(features, boxes, valid, batch.sizes)
            rounds.append(found.to("cpu"))
            boxes, valid = found.boxes, found.valid
        found = merge(rounds, self.num_classes, model.detection).to(model.device)
        found.masks = model.find_masks(features, found) if model.heads.mask else None
        return found


def resized(batch, scale):
    """A view of the batch at another scale, and what its boxes are multiplied by to lie in the batch again: (4,)."""
    if scale == 1:
        return batch, np.ones(4)
    before = np.array(batch.images.shape[1:3])
    after = np.maximum(np.round(before * scale), 1).astype(np.int64)
    images = resize_bilinear(Tensor(batch.images), after.tolist()).data
    below, right = -after % DIVISOR
    images = np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))
    sizes = np.maximum(np.round(batch.sizes * (after / before)), 1).astype(np.int64)
    return dataclasses.replace(batch, images=images, sizes=sizes), np.tile((before / after)[::-1], 2)


def mirrored(batch):
    """A view of the batch in which left and right are exchanged; the padding stays on the right."""
    images = np.zeros_like(batch.images)
    for image, mirror, (_, width) in zip(batch.images, images, batch.sizes):
        mirror[:, :width] = image[:, :width][:, ::-1]
    return dataclasses.replace(batch, images=images)


def mirrored_back(found, sizes):
    """Detections in a mirrored batch, as they lie in the batch itself."""
    x1, y1, x2, y2 = np.moveaxis(found.boxes, -1, 0)
    width = sizes[:, 1:]
    boxes = np.stack([width - x2, y1, width - x1, y2], axis=-1) * found.valid[..., None]
    masks = None if found.masks is None else found.masks[..., ::-1]
    return dataclasses.replace(found, boxes=boxes.astype(np.float32), masks=masks)


def merge(views, num_classes, settings, overlap=0.5):
    """The Detections of several views as one: NMS, then boxes and masks are averaged over those that overlap.

    views: list of Detections on the CPU, in the same pixels. settings: DetectionSettings. overlap: the IoU from which
    on detections of one class count as the same object.
    """
    boxes, labels, scores, valid = (
        np.concatenate([getattr(view, name) for view in views], axis=1)
        for name in ("boxes", "labels", "scores", "valid")
    )
    by_class = scores[..., None] * (labels[..., None] == np.arange(num_classes))  # (N, R, C)
    masks = None
    if views[0].masks is not None:
        masks = np.concatenate([view.masks for view in views], axis=1)[..., None]
    thresholds = settings.score_threshold, settings.nms_threshold, settings.max_detections
    found = detect_and_vote(boxes, valid, by_class, masks, *thresholds, overlap, vote_boxes=True)
    found.whole_pixels = views[0].whole_pixels
    return found
