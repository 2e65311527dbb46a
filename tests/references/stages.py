"""What each stage of minimask's model computes, for a stage-by-stage comparison with torchvision. Needs no torch.

Stages are a dict of arrays under the names of minimask.trace. Arrays about RoIs or detections have one row for each,
all images one after the other; `proposal_image` and `detected_image` hold the image index of each row.
"""

import numpy as np

from minimask.box_head import detect
from minimask.keypoint_head import decode_keypoints
from minimask.mask_head import mask_probabilities, paste_masks, restore
from minimask.mask_rcnn import BOX_WEIGHTS
from minimask.structures import Detections
from minimask.tensor import Tensor, no_grad
from minimask.trace import Trace
from minimask.weights import to_torchvision

PYRAMID = ("P2", "P3", "P4", "P5", "P6")

# ---------------------------------------------------------------------------------------------------------- our stages


def ours(model, images):
    """The stages of our model end to end: each is computed from our own results of the stage before."""
    batch = model.transform(images)
    with Trace() as trace:
        found = model.detect(batch)
    stages = dict(trace)
    real, detected = stages.pop("proposal_valid"), stages.pop("detected_valid")
    for names, valid in (
        (("proposals", "proposal_scores", "box_features", "class_logits", "box_deltas"), real),
        (("detected_boxes", "detected_labels", "detected_scores", "mask_features", "mask_logits"), detected),
        (("mask_probabilities", "keypoint_features", "keypoint_logits", "keypoints"), detected),
    ):
        for name in names:
            if name in stages:
                stages[name] = _valid_rows(stages[name], valid)
    stages["proposal_image"], stages["detected_image"] = np.nonzero(real)[0], np.nonzero(detected)[0]
    if "mask_logits" in stages:
        stages["mask_logits"] = stages["mask_logits"].reshape(stages["mask_probabilities"].shape)
    return stages | _our_final(found, batch)


def _valid_rows(x, valid):
    """(N, R, ...), or already one row per valid entry -> one row per valid entry."""
    x = x[valid] if x.shape[: valid.ndim] == valid.shape else x
    return x[: valid.sum()]  # if nothing is valid, the heads still compute one row


def _our_final(found, batch):
    predictions = restore(found, batch)
    stages = dict(sizes=batch.sizes, original_sizes=batch.original_sizes)
    stages["final_boxes"] = np.concatenate([p.boxes for p in predictions])
    for i, p in enumerate(predictions):
        if p.soft_masks is not None:
            h, w = batch.original_sizes[i]
            stages[f"pasted_masks{i}"] = paste_masks(p.soft_masks, p.boxes, h, w, threshold=None)
            assert ((stages[f"pasted_masks{i}"] >= 0.5) == p.masks).all()
    if found.keypoints is not None:
        stages["final_keypoints"] = np.concatenate([p.keypoints[..., :2] for p in predictions])
    return stages


def fed_with(model, images, t):
    """The stages of our model, each computed from the stages `t` of torchvision that come before it."""
    with no_grad():
        batch = model.transform(images)
        stages = dict(images=batch.images)
        body = model.backbone.body(Tensor(t["images"]))
        stages |= {f"C{i}": x.data for i, x in enumerate(body, 2)}
        pyramid = model.backbone.fpn([Tensor(t[f"C{i}"]) for i in (2, 3, 4, 5)])
        stages |= {name: x.data for name, x in zip(PYRAMID, pyramid)}
        features = [Tensor(t[name]) for name in PYRAMID]
        logits, deltas, anchors = model.rpn(features, t["images"].shape[1:3])
        stages["objectness"], stages["rpn_deltas"] = logits.data, deltas.data
        stages["anchors"] = np.concatenate(anchors)

        found = model.rpn.proposals(t["objectness"], t["rpn_deltas"], anchors, t["sizes"])
        proposals, scores, valid = found
        stages |= dict(proposals=proposals[valid], proposal_scores=scores[valid], proposal_image=np.nonzero(valid)[0])

        rois, image = t["proposals"], t["proposal_image"]
        stages["box_features"] = model.pool(features, rois, image, model.roi.box_size, "box").data
        logits, deltas = model.box_branch(Tensor(t["box_features"]))
        stages |= dict(class_logits=logits.data, box_deltas=deltas.data)
        n = len(images)
        (logits, deltas, rois), valid = _padded(n, image, t["class_logits"], t["box_deltas"], t["proposals"])
        found = detect(logits, deltas, rois, valid, t["sizes"], BOX_WEIGHTS, **vars(model.detection))
        valid = found.valid
        stages |= {f"detected_{key}": getattr(found, key)[valid] for key in ("boxes", "labels", "scores")}
        stages["detected_image"] = np.nonzero(valid)[0]

        boxes, labels, image = (t[f"detected_{key}"] for key in ("boxes", "labels", "image"))
        (boxes_, labels_, scores_), valid = _padded(n, image, boxes, labels, t["detected_scores"])
        found = Detections(boxes_, labels_, scores_, valid)
        if "mask_logits" in t and len(boxes):
            stages["mask_features"] = model.pool(features, boxes, image, model.roi.mask_size, "mask").data
            stages["mask_logits"] = model.mask_branch(Tensor(t["mask_features"]), labels).data[..., 0]
            stages["mask_probabilities"] = mask_probabilities(t["mask_logits"][..., None], labels)
            (found.masks,), _ = _padded(n, image, t["mask_probabilities"])
        if "keypoint_logits" in t and len(boxes):
            stages["keypoint_features"] = model.pool(features, boxes, image, model.roi.keypoint_size, "keypoint").data
            stages["keypoint_logits"] = model.keypoint_branch(Tensor(t["keypoint_features"])).data
            stages["keypoints"] = decode_keypoints(t["keypoint_logits"], boxes)
            (found.keypoints,), _ = _padded(n, image, t["keypoints"])
        return stages | _our_final(found, batch)


def _padded(n, image, *rows):
    """Rows of all images -> padded arrays (N, largest number of rows, ...), and which of their entries are real."""
    valid = np.arange(max(np.bincount(image, minlength=n).max(), 1)) < np.bincount(image, minlength=n)[:, None]
    arrays = [np.zeros((*valid.shape, *x.shape[1:]), x.dtype) for x in rows]
    for array, x in zip(arrays, rows):
        array[valid] = x
    return arrays, valid


# ---------------------------------------------------------------------------------------------------------- comparison

NEAR_TIE = 1e-5  # scores that are closer than this may be ordered differently
FOUND = ("proposals", "proposal_scores"), ("detected_boxes", "detected_scores", "detected_labels")
COMPUTED_FROM_THEM = (  # one row for each proposal, one row for each detection
    ("box_features", "class_logits", "box_deltas"),
    (
        "mask_features",
        "mask_logits",
        "mask_probabilities",
        "keypoint_features",
        "keypoint_logits",
        "keypoints",
        "final_boxes",
        "final_keypoints",
    ),
)
SIZES = ("sizes", "original_sizes")


def errors(found, expected, fed=False):
    """Name -> relative error of each stage: the largest difference divided by the largest expected value.

    For boxes and the positions of keypoints, the divisor is the longer side of the padded batch or of the largest
    photo. Proposals and detections must be the same sets in the same order, except where scores differ by less than
    NEAR_TIE. What is computed from a box is compared with what torchvision computes from the same box.

    fed: `found` comes from `fed_with`, so what is computed from boxes is already in the expected order.
    Raises AssertionError if the sets, their order or a shape differ.
    """
    for name in SIZES:
        np.testing.assert_array_equal(found[name], expected[name])
    side = {False: float(max(expected["images"].shape)), True: float(expected["original_sizes"].max())}
    found, expected = in_order(found, expected, side[False], fed)
    result = {}
    for name, value in expected.items():
        if name.endswith(("sizes", "_image", "_labels")):
            continue
        mine = found.get(name, value[:0])  # without detections there are no masks
        assert mine.shape == value.shape, f"{name}: {mine.shape}, expected {value.shape}"
        if name == "keypoints":
            result["keypoint_scores"] = relative(mine[..., 2], value[..., 2])
            mine, value = mine[..., :2], value[..., :2]
        places = name in ("anchors", "proposals", "keypoints") or name.endswith(("boxes", "final_keypoints"))
        result[name] = relative(mine, value, side[name.startswith("final")] if places else None)
    return result


SLICE = 48  # numbers of each stage that a golden file keeps


def digests(stages):
    """Name -> (50,) float64: the mean, the mean absolute value, and 48 evenly spaced numbers of each stage.

    Detections are kept completely; pasted masks are left out.
    """
    result = {}
    for name, value in stages.items():
        flat = value.reshape(-1).astype(np.float64)
        if name.startswith(("detected", "final")) or name.endswith("sizes"):
            result[name] = value
        elif not name.startswith("pasted") and flat.size:
            some = flat[np.linspace(0, flat.size - 1, SLICE).astype(np.int64)]
            result[name] = np.concatenate([[flat.mean(), np.abs(flat).mean()], some])
    return result


def relative(found, expected, scale=None):
    """The largest difference divided by `scale`, by default the largest expected absolute value."""
    if not expected.size:
        return 0.0
    scale = scale or max(float(np.abs(expected).max()), 1e-30)
    return float(np.abs(found.astype(np.float64) - expected).max()) / scale


def in_order(found, expected, side, fed):
    """Two new dicts in which proposals, detections and what was computed from them are in the same order."""
    found, expected = dict(found), dict(expected)
    for kind, names, computed in zip(("proposal", "detected"), FOUND, COMPUTED_FROM_THEM):
        rows = counterparts(expected, found, kind, *names[:2], side)
        for stages, own, image in zip((expected, found), rows, [s[f"{kind}_image"] for s in (expected, found)]):
            for name in names if fed else names + computed:
                if name in stages:
                    stages[name] = stages[name][own]
            for i in [] if fed or kind == "proposal" else np.unique(image):
                if f"pasted_masks{i}" in stages:
                    stages[f"pasted_masks{i}"] = stages[f"pasted_masks{i}"][own[image[own] == i] - (image < i).sum()]
    return found, expected


def counterparts(expected, found, kind, boxes, scores, side):
    """Rows of `expected` and the corresponding rows of `found`: (R,), (R,).

    A row's counterpart is the nearest box with the same label in the same image, within a thousandth of the image's
    size; no two rows share one. Only the best boxes are kept, and of two with nearly the same score either may make the
    cut: up to one box in a hundred may be replaced by another whose score is within NEAR_TIE. Those are left out.

    Raises AssertionError if anything else differs, or if boxes with different scores are in a different order.
    """
    pairs = [], []
    labels = "detected_labels" if kind == "detected" else f"{kind}_image"
    for i in np.unique(np.concatenate([expected[f"{kind}_image"], found[f"{kind}_image"]])):
        rows, candidates = (np.flatnonzero(s[f"{kind}_image"] == i) for s in (expected, found))
        assert len(rows) == len(candidates), f"image {i}: {len(candidates)} {boxes}, expected {len(rows)}"
        distance = np.abs(found[boxes][candidates] - expected[boxes][rows][:, None]).max(axis=2) / side
        distance += 9 * (found[labels][candidates] != expected[labels][rows][:, None])
        distance += np.abs(found[scores][candidates] - expected[scores][rows][:, None])  # tells equal boxes apart
        same = distance.min(axis=1) < 1e-3
        counterpart = candidates[distance.argmin(axis=1)][same]
        assert len(np.unique(counterpart)) == len(counterpart), f"image {i}: two {boxes} have the same counterpart"
        lost, new = rows[~same], np.setdiff1d(candidates, counterpart)
        differences = np.abs(np.sort(expected[scores][lost]) - np.sort(found[scores][new]))
        assert len(lost) <= len(rows) / 100 and differences.max(initial=0) < NEAR_TIE, (
            f"image {i}: no counterpart of {len(lost)} {boxes}, the first {expected[boxes][lost[0]]}"
        )
        in_our_order = expected[scores][rows[same]][np.argsort(counterpart)]
        rises = in_our_order - np.minimum.accumulate(in_our_order)
        assert rises.max(initial=0) <= NEAR_TIE, f"image {i}: {boxes} are in a different order"
        pairs[0].append(rows[same])
        pairs[1].append(counterpart)
    return tuple(np.concatenate([np.zeros(0, np.int64), *p]) for p in pairs)


# Adding a constant to all logits does not change the softmax over positions, so the gradient of this bias is 0.
CONSTANT = "roi_heads.keypoint_predictor.kps_score_lowres.bias"


def gradient_errors(model, expected):
    """Name -> relative error of the gradient of each parameter of `model`, on which `backward` must have been called.

    expected: name -> gradient, with torchvision's names and layouts. As for stages, the error is the largest difference
    divided by the largest expected value; for CONSTANT, whose gradient is 0 except for rounding, the divisor is the
    largest gradient of the weight of the same layer.
    """
    mine = to_torchvision({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert mine.keys() == expected.keys()
    scales = {name: float(np.abs(value).max()) for name, value in expected.items()}
    if CONSTANT in scales:
        scales[CONSTANT] = scales[CONSTANT.replace("bias", "weight")]
    return {name: relative(mine[name], value, scales[name]) for name, value in expected.items()}
