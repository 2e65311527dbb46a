"""Which device a name means, and what the message says if a card cannot be used."""

import importlib.metadata
import sys
import threading
import types

import numba
import numpy as np
import pytest

from minimask import device
from minimask.errors import InputError
from minimask.machine import card
from minimask.machine.threads import set_threads, threads
from minimask.run.show import bytes_text


def wheels(*names):
    return lambda: [types.SimpleNamespace(metadata={"Name": name}) for name in ("numpy", *names)]


def cupy(cards=1, error=None, product=2.0):
    """A fake CuPy.

    cards: the number of cards that it reports.
    error: if given, asking for the number of cards fails with this message.
    product: every element of the product of two matrices.
    """

    def count():
        if error:
            raise ImportError(f"\n=====\nFailed to import CuPy.\nOriginal error: {error}\n") from RuntimeError(error)
        return cards

    class Ones(np.ndarray):
        def __matmul__(self, other):
            return np.full((2, 2), product)

    used = []
    module = types.ModuleType("cupy")
    module.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=count),
        Device=lambda number: types.SimpleNamespace(use=lambda: used.append(number)),
    )
    module.ones = lambda shape, dtype: np.ones(shape, dtype).view(Ones)
    module.used = used
    return module


TOO_OLD = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
NO_COMPILER = "libnvrtc.so.12: cannot open shared object file\nmore about it"


@pytest.mark.parametrize(
    "installed, module, driver, message",
    [
        ((), None, None, "this machine has no NVIDIA driver, so there is no card to use; everything runs on "
         "the CPU too: leave the device out"),
        (("cupy-cuda12x",), cupy(error=TOO_OLD), None, "this machine has no NVIDIA driver"),
        ((), None, 12040, 'CuPy is not installed; for the driver here (CUDA 12.4): pip install "cupy-cuda12x[ctk]"'),
        ((), None, 13010, 'CuPy is not installed; for the driver here (CUDA 13.1): pip install "cupy-cuda13x[ctk]"'),
        ((), None, 15000, 'pip install "cupy-cuda13x[ctk]"'),
        (("cupy-cuda13x",), cupy(error=TOO_OLD), 12080, f"cupy-cuda13x cannot be used ({TOO_OLD}); for the driver here "
         '(CUDA 12.8): pip uninstall cupy-cuda13x, then pip install "cupy-cuda12x[ctk]"'),
        (("cupy-cuda11x", "cupy-cuda12x"), cupy(error="mixed"), 12080, "cupy-cuda11x and cupy-cuda12x cannot be used "
         "(mixed); for the driver here (CUDA 12.8): pip uninstall cupy-cuda11x cupy-cuda12x, then pip install"),
        (("cupy-cuda12x",), cupy(error=NO_COMPILER), 12080, "cupy-cuda12x cannot be used (libnvrtc.so.12: cannot open "
         'shared object file); for the driver here (CUDA 12.8): pip install "cupy-cuda12x[ctk]"'),
        (("cupy-cuda12x",), cupy(error="cudaErrorNoDevice: no CUDA-capable device is detected"), 12080, "the driver "
         "sees no card (CUDA_VISIBLE_DEVICES is '7')"),
        ((), None, 10020, "the driver is too old for CuPy (it supports CUDA 10.2); update it"),
    ],
    ids=["nothing", "no driver", "no CuPy", "no CuPy, 13", "newer than CuPy", "newer wheel", "two wheels", "no NVRTC",
         "no card", "old driver"],
)  # fmt: skip
def test_what_is_missing_is_named(monkeypatch, installed, module, driver, message):
    monkeypatch.setitem(sys.modules, "cupy", module)  # None: importing it raises ImportError
    monkeypatch.setattr(importlib.metadata, "distributions", wheels(*installed))
    monkeypatch.setattr(card, "driver_version", lambda: driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(InputError) as error:
        device.resolve("cuda")
    assert str(error.value).startswith("device cuda: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_devices(monkeypatch):
    assert device.resolve(None) == device.resolve("cpu") == "cpu"
    two = cupy(cards=2)
    monkeypatch.setitem(sys.modules, "cupy", two)
    assert device.resolve("cuda") == "cuda" and two.used == []  # the current card, whichever that is
    assert device.resolve("cuda:1") == "cuda" and two.used == [1]
    with pytest.raises(InputError, match="device cuda:2: this machine has 2 cards, counted from 0"):
        device.resolve("cuda:2")
    for name in ("gpu", "cuda1", "cuda:", "cuda:-1"):
        with pytest.raises(InputError, match='device must be "cpu", "cuda" or "cuda:1"'):
            device.resolve(name)
    monkeypatch.setitem(sys.modules, "cupy", cupy(product=1.0))
    with pytest.raises(InputError, match="the card computes wrong results"):
        device.resolve("cuda")


def test_memory_of_the_host_is_another_matter():
    with pytest.raises(MemoryError, match="the host's"):
        with card.enough_memory("do something"):
            raise MemoryError("the host's")


def test_each_python_thread_has_its_own_number_of_kernel_threads():
    """As in Numba: a new Python thread starts with the number that the program started with."""
    found = []
    before = threads()
    try:
        set_threads(1)
        thread = threading.Thread(target=lambda: found.append((threads(), numba.get_num_threads())))
        thread.start()
        thread.join()
        assert threads() == numba.get_num_threads() == 1
        assert found == [(numba.config.NUMBA_NUM_THREADS,) * 2]
    finally:
        set_threads(before)


def test_sizes_are_readable():
    assert [bytes_text(n) for n in (2_345_000_000, 170_200_000, 31_000)] == ["2.35 GB", "170.2 MB", "31 kB"]
