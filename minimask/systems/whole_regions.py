"""For systems that classify whole regions, SDS and CFM: which regions they learn from, and which are detections.

Hariharan et al. 2014, section 3; Dai et al. 2015, section 3; slide T07. A region of selective search is a mask, so
matching and non-maximum suppression go by the overlap of masks.

N images of a batch, R regions per image, G objects per image, S samples per image, C classes with the background.
"""

import numpy as np

from minimask.device import array_module, to_cpu
from minimask.structures import RoIs
from minimask.systems.pixels import whole_image_detections
from minimask.targets import sample, take


def sample_regions(proposals, batch, settings, background, rng):
    """Regions to learn from: positives are those whose MASK overlaps an object's by at least `settings.iou`.

    settings: RoISettings. background: the least overlap of a region that counts as background.
    Returns RoIs, whose `matches` are objects and whose `index` is the place of each among the regions.
    """
    masks, real = to_cpu(batch.masks), to_cpu(batch.valid & ~batch.crowd)
    overlaps = [
        one.overlaps(mask[:, : one.segments.shape[0], : one.segments.shape[1]])
        for one, mask in zip(proposals.regions, masks)
    ]
    overlaps = np.stack(overlaps) * real[:, None]  # (N, R, G)
    best, matches = overlaps.max(axis=2), overlaps.argmax(axis=2)
    labels = np.where(best >= settings.iou, 1, np.where(best >= background, 0, -1)).astype(np.int8)
    labels[~to_cpu(proposals.valid)] = -1

    index, positive, valid = sample(labels, settings.samples, settings.positive_fraction, rng)
    matches = take(matches, index)
    labels = np.where(positive, take(to_cpu(batch.labels), matches), 0)
    xp = array_module(batch.images)
    arrays = take(to_cpu(proposals.boxes), index), labels, matches, positive, valid, index
    return RoIs(*(xp.asarray(array) for array in arrays))


def masks_in_boxes(proposals, boxes, size, index=None):
    """Regions, each seen in its own box of `boxes` (N, B, 4): (N, B, size, size) float32.

    index: (N, B) which of the regions; by default all of them, so that B is R.
    """
    index = np.broadcast_to(np.arange(boxes.shape[1]), boxes.shape[:2]) if index is None else index
    crops = [one.crops(i, b, size) for one, i, b in zip(proposals.regions, index, to_cpu(boxes))]
    return array_module(boxes).asarray(np.stack(crops).astype(np.float32))


def best_regions(scores, proposals, settings):
    """Non-maximum suppression by the overlap of masks instead of boxes, class by class.

    scores: (N, R, C) class probabilities, with the background. settings: DetectionSettings.
    Returns for each image a list of (label, score, region), best first.
    """
    found, scores = [], to_cpu(scores)
    for values, valid, regions in zip(scores, to_cpu(proposals.valid), proposals.regions):
        size = np.bincount(regions.segments.ravel(), minlength=regions.members.shape[1])  # (S,) pixels
        shared = (regions.members * size.astype(np.float32)) @ regions.members.T.astype(np.float32)  # (R, R)
        area = np.diag(shared)
        overlap = shared / np.maximum(area[:, None] + area - shared, 1)

        kept = []
        for label in range(1, values.shape[1]):
            own, alive = values[:, label], valid & (values[:, label] > settings.score_threshold)
            for region in np.argsort(-own, kind="stable"):
                if alive[region]:
                    kept.append((label, float(own[region]), int(region)))
                    alive &= overlap[region] <= settings.nms_threshold
        found.append(sorted(kept, key=lambda one: -one[1])[: settings.max_detections])
    return found


def region_detections(found, proposals, batch, count):
    """The result of `best_regions` as Detections with masks of the whole image."""
    objects = []
    for kept, regions in zip(found, proposals.regions):
        objects.append([(label, score, padded(regions.masks(region), batch)) for label, score, region in kept])
    return whole_image_detections(objects, batch, count)


def padded(mask, batch):
    """A mask (h, w) of one image, padded like the batch: (H, W)."""
    room = [(0, side - own) for side, own in zip(batch.images.shape[1:3], mask.shape)]
    return np.pad(mask, room)
