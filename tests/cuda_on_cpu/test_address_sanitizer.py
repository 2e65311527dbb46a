"""The kernels' tests under AddressSanitizer, an independent tool that finds reads and writes outside of arrays.

They run in a separate process because the tool must be loaded before Python (LD_PRELOAD).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minimask import device
from tests.cuda_on_cpu.conftest import stand_in_or_skip

HERE = Path(__file__).parent
# Tests that launch no kernel themselves, or that run whole training steps.
LEFT_OUT = ("address_sanitizer", "benchmark", "heads", "model", "nvrtc", "planted_bugs", "shim", "stand_in", "workers")
OUTSIDE = """
import numpy as np
from tests.cuda_on_cpu import minicuda
code = 'extern "C" __global__ void k(float *x, int n) { x[(int)threadIdx.x + n] += 1; }'
x = np.zeros(256, np.float32)
minicuda.RawModule(code=code).get_function("k")((1,), (32,), (x, np.int32(int(input()))))
print(x.sum())
"""


@pytest.fixture(scope="module")
def sanitized():
    """A function that runs Python with the given arguments under the sanitizer."""
    if device.gpu_available():
        pytest.skip("kernels run on the GPU here: use `make sanitize`")
    stand_in_or_skip()
    library = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("this g++ has no AddressSanitizer")
    environment = dict(
        os.environ,
        LD_PRELOAD=library,
        PYTHONMALLOC="malloc",  # so that the tool sees what Python allocates
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0",  # because fibers switch stacks
        MINICUDA_CXXFLAGS="-fsanitize=address -fno-omit-frame-pointer -g1",
    )

    def run(*arguments, text=""):
        command = [sys.executable, *arguments]
        root = HERE.parent.parent
        return subprocess.run(command, env=environment, cwd=root, input=text, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("first, error", [(0, None), (225, "heap-buffer-overflow"), (-1, "heap-buffer-overflow")])
def test_the_tool_works(sanitized, first, error):
    result = sanitized("-c", OUTSIDE, text=str(first))
    if error is None:
        assert result.stdout == "32.0\n", result.stderr
    else:
        assert result.returncode != 0 and error in result.stderr and "in k " in result.stderr


def test_kernels_stay_inside_their_arrays(sanitized):
    files = [path for path in sorted(HERE.glob("test_*.py")) if path.stem[5:] not in LEFT_OUT]
    assert len(files) > 10
    result = sanitized("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "schedule0", *map(str, files))
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    assert " passed" in result.stdout or "100%" in result.stdout
