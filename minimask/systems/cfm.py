"""Convolutional feature masking: mask the features, not the picture. Dai et al. 2015, section 3; slide T07.

    feature map -> inside the box of a region ------------------> spatial pyramid -> FC layers --+
                                                                                                 +-> class of the region
    feature map -> inside the box, 0 outside the region's mask -> spatial pyramid -> FC layers --+

SDS runs the network on each region twice; here it runs once per image, and a region's shape is applied to the features
(their design A, figure 2a). A spatial pyramid (He et al. 2014) is the maximum in each of 6x6, 3x3, 2x2 and 1x1 bins,
50 numbers per channel. The segments themselves are the resulting masks: they are classified, never drawn.

Simplified: features are pooled by RoIAlign to 12 x 12 before the pyramid; the segments come from selective search
instead of MCG; no "stuff" classes.
"""

from minimask import functional as F
from minimask import nn
from minimask.box_head import BoxPredictor, TwoLayerHead
from minimask.convolution import max_pool2d
from minimask.losses import class_loss
from minimask.structures import in_use, spread
from minimask.systems.fast_rcnn import FastRCNN, toy_preset
from minimask.systems.whole_regions import best_regions, masks_in_boxes, region_detections, sample_regions
from minimask.trace import record

CELLS = 12  # side of a region's features, which the bins of the pyramid divide
PYRAMID = (6, 3, 2, 1)


class CFM(FastRCNN):
    """The system: it classifies regions, so its boxes are those of the masks and are not refined."""

    preset = toy_preset(roi=dict(samples=64), detection=dict(nms_threshold=0.3))

    def _add_heads(self, channels, backbone):
        heads = self.roi_heads = nn.Module()
        inside = sum(bins**2 for bins in PYRAMID) * channels
        heads.box_head = TwoLayerHead(inside, self.heads.box_width)
        heads.mask_head = TwoLayerHead(inside, self.heads.box_width)
        heads.predictor = BoxPredictor(2 * self.heads.box_width, self.num_classes).cls_score

    def scores(self, features, boxes, masks, valid):
        """Class logits of regions: boxes (N, B, 4), masks inside them (N, B, 12, 12) -> Tensor (R, C), and `slots`."""
        slots, boxes, image_index = in_use(boxes, valid)
        x = self.pool(features, boxes, image_index, CELLS, "box")  # (R, 12, 12, channels)
        inside = masks.reshape(-1, CELLS, CELLS, 1)[slots]
        record(region_masks=inside)

        heads = self.roi_heads
        both = [heads.box_head(pyramid(x)), heads.mask_head(pyramid(x * inside))]
        return heads.predictor(F.concatenate(both, axis=1)), slots

    def region_losses(self, features, proposals, batch, rng):
        """{"loss_classifier"} on a sample of the regions."""
        rois = sample_regions(proposals, batch, self.roi, self.system.background, rng)
        masks = masks_in_boxes(proposals, rois.boxes, CELLS, rois.index)
        logits, _ = self.scores(features, rois.boxes, masks, None)
        return {"loss_classifier": class_loss(logits, rois.labels.reshape(-1), rois.valid.reshape(-1))}

    def find(self, features, proposals, batch):
        masks = masks_in_boxes(proposals, proposals.boxes, CELLS)
        logits, slots = self.scores(features, proposals.boxes, masks, proposals.valid)
        scores = spread(F.softmax_array(logits.data), slots, proposals.valid.shape)
        found = best_regions(scores, proposals, self.detection)
        return region_detections(found, proposals, batch, self.detection.max_detections)


def pyramid(x):
    """(R, 12, 12, C) -> (R, 1, 50, C): the maximum of each bin of the pyramid."""
    levels = [max_pool2d(x, CELLS // bins) for bins in PYRAMID]  # (R, bins, bins, C) each
    return F.concatenate([y.reshape(y.shape[0], 1, -1, y.shape[3]) for y in levels], axis=2)
