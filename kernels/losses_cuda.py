"""The losses on the GPU in float32, each with its gradient for gy = 1; see losses.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, launch

THREADS = 256
BLOCKS = 512  # at most: the sum of each block is one more number to add up afterwards

float32 = takes(lambda z, *_, **__: z.dtype == np.float32 and z.size > 0)


@float32
def binary_cross_entropy(z, t, w):
    """See `minimask.losses.binary_cross_entropy`."""
    return _run("binary_cross_entropy", z.size, _floats(z, t, w), (np.int64(z.size),), z.shape)


@float32
def smooth_l1(x, t, w, beta):
    """See `minimask.losses.smooth_l1`."""
    return _run("smooth_l1", x.size, _floats(x, t, w), (float(beta), np.int64(x.size)), x.shape)


@float32
def cross_entropy(z, labels, w):
    """See `minimask.losses.cross_entropy`."""
    z, w = _floats(z, w)
    return _run("cross_entropy", 32 * len(z), (z, _labels(labels), w), z.shape, z.shape)


@float32
def sigmoid_mask_loss(logits, labels, targets, valid, n):
    """See `minimask.losses.sigmoid_mask_loss`."""
    logits, targets, n = _floats(logits, targets, n)
    labels, pixels, channels = _labels(labels), targets[0].size, logits.shape[3]
    inputs = logits, labels, targets, array_module(valid).ascontiguousarray(valid), n
    numbers = pixels, channels, np.int64(targets.size)
    loss, own = _run("sigmoid_mask_loss", targets.size, inputs, numbers, targets.shape)

    gradient = array_module(logits).empty(logits.shape, np.float32)
    arguments = own, labels, pixels, channels, np.int64(gradient.size), gradient
    launch("losses", "spread_mask_gradient", blocks_for(gradient.size, THREADS), THREADS, *arguments)
    return loss, gradient


@float32
def softmax_mask_loss(logits, labels, targets, valid, n):
    """See `minimask.losses.softmax_mask_loss`."""
    logits, targets, n = _floats(logits, targets, n)
    inputs = logits, _labels(labels), targets, array_module(valid).ascontiguousarray(valid), n
    numbers = targets[0].size, logits.shape[3], targets.size
    return _run("softmax_mask_loss", 32 * targets.size, inputs, numbers, logits.shape)


def _run(name, items, inputs, numbers, gradient_shape):
    """Launch a kernel that divides `items` among its threads; returns the loss () and the gradient."""
    xp = array_module(inputs[0])
    gradient, loss = xp.empty(gradient_shape, np.float32), xp.empty((), np.float32)
    blocks = blocks_for(items, THREADS, most=BLOCKS)
    parts = xp.empty(blocks, np.float64)
    launch("losses", name, blocks, THREADS, *inputs, *numbers, gradient, parts, loss)
    if blocks > 1:
        launch("losses", "finish", 1, THREADS, parts, blocks, loss)
    return loss, gradient


def _floats(*arrays):
    return [array_module(a).ascontiguousarray(a, np.float32) for a in arrays]


def _labels(labels):
    return array_module(labels).ascontiguousarray(labels, np.int64)
