"""Resizing of feature maps on the GPU, float32, and its gradients; see resize.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import launch

THREADS = 128


@takes(lambda x, size: x.dtype == np.float32)
def nearest(x, size):
    """See `minimask.image.nearest`."""
    return _run("nearest", x, (x.shape[0], *size, x.shape[3]))


@takes(lambda gy, shape: gy.dtype == np.float32)
def nearest_backward(gy, shape):
    """See `minimask.image.nearest_backward`."""
    return _run("nearest_backward", gy, shape)


@takes(lambda x, size: x.dtype == np.float32)
def bilinear(x, size):
    """See `minimask.image.bilinear`."""
    return _run("bilinear", x, (x.shape[0], *size, x.shape[3]))


@takes(lambda gy, shape: gy.dtype == np.float32)
def bilinear_backward(gy, shape):
    """See `minimask.image.bilinear_backward`."""
    return _run("bilinear_backward", gy, shape)


def _run(name, source, shape):
    """Read `source` and fill an array of `shape`: the output map forward, the input map backward."""
    xp = array_module(source)
    source, result = xp.ascontiguousarray(source), xp.empty(shape, source.dtype)
    small, large = (result, source) if name.endswith("backward") else (source, result)
    (n, h, w, c), (high, wide) = small.shape, large.shape[1:3]
    vectors = c % 4 == 0 and source.data.ptr % 16 == 0
    kind, c = ("float4", c // 4) if vectors else ("float", c)
    if result.size:
        blocks = n * shape[1], -(-shape[2] * c // THREADS)  # rows, parts of a row
        launch("resize", f"{name}<{kind}>", blocks, THREADS, source, h, w, c, high, wide, result)
    return result
