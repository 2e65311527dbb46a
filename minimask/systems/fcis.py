"""FCIS: the class, the box and the mask of a RoI are read off the same position-sensitive maps.

Li et al. 2017; code: github.com/msracver/FCIS; slide T14. Sections 2.1 and 2.2: for each part of an object (k x k of
them) and each class there are two score maps, "inside the object" and "outside of it, but inside its box". Pooling
reads them on a grid of m x m cells (position_sensitive.py). At each cell

    mask:   softmax(inside, outside)      is this cell inside the object?
    class:  max(inside, outside)          either answer says that there is such an object; the mean over the RoI counts

A 1x1 convolution makes the maps of the whole image at once, and no layer comes after pooling, so a RoI costs almost
nothing. The price is paid by masks of overlapping objects, which have to share the maps: the artifacts in figure 6 of
the Mask R-CNN paper.

Section 2.3: C5 keeps the stride of C4 by dilation; the box deltas come from k x k x 4 more maps, the same for all
classes; at test time the refined boxes are pooled once more, from the same maps, and the RoIs of both rounds vote
(voting.py).

Simplified: the RPN reads C5 instead of C4, masks are cut at 0.5 instead of 0.4, and on scenes of 128 pixels C5 has
stride 8 (the "fine" stem) and there are 3 x 3 parts instead of 7 x 7.
"""

import dataclasses
from dataclasses import dataclass

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import nn
from minimask.device import array_module
from minimask.losses import box_loss, class_loss, mask_loss
from minimask.mask_rcnn import BOX_WEIGHTS, MaskRCNN
from minimask.presets import PRESETS
from minimask.run.predictor import check_batch
from minimask.run.settings import Settings, setting
from minimask.structures import in_use
from minimask.systems import ohem
from minimask.systems.position_sensitive import position_sensitive_pool
from minimask.systems.roi_targets import roi_targets
from minimask.systems.voting import detect_together
from minimask.targets import sample_rois


@dataclass(frozen=True, repr=False)
class FCISSettings(Settings):
    """FCIS's own settings."""

    owner = "system."
    parts: int = setting(3, "parts along each side of an object", least=1, most=32)
    cells: int = setting(21, "cells along each side of a mask", least=1, most=256)
    width: int = setting(64, "channels of C5 before the score maps", least=1, most=4096)
    hardest: int | None = setting(None, "RoIs per image that learn, those with the largest loss (OHEM)", least=1)
    rounds: int = setting(2, "how often boxes are refined at test time", least=1)
    mask_weight: float = setting(3.0, "what the loss of the masks is multiplied by", above=0)


class FCIS(MaskRCNN):
    """Region proposals, then everything from position-sensitive score maps."""

    Settings = FCISSettings
    groups = ("backbone", "rpn", "roi", "detection", "transform", "conventions")
    preset = {**PRESETS["toy_c5"], "detection": dict(nms_threshold=0.3)}

    def __init__(self, num_classes, system=None, **groups):
        self.system = FCISSettings.of(system)
        super().__init__(num_classes, **groups)

    def _add_heads(self, channels, backbone):
        settings, heads = self.system, nn.Module()
        self.roi_heads = heads
        heads.reduce = nn.Conv2d(channels, settings.width, 1, relu=True)
        heads.maps = nn.Conv2d(settings.width, settings.parts**2 * (2 * self.num_classes + 4), 1)
        heads.maps.weight.data[...] = nn.normal(nn.init_rng(), heads.maps.weight.shape, 0.01)

    def forward(self, batch, rng=None):
        """Losses if `rng` is given, else Detections; as MaskRCNN.forward."""
        check_batch(batch, rng, self.training)
        batch = batch.to(self.device)
        features = self.features(F.Tensor(batch.images))
        logits, deltas, anchors = self.rpn(features, batch.images.shape[1:3])
        proposals, _, valid = self.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)
        maps = self.roi_heads.maps(self.roi_heads.reduce(features[-1]))  # (N, H, W, k k (2 C + 4))
        if rng is None:
            return self.find(maps, proposals, valid, batch.sizes)

        losses = self.rpn.losses(logits, deltas, anchors, batch, rng)
        sampling = self.roi
        if self.system.hardest:  # then the loss chooses among all of them
            everything = proposals.shape[1] + batch.boxes.shape[1]
            sampling = dataclasses.replace(sampling, samples=everything, positive_fraction=1.0)
        return losses | self.roi_losses(maps, batch, sample_rois(proposals, valid, batch, sampling, rng))

    def read(self, maps, boxes):
        """What the maps say about the boxes (N, R, 4): class logits (N R, C), deltas (N R, 4) and mask logits.

        The mask logits (N R, m, m, C) are inside - outside: the softmax of two is the sigmoid of their difference.
        """
        settings, c = self.system, self.num_classes
        _, flat, image_index = in_use(boxes)
        scale = 1 / self.roi_strides[-1]
        y = position_sensitive_pool(maps, flat, image_index, scale, settings.parts, settings.cells)
        inside, outside, deltas = y[..., :c], y[..., c : 2 * c], y[..., 2 * c :]  # of y (N R, m, m, 2 C + 4)
        mask_logits = inside - outside
        larger = outside + F.relu(mask_logits)  # max(inside, outside)
        return larger.mean((1, 2)), deltas.mean((1, 2)), mask_logits

    def roi_losses(self, maps, batch, rois):
        """{"loss_classifier", "loss_box_reg", "loss_mask"} on the sampled RoIs, or on the hardest of them."""
        logits, deltas, masks = self.read(maps, rois.boxes)
        targets, true_masks = roi_targets(rois, batch, self.system.cells, self.conventions)
        labels, positive, learns = (x.reshape(-1) for x in (rois.labels, rois.positive, rois.valid))  # (N R,) each
        if self.system.hardest:
            loss = ohem.box_losses(deltas.data, targets)
            loss += self.system.mask_weight * ohem.mask_losses(masks.data, labels, true_masks)
            loss = ohem.class_losses(logits.data, labels) + positive * loss
            learns = ohem.hardest(loss.reshape(rois.valid.shape), rois.valid, self.system.hardest).reshape(-1)

        positive = positive & learns
        only = array_module(labels).zeros_like(labels)  # there is one box for all classes
        return {
            "loss_classifier": class_loss(logits, labels, learns),
            "loss_box_reg": box_loss(deltas, only, targets, positive, learns),
            "loss_mask": mask_loss(masks, labels, true_masks, positive) * self.system.mask_weight,
        }

    def find(self, maps, rois, valid, sizes):
        """Detections: the RoIs of all rounds, which vote for the masks."""
        found, shape = [], valid.shape
        for _ in range(self.system.rounds):
            logits, deltas, masks = (x.data.reshape(*shape, *x.shape[1:]) for x in self.read(maps, rois))
            found.append((rois, valid, F.softmax_array(logits), F.sigmoid_array(masks)))
            boxes, large = box_ops.predicted(deltas[:, :, None], rois, sizes, BOX_WEIGHTS, self.detection.smallest_side)
            rois, valid = boxes[:, :, 0], valid & large[:, :, 0]
        return detect_together(found, self.detection)
