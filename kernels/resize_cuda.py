"""Feature maps resized on the GPU, and the gradients; see resize.cu. All float32."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import launch

THREADS = 128


@takes(lambda x, size: x.dtype == np.float32)
def nearest(x, size):
    """See `minimask.functional.nearest`."""
    return _run("nearest", x, (x.shape[0], *size, x.shape[3]))


@takes(lambda gy, shape: gy.dtype == np.float32)
def nearest_backward(gy, shape):
    """See `minimask.functional.nearest_backward`."""
    return _run("nearest_backward", gy, shape)


@takes(lambda x, size: x.dtype == np.float32)
def bilinear(x, size):
    """See `minimask.functional.bilinear`."""
    return _run("bilinear", x, (x.shape[0], *size, x.shape[3]))


@takes(lambda gy, shape: gy.dtype == np.float32)
def bilinear_backward(gy, shape):
    """See `minimask.functional.bilinear_backward`."""
    return _run("bilinear_backward", gy, shape)


def _run(name, source, shape):
    """Read `source`, fill an array of `shape`: forward that is the large map, backward the small one."""
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
