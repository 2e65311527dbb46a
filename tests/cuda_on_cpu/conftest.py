"""The fixture `gpu`: CuPy where there is a card, else a strict stand-in for it that runs the kernels on the CPU."""

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
    3: "warps shuffled again, each access to memory checked",
}
_checked_modules = {}  # these kernels are compiled in another way


def stand_in_or_skip():
    """(minicuda, stand_in), or the test is skipped with the reason."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("kernels run on the CPU on x86-64 Linux only", allow_module_level=True)
    if shutil.which("g++") is None:
        pytest.skip("running kernels on the CPU needs g++", allow_module_level=True)
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
    minicuda, stand_in = stand_in_or_skip()
    monkeypatch.setattr(minicuda, "ORDER", request.param)
    if request.param == 3:
        monkeypatch.setattr(minicuda, "CHECK", True)
        monkeypatch.setattr(cuda, "_modules", _checked_modules)
    for name, module in stand_in.MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield stand_in
