"""Hypercolumns: each pixel is classified by what all layers say about it. Hariharan et al. 2015, section 3; slide T07.

    a detected box -> C2 (fine) ----------+
                   -> C4 (coarse) --------+--> at each pixel one long column of features -> figure or ground
                   -> fc7 (the whole box) +

The last layer knows what the object is, the first ones know where its outline runs. A pixel's column is C2, C4 and fc7
at its place, each stretched to the size of the mask. Where a pixel lies in the box matters too, so a grid of K x K
classifiers shares the box: a pixel's logit is interpolated between those of the classifiers around it (section 3.1).

A classifier is linear, so it makes no difference whether features are stretched and then classified, or classified and
then stretched; the second is much cheaper (section 3.2, figure 3), and that is what happens here.

Simplified: masks of 28 x 28 instead of 50 x 50; a grid of 5 x 5 (the paper: 5 and 10); logits are interpolated instead
of probabilities, and all of it is trained together with the detector, which has an RPN.
"""

from dataclasses import dataclass

from minimask import nn
from minimask.device import array_module
from minimask.errors import InputError
from minimask.image import bilinear_matrix, resize_bilinear
from minimask.mask_rcnn import MaskRCNN
from minimask.presets import PRESETS
from minimask.roi_align import roi_align
from minimask.run.model_settings import GROUPS
from minimask.run.settings import Settings, setting


@dataclass(frozen=True, repr=False)
class HypercolumnSettings(Settings):
    """Its settings."""

    owner = "system."
    grid: int = setting(5, "classifiers along each side of a box", least=1)


class Hypercolumns(MaskRCNN):
    """The system: a Faster R-CNN on C5, and a mask branch that reads C2, C4 and the box head's fc7."""

    preset = PRESETS["toy_c5"]
    groups = tuple(GROUPS)
    Settings = HypercolumnSettings

    def __init__(self, num_classes, system=None, **groups):
        self.system = self.Settings.of(system)
        super().__init__(num_classes, **groups)
        if self.neck != "c5" or not self.heads.mask:
            raise InputError("hypercolumns read the levels of a body without a pyramid: leave backbone.neck c5")
        self.rpn_first_level = 2  # of what `features` returns

    def _add_heads(self, channels, backbone):
        super()._add_heads(channels, backbone)
        heads, body = self.roi_heads, self.backbone.body
        del heads.mask_head, heads.mask_predictor
        kinds = self.system.grid**2 * (1 if self.heads.class_agnostic_masks else self.num_classes)
        widths = body.out_channels[0], body.out_channels[2], self.heads.box_width
        heads.columns = nn.ModuleList([nn.Conv2d(width, kinds, 1) for width in widths])

    def features(self, images):
        """C2, C4 and C5; the RPN and the box branch read the last."""
        c2, _, c4, c5 = self.backbone.body(images)
        return [c2, c4, c5]

    def pool(self, features, boxes, image_index, size, branch):
        """For the box branch, as ever; for masks a list: C2 and C4 inside each box, and the box's fc7 (R, 1, 1, F)."""
        c2, c4, c5 = features
        if branch != "mask":
            return super().pool([c5], boxes, image_index, size, branch)
        size, strides = self.mask_size(), self.backbone.body.strides
        level = array_module(boxes).zeros(len(boxes), int)
        fine = roi_align([c2], boxes, image_index, level, [1 / strides[0]], size, aligned=True)
        coarse = roi_align([c4], boxes, image_index, level, [1 / strides[2]], size // 2, aligned=True)
        whole = self.roi_heads.box_head(super().pool([c5], boxes, image_index, self.roi.box_size, "box"))
        return [fine, coarse, whole.reshape(len(boxes), 1, 1, -1)]

    def mask_branch(self, x, labels=None):
        """Mask logits (R, M, M, C): every layer classifies at its own size, and the results are stretched and added."""
        size, count = self.mask_size(), self.system.grid**2
        logits = 0
        for layer, level in zip(self.roi_heads.columns, x):
            logits = resize_bilinear(layer(level), (size, size)) + logits  # (R, M, M, K * K * C)
        logits = logits.reshape(*logits.shape[:3], count, logits.shape[3] // count)
        weights = grid_weights(self.system.grid, size)[..., None]  # (M, M, K * K, 1)
        return (logits * array_module(logits.data).asarray(weights)).sum(axis=3)


def grid_weights(grid, size):
    """How much each of the grid's classifiers counts at each of size x size pixels: (size, size, grid * grid).

    Bilinear interpolation between the centers of the grid's cells, so the weights of a pixel add up to 1.
    """
    along = bilinear_matrix(grid, size)  # (size, grid)
    return (along[:, None, :, None] * along[None, :, None, :]).reshape(size, size, grid * grid)
