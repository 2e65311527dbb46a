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
from minimask.systems.selective_search import selective_search


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
