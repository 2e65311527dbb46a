"""The numbers of a trained model on unseen scenes."""

import numpy as np

from minimask.evaluate import evaluate
from minimask.mask_head import mask_probabilities, paste_masks
from minimask.run.evaluation import pixel_numbers
from minimask.tensor import Tensor

BATCH = 8


def measure(model, scenes, look=None):
    """Name -> number from 0 to 1, of a model in evaluation mode.

    look: is called with each batch before single stages of the model are (see trunk.Current).

    "box AP", "mask AP", "mask AP50", ...: COCO's average precision. "mask IoU": mean IoU of the masks that the model
    draws into the true boxes, if it can, so that errors of its boxes do not count. "pixel IoU": mean IoU of the pixels'
    classes, for a model that classifies pixels.
    """
    found = evaluate(model, scenes, batch_size=BATCH, progress=False)
    kinds = {"bbox": "box", "segm": "mask"}
    numbers = {
        f"{kinds[kind]} {name}": round(values[name], 4)
        for kind, values in found.items()
        if kind in kinds
        for name in ("AP", "AP50", "AP75")
    }
    if hasattr(getattr(model, "roi_heads", None), "mask_predictor"):
        numbers["mask IoU"] = round(mask_iou_in_true_boxes(model, scenes, look), 4)
    if hasattr(model, "segment"):
        numbers["pixel IoU"] = round(pixel_numbers(model, scenes, BATCH)["mean IoU"], 4)
    return numbers


def mask_iou_in_true_boxes(model, scenes, look=None):
    """Mean IoU of the true masks with those that the model draws into the true boxes of the true classes."""
    overlaps = []
    with model.inference():
        for start in range(0, len(scenes), BATCH):
            samples = [scenes[i] for i in range(start, min(start + BATCH, len(scenes)))]
            batch = model.transform(samples)
            if look is not None:
                look(batch)
            boxes = np.concatenate([boxes[real] for boxes, real in zip(batch.boxes, batch.valid)]).astype(np.float32)
            labels = np.concatenate([labels[real] for labels, real in zip(batch.labels, batch.valid)])
            true = np.concatenate([masks[real] for masks, real in zip(batch.masks, batch.valid)]).astype(bool)

            soft = masks_in(model, batch, boxes, labels, np.nonzero(batch.valid)[0])
            found = paste_masks(soft, boxes, *true.shape[1:], whole_pixels=False)
            both, either = (found & true).sum(axis=(1, 2)), (found | true).sum(axis=(1, 2))
            overlaps += (both / np.maximum(either, 1)).tolist()
    return float(np.mean(overlaps))


def masks_in(model, batch, boxes, labels, image_index):
    """Mask probabilities (R, M, M) in boxes (R, 4) of classes (R,) of the images at image_index (R,)."""
    features = model.features(Tensor(batch.images))
    x = model.pool(features, boxes, image_index, model.roi.mask_size, "mask")
    channel = model.mask_channel(labels)
    return mask_probabilities(model.mask_branch(x, channel).data, channel, model.heads.mask_loss)
