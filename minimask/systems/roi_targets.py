"""What the RoIs of a system should predict, as flat arrays: FCIS and MNC learn the same three things from a RoI."""

from minimask import boxes as box_ops
from minimask.device import array_module
from minimask.mask_head import mask_targets
from minimask.mask_rcnn import BOX_WEIGHTS
from minimask.structures import RoIs
from minimask.targets import match, take


def roi_targets(rois, batch, cells, conventions):
    """The box deltas (N S, 4), 0 for the background, and the masks (N S, cells, cells) of RoIs (N, S).

    batch: Batch with ground truth. conventions: those of the model, for `mask_targets`.
    """
    deltas = box_ops.encode(take(batch.boxes, rois.matches), rois.boxes, BOX_WEIGHTS)
    deltas = array_module(deltas).where(rois.positive[..., None], deltas, 0)
    aligned, binary = conventions["aligned"], conventions["binary_mask_targets"]
    masks = mask_targets(batch.masks, rois.boxes, rois.matches, cells, aligned, binary)  # (N, S, cells, cells)
    return deltas.reshape(-1, 4), masks.reshape(-1, cells, cells)


def match_again(boxes, rois, batch, iou):
    """The RoIs with other boxes (N, S, 4), matched to the objects anew; iou: a RoI is positive from this IoU on."""
    xp, real = array_module(boxes), batch.valid & ~batch.crowd
    found, matches = match(boxes, batch.boxes, real, batch.crowd, iou, iou)
    positive, valid = rois.valid & (found == 1), rois.valid & (found >= 0)
    labels = xp.where(positive, take(batch.labels, matches), 0)
    return RoIs(boxes, labels, matches, positive, valid, rois.index)
