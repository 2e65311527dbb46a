"""Our side of the benchmark: the pieces of work of `cases`, and the files that both sides read."""

import itertools
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import minimask
from minimask import boxes as box_ops
from minimask import device, losses, mask_rcnn, optim, targets
from minimask.benchmark import common
from minimask.benchmark.common import LEARNING_RATE, clustered_boxes, scattered_boxes, serve
from minimask.convolution import conv2d, conv_transpose2d, max_pool2d
from minimask.datasets.toy import ToyScenes
from minimask.functional import sigmoid_array
from minimask.machine import warmup
from minimask.mask_head import mask_loss, paste_masks
from minimask.normalization import batch_norm, frozen_batch_norm
from minimask.roi_align import assign_levels
from minimask.roi_align import roi_align as align
from minimask.structures import Sample
from minimask.tensor import Parameter, Tensor, no_grad
from minimask.weights import from_torchvision, to_torchvision

STRIDES = (4, 8, 16, 32)
DEVICE = "cpu"  # where the kernels' arrays are; `main` says


def put(x):
    """An array where it is to be worked on."""
    return device.to(x, DEVICE)


def array(*shape, seed=0):
    """Standard normal float32 numbers."""
    return put(common.array(*shape, seed=seed))


# -------------------------------------------------------------------------------------------- files for both sides


def write_toy(folder, trained):
    """The toy preset's model, weights and a batch of 8 drawn scenes, in torchvision's terms; trained: steps before."""
    folder = Path(folder)

    def write():
        model = mask_rcnn.build("toy", num_classes=4, seed=0)
        learn = resizing_step(model, lr=3e-3)  # after 100 steps the mask head gets all the RoIs that it can: 128
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
    """Well-scaled weights of resnet50_fpn in torchvision's layout, and a photo-like image (480, width, 3) uint8.

    width: 640 becomes 800 x 1067, and 800 x 1088 with its padding; 800 becomes 800 x 1333 and 800 x 1344.
    """
    folder = Path(folder)

    def write():
        image = blurred_noise(480, width)
        np.save(folder / "photo.npy", image)
        np.savez(folder / "resnet50_weights.npz", **to_torchvision(scaled_resnet50_state(image)))

    return write


def torchvision_settings(model):
    """The keywords of `reference.small_mask_rcnn` that make the same architecture as `model` (basic blocks, FPN)."""
    body, rpn, heads = model.backbone.body, model.rpn, model.roi_heads
    settings = {**mask_rcnn.PRESETS[model.settings["preset"]], **model.settings}
    return dict(
        widths=body.out_channels,
        blocks=[len(getattr(body, f"layer{i}")) for i in (1, 2, 3, 4)],
        strides=[1 if body.stem == "fine" else 2, 2, 2, 2],
        width=model.backbone.fpn.layer_blocks[0][0].weight.shape[3],
        classes=model.num_classes,
        rpn_first_level=model.rpn_first_level,
        anchor_sizes=settings["anchor_sizes"],
        ratios=settings.get("anchor_ratios", (0.5, 1.0, 2.0)),
        canonical=model.roi_canonical_size,
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
        box_batch_size_per_image=model.roi_samples,
        box_positive_fraction=model.roi_positive_fraction,
        box_score_thresh=model.detection.get("score_threshold", 0.05),
        box_detections_per_img=model.detection.get("max_detections", 100),
    )


def toy_samples():
    scenes = ToyScenes(split="train", size=128, count=8, seed=0)
    return [scenes[i] for i in range(8)]


def blurred_noise(height, width, seed=0):
    """Colored clouds with some grain, (height, width, 3) uint8: random numbers on a coarse grid, enlarged smoothly."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (-(-height // 40), -(-width // 40), 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def scaled_resnet50_state(image, **settings):
    """Weights with which an untrained resnet50_fpn works as hard as a trained one: 1000 proposals, 100 detections.

    Batch statistics of one image, frozen, bring every layer to mean 0 and variance 1; larger last layers bring
    scores away from 1/2 and 1/91. settings: the model's own.
    """
    model = mask_rcnn.build("resnet50_fpn", num_classes=91, norm="batch", **settings)
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0  # running statistics become those of the last batch
    with no_grad():
        batch = model.transform([image])
        model.train().features(Tensor(batch.images))
    state = model.state_dict()
    state["rpn.head.conv.0.0.weight"] *= 2
    state["rpn.head.cls_logits.weight"] *= 10
    state["roi_heads.box_predictor.cls_score.weight"] *= 6
    return state


# -------------------------------------------------------------------------------------------------------- whole models


def toy_step(folder):
    """A training step of the model that `write_toy` wrote."""
    model = mask_rcnn.build("toy", num_classes=4, seed=0)
    with np.load(Path(folder) / "toy_weights.npz") as weights:
        model.load_state_dict(from_torchvision(weights))
    return resizing_step(model, LEARNING_RATE)


def resizing_step(model, lr):
    """Resize and normalize the toy batch, then a training step."""
    samples = toy_samples()
    return training_step(model, lambda: model.transform(samples), lr)


def training_step(model, batch, lr):
    """Forward, backward, optimizer step. batch: a function that gives the Batch."""
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
    """From the (480, 640, 3) uint8 array to masks pasted into it and thresholded."""
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
    """Forward, backward, optimizer step on a card that has the batch; graph: as one CUDA graph."""
    from minimask.machine.gpu_steps import StepsOnGpu
    from minimask.train import TrainSettings, make_optimizer

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
    """From the padded image on a card to boxes, classes and their masks of 28 x 28 there."""
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
    """A Batch of cloudy images of side x side pixels, each with `objects` objects that fill their boxes."""
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
    """A training step of the preset "toy", without the resizing before."""
    model = mask_rcnn.build("toy", num_classes=4, seed=0, min_size=side, max_size=side)
    batch = scene_batch(model, images, side, objects)
    return training_step(model, lambda: batch, LEARNING_RATE)


def detect(images, side):
    """Inference of the preset "toy", from the batch to the detections."""
    model = mask_rcnn.build("toy", num_classes=4, seed=0, min_size=side, max_size=side).eval()
    batch = scene_batch(model, images, side, objects=1)

    def run():
        found = model.detect(batch)
        return found.boxes, found.labels, found.scores, found.masks

    return run


# ------------------------------------------------------------------------------------------------------------- kernels


def timed_direction(direction, forward, x, parameters):
    """The function that does one direction of `forward`: nothing else than that gradient is computed."""
    if direction == "forward":

        def run():
            with no_grad():
                return forward()

        return run
    for tensor in (x, *parameters):
        tensor.requires_grad = direction == "backward" or (tensor is x) == (direction == "to data")
    y = forward()
    gy = array(*y.shape, seed=2)
    function = y.maker
    return lambda: [gx for gx in function.backward(gy) if gx is not None]


def conv(direction, n, height, width, inputs, outputs, size, stride, groups):
    x = Tensor(array(n, height, width, inputs))
    w = Parameter(array(size, size, inputs // groups, outputs, seed=1))
    settings = dict(stride=stride, padding=size // 2, groups=groups)
    return timed_direction(direction, lambda: conv2d(x, w, **settings), x, [w])


def conv_transpose(direction, n, height, width, inputs, outputs):
    x = Tensor(array(n, height, width, inputs))
    w = Parameter(array(2, 2, inputs, outputs, seed=1))
    return timed_direction(direction, lambda: conv_transpose2d(x, w, stride=2), x, [w])


def max_pool(direction, shape):
    x = Tensor(array(*shape))
    return timed_direction(direction, lambda: max_pool2d(x, 3, stride=2, padding=1), x, [])


def normalization(direction, shape):
    x, gamma, beta = Tensor(array(*shape)), Parameter(array(shape[-1], seed=3)), Parameter(array(shape[-1], seed=4))
    mean, variance = put(np.zeros(shape[-1], np.float32)), put(np.ones(shape[-1], np.float32))

    def forward():
        return batch_norm(x, gamma, beta, mean, variance, training=True, relu=True)

    return timed_direction(direction, forward, x, [gamma, beta])


def frozen_normalization(direction, shape):
    x, residual = (Tensor(array(*shape, seed=s)) for s in (0, 1))
    scale, shift = array(shape[-1], seed=3), array(shape[-1], seed=4)
    return timed_direction(direction, lambda: frozen_batch_norm(x, scale, shift, residual, relu=True), x, [residual])


def loss(kind, anchors, rois, masks, classes):
    """One loss and the gradient of its logits."""
    labels = put(np.arange(rois) % classes)
    if kind == "objectness":
        logits, rest = array(anchors), (put(np.arange(anchors) % 2), put(np.ones(anchors, np.float32)))
        function = losses.objectness_loss
    elif kind == "class":
        logits, rest, function = array(rois, classes), (labels, put(np.ones(rois, np.float32))), losses.class_loss
    elif kind == "box":
        positive, sampled = put((np.arange(rois) % 4 == 0).astype(np.float32)), put(np.ones(rois, np.float32))
        logits, rest = array(rois, 4 * classes), (labels, array(rois, 4, seed=1), positive, sampled)
        function = losses.box_loss
    else:
        targets = put((array(masks, 28, 28, seed=1) > 0).astype(np.float32))
        logits, rest = array(masks, 28, 28, classes), (labels[:masks], targets, put(np.ones(masks, bool)))
        function = mask_loss
    logits = Tensor(logits, requires_grad=True)

    def run():
        logits.grad = None
        value = function(logits, *rest)
        value.backward()
        return value, logits.grad

    return run


def roi_align(direction, images, height, width, channels, rois, size, canonical):
    features = [
        Tensor(array(images, height // stride, width // stride, channels, seed=stride), direction == "backward")
        for stride in STRIDES
    ]
    boxes = put(scattered_boxes(rois, height, width))
    image_index = put(np.repeat(np.arange(images), -(-rois // images))[:rois])
    scales = [1 / stride for stride in STRIDES]

    def forward():
        levels = assign_levels(boxes, canonical_size=canonical)
        return align(features, boxes, image_index, levels, scales, size=size, sampling_ratio=2)

    if direction == "forward":

        def run():
            with no_grad():
                return forward()

        return run
    y = forward()
    gy = array(*y.shape, seed=2)
    function = y.maker
    return lambda: [gx for gx in function.backward(gy) if gx is not None]


def nms(boxes):
    boxes, scores = (put(a[None]) for a in clustered_boxes(boxes, 800, 1067))
    real = put(np.ones(scores.shape, bool))

    def run():
        indices, valid = box_ops.nms(boxes, scores, real, 0.7)
        return lambda: indices[valid]

    return run


def match(images, anchors, objects, height, width):
    """1 positive, 0 background, -1 ignored for each anchor of each image."""
    anchors = put(scattered_boxes(anchors, height, width))
    truth = put(np.stack([scattered_boxes(objects, height, width, seed=1 + i) for i in range(images)]))
    real, crowd = put(np.ones((images, objects), bool)), put(np.zeros((images, objects), bool))
    return lambda: targets.match(anchors[None], truth, real, crowd, 0.3, 0.7, allow_low_quality=True)[0]


def paste(masks, height, width):
    boxes = put(scattered_boxes(masks, height, width))
    masks = sigmoid_array(array(masks, 28, 28))
    return lambda: paste_masks(masks, boxes, height, width)


def optimizer(kind, arrays, shape):
    parameters = [Parameter(array(*shape, seed=i)) for i in range(arrays)]
    for i, parameter in enumerate(parameters):
        parameter.grad = array(*shape, seed=arrays + i)
    if kind == "SGD":
        optimizer = optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    else:
        optimizer = optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4)

    def run():
        if DEVICE == "cpu":
            optimizer.step()
        else:
            optimizer.prepare_step()
            optimizer.step_on_device()
        return parameters

    return run


PIECES = dict(
    write_toy=write_toy, write_resnet50=write_resnet50, toy_step=toy_step, inference=inference, conv=conv,
    conv_transpose=conv_transpose, max_pool=max_pool, batch_norm=normalization, roi_align=roi_align, nms=nms,
    frozen_batch_norm=frozen_normalization, loss=loss, match=match, paste=paste, optimizer=optimizer, step=step,
    detect=detect, gpu_toy_step=gpu_toy_step, gpu_inference=gpu_inference,
)  # fmt: skip


def to_arrays(result):
    """A list of NumPy arrays; where only looking at a result tells its size, a piece returns a function that looks."""
    result = result() if callable(result) else result
    results = result if isinstance(result, (tuple, list)) else [] if result is None else [result]
    return [device.to_cpu(x.data if isinstance(x, Tensor) else x) for x in results]


def main():
    global DEVICE
    DEVICE = device.resolve(sys.argv[1])
    device.set_matmul_precision(sys.argv[2])
    warmup.ensure()
    device.set_threads(int(os.environ["NUMBA_NUM_THREADS"]))
    about = {"name": "minimask", "versions": f"minimask {minimask.__version__}, {libraries()}"}
    if DEVICE == "cpu":
        serve(PIECES, about, to_arrays)
    else:
        import cupy

        pool = cupy.get_default_memory_pool()  # it gives nothing back, so its size is the most that was held
        serve(PIECES, about, to_arrays, cupy.cuda.Device().synchronize, pool.total_bytes)


def libraries():
    """Versions of what we compute with, and the card's name."""
    import numba

    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}", f"Numba {numba.__version__}"]
    if DEVICE == "cuda":
        import cupy

        card = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        versions += [f"CuPy {cupy.__version__}", f"{card}, precision {device.get_matmul_precision()}"]
    return ", ".join(versions)


if __name__ == "__main__":
    main()
