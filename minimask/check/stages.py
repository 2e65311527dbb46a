"""check.stage("roi_align", my_roi_align): compares a stage that you wrote with the library's, on cases from a seed.

Your function has the library's own signature, takes NumPy arrays and returns arrays (or Tensors). The exercises of the
notebooks have simpler signatures; their checks are `check.iou`, `check.nms`, ...

A difference raises CheckFailed, an AssertionError, so that this works in a test as it stands:

    def test_my_nms():
        check.stage("nms", my_nms)
"""

import difflib
import functools
import inspect

import numpy as np

from minimask import anchors, boxes, convolution, losses, mask_head, roi_align, targets
from minimask.check.engine import Check
from minimask.check.words import name_of
from minimask.tensor import Tensor


def stage(name, function, tensors=False):
    """Compare a function with the library's stage of that name.

    name: one of `STAGES`, such as "nms" or "roi_align".
    function: takes the arguments of the library's function, by position.
    tensors: whether to pass features, logits, weights, ... as Tensors, as the library does inside the model. By default
        all arguments are NumPy arrays.
    Prints what was covered. Raises CheckFailed, which says what differs: the stage, the case, the index, the expected
    and the found value. Raises ValueError if there is no such stage.
    """
    if name not in STAGES:
        close = difflib.get_close_matches(name, STAGES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(STAGES)}"
        raise ValueError(f"check.stage: there is no stage {name!r}; {hint}")
    STAGES[name].check(function, tensors)


class Stage:
    """A stage of the library with its cases.

    library: the library's function.
    random: function of a NumPy generator that returns the arguments of a call, a dict by name.
    more: dict from a description to a dict of arguments that are changed in, or added to, a random call.
    tensors: names of the arguments that the library's function takes as Tensors.
    results: names of the results, if there are several.
    meaningful: function that removes from a result what has no meaning, such as the index of a box that is not valid.
    """

    def __init__(self, library, random, more, tensors=(), results=(), meaningful=None):
        self.library, self.random, self.more = library, random, more
        self.tensors, self.results, self.meaningful = tensors, results, meaningful or (lambda result: result)

    def check(self, function, tensors=False):
        """Compare `function` with the library's; see `stage`."""
        rng = np.random.default_rng(17)
        cases = {"the defaults": self.random(rng)}
        cases |= {description: {**self.random(rng), **changed} for description, changed in self.more.items()}
        one = Check(
            reference=self._called(self.library, cases, tensors=True),
            cases=cases,
            random=self.random,
            rounds=5,
            rtol=1e-4,
            atol=1e-5,
            covers="; ".join(cases),
            results=self.results,
            view_allowed=True,
            name=f'stage "{self.library.__name__}"',
        )
        usable = callable(function) and not inspect.isclass(function)
        one(self._called(function, cases, tensors) if usable else function)  # the check names what is not a function

    def signature(self):
        """The library's signature: "nms(boxes, scores, ...)"."""
        return f"{self.library.__name__}{inspect.signature(self.library)}"

    def _called(self, function, cases, tensors):
        """The function on arrays: wraps some of its arguments in Tensors, takes the arrays out of its result."""
        names = list(max(cases.values(), key=len))

        @functools.wraps(function)
        def run(*arguments):
            if tensors:
                arguments = [
                    _as_tensors(value) if name in self.tensors else value for name, value in zip(names, arguments)
                ]
            return self.meaningful(_as_arrays(function(*arguments)))

        run.__name__ = name_of(function)
        return run


def _as_tensors(value):
    return [Tensor(item) for item in value] if isinstance(value, list) else Tensor(value)


def _as_arrays(value):
    if isinstance(value, (tuple, list)):
        return tuple(_as_arrays(item) for item in value)
    return value.data if isinstance(value, Tensor) else value


# --------------------------------------------------------------------------------------------------------------- cases


def _random_boxes(rng, *shape, side=48.0):
    """Boxes (*shape, 4) with sides from 4 to 24 pixels inside an image of `side` pixels."""
    size = rng.uniform(4, 24, (*shape, 2))
    corner = rng.uniform(0, 1, (*shape, 2)) * (side - size)
    return np.concatenate([corner, corner + size], axis=-1)


def _two_sets(rng):
    return dict(a=_random_boxes(rng, 6), b=_random_boxes(rng, 4))


def _encode(rng):
    return dict(boxes=_random_boxes(rng, 6), anchors=_random_boxes(rng, 6))


def _decode(rng):
    return dict(deltas=rng.normal(0, 0.5, (6, 4)), anchors=_random_boxes(rng, 6))


def _nms(rng):
    scores = (rng.permutation(40) / 40 + 0.01).reshape(2, 20)  # no two are equal
    return dict(boxes=_random_boxes(rng, 2, 20), scores=scores, valid=rng.random((2, 20)) < 0.8, threshold=0.3)


def _roi_align(rng):
    features = [rng.standard_normal((2, 48 // stride, 48 // stride, 3)) for stride in (4, 8)]
    return dict(
        features=features,
        boxes=_random_boxes(rng, 5),
        image_index=rng.integers(0, 2, 5),
        levels=rng.integers(0, 2, 5),
        scales=[1 / 4, 1 / 8],
    )


def _match(rng):
    real = np.array([[True, True, True], [True, True, False]])
    return dict(
        anchors=_random_boxes(rng, 2, 30),
        boxes=_random_boxes(rng, 2, 3),
        real=real,
        crowd=np.zeros((2, 3), bool),
        low=0.3,
        high=0.6,
    )


def _mask_targets(rng):
    masks = (rng.random((2, 3, 12, 12)) < 0.6).repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8)  # (2, 3, 48, 48)
    return dict(masks=masks, boxes=_random_boxes(rng, 2, 4).astype(np.float32), matches=rng.integers(0, 3, (2, 4)))


def _paste_masks(rng):
    masks = rng.random((3, 7, 7)).astype(np.float32)
    return dict(masks=masks, boxes=_random_boxes(rng, 3).astype(np.float32), height=40, width=48, threshold=None)


def _cell_anchors(rng):
    return dict(sizes=rng.uniform(8, 64, 2), ratios=np.array([0.5, 1.0, 2.0]))


def _grid_anchors(rng):
    return dict(cell=_random_boxes(rng, 3) - 24, feature_shape=(3, 4), stride=(8, 16))


def _conv2d(rng):
    return dict(x=rng.standard_normal((2, 7, 8, 4)), w=rng.standard_normal((3, 3, 4, 6)), b=rng.standard_normal(6))


def _objectness(rng):
    targets = rng.integers(0, 2, (2, 9)).astype(float)
    return dict(logits=3 * rng.standard_normal((2, 9)), targets=targets, weights=(rng.random((2, 9)) < 0.7) * 1.0)


def _rpn_box_loss(rng):
    sampled = rng.random((2, 9)) < 0.7
    return dict(
        deltas=rng.standard_normal((2, 9, 4)),
        targets=rng.standard_normal((2, 9, 4)),
        positive=(sampled & (rng.random((2, 9)) < 0.5)) * 1.0,
        sampled=sampled * 1.0,
    )


def _class_loss(rng):
    weights = (rng.random(9) < 0.7) * 1.0
    return dict(logits=2 * rng.standard_normal((9, 4)), labels=rng.integers(0, 4, 9), weights=weights)


def _box_loss(rng):
    return dict(
        deltas=rng.standard_normal((9, 16)),
        labels=rng.integers(0, 4, 9),
        targets=rng.standard_normal((9, 4)),
        positive=(rng.random(9) < 0.4) * 1.0,
        sampled=np.ones(9),
    )


def _mask_loss(rng):
    return dict(
        logits=2 * rng.standard_normal((4, 5, 5, 3)),
        labels=rng.integers(1, 3, 4),
        targets=(rng.random((4, 5, 5)) < 0.5) * 1.0,
        valid=np.array([True, True, False, True]),
    )


def _valid_indices(result):
    """NMS: places without a box hold an arbitrary index."""
    if isinstance(result, tuple) and len(result) == 2 and np.shape(result[0]) == np.shape(result[1]):
        return np.where(result[1], result[0], -1), result[1]
    return result


def _objects_of_positives(result):
    """Matching: the object matters only where the label is 1."""
    if isinstance(result, tuple) and len(result) == 2 and np.shape(result[0]) == np.shape(result[1]):
        return result[0], np.where(np.asarray(result[0]) == 1, result[1], -1)
    return result


_CROWD = np.array([[False, True, False], [False, False, False]])

STAGES = {
    "anchors": Stage(anchors.grid_anchors, _grid_anchors, {"one place": dict(feature_shape=(1, 1))}),
    "cell_anchors": Stage(anchors.cell_anchors, _cell_anchors, {"not rounded": dict(rounding="none")}),
    "iou": Stage(boxes.iou, _two_sets, {"no boxes": dict(b=np.zeros((0, 4)))}),
    "encode": Stage(boxes.encode, _encode, {"with weights": dict(weights=(10.0, 10.0, 5.0, 5.0))}),
    "decode": Stage(boxes.decode, _decode, {"with weights": dict(weights=(10.0, 10.0, 5.0, 5.0))}),
    "nms": Stage(
        boxes.nms,
        _nms,
        {"at most 5": dict(max_kept=5), "in groups": dict(max_kept=None, groups=np.arange(40).reshape(2, 20) % 3)},
        results=("indices", "valid"),
        meaningful=_valid_indices,
    ),
    "match": Stage(
        targets.match,
        _match,
        {"the best anchor of each object": dict(allow_low_quality=True), "a crowd": dict(crowd=_CROWD)},
        results=("labels", "objects"),
        meaningful=_objects_of_positives,
    ),
    "roi_align": Stage(
        roi_align.roi_align,
        _roi_align,
        {
            "3 x 3 bins": dict(size=3),
            "about one sample per cell": dict(size=3, sampling_ratio=0),
            "aligned": dict(size=3, sampling_ratio=2, aligned=True),
            "beyond the border": dict(boxes=np.array([[-9.0, -5, 20, 30], [30, 30, 60, 70]] * 2 + [[0, 0, 48, 48.0]])),
        },
        tensors=("features",),
    ),
    "mask_targets": Stage(mask_head.mask_targets, _mask_targets, {"14 x 14": dict(size=14)}),
    "paste_masks": Stage(mask_head.paste_masks, _paste_masks, {"thresholded": dict(threshold=0.5)}),
    "conv2d": Stage(
        convolution.conv2d,
        _conv2d,
        {
            "stride 2 and padding 1": dict(stride=2, padding=1),
            "dilation 2": dict(stride=1, padding=2, dilation=2),
            "2 groups": dict(w=np.linspace(-1, 1, 108).reshape(3, 3, 2, 6), stride=1, padding=1, dilation=1, groups=2),
        },
        tensors=("x", "w", "b"),
    ),
    "objectness_loss": Stage(
        losses.objectness_loss, _objectness, {"nothing sampled": dict(weights=np.zeros((2, 9)))}, tensors=("logits",)
    ),
    "rpn_box_loss": Stage(losses.rpn_box_loss, _rpn_box_loss, {"beta 1": dict(beta=1.0)}, tensors=("deltas",)),
    "class_loss": Stage(
        losses.class_loss, _class_loss, {"nothing sampled": dict(weights=np.zeros(9))}, tensors=("logits",)
    ),
    "box_loss": Stage(losses.box_loss, _box_loss, {"beta 1": dict(beta=1.0)}, tensors=("deltas",)),
    "mask_loss": Stage(
        losses.mask_loss, _mask_loss, {"no box counts": dict(valid=np.zeros(4, bool))}, tensors=("logits",)
    ),
}
