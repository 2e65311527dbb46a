"""Sums of elements that go to the same place, on the GPU; see scatter_add.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.functional import takes_no_element_twice
from minimask.kernels.cuda import launch

TILE = 256  # of scatter_add.cu
MOST = 1 << 20  # elements: comparing each with each takes a tenth of a second there


@takes(lambda gy, index, shape: gy.dtype == np.float32 and not takes_no_element_twice(index))
def index_backward(gy, index, shape):
    """See `minimask.functional.index_backward`. Beyond MOST elements the order of the sums is not fixed."""
    xp = array_module(gy)
    gx = xp.zeros(shape, gy.dtype)
    places = xp.arange(gx.size, dtype=np.int32).reshape(shape)[index]
    if gy.size > MOST:
        xp.add.at(gx.reshape(-1), places.reshape(-1), gy.reshape(-1))  # CuPy adds with atomics
    elif gy.size:
        places, gy = xp.ascontiguousarray(places), xp.ascontiguousarray(gy)
        launch("scatter_add", "scatter_add", -(-gy.size // TILE), TILE, places, gy, gy.size, gx)
    return gx
