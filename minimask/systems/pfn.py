"""PFN, a proposal-free network: each pixel says where its object is, and pixels that agree are one object. Slide T07.

Liang et al. 2015 (arXiv 1509.02636), section 3.

    levels -> class of each pixel (as in FCN)
    levels -> six numbers per pixel: center and two corners of the box of the object that it belongs to
    C5     -> mean over the image -> how many objects of each class there are

For each class, spectral clustering divides its pixels into as many groups as the count says. Two pixels are alike if
they name the same box: exp(-d^2 / 2 sigma^2), d being the distance between their six numbers in pixels. So the number
of objects is predicted, and nothing is proposed, scored and suppressed.

Simplified: one body for all three tasks, trained at once; the six numbers are relative to the pixel, which a
convolution can tell, while the paper feeds it the coordinates of the pixel and predicts absolute ones; at most
`system.points` pixels of a class are clustered, and the others join the group whose mean box is nearest to theirs.
"""

from dataclasses import dataclass

import numpy as np

from minimask import nn
from minimask.device import array_module, to_cpu
from minimask.losses import Loss, smooth_l1
from minimask.run.settings import setting
from minimask.systems import needs
from minimask.systems.dense import DenseHead, to_image
from minimask.systems.fcn import FCN
from minimask.systems.pixels import PixelSettings, best_classes, instance_map, pixel_class_loss, semantic_map, shares

UNIT = 16  # pixels that a predicted 1 stands for


@dataclass(frozen=True, repr=False)
class PFNSettings(PixelSettings):
    """PFN's own settings."""

    width: int = setting(32, "channels of the hidden maps", least=1, most=4096)
    sigma: float = setting(8.0, "pixels whose boxes differ by much more than this are unlike each other", above=0)
    points: int = setting(300, "pixels of a class that are clustered", least=2, most=10_000)


class PFN(FCN):
    """The system: classes and boxes of all pixels, and how many objects of each class there are."""

    Settings = PFNSettings

    def __init__(self, num_classes, **groups):
        super().__init__(num_classes, **groups)
        channels = self.backbone.body.out_channels
        self.box = DenseHead(channels, self.system.width, 6)
        self.count = nn.Linear(channels[-1], num_classes - 1)

    def maps(self, levels, batch):
        """Class scores (N, H, W, C); boxes seen from each pixel (N, H, W, 6), in units; and counts (N, C - 1)."""
        return self.pixel_scores(levels), to_image(self.box(levels), batch), self.count(levels[-1].mean(axis=(1, 2)))

    def pixel_losses(self, levels, batch):
        """{"loss_pixels", "loss_pixel_boxes", "loss_count"}; boxes are learned on the pixels of objects alone."""
        scores, boxes, counts = self.maps(levels, batch)
        xp = array_module(batch.images)
        objects = instance_map(batch)
        true = batch.boxes[xp.arange(len(objects))[:, None, None], objects.clip(0)]  # (N, H, W, 4)
        targets = (six_numbers(true) - here(batch)) / UNIT
        weights = shares(xp.broadcast_to((objects >= 0)[..., None], targets.shape), boxes.dtype)

        present = (batch.labels[..., None] == xp.arange(1, self.num_classes)) & (batch.valid & ~batch.crowd)[..., None]
        present = present.sum(axis=1).astype(counts.dtype)  # (N, C - 1)
        return {
            "loss_pixels": pixel_class_loss(scores, semantic_map(batch)),
            "loss_pixel_boxes": Loss(smooth_l1, targets.astype(boxes.dtype), weights, 1.0)(boxes),
            "loss_count": Loss(smooth_l1, present, shares(xp.ones_like(present), counts.dtype), 1.0)(counts),
        }

    def objects(self, levels, batch):
        scores, boxes, counts = self.maps(levels, batch)
        labels, values = best_classes(scores, batch)
        boxes = to_cpu(boxes.data * UNIT + here(batch).astype(boxes.dtype))
        counts = to_cpu(counts.data).round().astype(int).clip(1)  # a class that has pixels has an object
        found = []
        for classes, value, box, count in zip(labels, values, boxes, counts):
            objects = []
            for label in np.unique(classes[classes > 0]):
                area = classes == label
                groups = np.full(area.shape, -1)
                groups[area] = cluster(box[area], count[label - 1], self.system.sigma, self.system.points)
                masks = [groups == group for group in range(groups.max() + 1)]
                masks = [mask for mask in masks if mask.sum() >= self.system.smallest_area]
                objects += [(label, value[mask].mean(), mask) for mask in masks]
            found.append(objects)
        return found


def six_numbers(boxes):
    """Boxes (..., 4) with their centers in front: center x, center y, x1, y1, x2, y2."""
    xp = array_module(boxes)
    return xp.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes], axis=-1)


def here(batch):
    """The center of each pixel of the padded images, three times as x, y: (H, W, 6)."""
    xp = array_module(batch.images)
    y, x = xp.indices(batch.images.shape[1:3]) + 0.5
    return xp.stack([x, y] * 3, axis=2)


def cluster(boxes, count, sigma, most):
    """Divide points into at most `count` groups by spectral clustering; Ng et al. 2001.

    boxes: (P, 6), the box that each point names. sigma: in pixels. most: if there are more points, this number of them,
    evenly spaced, is clustered; the others join the group with the nearest mean.
    Returns the group of each point, (P,) int.
    """
    library = needs("sklearn.cluster", "scikit-learn")
    chosen = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), most)).astype(int)].astype(np.float64)
    if count == 1 or len(chosen) <= count:
        return np.zeros(len(boxes), int)

    distance = ((chosen[:, None] - chosen[None]) ** 2).sum(axis=2)
    alike = np.exp(-distance / (2 * sigma**2)) + 1e-6  # every point touches every other, however weakly
    groups = library.spectral_clustering(alike, n_clusters=count, random_state=0)
    means = np.stack([chosen[groups == group].mean(axis=0) for group in np.unique(groups)])
    return ((boxes[:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
