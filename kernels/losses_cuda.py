"""The losses on the GPU, float32, each with its gradient for gy = 1; see losses.cu.

A loss is an array (); count, pixels, rows: what the kernels' comments say. Arrays must not be empty.
"""

import numpy as np

from minimask.device import array_module
from minimask.kernels.cuda import blocks_for, launch

THREADS = 256
BLOCKS = 512  # most: each block's sum is one number to add up afterwards


def _run(name, items, inputs, numbers, gradient_shape):
    """Launch a kernel that shares `items` between its threads -> loss (), gradient."""
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


def binary_cross_entropy(z, t, w):
    """sum w (max(z, 0) - z t + ln(1 + e^-|z|)) and its gradient: arrays of one shape."""
    return _run("binary_cross_entropy", z.size, _floats(z, t, w), (np.int64(z.size),), z.shape)


def smooth_l1(x, t, w, beta):
    """sum w (d^2 / 2b where |d| < b, else |d| - b/2), d = x - t, and its gradient: arrays of one shape."""
    return _run("smooth_l1", x.size, _floats(x, t, w), (float(beta), np.int64(x.size)), x.shape)


def cross_entropy(z, w, labels):
    """sum_i w_i (ln sum_j e^z_ij - z_i,label) and its gradient: z (R, C), w (R,), labels (R,) int, 0 to C - 1."""
    z, w = _floats(z, w)
    return _run("cross_entropy", 32 * len(z), (z, _labels(labels), w), z.shape, z.shape)


def sigmoid_mask_loss(logits, labels, targets, valid, n):
    """Binary cross-entropy of the class's own mask, summed over the valid boxes, over n (); its gradient (R, M, M)."""
    logits, targets, n = _floats(logits, targets, n)
    boxes, size, _, channels = logits.shape
    numbers = size * size, channels, np.int64(targets.size)
    inputs = logits, _labels(labels), targets, array_module(valid).ascontiguousarray(valid), n
    return _run("sigmoid_mask_loss", targets.size, inputs, numbers, targets.shape)


def sigmoid_mask_gradient(gz, labels, gy, channels):
    """The gradient (R, M, M, C): gz (R, M, M) times gy () in each box's own channel, 0 in the others."""
    gx = array_module(gz).empty((*gz.shape, channels), np.float32)
    numbers = gz.shape[1] * gz.shape[2], channels, np.int64(gx.size)
    arrays, blocks = (gz, _labels(labels), *_floats(gy)), blocks_for(gx.size, THREADS)
    launch("losses", "sigmoid_mask_gradient", blocks, THREADS, *arrays, *numbers, gx)
    return gx


def softmax_mask_loss(logits, labels, targets, valid, n):
    """Cross-entropy of the classes at a pixel, summed over the valid boxes, over n (); its gradient (R, M, M, C)."""
    logits, targets, n = _floats(logits, targets, n)
    inputs = logits, _labels(labels), targets, array_module(valid).ascontiguousarray(valid), n
    numbers = targets[0].size, logits.shape[3], targets.size
    return _run("softmax_mask_loss", 32 * targets.size, inputs, numbers, logits.shape)
