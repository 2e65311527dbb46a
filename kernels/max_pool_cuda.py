"""Max pooling on the GPU, float32; see max_pool.cu."""

import numpy as np

from minimask.device import array_module
from minimask.kernels.cuda import blocks_for, channel_threads, launch


def forward(x, size, stride, padding, result):
    """y (N, OH, OW, C) and the winners of x (N, H, W, C), uint8 of y's shape; size has at most 256 places."""
    xp = array_module(x)
    y = xp.empty((len(x), *result, x.shape[3]), np.float32)
    winner = xp.empty(y.shape, np.uint8)
    _launch("forward", y, (xp.ascontiguousarray(x),), (*x.shape, *size, *stride, *padding, *result), (y, winner))
    return y, winner


def backward(gy, winner, shape, size, stride, padding):
    """gx (of `shape`) from gy and the winners that `forward` gave."""
    xp = array_module(gy)
    gx = xp.empty(shape, np.float32)
    numbers = *shape, *size, *stride, *padding, *gy.shape[1:3]
    _launch("backward", gx, (xp.ascontiguousarray(gy), winner), numbers, (gx,))
    return gx


def _launch(kernel, written, inputs, numbers, results):
    """A row of threads for each pixel of `written`."""
    if written.size:
        images, height, width, channels = written.shape
        vector, threads = channel_threads(channels)
        blocks = blocks_for(images * height * width, threads[1])
        launch("max_pool", f"{kernel}<{vector}>", blocks, threads, *inputs, *numbers, *results)
