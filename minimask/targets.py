"""What every head is trained towards: match boxes to objects, sample some, fetch each one's object.

Ren et al. 2015, section 3.1.2 (RPN) and Girshick 2015, section 2.3 (box head); torchvision's rules.

Matching, in words. A box whose best IoU with an object is at least `high` is a positive and belongs to that object; one
whose best is below `low` is background; between the two it is ignored. The RPN also makes positives of the
boxes that no other box beats for some object (ties included), however small their IoU, so that each object that any
anchor touches has one. Such a box belongs to ITS best object, which may be another one. A crowd is neither: a box that
would be background and lies at least half inside a crowd is ignored.
"""

import numpy as np

from minimask import boxes as box_ops
from minimask.device import array_module, fits_gpu_kernel, kernels, on_cpu

LARGEST_SORT = 4096  # what one block of threads of a card sorts at once: more goes other ways
CROWD_COVER = 0.5  # the part of a box inside a crowd region from which on the box is not background


def match_specification(anchors, boxes, real, crowd):
    """Best IoU, its object, whether the anchor is some object's best, and the part inside a crowd: four arrays (N, A).

    anchors (N, A, 4) or (1, A, 4), boxes (N, G, 4), real and crowd (N, G) bool.
    """
    xp = array_module(anchors)
    anchors = xp.broadcast_to(anchors, (len(boxes), *anchors.shape[1:]))
    iou = box_ops.iou(anchors, boxes) * real[:, None, :]  # (N, A, G)
    best, which = iou.max(axis=2), iou.argmax(axis=2)
    largest = iou.max(axis=1, keepdims=True)  # (N, 1, G) each object's best
    best_of_object = ((iou == largest) & (largest > 0)).any(axis=2)
    corner = xp.minimum(anchors[:, :, None, 2:], boxes[:, None, :, 2:])
    sides = (corner - xp.maximum(anchors[:, :, None, :2], boxes[:, None, :, :2])).clip(0, None)  # (N, A, G, 2)
    area = xp.maximum(box_ops.area(anchors), 1e-12)[:, :, None]
    covered = (sides[..., 0] * sides[..., 1] / area * crowd[:, None, :]).max(axis=2)
    return best, which, best_of_object, covered


def match(anchors, boxes, real, crowd, low, high, allow_low_quality=False):
    """Label boxes: 1 positive, 0 background, -1 ignored (N, A) int8, and the object each belongs to (N, A) int64.

    anchors (N, A, 4) or (1, A, 4) for all images, boxes (N, G, 4) of objects in the same pixels; real (N, G) bool
    marks objects, crowd (N, G) bool crowds; allow_low_quality: also the best box of each object is a positive.
    """
    xp = array_module(anchors)
    if anchors.ndim != 3 or anchors.shape[2] != 4 or anchors.shape[0] not in (1, len(boxes)):
        raise ValueError(f"match: anchors must be (1 or {len(boxes)}, A, 4), got shape {anchors.shape}")
    if fits_gpu_kernel(anchors):
        boxes = boxes.astype(np.float32, copy=False)
        return kernels("match", anchors).match(anchors, boxes, real, crowd, low, high, allow_low_quality, CROWD_COVER)
    if on_cpu(anchors):
        shape = len(boxes), anchors.shape[1]
        best, covered = np.zeros(shape, anchors.dtype), np.zeros(shape, anchors.dtype)
        which, best_of_object = np.zeros(shape, np.int64), np.zeros(shape, bool)
        every = np.ascontiguousarray(np.broadcast_to(anchors, (*shape, 4)))
        kernels("match", anchors).match(
            every, np.ascontiguousarray(boxes, anchors.dtype), real, crowd, best, which, best_of_object, covered
        )
    else:
        best, which, best_of_object, covered = match_specification(anchors, boxes, real, crowd)
    labels = xp.where(best >= high, 1, xp.where(best < low, 0, -1)).astype(np.int8)
    if allow_low_quality:
        labels[best_of_object] = 1
    labels[(labels == 0) & (covered >= CROWD_COVER)] = -1
    return labels, which


def sample(labels, count, fraction, rng):
    """Choose `count` boxes an image at random, at most `fraction` of them positives, the rest background.

    labels: (N, A) int8 of `match`. rng: numpy.random.Generator. Returns indices (N, S), positive (N, S) and valid
    (N, S) with S = min(count, A): positives first, then background; fewer are valid if there are not enough.
    Every box gets a random priority; those allowed with the smallest are taken: a top k, with no loop over images.
    """
    xp = array_module(labels)
    n, total = labels.shape
    count = min(count, total)
    most_positives = min(int(count * fraction), count)
    priority = xp.asarray(rng.random(labels.shape, dtype=np.float32))
    if on_cpu(labels) or count <= LARGEST_SORT:
        return kernels("top_k", labels).sample(labels, priority, count, most_positives)
    return sample_specification(labels, priority, count, most_positives)


def sample_specification(labels, priority, count, most_positives):
    """`sample` with the priorities (N, A) float32 given: of those allowed the smallest, at most so many positives."""
    xp = array_module(labels)
    positives, is_positive = _smallest(xp.where(labels == 1, priority, 2), most_positives)  # (N, P)
    rest, is_rest = _smallest(xp.where(labels == 0, priority, 2), count)  # (N, S)
    is_rest &= xp.arange(count) < count - is_positive.sum(axis=1, keepdims=True)
    indices = xp.concatenate([positives, rest], axis=1)  # (N, P + S)
    valid = xp.concatenate([is_positive, is_rest], axis=1)
    order = xp.argsort(~valid, axis=1, kind="stable")[:, :count]  # the valid ones first; never more than S of them
    indices, valid = xp.take_along_axis(indices, order, 1), xp.take_along_axis(valid, order, 1)
    positive = valid & (xp.arange(count) < is_positive.sum(axis=1, keepdims=True))
    return indices, positive, valid


def _smallest(keys, count):
    """The indices (N, count) of the smallest keys, by rising key, and whether each is below 2 (allowed)."""
    xp = array_module(keys)
    indices = top_k(-keys, count)
    return indices, xp.take_along_axis(keys, indices, 1) < 2


def top_k(scores, count):
    """Indices (N, count) of the largest of `scores` (N, A), by falling score, equal ones by index, NaN last."""
    count = min(count, scores.shape[1])
    if scores.dtype == np.float32:
        return kernels("top_k", scores).top_k(scores, count)
    return top_k_specification(scores, count)


def top_k_specification(scores, count):
    """`top_k` of any dtype: all are sorted."""
    xp = array_module(scores)
    scores = xp.where(scores == scores, scores, -xp.inf)
    return xp.argsort(-scores, axis=1, kind="stable")[:, :count]


def top_k_of_levels(scores, sizes, counts):
    """The best of each pyramid level, by falling score: indices (N, K) int64 into `scores` (N, A), levels (N, K) int32.

    sizes: how many of the A scores belong to each level, in this order; counts: how many are taken of each, K in all.
    """
    xp = array_module(scores)
    if fits_gpu_kernel(scores) and max(counts) <= LARGEST_SORT:
        return kernels("top_k", scores).top_k_of_levels(scores, sizes, counts)
    indices, level_of, start = [], [], 0
    for level, (size, count) in enumerate(zip(sizes, counts)):
        best = top_k(scores[:, start : start + size], count) + start
        indices.append(best)
        level_of.append(xp.full(best.shape, level, np.int32))
        start += size
    return xp.concatenate(indices, axis=1), xp.concatenate(level_of, axis=1)


def take(array, indices):
    """array[n, indices[n, s]] for all n and s: (N, A, ...) and (N, S), of 0 to A - 1 -> (N, S, ...)."""
    if not on_cpu(array):
        return kernels("take", array).take(array, indices)
    images, size, *rest = array.shape
    return array.reshape(images * size, *rest).take(np.arange(images)[:, None] * size + indices, axis=0)
