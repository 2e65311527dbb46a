"""The graphics card: what stands in the way of using it, which CuPy fits its driver, what to do if memory runs out."""

import contextlib
import ctypes
import importlib.metadata
import os
import re
import sys

import numpy as np

from minimask.errors import InputError
from minimask.run.show import bytes_text

ON_THE_CPU = "everything runs on the CPU too: leave the device out"


def use_card(name, number=None):
    """Make a card the current one, and show by a small calculation that it works.

    name: what the user called it, for messages.
    number: which card, from 0; None: the current one.

    Raises InputError that says what is missing: CuPy, a driver, a card, or the CuPy wheel for this driver.
    """
    try:
        import cupy

        cards = cupy.cuda.runtime.getDeviceCount()
        found = (number or 0) < cards
        if found:
            if number is not None:
                cupy.cuda.Device(number).use()
            a = cupy.ones((2, 2), np.float32)
            works = float((a @ a).sum()) == 8  # needs a compiler, the headers of CUDA, and cuBLAS
    except Exception as error:  # whatever is missing raises its own kind of error
        raise InputError(f"device {name}: {why_no_card(error)}") from error
    if not found:
        raise InputError(f"device {name}: this machine has {cards} card{'s' * (cards != 1)}, counted from 0")
    if not works:
        raise InputError(f"device {name}: the card computes wrong results (2 x 2 ones, squared, do not sum to 8)")


def why_no_card(error):
    """What stands between this machine and its card, and the command that changes it.

    error: the exception that CuPy raised when it was imported or first used.
    """
    while error.__cause__ is not None:  # CuPy wraps the real reason in paragraphs of advice
        error = error.__cause__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

    version = driver_version()
    if version is None:
        return f"this machine has no NVIDIA driver, so there is no card to use; {ON_THE_CPU}"
    driver = f"CUDA {version // 1000}.{version % 1000 // 10}"
    wheel = right_wheel(version)
    if wheel is None:
        return f"the driver is too old for CuPy (it supports {driver}); update it, or: {ON_THE_CPU}"

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
    """The newest CUDA version that the NVIDIA driver supports, as 12040 for 12.4; None if there is no driver."""
    version = ctypes.c_int()
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
                return version.value
    return None


def right_wheel(version):
    """The CuPy wheel for a driver of this version, None if there is none. A driver also runs wheels for older CUDA."""
    major = min(version // 1000, 13)
    return f"cupy-cuda{major}x" if major >= 12 else None


def _installed_wheels():
    names = {distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x?|-rocm.*)?", name))


@contextlib.contextmanager
def enough_memory(advice):
    """While inside, running out of GPU memory raises an InputError that says how much was requested, held and free.

    advice: how to need less, for the end of the message.
    """
    try:
        yield
    except MemoryError as error:
        cupy = sys.modules.get("cupy")
        if cupy is None or not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
            raise
        asked = re.search(r"allocating ([\d,]+) bytes", str(error))
        asked = bytes_text(int(asked[1].replace(",", ""))) if asked else "more"
        held = cupy.get_default_memory_pool().used_bytes()
        free, total = cupy.cuda.runtime.memGetInfo()
        raise InputError(
            f"the card's memory is full: {asked} were requested, {bytes_text(held)} are held here, "
            f"{bytes_text(free)} of {bytes_text(total)} are free; {advice}"
        ) from error
