"""Fast R-CNN: the network runs once per image, and all proposals share its features. Girshick 2015, section 2;
slides T04 and T09.

    image    -> network -> feature map -+-> RoIPool 7 x 7 -> two fully connected layers -> class and box
    image -> selective search -> boxes -+

Mask R-CNN without its RPN and its masks: the box branch and its losses are those of MaskRCNN. As in the paper, a
quarter of the sampled boxes are positives, and background are boxes whose best IoU lies between 0.1 and 0.5: those
near an object are harder than the rest, so this stands in for a search of hard examples (section 2.3).

Simplified: a small ResNet (its last stage dilated, stride 8 of the drawn scenes) instead of VGG-16; 200 proposals
instead of about 2,000.
"""

from minimask import boxes as box_ops
from minimask.errors import InputError
from minimask.mask_rcnn import MaskRCNN
from minimask.presets import PRESETS, merge
from minimask.run.predictor import check_batch
from minimask.systems.proposals import ProposalSettings, proposals_of
from minimask.targets import sample_rois
from minimask.tensor import Tensor
from minimask.trace import record

GROUPS = ("backbone", "roi", "heads", "detection", "transform", "conventions")


def toy_preset(**changes):
    """Groups of settings for drawn scenes: those of the preset "toy" without RPN and masks, with changes."""
    toy = {name: PRESETS["toy"][name] for name in ("backbone", "roi", "heads", "transform", "conventions")}
    toy = merge(toy, {"backbone": {"neck": "c5"}, "heads": {"mask": None, "box_width": 128}})
    return merge(toy, changes)


class FastRCNN(MaskRCNN):
    """The system. Its base MaskRCNN has the box branch; here is where the boxes come from."""

    preset = toy_preset(roi=dict(pooling="roi_pool", samples=64))
    groups = GROUPS
    Settings = ProposalSettings

    def __init__(self, num_classes, system=None, **groups):
        self.system = self.Settings.of(system)
        super().__init__(num_classes, **groups)
        if self.heads.mask or self.heads.keypoints:
            raise InputError(f"{type(self).__name__} finds no masks and keypoints in its boxes: leave heads.mask none")
        del self.rpn

    def forward(self, batch, rng=None):
        """Losses if `rng` is given (a Batch with ground truth), else Detections."""
        check_batch(batch, rng, self.training)
        batch = batch.to(self.device)
        record(images=batch.images)
        proposals = proposals_of(batch, self.transform, self.system.regions)
        features = self.features(Tensor(batch.images.astype(self.backbone.body.conv1.weight.dtype, copy=False)))
        record(proposals=proposals.boxes, proposal_valid=proposals.valid)

        if rng is None:
            return self.find(features, proposals, batch)
        losses = self.region_losses(features, proposals, batch, rng)
        record(**losses)
        return losses

    def region_losses(self, features, proposals, batch, rng):
        """{"loss_classifier", "loss_box_reg"} on a sample of the proposals."""
        near = near_objects(proposals, batch, self.system.background)
        rois = sample_rois(proposals.boxes, near, batch, self.roi, rng)
        return self.box_losses(features, batch, rois)

    def find(self, features, proposals, batch):
        """Detections among the proposals."""
        return self.find_boxes(features, proposals.boxes, proposals.valid, batch.sizes)

    def forward_passes(self, batch):
        """How many pictures the network sees for each image of the batch: a list of N numbers; slide T09."""
        return [1] * len(batch.images)


def near_objects(proposals, batch, least):
    """The proposals that are valid and whose IoU with an object is at least `least`: (N, R) bool."""
    overlap = box_ops.iou(proposals.boxes, batch.boxes) * batch.valid[:, None, :]
    return proposals.valid & (overlap.max(axis=2) >= least)
