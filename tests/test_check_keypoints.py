"""Checks of notebook 15: right answers pass, and typical wrong ones are named."""

import numpy as np

from tests import answers


def one_hot_keypoint(keypoint, box, size):
    target = np.zeros((size, size))
    x, y, visibility = keypoint
    column, row = (np.floor((np.array([x, y]) - box[:2]) * size / (box[2:] - box[:2]))).astype(int)
    column, row = (size - 1 if x == box[2] else column), (size - 1 if y == box[3] else row)
    if visibility > 0 and 0 <= column < size and 0 <= row < size:
        target[row, column] = 1
    return target


def softmax_place_loss(logits, places, visible):
    losses = []
    for k in np.flatnonzero(visible):
        z = logits[:, :, k].ravel() - logits[:, :, k].max()
        losses.append(np.log(np.exp(z).sum()) - z[places[k]])
    return sum(losses) / max(len(losses), 1)


def keypoint_peak(logits, box):
    height, width = logits.shape
    row, column = divmod(logits.argmax(), width)
    x1, y1, x2, y2 = box
    return np.array([x1 + (column + 0.5) * (x2 - x1) / width, y1 + (row + 0.5) * (y2 - y1) / height])


def oks(found, truth, area, sigmas):
    labeled = truth[:, 2] > 0
    squared = ((found - truth)[:, :2] ** 2).sum(axis=1)
    return np.exp(-squared / (2 * area * (2 * sigmas) ** 2))[labeled].mean()


def mirror_keypoints(keypoints, width, order):
    mirrored = keypoints[order].copy()
    labeled = mirrored[:, 2] > 0
    mirrored[labeled, 0] = width - mirrored[labeled, 0]
    return mirrored


RIGHT = dict(
    one_hot_keypoint=one_hot_keypoint,
    softmax_place_loss=softmax_place_loss,
    keypoint_peak=keypoint_peak,
    oks=oks,
    mirror_keypoints=mirror_keypoints,
)


def without_maximum(logits, places, visible):
    p = np.exp(logits) / np.exp(logits).sum(axis=(0, 1))
    each = -np.log(p.reshape(-1, len(places))[places, np.arange(len(places))])
    return each[visible].sum() / max(visible.sum(), 1)


WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("one_hot_keypoint", lambda *a: one_hot_keypoint(*a).T, "17.2 in a box", "y counts rows"),
    (
        "one_hot_keypoint",
        lambda k, b, s: one_hot_keypoint(k + [*(b[2:] - b[:2]) / s / 2, 0], b, s),
        "17.2 in a box",
        "The result at",
    ),
    (
        "one_hot_keypoint",
        lambda k, *rest: one_hot_keypoint(k * [1, 1, k[2] == 2], *rest),
        "hidden (visibility 1)",
        "hidden keypoints are left out",
    ),
    ("softmax_place_loss", without_maximum, "logits of 1000", "the maximum is not subtracted before exp"),
    (
        "softmax_place_loss",
        lambda z, p, v: softmax_place_loss(z, p, v | True),
        "the second one is not labeled",
        "keypoints that are not labeled are included",
    ),
    (
        "softmax_place_loss",
        lambda z, p, v: softmax_place_loss(z, p, v) * v.sum(),
        "a confident right keypoint and a confident wrong one",
        "the sum over the keypoints that count instead of",
    ),
    (
        "keypoint_peak",
        lambda z, box: keypoint_peak(z, box) - (box[2:] - box[:2]) / z.shape[::-1] / 2,
        "row 1, column 2",
        "half a cell is missing",
    ),
    ("keypoint_peak", lambda z, box: keypoint_peak(z, box) - box[:2], "row 1, column 2", "add the box's corner"),
    ("oks", lambda f, t, a, s: oks(f, t, a, s / 2), "an eye 2.5 pixels off", "sigma instead of COCO's 2 sigma"),
    (
        "oks",
        lambda f, t, a, s: oks(f, np.c_[t[:, :2], np.ones(len(t))], a, s),
        "off in x and y",
        "keypoints that are not labeled are counted",
    ),
    (
        "mirror_keypoints",
        lambda k, w, o: mirror_keypoints(k, w, np.arange(4)),
        "eyes",
        "left and right are not swapped",
    ),
    ("mirror_keypoints", lambda k, w, o: mirror_keypoints(k, w - 1, o), "eyes", "x = 0 is the border"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)
