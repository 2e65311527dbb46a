"""Where arrays live and how many threads work on them: numpy or cupy, thread counts, seeds, the allocator."""

import contextlib
import ctypes
import functools
import glob
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import threading

# Numba's OpenMP layer forks and joins in microseconds; its fallback needs ten times as long.
os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
# Its threads spin while they wait, by default for milliseconds. Where anything else wants a core (the threads that load
# data, another run on the same machine) that costs up to 14 times the whole step; some microseconds are enough.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import numpy as np  # noqa: E402

from minimask.errors import InputError  # noqa: E402

# On the GPU: whether gradients of RoIs that lie over one another are added in a fixed order, so that the same inputs
# give the same bits. False: by atomic additions, in the order in which the threads come by.
deterministic = True

# On the CPU: whether 3x3 convolutions in float32 may go through Winograd's identity, which is twice as fast, with
# rounding errors ten times as large (1e-5 of the typical number). False: they are always computed as the direct sum.
winograd = True

MATMUL_PRECISIONS = ("highest", "high", "medium")
_matmul_precision = "highest"

# Numba keeps a number of threads for each Python thread, behind a lock that would be taken a thousand times a step.
_of_this_thread = threading.local()


def array_module(x):
    """The module (numpy or cupy) that made the array `x`."""
    if isinstance(x, np.ndarray) or np.isscalar(x):
        return np
    return sys.modules["cupy"].get_array_module(x)


def on_cpu(x):
    """True if `x` is a NumPy array: the question asked where a Numba or a CUDA kernel is chosen."""
    return array_module(x) is np


def accelerated(module, check=None):
    """Decorator of an operation in array code: hand-written kernels compute it where they can.

        @accelerated("nms")
        def nms(boxes, scores, valid, threshold, max_kept=None, groups=None):
            ...  # the algorithm, in array code

    A call runs the function of the same name and signature in `minimask.kernels.nms` if its arrays are NumPy's, or in
    `minimask.kernels.nms_cuda` if they are CuPy's, provided that there is one and that its `fits`, called with the same
    arguments, says so (see `takes`). Otherwise it runs the array code. `nms.plain` is the array code alone: any float
    dtype, NumPy or CuPy; `inspect.getsource(nms)` shows it.

    check: a function of the same arguments that raises ValueError if they do not fit together; it runs first, whichever
    form computes.
    """

    def decorate(plain):
        @functools.wraps(plain)
        def operation(*args, **kwargs):
            if check is not None:
                check(*args, **kwargs)
            kernel = _kernel(module, plain.__name__, on_cpu(_first_array(args)))
            if kernel is not None and kernel.fits(*args, **kwargs):
                return kernel(*args, **kwargs)
            return plain(*args, **kwargs)

        operation.plain = plain
        return operation

    return decorate


def takes(fits):
    """Decorator in a module of kernels: `fits(*arguments)` says whether the kernel can do it (see `accelerated`)."""

    def decorate(kernel):
        kernel.fits = fits
        return kernel

    return decorate


@functools.cache
def _kernel(module, name, cpu):
    """The function that the kernels' module has for an operation, or None."""
    path = f"minimask.kernels.{module}" if cpu else f"minimask.kernels.{module}_cuda"
    if importlib.util.find_spec(path) is None:
        return None
    return getattr(importlib.import_module(path), name, None)


def _first_array(args):
    """The first array among the arguments, or in a list or tuple among them: it says where the operation runs."""
    for arg in args:
        if isinstance(arg, (list, tuple)):
            arg = next((a for a in arg if hasattr(a, "dtype")), None)
        if hasattr(arg, "dtype"):
            return arg
    raise TypeError("an operation needs at least one array among its arguments")


def kernels(name, array):
    """The kernels of an operation: kernels/NAME.py for a NumPy array, kernels/NAME_cuda.py for a CuPy array."""
    return _module(name if on_cpu(array) else f"{name}_cuda")


@functools.cache
def _module(name):
    return importlib.import_module(f"minimask.kernels.{name}")


def fits_gpu_kernel(*arrays):
    """Whether CUDA kernels can take these arrays: float32, on a GPU."""
    return all(not on_cpu(a) and a.dtype == np.float32 for a in arrays)


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


def to(x, device):
    """The array `x` on a device of `resolve`; `x` itself if it is there already.

    To the card CuPy copies through page-locked memory, in the order of the current stream: nobody waits.
    """
    if device == "cpu":
        return to_cpu(x)
    return to_gpu(x) if on_cpu(x) else x


def device_of(x):
    """ "cpu" or "cuda", where the array `x` lies."""
    return "cpu" if on_cpu(x) else "cuda"


# ------------------------------------------------------------------------------------------------------------ the card


def resolve(name):
    """The device that is meant by "cpu", "cuda", "cuda:1" (the second card) or None (the CPU): -> "cpu" or "cuda".

    A card becomes the current one, and a small calculation shows that it can be used. Raises InputError that says what
    is missing where it cannot: CuPy, a driver, a card, or the wheel of CuPy that fits the driver.
    """
    if name in (None, "cpu"):
        return "cpu"
    match = re.fullmatch(r"cuda(?::(\d+))?", str(name))
    if not match:
        raise InputError(f'device must be "cpu", "cuda" or "cuda:1" (the second card), got {name!r}')
    try:
        import cupy

        cards, number = cupy.cuda.runtime.getDeviceCount(), int(match[1] or 0)
        if number < cards:
            if match[1]:
                cupy.cuda.Device(number).use()
            a = cupy.ones((2, 2), np.float32)
            works = float((a @ a).sum()) == 8  # needs a compiler, the headers of CUDA, and cuBLAS
    except Exception as error:  # each thing that can be missing raises its own kind of error
        raise InputError(f"device {name}: {_why_no_card(error)}") from error
    if number >= cards:
        raise InputError(f"device {name}: this machine has {cards} card{'s' * (cards != 1)}, counted from 0")
    if not works:
        raise InputError(f"device {name}: the card calculates wrongly: 2 x 2 ones, squared, do not sum to 8")
    return "cuda"


ON_THE_CPU = "everything runs on the CPU too: leave the device out"


def _why_no_card(error):
    """What stands between this machine and its card, and the command that changes it."""
    while error.__cause__ is not None:  # CuPy wraps what goes wrong in paragraphs of advice
        error = error.__cause__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    version = driver_version()
    if version is None:
        return f"this machine has no NVIDIA driver, so it has no card that could be used; {ON_THE_CPU}"
    driver = f"CUDA {version // 1000}.{version % 1000 // 10}"
    wheel = right_wheel(version)
    if wheel is None:
        return f"the driver is too old for CuPy (it knows {driver}); update it, or: {ON_THE_CPU}"
    install = f'pip install "{wheel}[ctk]"'
    wheels = _installed_wheels()
    if not wheels:
        return f"CuPy is not installed; for the driver here ({driver}): {install}; {ON_THE_CPU}"
    if "NoDevice" in text:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        return "the driver sees no card" + ("" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})")
    remove = f"pip uninstall {' '.join(wheels)}, then " if wheels != [wheel] else ""
    return f"{' and '.join(wheels)} cannot be used ({text}); for the driver here ({driver}): {remove}{install}"


def driver_version():
    """The newest CUDA that the NVIDIA driver knows, as 12040 for 12.4; None without a driver."""
    version = ctypes.c_int()
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
                return version.value
    return None


def right_wheel(version):
    """The wheel of CuPy for a driver of this version; None if there is none. A driver runs wheels of an older CUDA."""
    major = min(version // 1000, 13)
    return f"cupy-cuda{major}x" if major >= 12 else None


def _installed_wheels():
    names = {distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x?|-rocm.*)?", name))


@contextlib.contextmanager
def enough_memory(advice):
    """Inside, running out of the card's memory is an InputError: what was asked for, held and free, then `advice`."""
    try:
        yield
    except MemoryError as error:
        cupy = sys.modules.get("cupy")
        if cupy is None or not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
            raise
        asked = re.search(r"allocating ([\d,]+) bytes", str(error))
        asked = _size(int(asked[1].replace(",", ""))) if asked else "more"
        held = cupy.get_default_memory_pool().used_bytes()
        free, total = cupy.cuda.runtime.memGetInfo()
        raise InputError(
            f"the card's memory is full: {asked} were asked for, {_size(held)} are held here, {_size(free)} of "
            f"{_size(total)} are free; {advice}"
        ) from error


def _size(count):
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


# --------------------------------------------------------------------------------------- precision, seeds and threads


def set_matmul_precision(precision):
    """How exactly convolutions and dense layers on the GPU multiply: the names of torch.set_float32_matmul_precision.

    "highest" (the default): float32. "high": TF32, 10 bits of each factor's fraction, errors of 5e-4 of a typical
    result. "medium": BF16, 7 bits, 4e-3. Sums are float32. Cards before sm_80 (Ampere) always take float32.
    """
    global _matmul_precision
    if precision not in MATMUL_PRECISIONS:
        raise ValueError(f"set_matmul_precision: precision must be one of {MATMUL_PRECISIONS}, got {precision!r}")
    _matmul_precision = precision


def get_matmul_precision():
    """What `set_matmul_precision` was given: "highest", "high" or "medium"."""
    return _matmul_precision


def generator(*seed):
    """A random generator that is a function of `seed` alone, e.g. generator(run_seed, step)."""
    return np.random.default_rng(list(seed))


def threads():
    """How many threads the Numba kernels use: those of `set_threads`, or what Numba said when it was first asked."""
    try:
        return _of_this_thread.kernel_threads
    except AttributeError:  # the first call in this Python thread
        import numba

        _of_this_thread.kernel_threads = numba.get_num_threads()
        return _of_this_thread.kernel_threads


def set_threads(count):
    """Let the Numba kernels use `count` threads (1 up to the number of cores).

    Results do not depend on when this is called, but sums that are split between threads round differently for
    different counts: bit-for-bit repetition needs the same count.
    """
    import numba

    if not 1 <= count <= numba.config.NUMBA_NUM_THREADS:
        raise ValueError(f"set_threads: count must be 1 to {numba.config.NUMBA_NUM_THREADS} here, got {count}")
    numba.set_num_threads(count)
    _of_this_thread.kernel_threads = count


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
