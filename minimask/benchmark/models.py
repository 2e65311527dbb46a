"""Our whole models in the benchmark: the files that both sides read, training steps, inference."""

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from minimask import device, mask_rcnn, optim, presets
from minimask.benchmark.common import LEARNING_RATE, scattered_boxes
from minimask.datasets.toy import ToyScenes
from minimask.structures import Sample
from minimask.tensor import Tensor, no_grad
from minimask.train import TrainSettings, make_optimizer
from minimask.weights import from_torchvision, to_torchvision


def write_toy(folder, trained):
    """Write the toy preset's model, its weights and a batch of 8 drawn scenes for both sides, in torchvision's terms.

    folder: where to write. trained: how many steps the model is trained first.
    Returns the function that does it.
    """
    folder = Path(folder)

    def write():
        model = mask_rcnn.build("toy", num_classes=4, seed=0)
        learn = resizing_step(model, lr=3e-3)  # after 100 steps the mask head gets as many RoIs as it can: 128
        for _ in range(trained):
            learn()
        (folder / "toy.json").write_text(json.dumps(torchvision_settings(model)))
        np.savez(folder / "toy_weights.npz", **to_torchvision(model.state_dict()))
        arrays = {"count": 8}
        for i, sample in enumerate(toy_samples()):
            arrays.update({f"{key}{i}": getattr(sample, key) for key in ("image", "boxes", "labels", "masks")})
        np.savez(folder / "toy_batch.npz", **arrays)

    return write


def write_resnet50(folder, width):
    """Write well-scaled weights of resnet50_fpn in torchvision's layout, and a photo-like image (480, width, 3) uint8.

    width: 640 pixels become 800 x 1067 (800 x 1088 with padding); 800 pixels become 800 x 1333 (800 x 1344).
    Returns the function that does it.
    """
    folder = Path(folder)

    def write():
        image = blurred_noise(480, width)
        np.save(folder / "photo.npy", image)
        np.savez(folder / "resnet50_weights.npz", **to_torchvision(scaled_resnet50_state(image)))

    return write


def torchvision_settings(model):
    """The arguments of `reference_models.small_mask_rcnn` that give the architecture of `model` (basic blocks, FPN)."""
    body, rpn, heads = model.backbone.body, model.rpn.settings, model.roi_heads
    return dict(
        widths=body.out_channels,
        blocks=[len(getattr(body, f"layer{i}")) for i in (1, 2, 3, 4)],
        strides=[1 if body.stem == "fine" else 2, 2, 2, 2],
        width=model.backbone.fpn.layer_blocks[0][0].weight.shape[3],
        classes=model.num_classes,
        rpn_first_level=model.rpn_first_level,
        anchor_sizes=rpn.anchor_sizes,
        ratios=rpn.anchor_ratios,
        canonical=model.roi.canonical_size,
        box_width=heads.box_head.fc7.weight.shape[1],
        mask_layers=len(heads.mask_head),
        min_size=model.transform.min_size,
        max_size=model.transform.max_size,
        rpn_pre_nms_top_n_train=rpn.pre_nms[0],
        rpn_pre_nms_top_n_test=rpn.pre_nms[1],
        rpn_post_nms_top_n_train=rpn.post_nms[0],
        rpn_post_nms_top_n_test=rpn.post_nms[1],
        rpn_batch_size_per_image=rpn.samples,
        rpn_positive_fraction=rpn.positive_fraction,
        box_batch_size_per_image=model.roi.samples,
        box_positive_fraction=model.roi.positive_fraction,
        box_score_thresh=model.detection.score_threshold,
        box_detections_per_img=model.detection.max_detections,
    )


def toy_samples():
    scenes = ToyScenes(split="train", size=128, count=8, seed=0)
    return [scenes[i] for i in range(8)]


def blurred_noise(height, width, seed=0):
    """Colored clouds with some grain, (height, width, 3) uint8: a coarse grid of random numbers, smoothly enlarged."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (-(-height // 40), -(-width // 40), 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def scaled_resnet50_state(image, **settings):
    """Weights that make an untrained resnet50_fpn work as hard as a trained one: 1000 proposals, 100 detections.

    The statistics of one image, frozen, bring every layer to mean 0 and variance 1. Larger weights in the last layers
    move the scores away from 1/2 and 1/91.

    image: (H, W, 3) uint8. settings: further arguments of `mask_rcnn.build`.
    """
    model = mask_rcnn.build("resnet50_fpn", num_classes=91, **presets.merge(settings, {"backbone": {"norm": "batch"}}))
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0  # the running statistics become those of the last batch
    with no_grad():
        batch = model.transform([image])
        model.train().features(Tensor(batch.images))
    state = model.state_dict()
    state["rpn.head.conv.0.0.weight"] *= 2
    state["rpn.head.cls_logits.weight"] *= 10
    state["roi_heads.box_predictor.cls_score.weight"] *= 6
    return state


def toy_step(folder):
    """A training step of the model that `write_toy` wrote."""
    model = mask_rcnn.build("toy", num_classes=4, seed=0)
    with np.load(Path(folder) / "toy_weights.npz") as weights:
        model.load_state_dict(from_torchvision(weights))
    return resizing_step(model, LEARNING_RATE)


def resizing_step(model, lr):
    """A training step of a model that includes resizing and normalizing the toy batch."""
    samples = toy_samples()
    return training_step(model, lambda: model.transform(samples), lr)


def training_step(model, batch, lr):
    """Forward, backward, optimizer step. batch: function that returns the Batch."""
    model.train()
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    rng = device.generator(0)

    def run():
        loss = sum(model(batch(), rng=rng).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return run


def inference(folder):
    """Inference, from the (480, width, 3) uint8 array to masks of that size after the threshold."""
    folder = Path(folder)
    model = mask_rcnn.build("resnet50_fpn", num_classes=91)
    with np.load(folder / "resnet50_weights.npz") as weights:
        model.load_state_dict(from_torchvision(weights))
    model.eval()
    image = np.load(folder / "photo.npy")

    def run():
        found = model.predict([image])[0]
        return found.boxes, found.labels, found.scores, found.masks

    return run


def gpu_toy_step(folder, graph):
    """Forward, backward, optimizer step on a card that already holds the batch. graph: whether as one CUDA graph."""
    from minimask.machine.gpu_steps import StepsOnGpu

    model = mask_rcnn.build("toy", num_classes=4, seed=0).train().to("cuda")
    batch = model.transform(toy_samples()).to("cuda")
    settings = TrainSettings(steps=1, optimizer="sgd", clip=None)
    steps = StepsOnGpu(model, make_optimizer(model, settings), settings, graph)
    steps.optimizer.lr = LEARNING_RATE
    steps.__enter__()  # its stream is the current one until this process ends
    number = itertools.count()

    def step():
        steps.run(batch, next(number))
        return lambda: np.array(sum(steps.rest()[-1].losses.values()))

    return step


def gpu_inference(folder):
    """Inference on a card, from the padded image to boxes, classes and masks of 28 x 28, all on the card."""
    folder = Path(folder)
    model = mask_rcnn.build("resnet50_fpn", num_classes=91)
    with np.load(folder / "resnet50_weights.npz") as weights:
        model.load_state_dict(from_torchvision(weights))
    model.eval().to("cuda")
    batch = model.transform([np.load(folder / "photo.npy")]).to("cuda")

    def run():
        found = model.detect(batch)
        return lambda: [a[found.valid] for a in (found.boxes, found.labels, found.scores, found.masks)]

    return run


def scene_batch(model, images, side, objects):
    """A Batch of cloudy images of side x side pixels, each with `objects` objects whose masks fill their boxes."""
    samples = []
    for i in range(images):
        boxes = scattered_boxes(objects, side, side, seed=i)
        masks = np.zeros((objects, side, side), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().astype(int)):
            mask[y1 : y2 + 1, x1 : x2 + 1] = 1
        image = blurred_noise(side, side, seed=i)
        samples.append(
            Sample(image, boxes, np.arange(objects) % 3 + 1, masks, np.zeros(objects, bool), i, f"scene {i}")
        )
    return model.transform(samples)


def step(images, side, objects):
    """A training step of the preset "toy", without resizing the images."""
    model = mask_rcnn.build("toy", num_classes=4, seed=0, transform=dict(min_size=side, max_size=side))
    batch = scene_batch(model, images, side, objects)
    return training_step(model, lambda: batch, LEARNING_RATE)


def detect(images, side):
    """Inference with the preset "toy", from the batch to the detections."""
    model = mask_rcnn.build("toy", num_classes=4, seed=0, transform=dict(min_size=side, max_size=side)).eval()
    batch = scene_batch(model, images, side, objects=1)

    def run():
        found = model.detect(batch)
        return found.boxes, found.labels, found.scores, found.masks

    return run
