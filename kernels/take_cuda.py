"""Rows by index, image by image, on the GPU; see take.cu."""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import blocks_for, launch

WORDS = {16: "int4", 8: "long long", 4: "int", 1: "unsigned char"}  # number of bytes: type in take.cu
VIEWS = {16: np.int64, 8: np.int64, 4: np.int32, 1: np.uint8}


@takes(lambda *_, **__: True)
def take(array, indices):
    """See `minimask.targets.take`; any dtype."""
    xp = array_module(array)
    array, indices = xp.ascontiguousarray(array), xp.ascontiguousarray(indices, np.int64)
    result = xp.empty(indices.shape + array.shape[2:], array.dtype)
    if result.size:
        row = result.nbytes // indices.size
        word = next(size for size in WORDS if row % size == 0 and array.data.ptr % size == 0)
        words, count = row // word, result.nbytes // word
        source, target = (x.reshape(-1).view(VIEWS[word]) for x in (array, result))
        sizes = array.shape[1], indices.shape[1], words, np.int64(count)
        launch("take", f"take<{WORDS[word]}>", blocks_for(count, 256), 256, source, indices, *sizes, target)
    return result
