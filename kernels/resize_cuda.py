"""Feature maps resized on the GPU, and the gradients; see resize.cu. All float32."""

from minimask.device import array_module
from minimask.kernels.cuda import launch

THREADS = 128


def nearest(x, size):
    """(N, H, W, C) -> (N, *size, C): each output copies the pixel it falls in."""
    return _run("nearest", x, (x.shape[0], *size, x.shape[3]))


def nearest_backward(gy, shape):
    """Gradient (N, H', W', C) of the result -> gradient of the map of `shape` (N, H, W, C)."""
    return _run("nearest_backward", gy, shape)


def bilinear(x, size):
    """(N, H, W, C) -> (N, *size, C): interpolated between the pixels' centers."""
    return _run("bilinear", x, (x.shape[0], *size, x.shape[3]))


def bilinear_backward(gy, shape):
    """Gradient (N, H', W', C) of the result -> gradient of the map of `shape` (N, H, W, C)."""
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
