"""What every head learns from: match boxes to objects, sample some of them, and fetch the object of each.

Ren et al. 2015, section 3.1.2 (RPN), and Girshick 2015, section 2.3 (box head); torchvision's rules.

N images, A anchors (or proposals) and G objects per image.
"""

import numpy as np

from minimask import boxes as box_ops
from minimask.device import accelerated, array_module
from minimask.structures import RoIs

CROWD_COVER = 0.5  # a box with at least this part of its area inside a crowd is not background


def _check_match(anchors, boxes, real, crowd, low, high, allow_low_quality=False):
    if anchors.ndim != 3 or anchors.shape[2] != 4 or anchors.shape[0] not in (1, len(boxes)):
        raise ValueError(f"match: anchors must be (1 or {len(boxes)}, A, 4), got shape {anchors.shape}")


@accelerated("match", check=_check_match)
def match(anchors, boxes, real, crowd, low, high, allow_low_quality=False):
    """Label each box as positive, background or ignored, and find the object that it belongs to.

    A box whose best IoU with an object is at least `high` is a positive and belongs to that object. One whose best IoU
    is below `low` is background, and one in between is ignored. A crowd is neither: a box that would be background but
    lies at least half inside a crowd is ignored.

    Low-quality matches: the boxes that overlap an object best (ties included) are positives too, however small their
    IoU, so every object that any box touches has one. Such a box belongs to ITS best object, which may be another one.

    anchors: (N, A, 4) float, pixels, or (1, A, 4) for all images.
    boxes: (N, G, 4) float, the objects in the same pixels.
    real, crowd: (N, G) bool; which of the boxes are objects, and which are crowds (neither: padding).
    low, high: IoU.
    allow_low_quality: whether to add the low-quality matches, as the RPN does.

    Returns labels (N, A) int8: 1 positive, 0 background, -1 ignored; and the matched index (N, A) int64.
    """
    xp = array_module(anchors)
    iou = box_ops.iou(anchors, boxes) * real[:, None, :]  # (N, A, G), 0 for what is not an object
    best, matched = iou.max(axis=2), iou.argmax(axis=2)
    labels = xp.where(best >= high, 1, xp.where(best < low, 0, -1)).astype(np.int8)

    if allow_low_quality:
        largest = iou.max(axis=1, keepdims=True)  # (N, 1, G) the best IoU of each object
        labels[((iou == largest) & (largest > 0)).any(axis=2)] = 1

    area = xp.maximum(box_ops.area(anchors), 1e-12)[:, :, None]
    covered = box_ops.intersection(anchors, boxes) / area * crowd[:, None, :]  # (N, A, G) part inside each crowd
    labels[(labels == 0) & (covered.max(axis=2) >= CROWD_COVER)] = -1
    return labels, matched


@accelerated("top_k")
def sample(labels, count, fraction, rng):
    """Choose boxes at random: at most a fraction of them positives, the rest background.

    Every box draws a random priority, and of those allowed the smallest win. That is a top k: it needs no loop over
    images, and the result has the same shape whatever the labels are.

    labels: (N, A) int8 of `match`.
    count: how many boxes to choose per image.
    fraction: the largest share of positives among them.
    rng: numpy.random.Generator.

    Returns indices (N, S), positive (N, S) bool and valid (N, S) bool with S = min(count, A). Positives come first,
    then background; if there are not enough of both, the last entries are not valid.
    """
    xp = array_module(labels)
    count = min(count, labels.shape[1])
    max_positives = min(int(count * fraction), count)
    priority = xp.asarray(rng.random(labels.shape, dtype=np.float32))  # 0 to 1; 2 is never chosen

    def smallest(keys, k):
        indices = top_k(-keys, k)
        return indices, xp.take_along_axis(keys, indices, 1) < 2

    positives, is_positive = smallest(xp.where(labels == 1, priority, 2), max_positives)  # (N, P)
    background, is_background = smallest(xp.where(labels == 0, priority, 2), count)  # (N, S)
    found = is_positive.sum(axis=1, keepdims=True)  # (N, 1) how many positives there are
    is_background &= xp.arange(count) < count - found  # they take the places that are left

    indices = xp.concatenate([positives, background], axis=1)  # (N, P + S)
    valid = xp.concatenate([is_positive, is_background], axis=1)
    order = xp.argsort(~valid, axis=1, kind="stable")[:, :count]  # the valid ones first: there are at most S of them
    indices, valid = xp.take_along_axis(indices, order, 1), xp.take_along_axis(valid, order, 1)
    return indices, valid & (xp.arange(count) < found), valid


@accelerated("top_k")
def top_k(scores, count):
    """The indices of the largest scores in each row.

    scores: (N, A) float. NaN ranks last, and of equal scores the one with the lower index is first.
    count: how many to take; at most all A.

    Returns indices (N, count) int64 in descending order of score.
    """
    xp = array_module(scores)
    scores = xp.where(scores == scores, scores, -xp.inf)
    return xp.argsort(-scores, axis=1, kind="stable")[:, :count]


@accelerated("top_k")
def top_k_of_levels(scores, sizes, counts):
    """The best of each pyramid level, in descending order of score.

    scores: (N, A) float, level after level.
    sizes: how many scores each level has; A in all.
    counts: how many to take from each level; K in all.

    Returns indices (N, K) int64 into the scores, and the level of each (N, K) int32.
    """
    xp = array_module(scores)
    indices, level_of, start = [], [], 0
    for level, (size, count) in enumerate(zip(sizes, counts)):
        best = top_k(scores[:, start : start + size], count) + start  # (N, count)
        indices.append(best)
        level_of.append(xp.full(best.shape, level, np.int32))
        start += size
    return xp.concatenate(indices, axis=1), xp.concatenate(level_of, axis=1)


@accelerated("take")
def take(array, indices):
    """Rows by index, image by image: array[n, indices[n, s]]. (N, A, ...) and (N, S) int -> (N, S, ...)."""
    return array[array_module(array).arange(len(array))[:, None], indices]


def sample_rois(proposals, valid, batch, settings, rng):
    """The boxes on which the heads are trained, as RoIs.

    proposals (N, R, 4), valid (N, R): what the RPN proposes.
    batch: Batch; its ground truth boxes are proposals too, so that the heads see positives from the first step.
    settings: has samples, positive_fraction and iou (see `sample` and `match`). rng: the generator.
    """
    xp = array_module(proposals)
    real = batch.valid & ~batch.crowd
    boxes = xp.concatenate([proposals, batch.boxes.astype(proposals.dtype)], axis=1)  # (N, R + G, 4)
    valid = xp.concatenate([valid, real], axis=1)

    matched, matches = match(boxes, batch.boxes, real, batch.crowd, settings.iou, settings.iou)
    matched[~valid] = -1
    index, positive, valid = sample(matched, settings.samples, settings.positive_fraction, rng)
    matches = take(matches, index)
    labels = xp.where(positive, take(batch.labels, matches), 0)
    return RoIs(take(boxes, index), labels, matches, positive, valid, index)
