"""The proposals of a batch: regions by selective search, found once per picture and kept.

Slow and Fast R-CNN read their boxes (Girshick et al. 2014, section 2.1; Girshick 2015, section 2), SDS and CFM also
which pixels belong to each (slide T07). As those papers do, we search each picture once: searching takes longer than a
training step. A mirrored picture has the mirrored regions of the picture itself.

N images of a batch, R regions per image, G objects per image.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from minimask.device import array_module, to_cpu
from minimask.run.settings import Settings, setting
from minimask.structures import RoIs
from minimask.systems.pixels import whole_image_detections
from minimask.systems.selective_search import selective_search
from minimask.targets import sample, take


@dataclass(frozen=True, repr=False)
class ProposalSettings(Settings):
    """Settings of the systems that read their proposals from selective search."""

    owner = "system."
    regions: int = setting(200, "proposals per image; if there are more, the smallest go", least=1)
    background: float = setting(0.1, "a proposal is background from this IoU with an object on", least=0, most=1)


@dataclass
class Proposals:
    """The regions of the images of a batch."""

    boxes: np.ndarray  # (N, R, 4) float32, pixels of the resized images
    valid: np.ndarray  # (N, R) bool
    regions: list  # the Regions of each image, on the CPU


def proposals_of(batch, transform, count):
    """The Proposals of a batch, `count` per image. transform: the ImageTransform that made the batch."""
    xp = array_module(batch.images)
    pictures = to_cpu(batch.images) * np.float32(transform.std) + np.float32(transform.mean)
    pictures = np.round(pictures * 255).clip(0, 255).astype(np.uint8)
    found = [KEPT.find(picture[:h, :w], count) for picture, (h, w) in zip(pictures, batch.sizes.tolist())]
    boxes, valid = np.stack([regions.boxes for regions in found]), np.stack([regions.valid for regions in found])
    return Proposals(xp.asarray(boxes), xp.asarray(valid), found)


class Kept:
    """Remembers the Regions of pictures, up to so many bytes; then those that were asked for longest ago go."""

    def __init__(self, most_bytes=1e9):
        self.most_bytes, self.bytes, self.regions = most_bytes, 0, {}

    def find(self, picture, count):
        """The Regions of a picture (H, W, 3) uint8, in `count` places.

        Of a picture and its mirror image, the one whose bytes come first is searched, so the result does not depend on
        which of them is seen first.
        """
        mirror = picture[:, ::-1]
        flipped = mirror.tobytes() < picture.tobytes()
        first = np.ascontiguousarray(mirror if flipped else picture)
        key = hashlib.blake2b(first.tobytes()).digest(), first.shape, count
        regions = self.regions.pop(key, None)
        if regions is None:
            regions = selective_search(first, count)
            self.bytes += size_of(regions)
        self.regions[key] = regions  # as the newest
        while self.bytes > self.most_bytes and len(self.regions) > 1:
            self.bytes -= size_of(self.regions.pop(next(iter(self.regions))))
        return regions.mirrored() if flipped else regions


def size_of(regions):
    """The bytes of Regions."""
    return sum(array.nbytes for array in vars(regions).values())


KEPT = Kept()  # of all models in this process


# ------------------------------------------------------------------------------ for systems that classify whole regions


def sample_regions(proposals, batch, settings, background, rng):
    """Regions to learn from: positives are those whose MASK overlaps an object's by at least `settings.iou`.

    settings: RoISettings. background: the least overlap of a region that counts as background.
    Returns RoIs, whose `matches` are objects, and the index (N, S) of each among the regions.
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
    arrays = take(to_cpu(proposals.boxes), index), labels, matches, positive, valid
    return RoIs(*(xp.asarray(array) for array in arrays)), index


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
