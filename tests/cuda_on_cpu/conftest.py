"""The fixture `gpu`: CuPy where there is a card, else a strict stand-in for it that runs the kernels on the CPU."""

import platform
import shutil
import sys

import pytest

from minimask import device

SCHEDULES = {0: "in order", 1: "in reverse", 2: "warps shuffled", 3: "warps shuffled again"}


def _stand_in():
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("kernels run on the CPU on x86-64 Linux only")
    if shutil.which("g++") is None:
        pytest.skip("running kernels on the CPU needs g++")
    from tests.cuda_on_cpu import minicuda, stand_in

    return minicuda, stand_in


@pytest.fixture(params=SCHEDULES, ids=lambda order: f"schedule{order}")
def gpu(request, monkeypatch):
    """The module to use as cupy. On the CPU each test runs under four schedules of a kernel's threads."""
    if device.gpu_available():
        if request.param:
            pytest.skip("a card has its own schedule")
        import cupy

        yield cupy
        return
    minicuda, stand_in = _stand_in()
    monkeypatch.setattr(minicuda, "ORDER", request.param)
    for name, module in stand_in.MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield stand_in
