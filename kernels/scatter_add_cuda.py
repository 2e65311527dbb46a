"""Sums of elements that go to one place, on the GPU; see scatter_add.cu."""

from minimask.device import array_module
from minimask.kernels.cuda import launch

TILE = 256  # of scatter_add.cu
MOST = 1 << 20  # elements: comparing each with each takes a tenth of a second there


def scatter_add(gx, places, gy):
    """gx.flat[places] += gy, added up in order where a place occurs twice; gx float32, contiguous, zero before.

    places: int32, gy: float32, of one shape. From MOST elements on their order is not fixed: CuPy adds with atomics.
    """
    xp = array_module(gx)
    if gy.size > MOST:
        xp.add.at(gx.reshape(-1), places.reshape(-1), gy.reshape(-1))
    elif gy.size:
        places, gy = xp.ascontiguousarray(places), xp.ascontiguousarray(gy)
        launch("scatter_add", "scatter_add", -(-gy.size // TILE), TILE, places, gy, gy.size, gx)
