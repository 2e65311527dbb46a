"""Memory of the host: keep what is freed, because a fresh page costs as much as the arithmetic on it."""

import ctypes
import functools
import os
import sys


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
