"""Checks of notebook 15: a keypoint's one-hot target, the loss over all places, the way back, OKS, mirroring.

One box at a time. A map is (H, W), the maps of K keypoints (H, W, K); keypoints are (K, 3): x, y, visibility.
"""

import numpy as np

from minimask import keypoint_head
from minimask.check.engine import Check
from minimask.datasets.augmentation import flip_order


def _target(keypoint, box, size):
    """The target (size, size) with the cell that the library finds."""
    zero = np.zeros((1, 1), np.int64)
    place, visible = keypoint_head.keypoint_targets(keypoint[None, None, None], box[None, None], zero, size)
    result = np.zeros((size, size))
    if visible[0, 0, 0]:
        result.flat[place[0, 0, 0]] = 1.0
    return result


def _painted(keypoint, box, size, rounding=np.floor, start=1.0, clip=False):
    """A target with mistakes: another rounding, a box that begins at 0, outside points moved inside."""
    result = np.zeros((size, size))
    x, y = rounding((keypoint[:2] - start * box[:2]) * size / (box[2:] - box[:2])).astype(int)
    if clip:
        x, y = np.clip([x, y], 0, size - 1)
    if keypoint[2] > 0 and 0 <= x < size and 0 <= y < size:
        result[y, x] = 1.0
    return result


def _losses(logits):
    """-log p for every place (H, W, K)."""
    z = logits - logits.max(axis=(0, 1))
    return np.log(np.exp(z).sum(axis=(0, 1))) - z


def _loss(logits, places, visible):
    h, w, k = logits.shape
    each = _losses(logits).reshape(h * w, k)[places, np.arange(k)]
    return float(each[visible].sum() / max(visible.sum(), 1))


def _loss_without_maximum(logits, places, visible):
    h, w, k = logits.shape
    p = np.exp(logits) / np.exp(logits).sum(axis=(0, 1))
    each = -np.log(p.reshape(h * w, k)[places, np.arange(k)])
    return float(each[visible].sum() / max(visible.sum(), 1))


def _loss_over_keypoints(logits, places, visible):
    h, w, k = logits.shape
    z = logits - logits.max(axis=2, keepdims=True)
    each = np.log(np.exp(z).sum(axis=2, keepdims=True)) - z
    return float(each.reshape(h * w, k)[places, np.arange(k)][visible].sum() / max(visible.sum(), 1))


def _sigmoid_loss(logits, places, visible):
    h, w, k = logits.shape
    truth = np.zeros((h * w, k))
    truth[places, np.arange(k)] = 1
    z = logits.reshape(h * w, k)
    each = (np.maximum(z, 0) - z * truth + np.log1p(np.exp(-abs(z)))).mean(axis=0)
    return float(each[visible].sum() / max(visible.sum(), 1))


def _peak(logits, box, half=0.5, swap=False, start=1.0):
    y, x = np.unravel_index(logits.argmax(), logits.shape)
    cell = np.array([y, x] if swap else [x, y]) + half
    return start * box[:2] + cell * (box[2:] - box[:2]) / logits.shape[::-1]


def _oks(found, truth, area, sigmas, factor=2.0, labeled=True, square=2, mean=True):
    d2 = ((found[:, :2] - truth[:, :2]) ** 2).sum(axis=1) ** (square / 2)
    like = np.exp(-d2 / (2 * area * (factor * sigmas) ** 2))
    like = like[truth[:, 2] > 0] if labeled else like
    return float(like.mean() if mean else like.sum())


def _mirrored(keypoints, width, order):
    mirrored = keypoints[order].copy()
    mirrored[:, 0] = np.where(mirrored[:, 2] > 0, width - mirrored[:, 0], 0)
    return mirrored


def _not_exchanged(keypoints, width, order):
    return _mirrored(keypoints, width, np.arange(len(keypoints)))


def _all_moved(keypoints, width, order):
    mirrored = keypoints[order].copy()
    mirrored[:, 0] = width - mirrored[:, 0]
    return mirrored


def _last_pixel(keypoints, width, order):
    return _mirrored(keypoints, width - 1, order)


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(15)
_BOX = np.array([10.0, 20.0, 38.0, 48.0])
_ORDER = flip_order(["nose", "left_eye", "right_eye", "tail"])
_ANIMAL = np.array([[30.0, 20, 2], [26, 16, 2], [34, 17, 1], [0, 0, 0]])
_SIGMAS = np.array([0.026, 0.025, 0.025, 0.062])


def _random_target(rng):
    box = rng.uniform(0, 30, 2)
    box = np.concatenate([box, box + rng.uniform(5, 40, 2)])
    point = rng.uniform(box[:2] - 3, box[2:] + 3)
    return dict(keypoint=np.array([*point, rng.integers(3)]), box=box, size=int(rng.choice([7, 14, 56])))


def _random_loss(rng):
    return dict(logits=4 * rng.standard_normal((5, 6, 3)), places=rng.integers(0, 30, 3), visible=rng.random(3) < 0.7)


def _random_peak(rng):
    corner = rng.uniform(0, 30, 2)
    return dict(logits=rng.standard_normal((6, 9)), box=np.concatenate([corner, corner + rng.uniform(5, 40, 2)]))


def _random_pair(rng):
    truth = np.concatenate([rng.uniform(0, 60, (4, 2)), rng.integers(0, 3, (4, 1))], axis=1)
    truth[rng.integers(4), 2] = 2
    found = truth + rng.normal(0, 2, (4, 3))
    return dict(found=found, truth=truth, area=float(rng.uniform(200, 4000)), sigmas=_SIGMAS.copy())


def _random_animal(rng):
    visibility = rng.integers(0, 3, (4, 1))
    points = np.where(visibility > 0, rng.uniform(0, 60, (4, 2)), 0.0)
    return dict(keypoints=np.concatenate([points, visibility], axis=1), width=64, order=_ORDER)


def _logits(*tall):
    """Maps (3, 4) of zeros, one per keypoint, with a value at one place."""
    logits = np.zeros((3, 4, len(tall)))
    for k, (place, value) in enumerate(tall):
        logits[:, :, k].flat[place] = value
    return logits


# -------------------------------------------------------------------------------------------------------------- checks

one_hot_keypoint = Check(
    reference=_target,
    cases={
        "17.2 in a box from 10 to 38: cell floor(7.2 * 2) = 14": dict(
            keypoint=np.array([17.2, 40.9, 2.0]), box=_BOX, size=56
        ),
        "hidden (visibility 1): learned like a visible one": dict(
            keypoint=np.array([30.3, 21.1, 1.0]), box=_BOX, size=14
        ),
        "not labeled (visibility 0): only zeros": dict(keypoint=np.array([17.2, 40.9, 0.0]), box=_BOX, size=14),
        "outside the box: only zeros": dict(keypoint=np.array([4.0, 30.0, 2.0]), box=_BOX, size=14),
        "below the box": dict(keypoint=np.array([20.0, 53.0, 2.0]), box=_BOX, size=14),
        "exactly on the right border: the last cell": dict(keypoint=np.array([38.0, 30.0, 2.0]), box=_BOX, size=14),
        "exactly on the left border: the first cell": dict(keypoint=np.array([10.0, 20.0, 2.0]), box=_BOX, size=14),
        "a box that is wider than tall": dict(
            keypoint=np.array([40.0, 12.0, 2.0]), box=np.array([5.0, 3.0, 61.0, 17.0]), size=14
        ),
    },
    random=_random_target,
    covers="inside, on the border, outside, hidden, not labeled",
    mistakes={
        "hidden keypoints are left out: visibility 1 means labeled, and is learned": (
            lambda keypoint, *rest: _target(np.array([*keypoint[:2], keypoint[2] == 2]), *rest)
        ),
        "rows and columns swapped: y counts rows and comes first": lambda *a: _target(*a).T,
        "a point outside is moved to the nearest cell": lambda *a: _painted(*a, clip=True),
        "a keypoint on the right border is lost: it belongs to the last cell": _painted,
        "rounded to the nearest integer: the cell that contains the point is the floor": (
            lambda *a: _painted(*a, rounding=np.round)
        ),
        "the box's corner is not subtracted": lambda *a: _painted(*a, start=0.0),
        "a one for a keypoint that is not labeled": (
            lambda keypoint, *rest: _target(np.array([*keypoint[:2], 2.0]), *rest)
        ),
    },
)

softmax_place_loss = Check(
    reference=_loss,
    cases={
        "equal logits on 3 x 4 places: ln 12": dict(
            logits=np.zeros((3, 4, 1)), places=np.array([5]), visible=np.array([True])
        ),
        "a confident right keypoint and a confident wrong one": dict(
            logits=_logits((5, 8.0), (2, 8.0)), places=np.array([5, 7]), visible=np.array([True, True])
        ),
        "the second one is not labeled: the mean is over the others": dict(
            logits=_logits((5, 3.0), (2, 8.0), (0, 1.0)),
            places=np.array([5, 0, 3]),
            visible=np.array([True, False, True]),
        ),
        "none is labeled: 0": dict(
            logits=_logits((5, 3.0), (2, 1.0)), places=np.array([0, 0]), visible=np.array([False, False])
        ),
        "logits of 1000: exp of them is infinite": dict(
            logits=_logits((5, 1000.0)), places=np.array([4]), visible=np.array([True])
        ),
    },
    random=_random_loss,
    covers="right and wrong places, keypoints that do not count, large logits",
    mistakes={
        "the maximum is not subtracted before exp": _loss_without_maximum,
        "keypoints that are not labeled are included": (
            lambda logits, places, visible: _loss(logits, places, np.ones_like(visible))
        ),
        "the mean over all keypoints instead of those that count": (
            lambda logits, places, visible: _loss(logits, places, visible) * visible.mean()
        ),
        "the sum over the keypoints that count instead of their mean": (
            lambda logits, places, visible: _loss(logits, places, visible) * visible.sum()
        ),
        "a softmax over the keypoints of a place instead of the places of a keypoint": _loss_over_keypoints,
        "the loss of masks, a sigmoid at each place": _sigmoid_loss,
        "a missing minus: log p instead of -log p": lambda *a: -_loss(*a),
    },
)

keypoint_peak = Check(
    reference=_peak,
    cases={
        "a peak in row 1, column 2 of a 3 x 4 map": dict(
            logits=_logits((6, 5.0))[:, :, 0], box=np.array([10.0, 20.0, 18.0, 26.0])
        ),
        "56 x 56 cells of half a pixel": dict(
            logits=np.where(np.arange(56 * 56).reshape(56, 56) == 41 * 56 + 14, 1.0, -1.0), box=_BOX
        ),
        "all logits below 0": dict(logits=_logits((6, 5.0))[:, :, 0] - 9, box=np.array([10.0, 20.0, 18.0, 26.0])),
        "two equal peaks: the first one in reading order": dict(
            logits=_logits((3, 5.0))[:, :, 0] + _logits((9, 5.0))[:, :, 0], box=np.array([1.0, 2.0, 9.0, 11.0])
        ),
    },
    random=_random_peak,
    covers="boxes of any shape, negative logits, equal peaks",
    mistakes={
        "the corner of the cell instead of its center: half a cell is missing": lambda *a: _peak(*a, half=0.0),
        "x and y swapped: unravel_index returns the row first": lambda *a: _peak(*a, swap=True),
        "the position in the box instead of the image: add the box's corner": lambda *a: _peak(*a, start=0.0),
    },
)

oks = Check(
    reference=_oks,
    cases={
        "all exactly right": dict(found=_ANIMAL.copy(), truth=_ANIMAL, area=2500.0, sigmas=_SIGMAS),
        "an eye 2.5 pixels off in an animal of 50 x 50: exp(-1/2)": dict(
            found=np.array([[22.5, 30, 9]]), truth=np.array([[20.0, 30, 2]]), area=2500.0, sigmas=np.array([0.025])
        ),
        "off in x and y": dict(found=_ANIMAL + [1.0, -2.0, 0.0], truth=_ANIMAL, area=2500.0, sigmas=_SIGMAS),
        "a keypoint that is not labeled is far off: it does not count": dict(
            found=_ANIMAL + np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0], [50, 50, 5.0]]),
            truth=_ANIMAL,
            area=900.0,
            sigmas=_SIGMAS,
        ),
    },
    random=_random_pair,
    covers="exact, near and far keypoints, some not labeled",
    mistakes={
        "sigma instead of COCO's 2 sigma": lambda *a: _oks(*a, factor=1.0),
        "keypoints that are not labeled are counted": lambda *a: _oks(*a, labeled=False),
        "the distance instead of its square": lambda *a: _oks(*a, square=1),
        "the square of the area: the area is already a square": lambda f, t, area, s: _oks(f, t, area**2, s),
        "the sum over the keypoints instead of their mean": lambda *a: _oks(*a, mean=False),
        "hidden keypoints are left out: visibility 1 counts, too": (
            lambda f, t, *rest: _oks(f, np.where(np.arange(3) == 2, t == 2, t), *rest)
        ),
    },
)

mirror_keypoints = Check(
    reference=_mirrored,
    cases={
        "eyes, one of them hidden, no tail": dict(keypoints=_ANIMAL, width=64, order=_ORDER),
        "the left eye is not labeled": dict(
            keypoints=np.array([[30.0, 20, 2], [0, 0, 0], [34, 17, 2], [5, 40, 2]]), width=64, order=_ORDER
        ),
    },
    random=_random_animal,
    covers="pairs, single keypoints, keypoints that are not labeled",
    mistakes={
        "left and right are not swapped": _not_exchanged,
        "keypoints are swapped, but not moved": lambda keypoints, width, order: keypoints[order],
        "a keypoint that is not labeled is moved to the right border: it stays 0, 0, 0": _all_moved,
        "width - 1 - x, which is right for pixel indices: these are positions, and x = 0 is the border": _last_pixel,
    },
)
