"""Box head: a class and a better box for each RoI, and from these the detections.

Girshick 2015 (Fast R-CNN), sections 2.1 and 2.3; Lin et al. 2017, section 4.2 (two hidden layers);
slides T08, T09, L18.
"""

import numpy as np

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import nn
from minimask.device import array_module
from minimask.structures import Detections
from minimask.targets import take


class TwoLayerHead(nn.Module):
    """RoI features (R, k, k, C) -> (R, width): two fully connected layers with ReLU."""

    def __init__(self, in_features, width):
        self.fc6 = nn.Linear(in_features, width, relu=True)
        self.fc7 = nn.Linear(width, width, relu=True)

    def forward(self, x):
        r, h, w, c = x.shape
        return self.fc7(self.fc6(x.reshape(r, h * w * c)))  # (R, k k C) -> (R, width)


class BoxPredictor(nn.Module):
    """(R, width) -> class logits (R, C) and deltas (R, 4 C) for C classes. Class 0 is the background."""

    def __init__(self, width, num_classes):
        self.cls_score = nn.Linear(width, num_classes)
        self.bbox_pred = nn.Linear(width, num_classes * 4)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):  # Girshick 2015, section 2.3
            layer.weight.data[...] = nn.normal(nn.init_rng(), layer.weight.shape, deviation)

    def forward(self, x):
        return self.cls_score(x), self.bbox_pred(x)


def detect(
    logits,
    deltas,
    proposals,
    valid,
    sizes,
    weights=(10.0, 10.0, 5.0, 5.0),
    score_threshold=0.05,
    nms_threshold=0.5,
    max_detections=100,
    smallest_side=1e-2,
):
    """The best boxes of all classes: raw arrays, through which no gradient flows.

    logits: (N, R, C) for C classes with the background. deltas: (N, R, 4 C), a box for each class.
    proposals: (N, R, 4) pixels of the resized image. valid: (N, R) bool, the proposals that count.
    sizes: (N, 2) height and width of each image without its padding, in pixels.
    weights: the factors of boxes.encode.
    score_threshold: boxes with at most this score (a softmax over the classes) are dropped.
    nms_threshold: the IoU above which a box suppresses a weaker one of its class.
    max_detections: D, how many boxes to keep per image.
    smallest_side: pixels; boxes with a shorter side after clipping are dropped.

    Returns Detections with D places per image.
    """
    xp = array_module(logits)
    n, r, c = logits.shape
    scores = F.softmax_array(logits)[..., 1:]  # (N, R, C - 1), without the background
    deltas = deltas.reshape(n, r, c, 4)[:, :, 1:]
    boxes, large = box_ops.predicted(deltas, proposals, sizes, weights, smallest_side)  # (N, R, C - 1, 4)
    good = valid[..., None] & (scores > score_threshold) & large

    labels = xp.broadcast_to(xp.arange(1, c), scores.shape).reshape(n, -1)  # (N, R (C - 1))
    boxes, scores, good = boxes.reshape(n, -1, 4), scores.reshape(n, -1), good.reshape(n, -1)
    kept, valid = box_ops.nms(boxes, scores, good, nms_threshold, max_kept=max_detections, groups=labels)
    return Detections(
        boxes=take(boxes, kept) * valid[..., None],
        labels=(take(labels, kept) * valid).astype(np.int64),
        scores=take(scores, kept) * valid,
        valid=valid,
    )
