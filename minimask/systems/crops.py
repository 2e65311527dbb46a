"""What the systems share whose network runs once per proposal: slow R-CNN and SDS (slides T07, T09).

Mask R-CNN computes features of the image and pools them inside boxes. Here it is the other way around: `features` are
the image itself, `pool` cuts a picture out of it for each box, and the network is part of the head.
"""

from dataclasses import dataclass

from minimask.backbone import resnet
from minimask.device import array_module
from minimask.roi_align import roi_align
from minimask.run.settings import setting
from minimask.systems.fast_rcnn import FastRCNN
from minimask.systems.proposals import ProposalSettings, proposals_of
from minimask.trace import record


@dataclass(frozen=True, repr=False)
class CropSettings(ProposalSettings):
    """Settings of these systems."""

    background: float = setting(0.0, "a proposal is background from this IoU with an object on", least=0, most=1)
    crop: int = setting(48, "side of the warped pictures that the network sees, in pixels", least=16)
    context: int = setting(3, "pixels around the proposal in a warped picture", least=0)


class CropSystem(FastRCNN):
    """Base of these systems."""

    Settings = CropSettings

    def _body(self, settings, stages):
        """The network. Its last stage is not dilated: a picture is small, and what counts is its class."""
        return resnet(stride_in_1x1=self.conventions["stride_in_1x1"], **settings.body())

    def last_side(self):
        """Side of the last feature map of a picture, in cells."""
        return -(-self.system.crop // self.backbone.body.strides[-1])

    def features(self, images):
        return [images]

    def pool(self, features, boxes, image_index, size=None, branch="box"):
        """The boxes (R, 4) cut out of the images, each warped to a square picture: a Tensor (R, crop, crop, 3)."""
        around = with_context(boxes, self.system.crop, self.system.context)
        levels = array_module(boxes).zeros(len(boxes), int)
        pictures = roi_align(features, around, image_index, levels, [1.0], self.system.crop, 2, aligned=True)
        record(crops=pictures)  # 0 outside the image, which is the mean color
        return pictures

    def forward_passes(self, batch):
        return proposals_of(batch, self.transform, self.system.regions).valid.sum(axis=1).tolist()


def with_context(boxes, size, context):
    """Boxes (..., 4) grown so that, warped to `size` pixels, they have `context` of these pixels on each side.

    Worked number: 40 pixels wide, warped to 48 with 4 pixels of context: the box itself is 48 - 8 = 40 pixels wide in
    the warped picture, so it grows by 4 pixels on each side.
    """
    xp = array_module(boxes)
    center, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    half = half * (size / (size - 2 * context))
    return xp.concatenate([center - half, center + half], axis=-1).astype(boxes.dtype)
