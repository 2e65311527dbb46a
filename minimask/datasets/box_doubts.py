"""Compares the boxes of a COCO json with its segmentations, to find boxes that mean something else or lie elsewhere."""

import numpy as np

FITS = 0.5  # IoU from which a box fits its segmentation; boxes of partly hidden objects may be larger
SURE = 0.8  # IoU from which another reading of the box explains it
NEAR = 3.0  # pixels by which the box of a tiny object may be off


def compare_boxes(pairs, problems):
    """Add a doubt for each box that does not fit its segmentation, by the most likely reason.

    pairs: list of (place, bbox, box of the segmentation, image): [x, y, w, h], (x1, y1, x2, y2), the image's entry.
    problems: the Problems that get the doubts.
    """
    if not pairs:
        return
    boxes = np.array([bbox for _, bbox, _, _ in pairs], np.float64)  # (N, 4)
    tight = np.array([box for _, _, box, _ in pairs], np.float64)  # (N, 4)
    sizes = np.array([(image["width"], image["height"]) * 2 for _, _, _, image in pairs], np.float64)  # (N, 4)
    tight = np.clip(tight, 0, sizes)
    given = np.clip(_corners(boxes), 0, sizes)
    off = np.abs(given - tight).max(axis=1) > NEAR
    bad = off & ((_iou(given, tight) < FITS) | (np.abs(boxes - tight).max(axis=1) < 1))
    if not bad.any():
        return

    places = [place for (place, _, _, _), is_bad in zip(pairs, bad) if is_bad]
    boxes, tight, sizes, given = boxes[bad], tight[bad], sizes[bad], given[bad]
    width, height = tight[:, 2] - tight[:, 0], tight[:, 3] - tight[:, 1]
    scale = np.stack([width / boxes[:, 2], height / boxes[:, 3]], axis=1)  # (N, 2)
    reasons = (
        ("bbox written as x1, y1, x2, y2 instead of x, y, width, height", _iou(np.clip(boxes, 0, sizes), tight) > SURE),
        (
            "bbox in parts of the image (0 to 1) instead of pixels",
            (boxes.max(axis=1) <= 1) & (_iou(_corners(boxes) * sizes, tight) > SURE),
        ),
        (
            "bbox of another image size (the segmentation was rescaled, the box was not)",
            _iou(_corners(boxes * np.tile(scale, 2)), tight) > SURE,
        ),
        ("bbox and segmentation in different places", _iou(given, tight) == 0),
        (f"bbox that does not fit its segmentation (IoU below {FITS})", np.ones(len(places), bool)),
    )
    told = np.zeros(len(places), bool)
    for kind, fits in reasons:
        for i in np.flatnonzero(fits & ~told):
            problems.doubt(kind, places[i])
        told |= fits


def _corners(boxes):
    """x1, y1, x2, y2 of boxes x, y, width, height. (N, 4)"""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _iou(a, b):
    """IoU of each box with the one at the same place. (N, 4), (N, 4) -> (N,)"""
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)  # (N, 2)
    shared = sides.prod(axis=1)
    areas = [np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)
