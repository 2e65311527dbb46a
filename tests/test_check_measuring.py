"""Checks of notebook 14: right answers pass and give pycocotools' AP, and typical wrong ones are named."""

import numpy as np
import pytest

from minimask.check import CHECKS
from minimask.evaluate import coco_average_precision
from tests import answers


def mask_iou(a, b):
    result = np.zeros((len(a), len(b)))
    for i, j in np.ndindex(result.shape):
        union = (a[i] | b[j]).sum()
        result[i, j] = (a[i] & b[j]).sum() / union if union else 0
    return result


def match_detections(overlaps, threshold, near=np.greater_equal):
    matches, free = np.full(len(overlaps), -1), list(range(overlaps.shape[1]))
    for d in range(len(overlaps)):
        reached = [g for g in free if near(overlaps[d, g], threshold)]
        if reached:
            matches[d] = max(reached, key=lambda g: overlaps[d, g])
            free.remove(matches[d])
    return matches


def precision_recall(hits, objects):
    found = np.array([hits[: n + 1].sum() for n in range(len(hits))], dtype=float)
    return found / (1 + np.arange(len(hits))), found / objects


def average_precision(precision, recall, points=101, best=max):
    recalls = np.arange(points) / (points - 1)
    return sum(best(precision[recall >= r], default=0.0) for r in recalls) / len(recalls)


def no_doubles_checked(overlaps, threshold):
    if not overlaps.size:
        return np.full(len(overlaps), -1)
    return np.where(overlaps.max(axis=1) >= threshold, overlaps.argmax(axis=1), -1)


def iou_plus_epsilon(a, b):
    return np.array([[(x & y).sum() / ((x | y).sum() + 0.01) for y in b] for x in a]).reshape(len(a), len(b))


RIGHT = dict(
    mask_iou=mask_iou,
    match_detections=match_detections,
    precision_recall=precision_recall,
    average_precision=average_precision,
)
WRONG = [  # check, wrong answer, case that shows it, what the message says
    (
        "mask_iou",
        lambda a, b: np.array([[(x & y).sum() / x.sum() for y in b] for x in a]),
        "masks of 12 and 9 pixels that share 6: 6 / 15",
        "the shared pixels divided by the first mask",
    ),
    (
        "mask_iou",
        lambda a, b: 2 * mask_iou(a, b) / (1 + mask_iou(a, b)),
        "masks of 12 and 9 pixels that share 6: 6 / 15",
        "the Dice coefficient, 2 shared / (sum of both areas)",
    ),
    (
        "mask_iou",
        lambda a, b: np.array([[(x & y).sum() / (x | y).sum() for y in b] for x in a]),
        "two empty masks",
        "is nan, expected 0",
    ),
    ("mask_iou", iou_plus_epsilon, "masks of 12 and 9 pixels that share 6: 6 / 15", "The result at [0, 0] is 0.39973"),
    ("mask_iou", lambda a, b: mask_iou(b, a), "equal, apart, one inside the other", "It looks transposed"),
    (
        "match_detections",
        lambda o, t: match_detections(o, t, np.greater),
        "equal to the threshold",
        "`>` instead of `>=`",
    ),
    ("match_detections", no_doubles_checked, "found twice", "an object is found twice"),
    (
        "match_detections",
        lambda o, t: np.array([next((g for g, v in enumerate(row) if v >= t), -1) for row in o]),
        "found twice",
        "an object is found twice",
    ),
    ("match_detections", lambda o, t: match_detections(o, t) >= 0, "two objects found, one not", "holds booleans"),
    (
        "precision_recall",
        lambda hits, objects: precision_recall(hits, len(hits)),
        "right, right, wrong",
        "recall divided by the number of detections",
    ),
    ("precision_recall", lambda hits, objects: hits.sum() / len(hits), "right, right, wrong", "expected 2 results"),
    (
        "precision_recall",
        lambda hits, objects: precision_recall(hits, objects)[::-1],
        "right, right, wrong",
        "precision and recall swapped",
    ),
    (
        "average_precision",
        lambda p, r: average_precision(p, r, best=lambda x, default: x[0] if len(x) else default),
        "a dip",
        "the precision where a recall is reached, instead of",
    ),
    ("average_precision", lambda p, r: average_precision(p, r, 11), "(67 + 34 x 0.6) / 101", "11 recalls"),
    (
        "average_precision",
        lambda p, r: float(p.mean()) if len(p) else 0.0,
        "(67 + 34 x 0.6) / 101",
        "the mean of the precisions",
    ),
    (
        "average_precision",
        lambda p, r: average_precision(p, r - 1e-9),
        "(67 + 34 x 0.6) / 101",
        "a recall that is just reached counts",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


@pytest.mark.parametrize("seed", range(8))
def test_the_checked_functions_together_are_pycocotools_ap(seed):
    pycocotools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    truth, found = (rng.random((count, 12, 12)) < 0.5 for count in (5, 9))
    found[:5] = truth ^ (rng.random(truth.shape) < rng.uniform(0, 0.3, (5, 1, 1)))  # some fit well, some do not
    scores = rng.permutation(9) / 9

    def coco(mask, **more):
        code = pycocotools.encode(np.asfortranarray(mask, dtype=np.uint8))
        code["counts"] = code["counts"].decode("ascii")
        return dict(image_id=1, category_id=1, segmentation=code, **more)

    image = dict(id=1, height=12, width=12)
    annotations = [coco(mask, id=i) for i, mask in enumerate(truth, start=1)]
    dataset = dict(images=[image], categories=[dict(id=1)], annotations=annotations)
    expected = coco_average_precision(dataset, [coco(m, score=float(s)) for m, s in zip(found, scores)], "segm")["AP"]

    overlaps = CHECKS["mask_iou"].reference(found[np.argsort(-scores)], truth)
    steps = [CHECKS[name].reference for name in ("match_detections", "precision_recall", "average_precision")]
    ap = [steps[2](*steps[1](steps[0](overlaps, t) >= 0, len(truth))) for t in np.linspace(0.5, 0.95, 10)]
    assert np.mean(ap) == pytest.approx(expected, abs=1e-9)
