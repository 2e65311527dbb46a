"""MNC, a multi-task network cascade: first the box, then its mask, then the class of what is inside the mask.

Dai et al. 2016, sections 3 to 5; code: github.com/daijifeng001/MNC; slide T14. Each stage reads what the stage before
it found, where Mask R-CNN predicts class, box and mask side by side:

    1  boxes     the RPN
    2  masks     RoIWarp reads 14 x 14 features of a box; two fully connected layers draw one mask, whatever the class
    3  classes   from the features of the box, and from the same features times the mask; and a better box
    4, 5         stages 2 and 3 again, in the boxes of stage 3, with the same weights

Section 4: the whole cascade is trained at once, and RoIWarp makes the loss of a later stage a function of the box that
an earlier one predicted. So its gradient flows through the coordinates of the box, into stage 3 and the RPN. Matching
and targets are constants there, which has a danger: a box that lies too far to the left can lower the loss by moving on
to the left, where its features look as far off as its (constant) target says. On short runs of the toy size the whole
gradient drives the RPN's boxes off the objects; a tenth of it, `system.gradient_through_boxes`, does no harm.
RoIWarp rounds boxes to cells, as He et al. 2017 (section 3) point out; the gradient takes rounding for the identity.

At test time the RoIs of both rounds vote for the masks (voting.py).
Simplified: our body instead of VGG-16, 256 units per layer instead of 4096, and masks are cut at 0.5 instead of 0.4.
"""

from dataclasses import dataclass

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import nn
from minimask.box_head import BoxPredictor, TwoLayerHead
from minimask.convolution import max_pool2d
from minimask.image import resize_bilinear
from minimask.losses import box_loss, class_loss, mask_loss
from minimask.mask_rcnn import BOX_WEIGHTS, MaskRCNN
from minimask.run.predictor import check_batch
from minimask.run.settings import Settings, setting
from minimask.structures import in_use
from minimask.systems.box_gradient import best_boxes, moved_anchors, warp
from minimask.systems.fcis import FCIS
from minimask.systems.roi_targets import match_again, roi_targets
from minimask.systems.voting import detect_together
from minimask.targets import sample_rois

SIZE = 14  # cells along each side of a RoI's features


@dataclass(frozen=True, repr=False)
class MNCSettings(Settings):
    """MNC's own settings."""

    owner = "system."
    rounds: int = setting(2, "how often masks and classes are predicted: 2 makes five stages", least=1, most=10)
    cells: int = setting(21, "cells along each side of a mask", least=1, most=256)
    mask_width: int = setting(256, "units between the features of a RoI and its mask", least=1, most=4096)
    width: int = setting(256, "units in each of the four layers that classify", least=1, most=4096)
    rounding: bool = setting(True, "round boxes to whole cells, as RoIWarp does")
    gradient_through_boxes: float = setting(
        0.1, "what the gradient that later stages send through a box is multiplied by; 0: none", least=0, most=1
    )


class MNC(MaskRCNN):
    """The cascade of five stages."""

    Settings = MNCSettings
    groups, preset = FCIS.groups, FCIS.preset

    def __init__(self, num_classes, system=None, **groups):
        self.system = MNCSettings.of(system)
        super().__init__(num_classes, **groups)

    def _add_heads(self, channels, backbone):
        settings, half = self.system, SIZE // 2
        self.roi_heads = heads = nn.Module()
        heads.mask_fc = nn.Linear(SIZE**2 * channels, settings.mask_width, relu=True)
        heads.mask_logits = nn.Linear(settings.mask_width, settings.cells**2)
        heads.box_path = TwoLayerHead(half**2 * channels, settings.width)
        heads.masked_path = TwoLayerHead(half**2 * channels, settings.width)
        heads.predictor = BoxPredictor(2 * settings.width, self.num_classes)
        heads.mask_class = nn.Linear(2 * settings.width, self.num_classes)

    def forward(self, batch, rng=None):
        """Losses if `rng` is given, else Detections; as MaskRCNN.forward."""
        check_batch(batch, rng, self.training)
        batch = batch.to(self.device)
        features = self.features(F.Tensor(batch.images.astype(self.backbone.body.conv1.weight.dtype, copy=False)))
        logits, deltas, anchors = self.rpn(features, batch.images.shape[1:3])
        found = self.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes, with_anchors=True)
        proposals, _, valid, origin = found
        if rng is None:
            return self.find(features, proposals, valid, batch.sizes)

        losses = self.rpn.losses(logits, deltas, anchors, batch, rng)
        rois = sample_rois(proposals, valid, batch, self.roi, rng)
        share = self.system.gradient_through_boxes
        boxes = moved_anchors(deltas, anchors, origin, rois, batch.sizes, share) if share else F.Tensor(rois.boxes)
        return losses | self.cascade_losses(features, boxes, rois, batch)

    def stages(self, features, boxes, image_index):
        """Stages 2 and 3 for the boxes, a Tensor (R, 4).

        Returns mask logits (R, m, m, 1), class logits (R, C), box deltas (R, 4 C) and the class logits of the mask.
        """
        heads, m = self.roi_heads, self.system.cells
        x = warp(features[-1], boxes, image_index, 1 / self.roi_strides[-1], SIZE, self.system.rounding)
        # AdamW moves all weights at the same rate. Over thousands of positive inputs this soon pushes a sum below 0,
        # where ReLU keeps it. Small inputs prevent that.
        masks = heads.mask_fc(x.reshape(len(boxes), -1) * (1 / SIZE))
        masks = heads.mask_logits(masks).reshape(len(boxes), m, m, 1)
        inside = F.sigmoid(resize_bilinear(masks, (SIZE, SIZE)))
        joint = [heads.box_path(max_pool2d(x, 2)), heads.masked_path(max_pool2d(x * inside, 2))]
        joint = F.concatenate(joint, axis=1)  # (R, 2 width)
        return masks, *heads.predictor(joint), heads.mask_class(joint)

    def cascade_losses(self, features, boxes, rois, batch):
        """The losses of stages 2 and 3, and of the later rounds; boxes: those of the RoIs as a Tensor (N, S, 4)."""
        total = {}
        for _ in range(self.system.rounds):
            _, _, image_index = in_use(boxes.data)
            masks, logits, deltas, mask_class = self.stages(features, boxes.reshape(-1, 4), image_index)
            for name, loss in self.stage_losses(masks, logits, deltas, mask_class, rois, batch).items():
                total[name] = total[name] + loss if name in total else loss
            share = self.system.gradient_through_boxes
            boxes = best_boxes(boxes, deltas, mask_class.data, batch.sizes, BOX_WEIGHTS, share)
            rois = match_again(boxes.data, rois, batch, self.roi.iou)
        return total

    def stage_losses(self, masks, logits, deltas, mask_class, rois, batch):
        """Losses of one round by name; what the mask shows has its class only if the mask is good enough (IoU 0.5)."""
        targets, true = roi_targets(rois, batch, self.system.cells, self.conventions)  # (N S, 4), (N S, m, m)
        here, there = masks.data[..., 0] > 0, true >= 0.5
        good = (here & there).sum((1, 2)) >= 0.5 * (here | there).sum((1, 2))

        labels, positive, valid = (x.reshape(-1) for x in (rois.labels, rois.positive, rois.valid))  # (N S,) each
        return {
            "loss_mask": mask_loss(masks, labels, true, positive),
            "loss_classifier": class_loss(logits, labels, valid),
            "loss_box_reg": box_loss(deltas, labels, targets, positive, valid),
            "loss_mask_class": class_loss(mask_class, labels * good, valid),
        }

    def find(self, features, rois, valid, sizes):
        """Detections: the RoIs of all rounds, which vote for the masks."""
        found, (n, r) = [], valid.shape
        for _ in range(self.system.rounds):
            _, flat, image_index = in_use(rois)
            masks, _, deltas, mask_class = self.stages(features, F.Tensor(flat), image_index)
            scores = F.softmax_array(mask_class.data).reshape(n, r, -1)
            found.append((rois, valid, scores, F.sigmoid_array(masks.data).reshape(n, r, *masks.shape[1:])))
            rois = best_boxes(F.Tensor(rois), deltas, mask_class.data, sizes, BOX_WEIGHTS).data
            valid = valid & box_ops.large_enough(rois, self.detection.smallest_side)
        return detect_together(found, self.detection)
