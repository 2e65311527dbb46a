"""Our side of the benchmark: the kernels' pieces of work, and the process that does all pieces (see `cases`)."""

import os
import platform
import sys

import numpy as np

import minimask
from minimask import boxes as box_ops
from minimask import device, losses, optim, targets
from minimask.benchmark import common, models
from minimask.benchmark.common import clustered_boxes, scattered_boxes, serve
from minimask.convolution import conv2d, conv_transpose2d, max_pool2d
from minimask.functional import sigmoid_array
from minimask.machine import warmup
from minimask.machine.gpu_optimizer import GpuOptimizer
from minimask.machine.process import tuned_process
from minimask.machine.threads import set_threads
from minimask.mask_head import paste_masks
from minimask.normalization import batch_norm
from minimask.roi_align import assign_levels
from minimask.roi_align import roi_align as align
from minimask.tensor import Parameter, Tensor, no_grad

STRIDES = (4, 8, 16, 32)
DEVICE = "cpu"  # where the kernels' arrays are; `main` sets it


def put(x):
    """The array on the device that does the work."""
    return device.to(x, DEVICE)


def array(*shape, seed=0):
    """Standard normal float32 numbers."""
    return put(common.array(*shape, seed=seed))


def timed_direction(direction, forward, x, parameters):
    """The function that does one direction of `forward` and computes no other gradient.

    direction: "forward", "backward", "to data" or "to weights". x: the input Tensor. parameters: list of Tensors.
    """
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


def loss(kind, anchors, rois, masks, classes):
    """Compute one loss and the gradient of its logits."""
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
        function = losses.mask_loss
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
    """Label each anchor of each image: 1 positive, 0 background, -1 ignored."""
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

    gpu_optimizer = None if DEVICE == "cpu" else GpuOptimizer(optimizer)

    def run():
        if gpu_optimizer is None:
            optimizer.step()
        else:
            gpu_optimizer.prepare_step()
            gpu_optimizer.step()
        return parameters

    return run


PIECES = {
    "write_toy": models.write_toy,
    "write_resnet50": models.write_resnet50,
    "toy_step": models.toy_step,
    "inference": models.inference,
    "gpu_toy_step": models.gpu_toy_step,
    "gpu_inference": models.gpu_inference,
    "step": models.step,
    "detect": models.detect,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "batch_norm": normalization,
    "loss": loss,
    "roi_align": roi_align,
    "nms": nms,
    "match": match,
    "paste": paste,
    "optimizer": optimizer,
}


def to_arrays(result):
    """The result of a piece as a list of NumPy arrays.

    If the size of a result depends on its values, the piece returns a function that looks at them.
    """
    result = result() if callable(result) else result
    results = result if isinstance(result, (tuple, list)) else [] if result is None else [result]
    return [device.to_cpu(x.data if isinstance(x, Tensor) else x) for x in results]


@tuned_process()
def main():
    global DEVICE
    DEVICE = device.resolve(sys.argv[1])
    device.set_matmul_precision(sys.argv[2])
    warmup.ensure()
    set_threads(int(os.environ["NUMBA_NUM_THREADS"]))
    about = {"name": "minimask", "versions": f"minimask {minimask.__version__}, {libraries()}"}
    if DEVICE == "cpu":
        serve(PIECES, about, to_arrays)
    else:
        import cupy

        pool = cupy.get_default_memory_pool()  # it returns nothing to the card, so its size is the peak
        serve(PIECES, about, to_arrays, cupy.cuda.Device().synchronize, pool.total_bytes)


def libraries():
    """The versions of the libraries we compute with, and the card's name."""
    import numba

    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}", f"Numba {numba.__version__}"]
    if DEVICE == "cuda":
        import cupy

        card = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        versions += [f"CuPy {cupy.__version__}", f"{card}, precision {device.get_matmul_precision()}"]
    return ", ".join(versions)


if __name__ == "__main__":
    main()
