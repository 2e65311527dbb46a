"""The other side of the benchmark: the same pieces of work in torch and torchvision.

An interpreter that has both runs this as a file; it needs neither minimask nor Numba. Inputs are made in the layout
NHWC, as on our side, and transposed to NCHW here. `tuned` selects torch's fast settings: the channels_last memory
format and fused optimizers.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

if __package__:
    from minimask.benchmark.common import LEARNING_RATE, array, clustered_boxes, scattered_boxes, serve
    from minimask.benchmark.reference_models import (
        LEVELS,
        load_weights,
        read_batch,
        resnet50_mask_rcnn,
        small_mask_rcnn,
    )
else:
    from common import LEARNING_RATE, array, clustered_boxes, scattered_boxes, serve
    from reference_models import LEVELS, load_weights, read_batch, resnet50_mask_rcnn, small_mask_rcnn

FORMATS = {False: torch.contiguous_format, True: torch.channels_last}  # by `tuned`
DEVICE = "cpu"  # where the work is done; `main` sets it


def put(x):
    """The array as a torch tensor on the device that does the work."""
    return torch.from_numpy(x).to(DEVICE)


def nchw(x, tuned=False):
    """An array (N, H, W, C) as a torch tensor (N, C, H, W)."""
    return put(x).permute(0, 3, 1, 2).contiguous(memory_format=FORMATS[tuned])


def oihw(w, tuned=False):
    """Our convolution weight (kh, kw, I, O) as torch's (O, I, kh, kw)."""
    return put(w).permute(3, 2, 0, 1).contiguous(memory_format=FORMATS[tuned])


# -------------------------------------------------------------------------------------------------------- whole models


def toy_step(folder, tuned=False):
    folder = Path(folder)
    model = small_mask_rcnn(**json.loads((folder / "toy.json").read_text()))
    load_weights(model, np.load(folder / "toy_weights.npz")).train().to(DEVICE, memory_format=FORMATS[tuned])
    images, targets = read_batch(folder / "toy_batch.npz")
    images = [image.to(DEVICE) for image in images]
    targets = [{key: value.to(DEVICE) for key, value in target.items()} for target in targets]
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4, fused=tuned)

    def step():
        losses = model(images, targets)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def inference(folder, tuned=False):
    """Inference, from the (480, width, 3) uint8 array to masks of that size after the threshold."""
    folder = Path(folder)
    model = load_weights(resnet50_mask_rcnn(), np.load(folder / "resnet50_weights.npz")).eval()
    model.to(memory_format=FORMATS[tuned])
    image = np.load(folder / "photo.npy")

    def run():
        with torch.inference_mode():
            x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
            found = model([x])[0]
            return found["boxes"], found["labels"], found["scores"], found["masks"][:, 0] > 0.5

    return run


def gpu_toy_step(folder, graph, tuned=False):
    """The same from images on the card. No graph can be captured, because sizes of arrays depend on values."""
    return toy_step(folder, tuned)


def gpu_inference(folder, tuned=False):
    """Inference on a card, from the padded image to boxes, classes and masks of 28 x 28, all on the card."""
    folder = Path(folder)
    model = load_weights(resnet50_mask_rcnn(), np.load(folder / "resnet50_weights.npz")).eval()
    model.to(DEVICE, memory_format=FORMATS[tuned])
    images, _ = model.transform([put(np.load(folder / "photo.npy")).permute(2, 0, 1).float() / 255])

    def run():
        with torch.inference_mode():
            features = model.backbone(images.tensors.contiguous(memory_format=FORMATS[tuned]))
            proposals, _ = model.rpn(images, features)
            (found,), _ = model.roi_heads(features, proposals, images.image_sizes)
            return found["boxes"], found["labels"], found["scores"], found["masks"]

    return run


# ------------------------------------------------------------------------------------------------------------- kernels


def timed_direction(direction, forward, x, parameters):
    """The function that does one direction of `forward` and computes no other gradient."""
    if direction == "forward":

        def run():
            with torch.inference_mode():
                return forward()

        return run
    wanted = [x] if direction == "to data" else parameters if direction == "to weights" else [x, *parameters]
    for tensor in wanted:
        tensor.requires_grad_()
    y = forward()
    n, c, h, w = y.shape
    gy = nchw(array(n, h, w, c, seed=2)).to(memory_format=memory_format_of(y))
    return lambda: torch.autograd.grad(y, wanted, gy, retain_graph=True)


def memory_format_of(y):
    return torch.contiguous_format if y.is_contiguous() else torch.channels_last


def conv(direction, n, height, width, inputs, outputs, size, stride, groups, tuned=False):
    x = nchw(array(n, height, width, inputs), tuned)
    w = oihw(array(size, size, inputs // groups, outputs, seed=1), tuned)
    return timed_direction(direction, lambda: F.conv2d(x, w, None, stride, size // 2, groups=groups), x, [w])


def conv_transpose(direction, n, height, width, inputs, outputs, tuned=False):
    x = nchw(array(n, height, width, inputs), tuned)
    w = put(array(2, 2, inputs, outputs, seed=1)).permute(2, 3, 0, 1)
    w = w.contiguous(memory_format=FORMATS[tuned])
    return timed_direction(direction, lambda: F.conv_transpose2d(x, w, None, 2), x, [w])


def max_pool(direction, shape, tuned=False):
    x = nchw(array(*shape), tuned)
    return timed_direction(direction, lambda: F.max_pool2d(x, 3, 2, 1), x, [])


def batch_norm(direction, shape, tuned=False):
    x = nchw(array(*shape), tuned)
    gamma, beta = put(array(shape[-1], seed=3)), put(array(shape[-1], seed=4))
    mean, variance = put(np.zeros(shape[-1], np.float32)), put(np.ones(shape[-1], np.float32))

    def forward():
        return F.relu(F.batch_norm(x, mean, variance, gamma, beta, training=True))

    return timed_direction(direction, forward, x, [gamma, beta])


def loss(kind, anchors, rois, masks, classes):
    """Compute one loss and the gradient of its logits, as torchvision does."""
    labels = put(np.arange(rois) % classes)
    if kind == "objectness":
        logits, targets = put(array(anchors)), put(np.arange(anchors) % 2).float()
    elif kind == "class":
        logits = put(array(rois, classes))
    elif kind == "box":
        logits, targets = put(array(rois, 4 * classes)), put(array(rois, 4, seed=1))
        positive = torch.where(put(np.arange(rois)) % 4 == 0)[0]
    else:
        logits = put(array(masks, 28, 28, classes)).permute(0, 3, 1, 2).contiguous()
        targets = (put(array(masks, 28, 28, seed=1)) > 0).float()
    logits.requires_grad_()

    def value():
        if kind == "objectness":
            return F.binary_cross_entropy_with_logits(logits, targets)
        if kind == "class":
            return F.cross_entropy(logits, labels)
        if kind == "box":
            deltas = logits.reshape(rois, classes, 4)[positive, labels[positive]]
            return F.smooth_l1_loss(deltas, targets[positive], beta=1 / 9, reduction="sum") / rois
        own = logits[torch.arange(masks, device=DEVICE), labels[:masks]]
        return F.binary_cross_entropy_with_logits(own, targets)

    def run():
        logits.grad = None
        result = value()
        result.backward()
        return result, logits.grad

    return run


def roi_align(direction, images, height, width, channels, rois, size, canonical, tuned=False):
    features = {
        name: nchw(array(images, height // stride, width // stride, channels, seed=stride), tuned)
        for name, stride in zip(LEVELS, (4, 8, 16, 32))
    }
    boxes = list(put(scattered_boxes(rois, height, width)).chunk(images))
    pool = MultiScaleRoIAlign(LEVELS, size, 2, canonical_scale=canonical)
    if direction == "forward":

        def run():
            with torch.inference_mode():
                return pool(features, boxes, [(height, width)] * images)

        return run
    for feature in features.values():
        feature.requires_grad_()
    y = pool(features, boxes, [(height, width)] * images)
    gy = nchw(array(rois, size, size, channels, seed=2))
    return lambda: torch.autograd.grad(y, list(features.values()), gy, retain_graph=True)


def nms(boxes):
    boxes, scores = map(put, clustered_boxes(boxes, 800, 1067))
    return lambda: torchvision.ops.nms(boxes, scores, 0.7)


def match(images, anchors, objects, height, width):
    """Label each anchor of each image: 1 positive, 0 background, -1 ignored."""
    from torchvision.models.detection._utils import Matcher

    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    anchors = put(scattered_boxes(anchors, height, width))
    truth = [put(scattered_boxes(objects, height, width, seed=1 + i)) for i in range(images)]

    def labels(boxes):
        matched = matcher(torchvision.ops.box_iou(boxes, anchors))  # the object, -1 background, -2 ignored
        return (matched >= 0).int() - (matched == Matcher.BETWEEN_THRESHOLDS).int()

    return lambda: torch.stack([labels(boxes) for boxes in truth])


def paste(masks, height, width):
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    boxes = put(scattered_boxes(masks, height, width))
    masks = torch.sigmoid(put(array(masks, 1, 28, 28)))
    return lambda: paste_masks_in_image(masks, boxes, (height, width))[:, 0] > 0.5


def optimizer(kind, arrays, shape, tuned=False):
    parameters = [nn.Parameter(put(array(*shape, seed=i))) for i in range(arrays)]
    for i, parameter in enumerate(parameters):
        parameter.grad = put(array(*shape, seed=arrays + i))
    if kind == "SGD":
        step = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=tuned).step
    else:
        step = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4, fused=tuned).step

    def run():
        step()
        return parameters

    return run


PIECES = {
    "toy_step": toy_step,
    "inference": inference,
    "gpu_toy_step": gpu_toy_step,
    "gpu_inference": gpu_inference,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "batch_norm": batch_norm,
    "loss": loss,
    "roi_align": roi_align,
    "nms": nms,
    "match": match,
    "paste": paste,
    "optimizer": optimizer,
}


def to_arrays(result):
    results = result if isinstance(result, (tuple, list)) else [result]
    return [tensor.detach().cpu().numpy() for tensor in results]


def main():
    global DEVICE
    DEVICE, precision = sys.argv[1:]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    about = {"name": "torch", "versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    if DEVICE == "cpu":
        serve(PIECES, about, to_arrays)
    else:
        torch.zeros(1, device=DEVICE)  # fails now if there is no card
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"  # it is on by default
        torch.backends.cudnn.benchmark = True
        card = torch.cuda.get_device_name()
        about["versions"] += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, {card}"
        serve(PIECES, about, to_arrays, torch.cuda.synchronize, torch.cuda.max_memory_reserved)


if __name__ == "__main__":
    main()
