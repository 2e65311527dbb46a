"""Where arrays live and how many threads work on them: numpy or cupy, thread counts, seeds, the allocator."""

import ctypes
import glob
import importlib
import os
import sys

# Numba's OpenMP layer forks and joins in microseconds; its fallback needs ten times as long.
os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
# Its threads spin while they wait, by default for milliseconds. Where anything else wants a core (the threads that load
# data, another run on the same machine) that costs up to 14 times the whole step; some microseconds are enough.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import numpy as np  # noqa: E402


def array_module(x):
    """The module (numpy or cupy) that made the array `x`."""
    if isinstance(x, np.ndarray) or np.isscalar(x):
        return np
    return sys.modules["cupy"].get_array_module(x)


def on_cpu(x):
    """True if `x` is a NumPy array: the question asked where a Numba or a CUDA kernel is chosen."""
    return array_module(x) is np


def kernels(name, array):
    """The kernels of an operation: kernels/NAME.py for a NumPy array, kernels/NAME_cuda.py for a CuPy array."""
    return importlib.import_module(f"minimask.kernels.{name}" if on_cpu(array) else f"minimask.kernels.{name}_cuda")


def gpu_available():
    """True if CuPy is installed and sees at least one card."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # no cupy, no driver or no card: each raises its own kind of error
        return False


def to_cpu(x):
    """`x` as a NumPy array."""
    return x if on_cpu(x) else x.get()


def to_gpu(x):
    """`x` as a CuPy array."""
    import cupy

    return cupy.asarray(x)


def generator(*seed):
    """A random generator that is a function of `seed` alone, e.g. generator(run_seed, step)."""
    return np.random.default_rng(list(seed))


def threads():
    """How many threads the Numba kernels use."""
    import numba

    return numba.get_num_threads()


def set_threads(count):
    """Let the Numba kernels use `count` threads (1 up to the number of cores).

    Results do not depend on when this is called, but sums that are split between threads round differently for
    different counts: bit-for-bit repetition needs the same count.
    """
    import numba

    if not 1 <= count <= numba.config.NUMBA_NUM_THREADS:
        raise ValueError(f"set_threads: count must be 1 to {numba.config.NUMBA_NUM_THREADS} here, got {count}")
    numba.set_num_threads(count)


def _single_threaded_blas():
    """One BLAS thread: OpenBLAS's pool spins beside Numba's threads and costs 40 to 100 % (both default to all
    cores).
    """
    for path in glob.glob(os.path.join(os.path.dirname(np.__file__) + ".libs", "*openblas*")):
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads"):
            if hasattr(library, name):
                getattr(library, name)(1)
                return


def _keep_freed_memory():
    """glibc: reuse freed blocks in place of returning them, for a fresh page costs as much as the arithmetic on it."""
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library (musl) has no mallopt
            return
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and numbers of glibc's malloc.h
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


_single_threaded_blas()
_keep_freed_memory()
