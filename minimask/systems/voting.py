"""Mask voting: all RoIs that lie on the same object draw its mask together.

Dai et al. 2016 (MNC), section 5; Li et al. 2017 (FCIS), section 2.3. A system that draws one mask per RoI has several
RoIs on each object. Non-maximum suppression keeps the one with the best score, and its mask becomes the average of the
masks of all RoIs that overlap it by at least half, weighted by their scores for its class. A mask that is wrong in one
place is outvoted there.

N images, R RoIs and D detections per image, C classes with the background, masks of M x M cells.
"""

import numpy as np

from minimask import boxes as box_ops
from minimask.device import array_module, to_cpu
from minimask.roi_align import roi_align_forward
from minimask.structures import Detections
from minimask.targets import take


def detect_and_vote(
    rois,
    valid,
    scores,
    masks,
    score_threshold=0.05,
    nms_threshold=0.3,
    max_detections=100,
    overlap=0.5,
    vote_boxes=False,
):
    """The best RoIs of all classes, with masks that their neighbors vote for.

    rois: (N, R, 4) float, pixels of the resized image. valid: (N, R) bool, the RoIs that count.
    scores: (N, R, C) probabilities of the classes; class 0 is the background.
    masks: (N, R, M, M, C) probabilities inside each RoI, or (N, R, M, M, 1) if they are the same for all classes; None:
        there are none.
    score_threshold, nms_threshold, max_detections: as in box_head.detect.
    overlap: the IoU from which on a RoI votes.
    vote_boxes: the box of a detection becomes the average of its voters' boxes, too (Gidaris & Komodakis 2015).

    Voting runs on the CPU, because the number of voters depends on the values. Returns Detections there.
    """
    rois, valid, scores = (to_cpu(x) for x in (rois, valid, scores))
    found, index = best(rois, valid, scores, score_threshold, nms_threshold, max_detections)
    voters = box_ops.iou(found.boxes, rois) >= overlap  # (N, D, R)
    np.put_along_axis(voters, index[..., None], True, axis=2)  # a detection votes for itself
    voters &= found.valid[..., None] & valid[:, None]
    weights = voters * take(scores.swapaxes(1, 2), found.labels)  # (N, D, R)

    if vote_boxes:
        found.boxes = (weights @ rois / np.maximum(weights.sum(axis=2, keepdims=True), 1e-9)).astype(rois.dtype)
    found.masks = None if masks is None else average(weights, found, rois, to_cpu(masks))
    return found


def detect_together(rounds, settings):
    """`detect_and_vote` for the RoIs of several rounds: a list of (rois, valid, scores, masks).

    settings: DetectionSettings.
    """
    together = [array_module(parts[0]).concatenate(parts, axis=1) for parts in zip(*rounds)]
    return detect_and_vote(*together, settings.score_threshold, settings.nms_threshold, settings.max_detections)


def best(rois, valid, scores, score_threshold, nms_threshold, max_detections):
    """Non-maximum suppression within each class: Detections without masks, and the RoI of each (N, D)."""
    n, r, c = scores.shape
    labels = np.broadcast_to(np.arange(1, c), (n, r, c - 1)).reshape(n, -1)  # (N, R (C - 1))
    boxes = np.repeat(rois, c - 1, axis=1)  # (N, R (C - 1), 4)
    foreground = np.ascontiguousarray(scores[..., 1:]).reshape(n, -1)
    good = np.repeat(valid, c - 1, axis=1) & (foreground > score_threshold)
    kept, real = box_ops.nms(boxes, foreground, good, nms_threshold, max_kept=max_detections, groups=labels)
    found = Detections(
        boxes=take(boxes, kept) * real[..., None],
        labels=(take(labels, kept) * real).astype(np.int64),
        scores=take(foreground, kept) * real,
        valid=real,
        whole_pixels=False,
    )
    return found, kept // (c - 1)


def average(weights, found, rois, masks):
    """The masks of the detections: averages of the RoIs' masks, each resampled to the detection's box.

    weights: (N, D, R) float, 0 where a RoI does not vote. Returns (N, D, M, M) float32, 0 where nobody votes.
    """
    n, d, r = np.nonzero(weights)  # the P pairs of a detection and a voter
    size, corner = masks.shape[2], rois[n, r, :2]
    scale = size / np.maximum(rois[n, r, 2:] - corner, 1e-3)  # (P, 2) cells of the voter's mask per pixel
    boxes = (found.boxes[n, d].reshape(-1, 2, 2) - corner[:, None]) * scale[:, None]  # in cells of the voter's mask
    boxes = boxes.reshape(-1, 4).astype(np.float32)

    channel = np.minimum(found.labels[n, d], masks.shape[4] - 1)
    votes = np.ascontiguousarray(masks[n, r, :, :, channel], np.float32)  # (P, M, M)
    where = np.arange(len(n)), np.zeros(len(n), int), [1.0]
    result = np.zeros((*found.valid.shape, size, size), np.float32)
    if len(n):
        votes = roi_align_forward([votes[..., None]], boxes, *where, size, sampling_ratio=1, aligned=True)[0][..., 0]
        np.add.at(result, (n, d), votes * weights[n, d, r][:, None, None])
    return result / np.maximum(weights.sum(axis=2), 1e-9)[..., None, None]
