"""Memory of the host: reuse what was freed, and take no memory for zeros that nobody writes to.

A fresh page of memory costs as much as the arithmetic on it.
"""

import contextlib
import ctypes
import functools
import math
import mmap
import os
import sys

import numpy as np

LARGE = 2**26  # bytes from which zeros get pages of their own


def sparse_zeros(shape, dtype):
    """An array of zeros. A large one takes memory only where it is written to, in pages of 4 KB.

    np.zeros does not do this: it asks for pages of 2 MB, or reuses freed memory (see below), which it has to clear.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE:
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a Linux without large pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


@functools.cache
def keep_freed_memory():
    """Let the C library reuse freed blocks instead of returning them to the system, for the rest of the process.

    A training step allocates and frees the same large arrays again and again. By default glibc returns each of them,
    and the system then clears every page before it hands it out again. The process now keeps the memory that it needed
    at its peak. Only glibc (Linux) has this setting; elsewhere nothing happens.

    The environment variable MINIMASK_MALLOC=0 switches this off.
    """
    if sys.platform != "linux" or os.environ.get("MINIMASK_MALLOC") == "0":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library (musl) has no mallopt
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and numbers of glibc's malloc.h
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
