"""Match anchors to ground truth on the GPU; see match.cu."""

import numpy as np

from minimask.device import array_module
from minimask.kernels.cuda import blocks_for, launch

THREADS = 256


def best_objects(anchors, boxes, real, crowd):
    """best float32, which int64, covered float32 (N, A) of targets.match_specification; largest (N, G) float32.

    anchors (N, A, 4) or (1, A, 4) for all images, boxes (N, G, 4) float32, real and crowd (N, G) bool: contiguous.
    """
    xp = array_module(anchors)
    images, objects = real.shape
    count = anchors.shape[1]
    best, covered = xp.empty((images, count), np.float32), xp.empty((images, count), np.float32)
    which = xp.empty((images, count), np.int64)
    largest = xp.zeros((images, objects), np.float32)
    if best.size:
        launch(
            "match", "best_objects", _grid(images, count), THREADS, anchors, len(anchors) == 1, boxes, real, crowd,
            count, objects, best, which, covered, largest,
        )  # fmt: skip
    return best, which, covered, largest


def match(anchors, boxes, real, crowd, low, high, allow_low_quality, crowd_cover):
    """Labels int8 and objects int64 (N, A) of targets.match; arguments as for `best_objects`."""
    xp = array_module(anchors)
    anchors, boxes, real, crowd = (xp.ascontiguousarray(x) for x in (anchors, boxes, real, crowd))
    best, which, covered, largest = best_objects(anchors, boxes, real, crowd)
    labels = xp.empty(best.shape, np.int8)
    if best.size:
        launch(
            "match", "label", _grid(*best.shape), THREADS, anchors, len(anchors) == 1, boxes, best, covered, largest,
            best.shape[1], real.shape[1], float(low), float(high), allow_low_quality, crowd_cover, labels,
        )  # fmt: skip
    return labels, which


def _grid(images, count):
    return blocks_for(count, THREADS, most=2**31 - 1), images
