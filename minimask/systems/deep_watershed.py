"""Deep watershed: learn how far each pixel is from its object's border, and cut at one height. Slide T07.

Bai & Urtasun 2017, sections 3.1 to 3.4. Read the distance to the border as the height of a landscape: each object is a
hill of its own, with valleys in between. If the water stands just above the valleys, every island is one object.

    levels -> class of each pixel (as in FCN)
    levels -> direction: the unit vector that points away from the nearest border, uphill
    directions on objects -> dilated convolutions -> energy: which of K + 1 intervals the height lies in

Directions come first because they are easy to see: at a border between two objects they turn around. Their loss is the
squared angle, divided by the square root of the object's area so that small objects count. Pixels of one class whose
energy is at least `cut` form islands; each then grows back by as many pixels as the cut took from it.

Simplified: one body for all maps, trained at once (the paper takes the classes from another network, and trains
directions and energies apart first); energies see directions on true objects in training, on classified ones later;
8 intervals instead of 16; islands grow without crossing into another class, instead of being dilated and filled.
"""

from dataclasses import dataclass

import numpy as np

from minimask import functional as F
from minimask import nn
from minimask.device import array_module, to_cpu
from minimask.errors import InputError
from minimask.image import bilinear
from minimask.losses import Loss, class_loss
from minimask.run.settings import setting
from minimask.systems import needs
from minimask.systems.dense import DenseHead, to_image
from minimask.systems.fcn import FCN
from minimask.systems.pixels import PixelSettings, best_classes, instance_map, pixel_class_loss, semantic_map, shares


@dataclass(frozen=True, repr=False)
class WatershedSettings(PixelSettings):
    """Deep watershed's own settings."""

    width: int = setting(32, "channels of the hidden maps", least=1, most=4096)
    heights: tuple[float, ...] = setting((2, 3, 4, 6, 8, 11, 15), "where energies 1, 2, ... begin; in pixels", above=0)
    cut: int = setting(1, "islands are the pixels of at least this energy", least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.cut > (count := len(self.heights)):
            raise InputError(f"system.cut must be at most {count}, the number of heights, got {self.cut}")


class DeepWatershed(FCN):
    """The system: classes, directions and energies of all pixels; objects are the islands above the cut."""

    Settings = WatershedSettings

    def __init__(self, num_classes, **groups):
        super().__init__(num_classes, **groups)
        width, count = self.system.width, len(self.system.heights) + 1
        self.direction = DenseHead(self.backbone.body.out_channels, width, 2)
        layers = [(2, width, 1), (width, width, 2), (width, width, 4)]  # channels in and out, dilation
        layers = [nn.Conv2d(a, b, 3, padding=d, dilation=d, relu=True) for a, b, d in layers]
        self.energy = nn.Sequential(*layers, nn.Conv2d(width, count, 1))

    def maps(self, levels, batch, objects=None):
        """Class scores (N, H, W, C), directions of any length (N, H, W, 2) and scores of the energies (N, H, W, K + 1).

        The energies are read off the directions alone, inside `objects` (N, H, W), by default what has a class.
        """
        scores = self.pixel_scores(levels)
        direction = self.direction(levels)  # (N, h, w, 2)
        unit = direction / F.power((direction * direction).sum(axis=3, keepdims=True) + 1e-6, 0.5)
        objects = scores.data.argmax(axis=3) > 0 if objects is None else objects
        objects = bilinear(objects[..., None].astype(unit.dtype), unit.shape[1:3])
        return scores, to_image(direction, batch), to_image(self.energy(unit * F.Tensor(objects)), batch)

    def pixel_losses(self, levels, batch):
        """{"loss_pixels", "loss_direction", "loss_energy"}; the last two count the pixels of objects alone."""
        objects = instance_map(batch)
        scores, direction, energy = self.maps(levels, batch, objects >= 0)
        xp = array_module(batch.images)
        height, uphill = (xp.asarray(x) for x in landscape(to_cpu(objects)))
        area = xp.take_along_axis(batch.masks.sum(axis=(2, 3)), objects.clip(0).reshape(len(objects), -1), axis=1)
        weights = shares((objects >= 0) / xp.sqrt(xp.maximum(area.reshape(objects.shape), 1)), direction.dtype)

        interval = (height[..., None] >= xp.asarray(self.system.heights)).sum(axis=3)
        energy = energy.reshape(-1, energy.shape[3])  # (N H W, K + 1)
        return {
            "loss_pixels": pixel_class_loss(scores, semantic_map(batch)),
            "loss_direction": Loss(squared_angle, uphill.astype(direction.dtype), weights)(direction),
            "loss_energy": class_loss(energy, interval.reshape(-1), (objects >= 0).reshape(-1)),
        }

    def objects(self, levels, batch):
        scores, _, energy = self.maps(levels, batch)
        labels, values = best_classes(scores, batch)
        energy = to_cpu(energy.data.argmax(axis=3))
        reach = self.system.heights[self.system.cut - 1]
        found = []
        for classes, value, level in zip(labels, values, energy):
            masks = [islands(classes == c, level >= self.system.cut, reach) for c in range(1, self.num_classes)]
            masks = [mask for mask in sum(masks, []) if mask.sum() >= self.system.smallest_area]
            found.append([(classes[mask][0], value[mask].mean(), mask) for mask in masks])
        return found


def landscape(objects):
    """The landscape of an instance map (N, H, W): where each pixel of an object lies on its hill.

    Returns the distance to the nearest pixel that is not of the object (N, H, W), 0 outside objects; and the unit
    vector (N, H, W, 2), as x and y, that points away from it. Beyond the border of the image there is no object.
    """
    ndimage = needs("scipy.ndimage", "scipy")
    height, uphill = np.zeros(objects.shape), np.zeros((*objects.shape, 2))
    for n, image in enumerate(objects):
        places = enumerate(ndimage.find_objects(image + 1))
        for index, place in ((index, place) for index, place in places if place):
            mask = np.pad(image[place] == index, 1)
            distance, (y, x) = ndimage.distance_transform_edt(mask, return_indices=True)
            rows, columns = np.indices(mask.shape)
            away = np.stack([columns - x, rows - y], axis=2) / np.maximum(distance, 1)[..., None]
            own = mask[1:-1, 1:-1]
            height[n][place][own] = distance[1:-1, 1:-1][own]
            uphill[n][place][own] = away[1:-1, 1:-1][own]
    return height, uphill


def squared_angle(z, t, w):
    """y = sum w a^2, a = the angle from z to t;  gz = 2 w a (z_y, -z_x) / |z|^2.

    z: (..., 2), x and y, whose length does not matter. t: (..., 2) unit vectors. w: (...) weights.
    """
    xp = array_module(z)
    x, y = z[..., 0], z[..., 1]
    a = xp.arctan2(x * t[..., 1] - y * t[..., 0], x * t[..., 0] + y * t[..., 1])
    slope = 2 * w * a / xp.maximum(x * x + y * y, 1e-2)  # a very short z would be turned too far
    return xp.asarray((w * a * a).sum()), xp.stack([slope * y, -slope * x], axis=-1)


def islands(area, high, reach):
    """The connected regions of `area & high`, each grown inside `area` by up to `reach` pixels: a list of masks (H, W).

    A pixel between two regions goes to the nearer one.
    """
    ndimage = needs("scipy.ndimage", "scipy")
    regions, count = ndimage.label(area & high)
    if count == 0:
        return []
    distance, (y, x) = ndimage.distance_transform_edt(regions == 0, return_indices=True)
    grown = np.where(area & (distance <= reach), regions[y, x], 0)
    return [grown == region for region in range(1, count + 1)]
