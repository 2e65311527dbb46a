"""Pixelwise instance segmentation: detections and classes of pixels meet in a conditional random field. Slide T07.

Arnab & Torr 2017, section 3; the field is that of Kraehenbuehl & Koltun 2011. Boxes know how many objects there are,
pixels know what they show; the field decides which pixel belongs to which box.

    features -> RPN, box head -> D detections: class, box, score
    features -> class of each pixel
    both -> field -> for each pixel the background or one of the D detections

On its own, a pixel gives detection k, of class c and score s, the unary

    box_weight * s * p(c)  inside its box       (the box term)
    + (1 - box_weight) * p(c)  everywhere       (the global term: a box may be too small)

and p(background) to the background. Then its neighbors have their say, above all those of similar color:

    log q_k(i) = log unary_k(i) + strength * (mean of q_k over the neighbors, weighted by nearness and color) + const

Mean field repeats this a few times, starting from the unaries. Every pixel goes to one label, so masks never overlap,
and a detection that wins no pixels disappears: a weaker double in the same place loses them all.

Simplified: neighbors are a window of 7 x 7 pixels, two pixels apart, instead of all pixels; no third term that compares
with known shapes; the field's numbers are settings and it works in inference alone, while the paper trains it together
with the network, by gradients through its steps.
"""

from dataclasses import dataclass

import numpy as np

from minimask import functional as F
from minimask import nn
from minimask.device import array_module, to_cpu
from minimask.errors import InputError
from minimask.mask_rcnn import MaskRCNN
from minimask.presets import PRESETS
from minimask.run.predictor import check_batch
from minimask.run.settings import Settings, setting
from minimask.systems.dense import to_image
from minimask.systems.mean_field import mean_field
from minimask.systems.pixels import inside, pixel_class_loss, semantic_map, whole_image_detections
from minimask.targets import sample_rois


@dataclass(frozen=True, repr=False)
class CRFSettings(Settings):
    """The field's own settings."""

    owner = "system."
    box_weight: float = setting(0.9, "share of the box term; the rest is that of the global term", least=0, most=1)
    strength: float = setting(3.0, "how much the neighbors count", least=0)
    near: float = setting(4.0, "neighbors count less beyond this distance, in pixels", above=0)
    alike: float = setting(0.5, "and beyond this difference of color, in units of transform.std", above=0)
    steps: int = setting(5, "steps of mean field", least=0, most=100)
    smallest_area: int = setting(20, "smaller objects are dropped; in pixels of the resized image", least=1)


class CRF(MaskRCNN):
    """The system: a detector without masks, a class for each pixel, and the field in which both meet."""

    Settings = CRFSettings
    groups = ("backbone", "rpn", "roi", "heads", "detection", "transform", "conventions")
    preset = {
        **PRESETS["toy"],
        "heads": {**PRESETS["toy"]["heads"], "mask": None},
        "detection": dict(score_threshold=0.1, max_detections=12),
    }

    def __init__(self, num_classes, system=None, **groups):
        self.system = CRFSettings.of(system)
        super().__init__(num_classes, **groups)
        if self.heads.mask or self.heads.keypoints:
            raise InputError("the system crf draws masks itself: heads.mask must be none, and heads.keypoints 0")

    def _add_heads(self, channels, backbone):
        super()._add_heads(channels, backbone)
        layers = nn.Conv2d(channels, channels, 3, padding=1, relu=True), nn.Conv2d(channels, self.num_classes, 1)
        layers[1].weight.data[...] = 0  # every class is equally likely at first
        self.classify = nn.Sequential(*layers)

    def forward(self, batch, rng=None):
        """Losses if `rng` is given, else Detections with masks of the whole image; as MaskRCNN.forward."""
        check_batch(batch, rng, self.training)
        batch = batch.to(self.device)
        features = self.features(F.Tensor(batch.images.astype(self.backbone.body.conv1.weight.dtype, copy=False)))
        logits, deltas, anchors = self.rpn(features[self.rpn_first_level :], batch.images.shape[1:3])
        proposals, _, valid = self.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)
        scores = to_image(self.classify(features[0]), batch)  # (N, H, W, C)
        if rng is None:
            return self.field(scores.data, self.find_boxes(features, proposals, valid, batch.sizes), batch)

        losses = self.rpn.losses(logits, deltas, anchors, batch, rng)
        losses |= self.box_losses(features, batch, sample_rois(proposals, valid, batch, self.roi, rng))
        return losses | {"loss_pixels": pixel_class_loss(scores, semantic_map(batch))}

    def segment(self, batch):
        """The class of each pixel of the padded images, before the field: (N, H, W) int."""
        with self.inference():
            batch = batch.to(self.device)
            features = self.features(F.Tensor(batch.images.astype(self.backbone.body.conv1.weight.dtype, copy=False)))
            return to_image(self.classify(features[0]), batch).data.argmax(axis=3)

    def field(self, scores, found, batch):
        """Divide the pixels among the detections `found`; scores: (N, H, W, C). Returns Detections."""
        unary = unaries(F.softmax_array(scores), found, self.system.box_weight) * inside(batch)[..., None]
        unary[..., 0] += ~inside(batch)
        settings = self.system
        q = mean_field(unary, batch.images, settings.strength, settings.near, settings.alike, settings.steps)

        owner, q, labels, values = (to_cpu(x) for x in (q.argmax(axis=3), q, found.labels, found.scores))
        objects = [[] for _ in owner]
        for n, d in np.argwhere(to_cpu(found.valid)):
            mask = owner[n] == d + 1
            if mask.sum() >= self.system.smallest_area:
                objects[n].append((labels[n, d], values[n, d] * q[n, mask, d + 1].mean(), mask))
        return whole_image_detections(objects, batch, self.detection.max_detections)


def unaries(probabilities, found, box_weight):
    """What each pixel gives the background and each detection before it hears its neighbors: (N, H, W, D + 1).

    probabilities: (N, H, W, C) of the classes. found: Detections.
    """
    xp = array_module(probabilities)
    n, h, w, _ = probabilities.shape
    own = xp.take_along_axis(probabilities, found.labels[:, None, None], axis=3)  # (N, H, W, D)
    y, x = xp.indices((h, w))[..., None] + 0.5  # (H, W, 1) each
    x1, y1, x2, y2 = (found.boxes[:, None, None, :, side] for side in range(4))  # (N, 1, 1, D) each
    in_box = (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)
    values = own * (box_weight * in_box * found.scores[:, None, None] + 1 - box_weight)
    return xp.concatenate([probabilities[..., :1], values * found.valid[:, None, None]], axis=3)
