"""Writes the golden files of this folder: what torch and torchvision compute, in our layouts (NHWC, HWIO).

    python -m tests.references.make_golden        (in the project's folder; needs torch and torchvision)

tests/test_reference_model.py compares our results with these files if torch is not installed; if it is, the test calls
the functions below instead.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from minimask.benchmark.reference_models import load_weights, resnet50_mask_rcnn, small_mask_rcnn
from tests.references import live, tiny
from tests.references.live import nhwc, to_chw
from tests.references.operation_inputs import (
    CONVOLUTIONS,
    POOLS,
    ROI_ALIGNS,
    TRANSPOSED,
    cropped_pictures,
    crowded_boxes,
    normal,
    roi_boxes,
)
from tests.references.stages import digests

FOLDER = Path(__file__).parent


def nchw(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------------------- operations


def operations():
    """Name -> float64 array: "conv_3x3.y", "conv_3x3.gx", ... for inputs that the test generates again."""
    golden = {}
    for name, (x_shape, w_shape, keywords) in CONVOLUTIONS.items():
        golden |= convolution(name, F.conv2d, x_shape, w_shape, (3, 2, 0, 1), (2, 3, 1, 0), keywords)
    for name, (x_shape, w_shape, keywords) in TRANSPOSED.items():
        golden |= convolution(name, F.conv_transpose2d, x_shape, w_shape, (2, 3, 0, 1), (2, 3, 0, 1), keywords)
    for name, (x_shape, keywords) in POOLS.items():
        x = nchw(normal(*x_shape)).requires_grad_()
        y = F.max_pool2d(x, keywords["size"], keywords["stride"], keywords["padding"])
        golden |= with_gradients(name, y, x=x)
    golden |= normalizations()
    golden |= roi_aligns()
    return golden


def with_gradients(name, y, **inputs):
    """y and the gradient of each input, for a random cotangent generated in our layout."""
    n, c, h, w = y.shape
    y.backward(nchw(normal(n, h, w, c, seed=9)))
    golden = {f"{name}.y": nhwc(y)}
    for key, tensor in inputs.items():
        golden[f"{name}.g{key}"] = nhwc(tensor.grad) if tensor.ndim == 4 else tensor.grad.numpy()
    return golden


def convolution(name, function, x_shape, w_shape, to_torch, from_torch, keywords):
    x = nchw(normal(*x_shape)).requires_grad_()
    w = torch.from_numpy(normal(*w_shape, seed=1)).permute(to_torch).contiguous().requires_grad_()
    out = w_shape[3] * (keywords.get("groups", 1) if function is F.conv_transpose2d else 1)
    b = torch.from_numpy(normal(out, seed=2)).requires_grad_()
    golden = with_gradients(name, function(x, w, b, **keywords), x=x, b=b)
    golden[f"{name}.gw"] = w.grad.permute(from_torch).contiguous().numpy()
    return golden


def normalizations():
    """Batch norm in training (and its running statistics afterwards) and in inference, and group norm."""
    golden = {}
    for name in ("batch_norm_training", "batch_norm_inference", "group_norm"):
        x = nchw(normal(2, 5, 4, 6)).requires_grad_()
        gamma, beta = (torch.from_numpy(normal(6, seed=seed)).requires_grad_() for seed in (1, 2))
        mean, variance = torch.from_numpy(normal(6, seed=3)), torch.from_numpy(normal(6, seed=4) ** 2 + 0.5)
        if name == "group_norm":
            y = F.group_norm(x, 3, gamma, beta)
        else:
            y = F.batch_norm(x, mean, variance, gamma, beta, training=name == "batch_norm_training")
            golden |= {f"{name}.running_mean": mean.numpy(), f"{name}.running_var": variance.numpy()}
        golden |= with_gradients(name, y, x=x, gamma=gamma, beta=beta)
    return golden


def roi_aligns():
    golden = {}
    boxes = roi_boxes()
    index = np.arange(len(boxes)) % 2
    rois = torch.from_numpy(np.concatenate([index[:, None], boxes], axis=1))  # (R, 5)
    for name, keywords in ROI_ALIGNS.items():
        x = nchw(normal(2, 9, 11, 3)).requires_grad_()
        y = torchvision.ops.roi_align(x, rois, 4, spatial_scale=0.25, **keywords)
        golden |= with_gradients(name, y, x=x)
    return golden


def suppression():
    """NMS: the indices kept at two thresholds, and by NMS within each class."""
    boxes, scores = map(torch.from_numpy, crowded_boxes())
    classes = torch.arange(len(boxes)) % 3
    golden = {f"nms_{t}": torchvision.ops.nms(boxes, scores, t).numpy() for t in (0.3, 0.7)}
    golden["nms_classes"] = torchvision.ops.batched_nms(boxes, scores, classes, 0.5).numpy()
    return golden


def transform():
    """The normalized, resized and padded batch of two small pictures, and their resized boxes and masks."""
    images, truths = cropped_pictures()
    resize = GeneralizedRCNNTransform(20, 30, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    targets = [{key: torch.from_numpy(value) for key, value in truth.items()} for truth in truths]
    batch, targets = resize([to_chw(image) for image in images], targets)
    golden = {"images": nhwc(batch.tensors), "sizes": np.array(batch.image_sizes)}
    for i, target in enumerate(targets):
        golden |= {f"boxes{i}": target["boxes"].numpy(), f"masks{i}": target["masks"].numpy()}
    return golden


# --------------------------------------------------------------------------------------------------------------- model


def tiny_model(seed=tiny.SEED):
    """torchvision's Mask R-CNN with the architecture and weights of `tiny`, in float64."""
    model = small_model(tiny.SETTINGS, tiny.CLASSES)
    shapes = {k: v.shape for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    return load_weights(model, tiny.state(shapes, seed)).double()


def small_model(settings, classes):
    """torchvision's Mask R-CNN with the architecture of `build("toy", classes, **settings)`; settings: as in `tiny`."""
    backbone, rpn, roi, heads = (settings[group] for group in ("backbone", "rpn", "roi", "heads"))
    return small_mask_rcnn(
        widths=backbone["channels"],
        blocks=(2, 2, 2, 2),
        strides=(2, 2, 2, 2),
        rpn_first_level=rpn["first_level"],
        width=backbone["fpn_channels"],
        classes=classes,
        anchor_sizes=rpn["anchor_sizes"],
        ratios=(0.5, 1.0, 2.0),
        canonical=roi["canonical_size"],
        box_width=heads["box_width"],
        mask_layers=len(heads["mask_channels"]),
        keypoints=heads["keypoints"],
        keypoint_layers=heads["keypoint_channels"],
        **settings["transform"],
        rpn_pre_nms_top_n_train=settings["rpn"]["pre_nms"][0],
        rpn_pre_nms_top_n_test=settings["rpn"]["pre_nms"][1],
        rpn_post_nms_top_n_train=settings["rpn"]["post_nms"][0],
        rpn_post_nms_top_n_test=settings["rpn"]["post_nms"][1],
        rpn_batch_size_per_image=rpn["samples"],
        rpn_positive_fraction=rpn["positive_fraction"],
        box_batch_size_per_image=roi["samples"],
        box_positive_fraction=roi["positive_fraction"],
        box_detections_per_img=settings["detection"]["max_detections"],
    )


def detections(seed=tiny.SEED):
    """What the tiny model finds in each picture.

    Of picture 0: boxes0, labels0, scores0, probabilities0 (28 x 28), masks0 (packed bits), keypoints0 (x, y, score);
    of picture 1: boxes1, ...
    """
    model = tiny_model(seed).eval()
    images, _ = tiny.pictures(seed)
    soft = []  # the mask head's logits, one mask per class
    with torch.no_grad():
        model.roi_heads.mask_predictor.register_forward_hook(lambda module, inputs, output: soft.append(output))
        found = model([to_chw(image).double() for image in images])
    counts = [len(f["labels"]) for f in found]
    probabilities = soft[0].sigmoid()[torch.arange(sum(counts)), torch.cat([f["labels"] for f in found])]
    golden = {}
    for i, (f, p) in enumerate(zip(found, probabilities.split(counts))):
        golden |= {f"{key}{i}": f[key].numpy() for key in ("boxes", "labels", "scores")}
        golden[f"probabilities{i}"] = p.numpy()
        golden[f"keypoints{i}"] = torch.cat([f["keypoints"][..., :2], f["keypoints_scores"][..., None]], dim=2).numpy()
        golden[f"masks{i}"] = np.packbits(f["masks"][:, 0].numpy() > 0.5)
    return golden


def training(seed=tiny.SEED):
    """The six losses of the two pictures and the gradient of every parameter (torchvision's names and layouts)."""
    model = tiny_model(seed).train()
    images, truths = tiny.pictures(seed)
    targets = [{key: torch.from_numpy(value) for key, value in truth.items()} for truth in truths]
    for target in targets:
        target["boxes"] = target["boxes"].double()
    losses = model([to_chw(image).double() for image in images], targets)
    sum(losses.values()).backward()
    golden = {name: loss.detach().numpy() for name, loss in losses.items()}
    golden |= {f"gradient {name}": p.grad.numpy() for name, p in model.named_parameters()}
    return golden


def resnet50():
    """Digests of the stages of torchvision's published architecture with weights from `tiny.state`, in float64."""
    settings = tiny.RESNET50
    model = resnet50_mask_rcnn(
        **settings["transform"],
        rpn_pre_nms_top_n_test=settings["rpn"]["pre_nms"][1],
        rpn_post_nms_top_n_test=settings["rpn"]["post_nms"][1],
        box_detections_per_img=settings["detection"]["max_detections"],
    )
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model = load_weights(model, tiny.state(shapes)).double().eval()
    return digests(live.theirs(model, tiny.pictures()[0]))


FILES = dict(
    operations=operations,
    suppression=suppression,
    transform=transform,
    detections=detections,
    training=training,
    resnet50=resnet50,
)


def main():
    for name, make in FILES.items():
        arrays = {key: single(key, value) for key, value in make().items()}
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path.name:18} {len(arrays):4} arrays {path.stat().st_size / 1e3:7.1f} kB")


def single(key, value):
    """Gradients and probabilities of the model as float32: half the size, and still more digits than are compared."""
    return value.astype(np.float32) if key.startswith(("gradient", "probabilities")) else value


if __name__ == "__main__":
    main()
