"""Where arrays live (NumPy on the CPU, CuPy on a card), which form of an operation computes, and a few settings.

Threads and memory of the host are in machine/threads.py and machine/memory.py, what concerns the card in
machine/card.py.
"""

import functools
import importlib
import importlib.util
import re
import sys

import numpy as np

from minimask.errors import InputError
from minimask.machine.card import use_card

# ------------------------------------------------------------------------------------------------------------ settings

# On a card: whether gradients of overlapping RoIs are added in a fixed order, so that the same inputs give the same
# bits. False: by atomic additions, in whatever order the threads arrive.
deterministic = True

# On the CPU: whether 3x3 convolutions in float32 may go through Winograd's identity, which is twice as fast, with
# rounding errors ten times as large (1e-5 of the typical number). False: they are always computed as the direct sum.
winograd = True

MATMUL_PRECISIONS = ("highest", "high", "medium")
_matmul_precision = "highest"


def set_matmul_precision(precision):
    """Choose how exactly convolutions and dense layers multiply on a card, as torch.set_float32_matmul_precision does.

    precision: "highest" (the default): float32. "high": TF32, which keeps 10 bits of each factor's fraction; errors
        are about 5e-4 of a typical result. "medium": BF16, 7 bits, 4e-3.

    Sums are always float32. Cards before sm_80 (Ampere) always use float32.
    """
    global _matmul_precision
    if precision not in MATMUL_PRECISIONS:
        raise ValueError(f"set_matmul_precision: precision must be one of {MATMUL_PRECISIONS}, got {precision!r}")
    _matmul_precision = precision


def get_matmul_precision():
    """The precision in use: "highest", "high" or "medium"."""
    return _matmul_precision


def generator(*seed):
    """A random generator that depends on `seed` alone, e.g. generator(run_seed, step)."""
    return np.random.default_rng(list(seed))


# -------------------------------------------------------------------------------------------------- arrays and kernels


def array_module(x):
    """The module that made the array `x`: numpy or cupy. Raises TypeError if `x` is not an array."""
    if isinstance(x, np.ndarray) or np.isscalar(x):
        return np
    cupy = sys.modules.get("cupy")
    if cupy is None or not isinstance(x, cupy.ndarray):
        raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")
    return cupy


def on_cpu(x):
    """Whether `x` is a NumPy array; if not, it lies on a card."""
    return array_module(x) is np


def accelerated(module, check=None):
    """Decorator of an operation written in array code: a hand-written kernel computes it where there is one.

        @accelerated("nms")
        def nms(boxes, scores, valid, threshold, max_kept=None, groups=None):
            ...  # the algorithm, in array code

    A call runs the function of the same name and signature in `minimask.kernels.nms` (for NumPy arrays) or in
    `minimask.kernels.nms_cuda` (for CuPy arrays), provided that there is such a function and that it accepts the
    arguments (see `takes`). Otherwise it runs the array code. `nms.plain` is the array code alone, for any float dtype,
    NumPy or CuPy; `inspect.getsource(nms)` shows it.

    module: name of the kernels' module.
    check: function of the same arguments that raises ValueError if they do not fit together. It runs first, whichever
        form computes.
    """

    def decorate(plain):
        @functools.wraps(plain)
        def operation(*args, **kwargs):
            if check is not None:
                check(*args, **kwargs)
            array = _first_array((*args, *kwargs.values()))
            kernel = _kernel(module, plain.__name__, array is None or on_cpu(array))
            if kernel is not None and kernel.fits(*args, **kwargs):
                return kernel(*args, **kwargs)
            return plain(*args, **kwargs)

        operation.plain = plain
        return operation

    return decorate


def takes(fits):
    """Decorator of a kernel's function: `fits(*arguments)` says whether it accepts them (see `accelerated`)."""

    def decorate(kernel):
        kernel.fits = fits
        return kernel

    return decorate


@functools.cache
def _kernel(module, name, cpu):
    """The function for an operation in the kernels' module, or None."""
    path = f"minimask.kernels.{module}" if cpu else f"minimask.kernels.{module}_cuda"
    if importlib.util.find_spec(path) is None:
        return None
    return getattr(importlib.import_module(path), name, None)


def _first_array(args):
    """The first array among the arguments, or in a list or tuple among them. The operation runs where it lies.

    None if there is none, for example a list of numbers: then the operation runs on the CPU.
    """
    for arg in args:
        if isinstance(arg, (list, tuple)):
            arg = next((a for a in arg if hasattr(a, "dtype")), None)
        if hasattr(arg, "dtype"):
            return arg
    return None


def gpu_available():
    """Whether CuPy is installed and sees at least one card."""
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
    """The array `x` on `device` ("cpu" or "cuda"); `x` itself if it is there already.

    CuPy copies to the card through page-locked memory, in the order of the current stream, so the host does not wait.
    """
    if device == "cpu":
        return to_cpu(x)
    return to_gpu(x) if on_cpu(x) else x


def device_of(x):
    """Where the array `x` lies: "cpu" or "cuda"."""
    return "cpu" if on_cpu(x) else "cuda"


def resolve(name):
    """Turn the name of a device into "cpu" or "cuda", and make that card the current one.

    name: "cpu", None (the same), "cuda", or "cuda:1" for the second card.

    Raises InputError that says what is missing if the card cannot be used (see `card.use_card`).
    """
    if name in (None, "cpu"):
        return "cpu"
    match = re.fullmatch(r"cuda(?::(\d+))?", str(name))
    if not match:
        raise InputError(f'device must be "cpu", "cuda" or "cuda:1" (the second card), got {name!r}')
    use_card(name, None if match[1] is None else int(match[1]))
    return "cuda"
