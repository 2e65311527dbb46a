"""The fixture `gpu`: CuPy if there is a GPU, otherwise a strict stand-in for CuPy that runs the kernels on the CPU."""

import platform
import shutil
import sys

import pytest

from minimask import device
from minimask.kernels import cuda

SCHEDULES = {
    0: "in order",
    1: "in reverse",
    2: "warps shuffled",
    3: "warps shuffled differently, and every memory access checked",
}
_checked_modules = {}  # kernels of schedule 3, which are compiled with checks


def stand_in_or_skip():
    """Returns (minicuda, stand_in), or skips the test and says why."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("kernels run on the CPU only on x86-64 Linux", allow_module_level=True)
    if shutil.which("g++") is None:
        pytest.skip("running kernels on the CPU needs g++", allow_module_level=True)
    from tests.cuda_on_cpu import minicuda, stand_in

    return minicuda, stand_in


@pytest.fixture(params=SCHEDULES, ids=lambda order: f"schedule{order}")
def gpu(request, monkeypatch):
    """The module to use as cupy. On the CPU, each test runs under four schedules of a kernel's threads."""
    if device.gpu_available():
        if request.param:
            pytest.skip("a GPU has its own schedule")
        import cupy

        yield cupy
        return
    minicuda, stand_in = stand_in_or_skip()
    monkeypatch.setattr(minicuda, "ORDER", request.param)
    if request.param == 3:
        monkeypatch.setattr(minicuda, "CHECK", True)
        monkeypatch.setattr(cuda, "_modules", _checked_modules)
    for name, module in stand_in.MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield stand_in
