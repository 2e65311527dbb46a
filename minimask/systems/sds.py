"""SDS, simultaneous detection and segmentation: a class for each region. Hariharan et al. 2014, section 3; T07.

    each region -> its box, cut out and warped ----------------------> network of the box ---+-> class of the region
                -> the same, the mean color outside the region ------> network of the region-+-> mask, 10 x 10 per class

Region in, region out: selective search draws the regions, and the system says which of them are objects. Two networks
look at each, one of which sees nothing but the region (their system C, both trained together). Regions of a class that
overlap a better one are dropped, by the overlap of their masks. Then each mask is corrected: the features predict, for
the class, which of 10 x 10 cells of the box belong to the object, and every segment of the picture
(selective_search.py) takes the mean of the cells that it lies in.

Simplified: softmax instead of SVMs; the correction is trained together with the networks, and its second stage, which
weighs the cells against the region, is one number per class; selective search instead of MCG; crops of 32 x 32.
"""

from dataclasses import dataclass

import numpy as np

from minimask import functional as F
from minimask import nn
from minimask.box_head import TwoLayerHead
from minimask.device import array_module, to_cpu
from minimask.losses import class_loss, mask_loss
from minimask.mask_head import mask_targets, paste_masks
from minimask.run.settings import setting
from minimask.structures import in_use
from minimask.systems.crops import CropSettings, CropSystem, with_context
from minimask.systems.fast_rcnn import toy_preset
from minimask.systems.pixels import whole_image_detections
from minimask.systems.whole_regions import best_regions, masks_in_boxes, padded, sample_regions
from minimask.tensor import Tensor
from minimask.trace import record

CELLS = 10  # side of the corrected masks


@dataclass(frozen=True, repr=False)
class SDSSettings(CropSettings):
    """Its settings."""

    crop: int = setting(32, "side of the warped pictures that the networks see, in pixels", least=16)
    context: int = setting(2, "pixels around the region's box in a warped picture", least=0)


class SDS(CropSystem):
    """The system. `backbone` is the network of the box, `region_backbone` that of the region."""

    preset = toy_preset(roi=dict(samples=16), detection=dict(nms_threshold=0.3))
    Settings = SDSSettings

    def _add_heads(self, channels, backbone):
        last, width, classes = self.last_side() ** 2 * channels, self.heads.box_width, self.num_classes
        self.region_backbone = self._body(backbone, stages=4)
        self.roi_heads = heads = nn.Module()
        heads.box_head, heads.region_head = TwoLayerHead(last, width), TwoLayerHead(last, width)
        heads.cls_score = nn.Linear(2 * width, classes)
        heads.cells = nn.Linear(2 * width, CELLS * CELLS * classes)
        heads.region_weight = nn.Conv2d(1, classes, 1)

    def look(self, images, boxes, image_index, shapes):
        """The joint features (R, 2 width) of regions: boxes (R, 4), and their masks in a warped picture (R, c, c)."""
        pictures = self.pool([images], boxes, image_index)
        figures = pictures * shapes[..., None]  # 0 is the mean color
        record(region_crops=figures)
        x, y = self.backbone.body(pictures)[-1], self.region_backbone(figures)[-1]
        return F.concatenate([self.roi_heads.box_head(x), self.roi_heads.region_head(y)], axis=1)

    def shapes(self, proposals, boxes, index=None):
        """The masks of regions in their warped pictures: (N, B, crop, crop)."""
        around = with_context(boxes, self.system.crop, self.system.context)
        return masks_in_boxes(proposals, around, self.system.crop, index)

    def corrected(self, joint, cells):
        """Logits (R, 10, 10, C) of the corrected masks, from joint features and the regions' own cells (R, 10, 10)."""
        heads = self.roi_heads
        predicted = heads.cells(joint).reshape(-1, CELLS, CELLS, self.num_classes)
        return predicted + heads.region_weight(Tensor(cells[..., None]))

    def region_losses(self, features, proposals, batch, rng):
        """{"loss_classifier", "loss_mask"} on a sample of the regions; a positive's mask overlaps that of an object."""
        rois = sample_regions(proposals, batch, self.roi, self.system.background, rng)
        shapes = self.shapes(proposals, rois.boxes, rois.index)
        cells = masks_in_boxes(proposals, rois.boxes, CELLS, rois.index)
        targets = mask_targets(batch.masks, rois.boxes, rois.matches, CELLS, aligned=True)

        _, boxes, image_index = in_use(rois.boxes)
        joint = self.look(features[0], boxes, image_index, shapes.reshape(-1, *shapes.shape[2:]))
        logits = self.corrected(joint, cells.reshape(-1, CELLS, CELLS))
        labels, positive, valid = (a.reshape(-1) for a in (rois.labels, rois.positive, rois.valid))
        return {
            "loss_classifier": class_loss(self.roi_heads.cls_score(joint), labels, valid),
            "loss_mask": mask_loss(logits, labels, targets.reshape(-1, CELLS, CELLS), positive),
        }

    def find(self, features, proposals, batch):
        """Detections with masks of the whole image; the networks see all regions of an image at once."""
        shapes = self.shapes(proposals, proposals.boxes)
        joint = []
        for n, boxes in enumerate(proposals.boxes):
            zero = array_module(boxes).zeros(len(boxes), int)
            joint.append(self.look(features[0][n : n + 1], boxes, zero, shapes[n]))
        scores = np.stack([to_cpu(F.softmax_array(self.roi_heads.cls_score(x).data)) for x in joint])
        found = best_regions(scores, proposals, self.detection)

        cells, objects = masks_in_boxes(proposals, proposals.boxes, CELLS), []
        for x, own, kept, regions in zip(joint, cells, found, proposals.regions):
            soft = to_cpu(F.sigmoid_array(self.corrected(x, own).data))  # (R, 10, 10, C)
            objects.append([(c, s, padded(snapped(soft[r, ..., c], regions, r), batch)) for c, s, r in kept])
        return whole_image_detections(objects, batch, self.detection.max_detections)


def snapped(cells, regions, index):
    """The mask (H, W) of a region, corrected: the segments whose mean of `cells` (10, 10) is at least a half.

    If there is none, the region stays as it was.
    """
    size = regions.segments.shape
    soft = paste_masks(cells[None], regions.boxes[index][None], *size, threshold=None, whole_pixels=False)[0]
    segments = regions.segments.ravel()
    mean = np.bincount(segments, soft.ravel()) / np.maximum(np.bincount(segments), 1)
    chosen = mean >= 0.5
    return chosen[regions.segments] if chosen.any() else regions.masks(index)
