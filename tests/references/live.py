"""What each stage of torchvision's detectors computes, in our layouts and under the names of minimask.trace.

    python -m tests.references.live [mask | keypoint | box] [min_size]

prints, stage by stage, how far our results are from torchvision's. Needs torch and torchvision.

stages.py has our side of the comparison and describes how stages are represented.
"""

import contextlib
import copy
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn, keypointrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from minimask import weights
from minimask.datasets.photos import read_image
from minimask.datasets.toy import ToyScenes
from tests.references.stages import errors, fed_with, ours

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_open" / "images"


def nhwc(x):
    return np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).numpy())


def to_chw(image, dtype=torch.float32):
    return torch.from_numpy(image).permute(2, 0, 1).to(dtype) / 255


# -------------------------------------------------------------------------------------------------------------- models

KINDS = {  # torchvision's function and its number of classes
    "mask": (maskrcnn_resnet50_fpn, 91),
    "keypoint": (keypointrcnn_resnet50_fpn, 2),
    "box": (fasterrcnn_resnet50_fpn, 91),
}


def untrained(kind, images, seed=0, norm="batch", max_detections=100, roi_samples=512, sizes=(800, 1333), **settings):
    """torchvision's model with random weights, and our model loaded from the file that `torch.save` writes of it.

    The last layers are rescaled so that their outputs vary over `images`: see `spread`.

    norm: "batch", or "frozen" as with the published weights.
    max_detections: most detections per image.
    roi_samples: RoIs sampled per image in training.
    sizes: min_size and max_size.
    settings: further arguments of torchvision's function.
    """
    function, classes = KINDS[kind]
    torch.manual_seed(seed)
    model = function(
        weights=None,
        weights_backbone=None,
        min_size=sizes[0],
        max_size=sizes[1],
        box_detections_per_img=max_detections,
        box_batch_size_per_image=roi_samples,
        **{"num_classes": classes, **settings},
    )
    spread(model.eval(), images)
    if norm == "frozen":
        freeze(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        torch.save(model.state_dict(), path)
        mine = weights.load(
            path,
            backbone=dict(norm=norm),
            transform=dict(min_size=sizes[0], max_size=sizes[1]),
            detection=dict(max_detections=max_detections),
            roi=dict(samples=roi_samples),
        )
    return model, mine


def freeze(model):
    """Freeze every batch norm of torchvision's model, as in its published models; the parameters stay the same."""
    for module in list(model.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, torch.nn.BatchNorm2d):
                constant = FrozenBatchNorm2d(norm.num_features, norm.eps)
                constant.load_state_dict(norm.state_dict())
                setattr(module, name, constant)
    return model


@torch.no_grad()
def spread(model, images):
    """Scale the last layers so that their outputs for `images` have about the standard deviations given below.

    As initialized, these layers give nearly the same answer for every anchor and RoI: objectness 1/2, each class 1/91,
    no shift of the box. The mean class logits over all RoIs are subtracted; otherwise one class would win everywhere.
    """
    heads = model.roi_heads
    stages = theirs(model, images)
    scale(model.rpn.head.cls_logits, stages["objectness"], 2)
    scale(model.rpn.head.bbox_pred, stages["rpn_deltas"], 0.2)
    common = stages["class_logits"].mean(axis=0)
    heads.box_predictor.cls_score.bias -= torch.from_numpy(common)
    scale(heads.box_predictor.cls_score, stages["class_logits"] - common, 2)
    scale(heads.box_predictor.bbox_pred, stages["box_deltas"], 1)
    stages = theirs(model, images)  # now there are detections
    if heads.has_mask():
        scale(heads.mask_predictor.mask_fcn_logits, stages["mask_logits"], 3)
    if heads.has_keypoint():
        scale(heads.keypoint_predictor.kps_score_lowres, stages["keypoint_logits"], 3)


def scale(layer, outputs, deviation):
    for parameter in (layer.weight, layer.bias):
        parameter *= deviation / float(outputs.std())


# ------------------------------------------------------------------------------------------------- torchvision's stages


def theirs(model, images):
    """The stages of torchvision's `model` (in evaluation mode) for a list of (H, W, 3) uint8 images.

    The norms of a new model change nothing (mean 0, variance 1). If they were calibrated to the images, they would
    amplify rounding errors from stage to stage, in torchvision's model too (96 pixels: 1e-5 in the image, 8e-4 in C5).
    """
    stages, handles = {}, []

    def hook(module, function):
        if module is not None:
            handles.append(module.register_forward_hook(lambda module, inputs, output: stages.update(function(output))))

    heads = model.roi_heads
    hook(model.transform, lambda out: dict(images=nhwc(out[0].tensors), sizes=np.array(out[0].image_sizes)))
    hook(model.backbone.body, lambda out: {f"C{i}": nhwc(x) for i, x in enumerate(out.values(), 2)})
    hook(model.backbone, lambda out: {f"P{i}": nhwc(x) for i, x in enumerate(out.values(), 2)})
    hook(model.rpn.anchor_generator, lambda out: dict(anchors=out[0].numpy()))
    hook(model.rpn.head, _rpn_stages)
    hook(model.rpn, lambda out: _rows("proposal_image", proposals=out[0]))
    hook(heads.box_roi_pool, lambda out: dict(box_features=nhwc(out)))
    hook(heads.box_predictor, lambda out: dict(class_logits=out[0].numpy(), box_deltas=out[1].numpy()))
    hook(heads.mask_roi_pool, lambda out: dict(mask_features=nhwc(out)))
    hook(heads.mask_predictor, lambda out: dict(mask_logits=nhwc(out)))
    hook(heads.keypoint_roi_pool, lambda out: dict(keypoint_features=nhwc(out)))
    hook(heads.keypoint_predictor, lambda out: dict(keypoint_logits=nhwc(out)))
    hook(heads, lambda out: _detected(out[0]))
    with torch.no_grad(), _proposal_scores(model, stages):
        dtype = next(model.parameters()).dtype
        found = model([to_chw(image, dtype) for image in images])
    for handle in handles:
        handle.remove()
    if "mask_logits" in stages:  # one per class: keep that of the box's class
        logits, labels = stages["mask_logits"], stages["detected_labels"]
        stages["mask_logits"] = logits[np.arange(len(labels)), :, :, labels]
    stages["original_sizes"] = np.array([image.shape[:2] for image in images])
    return stages | _final(found)


def _rows(image_name, **lists):
    """Lists of tensors, one per image -> arrays of the rows of all images, and the image index of each row."""
    arrays = {name: np.concatenate([x.numpy() for x in tensors]) for name, tensors in lists.items()}
    counts = [len(x) for x in next(iter(lists.values()))]
    return {**arrays, image_name: np.repeat(np.arange(len(counts)), counts)}


def _rpn_stages(out):
    """Maps (N, P, h, w) and (N, 4 P, h, w) of each level -> objectness (N, A) and rpn_deltas (N, A, 4)."""
    logits, deltas = ([nhwc(x) for x in maps] for maps in out)
    n = len(logits[0])
    return dict(
        objectness=np.concatenate([x.reshape(n, -1) for x in logits], axis=1),
        rpn_deltas=np.concatenate([x.reshape(n, -1, 4) for x in deltas], axis=1),
    )


@contextlib.contextmanager
def _proposal_scores(model, stages):
    """While inside, record the scores of proposals, which the RPN computes but does not return."""
    original = model.rpn.filter_proposals

    def filter_proposals(*arguments):
        boxes, scores = original(*arguments)
        stages.update(_rows("proposal_image", proposal_scores=scores))
        return boxes, scores

    model.rpn.filter_proposals = filter_proposals
    yield
    del model.rpn.filter_proposals


def _detected(found):
    """What the RoI heads return; coordinates are pixels of the resized image."""
    names = dict(detected_boxes="boxes", detected_labels="labels", detected_scores="scores")
    stages = _rows("detected_image", **{name: [f[key] for f in found] for name, key in names.items()})
    if "masks" in found[0]:
        stages["mask_probabilities"] = np.concatenate([f["masks"][:, 0].numpy() for f in found])
    if "keypoints" in found[0]:
        points, scores = (np.concatenate([f[k].numpy() for f in found]) for k in ("keypoints", "keypoints_scores"))
        stages["keypoints"] = np.concatenate([points[..., :2], scores[..., None]], axis=-1)  # (D, K, 3)
    return stages


def _final(found):
    """What the model returns, in pixels of the photos; the masks of each photo are a stage of their own."""
    stages = dict(final_boxes=np.concatenate([f["boxes"].numpy() for f in found]))
    for i, f in enumerate(found):
        if "masks" in f:
            stages[f"pasted_masks{i}"] = f["masks"][:, 0].numpy()
    if "keypoints" in found[0]:
        stages["final_keypoints"] = np.concatenate([f["keypoints"][..., :2].numpy() for f in found])
    return stages


# ------------------------------------------------------------------------------------------------------------- photos


SIZES = {  # photo: height, width; "low" and "high" are crops of the last photo
    "000000166918": (640, 480),
    "000000119828": (375, 500),
    "000000165518": (612, 612),
    "000000177977": (382, 640),
    "low": (160, 640),
    "high": (382, 128),
}


@functools.lru_cache
def photo(name):
    """(H, W, 3) uint8: the real photo if the data folder is there, otherwise a drawn scene of the same size."""
    height, width = SIZES[name]
    if name in ("low", "high"):
        return np.ascontiguousarray(photo("000000177977")[-height:, :width])
    path = PHOTOS / f"{name}.jpg"
    if path.is_file():
        return read_image(path)
    return ToyScenes(split="test", size=640, count=1, seed=int(name))[0].image[:height, :width]


def double(model):
    """torchvision's model in float64; comparing it with float32 shows what rounding alone changes."""
    return copy.deepcopy(model).double()


def main():
    kind, size = (sys.argv[1:] + ["mask", "320"][len(sys.argv) - 1 :])[:2]
    images = [photo("000000166918")]
    model, mine = untrained(kind, images, sizes=(int(size), 1333), max_detections=10 if kind == "keypoint" else 100)
    t = theirs(model, images)
    columns = {
        "fed with theirs": errors(fed_with(mine, images, t), t, fed=True),
        "end to end": errors(ours(mine, images), t),
        "theirs, float32 to float64": errors(t, theirs(double(model), images)),
    }
    print(f"{kind}: {len(t['proposals'])} proposals, {len(t['detected_boxes'])} detections")
    print(f"{'stage':20}" + "".join(f"{name:>28}" for name in columns))
    for name in columns["end to end"]:
        print(f"{name:20}" + "".join(f"{column[name]:28.1e}" for column in columns.values()))


if __name__ == "__main__":
    main()
