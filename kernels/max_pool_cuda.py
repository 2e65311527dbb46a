"""Max pooling on the GPU, float32; see max_pool.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, channel_threads, launch


@takes(lambda x, window: x.dtype == np.float32 and window.kernel[0] * window.kernel[1] <= 256)
def max_pool(x, window):
    """See `minimask.convolution.max_pool`; a winner is one byte."""
    xp, size = array_module(x), window.output_size(x.shape[1:3])
    y = xp.empty((len(x), *size, x.shape[3]), np.float32)
    winner = xp.empty(y.shape, np.uint8)
    _launch("max_pool", y, (xp.ascontiguousarray(x),), (*x.shape, *_settings(window), *size), (y, winner))
    return y, winner


@takes(lambda gy, winner, size, window: gy.dtype == np.float32 and winner.dtype == np.uint8)
def max_pool_backward(gy, winner, size, window):
    """See `minimask.convolution.max_pool_backward`."""
    xp = array_module(gy)
    gx = xp.empty((len(gy), *size, gy.shape[3]), np.float32)
    inputs = xp.ascontiguousarray(gy), xp.ascontiguousarray(winner)
    _launch("max_pool_backward", gx, inputs, (*gx.shape, *_settings(window), *gy.shape[1:3]), (gx,))
    return gx


def _settings(window):
    return *window.kernel, *window.stride, *window.padding


def _launch(kernel, written, inputs, numbers, results):
    """Launch a kernel with a row of threads per pixel of `written`."""
    if written.size:
        images, height, width, channels = written.shape
        vector, threads = channel_threads(channels)
        blocks = blocks_for(images * height * width, threads[1])
        launch("max_pool", f"{kernel}<{vector}>", blocks, threads, *inputs, *numbers, *results)
