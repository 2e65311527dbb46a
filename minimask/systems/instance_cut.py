"""InstanceCut: a class for each pixel, an edge wherever an object ends, and the best partition of both. Slide T07.

Kirillov et al. 2017, sections 3 and 4.

    levels -> class of each pixel (as in FCN)
    levels -> is there a border of an object at this pixel?
    borders -> watershed -> basins, divided where the class changes: superpixels
    superpixels that touch -> MultiCut -> objects

MultiCut divides a graph. Its nodes are superpixels, and the cost of a border between two of them is ln((1 - p) / p),
summed along it, where p is the probability of an edge: joining them pays if the cost is positive, cutting if it is
negative. The partition that cuts the least sum is sought. It need not say how many objects there are: the signs decide.
Finding the best one is NP-hard; greedy additive edge contraction (Keuper et al. 2015) joins the two parts with the
largest cost between them until no positive one is left.

Simplified: one body for classes and edges, and one map of edges for all classes; the classes are decided first, and
only superpixels of one class are joined (the paper chooses classes and cuts together, with a stronger solver); the
probabilities are used as they are, without weights chosen on validation images.
"""

from dataclasses import dataclass

import numpy as np

from minimask import functional as F
from minimask.device import array_module, to_cpu
from minimask.losses import Loss, binary_cross_entropy
from minimask.run.settings import setting
from minimask.systems import needs
from minimask.systems.dense import DenseHead, to_image
from minimask.systems.fcn import FCN
from minimask.systems.multicut import multicut
from minimask.systems.pixels import (
    IGNORED,
    PixelSettings,
    inside,
    instance_map,
    pixel_class_loss,
    semantic_map,
    shares,
)


@dataclass(frozen=True, repr=False)
class CutSettings(PixelSettings):
    """InstanceCut's own settings."""

    width: int = setting(32, "channels of the hidden maps", least=1, most=4096)


class InstanceCut(FCN):
    """The system: classes and edges of all pixels; objects are the parts of the best cut."""

    Settings = CutSettings

    def __init__(self, num_classes, **groups):
        super().__init__(num_classes, **groups)
        self.edge = DenseHead(self.backbone.body.out_channels, self.system.width, 1)

    def maps(self, levels, batch):
        """Class scores (N, H, W, C), and logits of the edges (N, H, W, 1)."""
        return self.pixel_scores(levels), to_image(self.edge(levels), batch)

    def pixel_losses(self, levels, batch):
        """{"loss_pixels", "loss_edges"}, both averaged over the pixels."""
        scores, logits = self.maps(levels, batch)
        labels = semantic_map(batch)
        targets = instance_edges(instance_map(batch))[..., None].astype(logits.dtype)
        weights = shares((labels != IGNORED)[..., None], logits.dtype)
        return {
            "loss_pixels": pixel_class_loss(scores, labels),
            "loss_edges": Loss(binary_cross_entropy, targets, weights)(logits),
        }

    def objects(self, levels, batch):
        scores, logits = self.maps(levels, batch)
        probabilities = to_cpu(F.softmax_array(scores.data) * inside(batch)[..., None])
        logits = to_cpu(logits.data[..., 0])
        return [self.parts(p, z) for p, z in zip(probabilities, logits)]

    def parts(self, probabilities, logits):
        """The objects of one image, from class probabilities (H, W, C) and logits of the edges (H, W)."""
        labels = probabilities.argmax(axis=2)
        segments = superpixels(logits, labels)
        _, first = np.unique(segments, return_index=True)
        count, classes = len(first), labels.ravel()[first]  # (S,)

        pairs, costs = border_costs(segments, logits)
        same = (classes[pairs[:, 0]] == classes[pairs[:, 1]]) & (classes[pairs[:, 0]] > 0)
        groups = multicut(count, pairs[same], costs[same])
        objects = []
        for group in np.unique(groups[classes > 0]):
            label, mask = classes[groups == group][0], groups[segments] == group
            if mask.sum() >= self.system.smallest_area:
                objects.append((label, probabilities[mask, label].mean(), mask))
        return objects


def instance_edges(objects):
    """Which pixels of an instance map (N, H, W) have a neighbor above, below, left or right in another region: bool."""
    edges = array_module(objects).zeros(objects.shape, bool)
    down, across = objects[:, 1:] != objects[:, :-1], objects[:, :, 1:] != objects[:, :, :-1]
    edges[:, 1:] |= down
    edges[:, :-1] |= down
    edges[:, :, 1:] |= across
    edges[:, :, :-1] |= across
    return edges


def superpixels(logits, labels):
    """The basins of a map of edges (H, W), divided where the class changes: a number for each pixel, from 0 on.

    labels: (H, W) int, the class of each pixel. The edges are smoothed a little, for a basin begins at each minimum.
    """
    ndimage = needs("scipy.ndimage", "scipy")
    segmentation = needs("skimage.segmentation", "scikit-image")
    basins = segmentation.watershed(ndimage.gaussian_filter(F.sigmoid_array(logits), 0.5))
    both = basins.astype(np.int64) * (labels.max() + 1) + labels
    return np.unique(both, return_inverse=True)[1].reshape(both.shape)


def border_costs(segments, logits):
    """Pairs (B, 2) of segments that touch, the smaller number first, and the cost (B,) of each pair's border.

    ln((1 - p) / p) is minus the logit. Each edge between two pixels counts the mean of both.
    """
    pairs, costs = [], []
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        pairs.append(np.stack([segments[first].ravel(), segments[second].ravel()], axis=1))
        costs.append(-(logits[first] + logits[second]).ravel() / 2)
    pairs, costs = np.sort(np.concatenate(pairs), axis=1), np.concatenate(costs)
    different = pairs[:, 0] != pairs[:, 1]
    unique, index = np.unique(pairs[different], axis=0, return_inverse=True)
    return unique, np.bincount(index.ravel(), costs[different], len(unique))
