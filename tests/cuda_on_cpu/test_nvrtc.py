"""Every .cu compiles for every supported architecture, and fast kernels keep their numbers in registers."""

import itertools
import platform

import pytest

from minimask.kernels import cuda
from tests.cuda_on_cpu import nvrtc

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # T4, A100, RTX 30, RTX 40, H100, B200, RTX 50
SOURCES = sorted(path.stem for path in cuda.FOLDER.glob("*.cu"))
NO_SPILLS = [name for name in SOURCES if name.startswith(("conv", "depthwise", "roi_align"))]


@pytest.fixture(scope="module")
def compiler():
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("the package with NVRTC exists only for x86-64 Linux")
    library = nvrtc.library()
    if library is None:
        pytest.skip("NVRTC is missing: pip install nvidia-cuda-nvrtc-cu12")
    return library


@pytest.fixture(scope="module")
def compiled(compiler):
    """{(source, architecture): {kernel: Resources}, or the compiler's log}"""
    jobs = {}
    for source, architecture in itertools.product(SOURCES, ARCHITECTURES):
        text = cuda.source_text(source)
        jobs[source, architecture] = (text, f"{source}.cu", architecture, cuda.instantiations(text))
    results = nvrtc.compile_all(list(jobs.values()))
    return {key: results[job] for key, job in jobs.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"sm_{a}")
@pytest.mark.parametrize("source", SOURCES)
def test_compiles(compiled, source, architecture):
    kernels = compiled[source, architecture]
    assert not isinstance(kernels, str), kernels
    names = set(cuda.instantiations(cuda.source_text(source)))
    assert kernels and names <= set(kernels)


@pytest.mark.parametrize("source", NO_SPILLS)
def test_nothing_is_spilled(compiled, source):
    """If registers do not suffice, numbers are kept in memory, which is tens of times slower."""
    spilled = {
        f"sm_{architecture} {name}": kernel
        for architecture in ARCHITECTURES
        for name, kernel in compiled[source, architecture].items()
        if kernel.spilled or kernel.stack
    }
    assert not spilled


def test_the_check_finds_an_error(compiler):
    with pytest.raises(nvrtc.CompileError, match="undefined"):
        nvrtc.compile_source(compiler, 'extern "C" __global__ void k(int *x) { *x = missing; }', "k.cu", 80)


def test_the_check_finds_spilled_registers(compiler):
    """100 numbers that are all needed later do not fit in the 32 registers that each of 2,048 threads can have."""
    text = """
        extern "C" __global__ void __launch_bounds__(1024, 2) k(float *x) {
          float v[100];
          for (int i = 0; i < 100; i++) v[i] = x[i * 1024 + threadIdx.x];
          __syncthreads();
          for (int i = 0; i < 100; i++) x[i * 1024 + threadIdx.x] = v[i] * v[99 - i];
        }
        template <int N> __global__ void twice(float *x) { *x *= N; }"""
    kernels = nvrtc.compile_source(compiler, text, "k.cu", 80, ["twice<3>"])
    assert kernels["k"].registers <= 32 and kernels["k"].spilled > 100
    assert kernels["twice<3>"].spilled == kernels["twice<3>"].stack == 0
