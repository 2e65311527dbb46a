"""Compiles CUDA sources with NVRTC as CuPy does, and reads the resources that ptxas reports for each kernel.

This needs neither a driver nor a GPU. NVRTC comes from the package nvidia-cuda-nvrtc-cu12 (in the extra `test`).
"""

import ctypes
import functools
import importlib.util
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# What CuPy 14 passes to NVRTC for RawModule(options=("--std=c++17",)), and the option that makes ptxas report.
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")


class CompileError(Exception):
    """The message is the compiler's log."""


@dataclass
class Resources:
    """What a kernel needs on one architecture: registers per thread, and bytes of local (slow) and shared memory."""

    registers: int
    stack: int
    spilled: int
    shared: int


@functools.cache
def library():
    """libnvrtc of the installed package, or None if it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in map(Path, spec.submodule_search_locations if spec else ()):
        for builtins in sorted(folder.glob("cuda_nvrtc/lib/libnvrtc-builtins.so.12*")):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)  # NVRTC opens it by its bare name
        for path in sorted(folder.glob("cuda_nvrtc/lib/libnvrtc.so.12")):
            nvrtc = ctypes.CDLL(str(path))
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            return nvrtc
    return None


def compile_source(nvrtc, text, name, architecture, instantiations=()):
    """{kernel: Resources} of all kernels in a source, for sm_ARCHITECTURE. Raises CompileError with the log."""
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    try:
        for expression in instantiations:
            nvrtc.nvrtcAddNameExpression(program, expression.encode())
        options = [option.encode() for option in (f"-arch=sm_{architecture}", *OPTIONS)]
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        log = log.value.decode()
        if status:
            raise CompileError(log or nvrtc.nvrtcGetErrorString(status).decode())
        return _resources(log, _mangled(nvrtc, program, instantiations))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def compile_all(jobs, processes=2):
    """{job: {kernel: Resources} or the compiler's log} for jobs (text, name, architecture, instantiations).

    Several processes are used because NVRTC compiles only one source at a time in each.
    """
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return dict(zip(jobs, pool.map(_compile_job, jobs)))


def _compile_job(job):
    try:
        return compile_source(library(), *job)
    except CompileError as error:
        return str(error)


def _mangled(nvrtc, program, instantiations):
    """{name in the compiled code: name of the instantiated template in the source}"""
    names = {}
    for expression in instantiations:
        lowered = ctypes.c_char_p()
        nvrtc.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(lowered))
        names[lowered.value.decode()] = expression
    return names


def _resources(log, names):
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) .*stores, (\d+) ", part).groups())
        shared = re.search(r"(\d+) bytes smem", part)
        kernel = part[: part.index("'")]
        found[names.get(kernel, kernel)] = Resources(
            int(re.search(r"Used (\d+) registers", part)[1]), stack, stores + loads, int(shared[1]) if shared else 0
        )
    return found


def report(sources, architectures):
    """Print the resources of each kernel: `python -m tests.cuda_on_cpu.nvrtc [source ...]`."""
    from minimask.kernels import cuda

    print(f"{'source':16s} {'kernel':32s} sm  registers  spilled bytes  shared bytes")
    for source in sources or sorted(path.stem for path in cuda.FOLDER.glob("*.cu")):
        text = cuda.source_text(source)
        jobs = [(text, f"{source}.cu", architecture, cuda.instantiations(text)) for architecture in architectures]
        for (_, _, architecture, _), kernels in compile_all(jobs).items():
            if isinstance(kernels, str):
                raise SystemExit(kernels)
            for name, k in sorted(kernels.items()):
                print(f"{source:16s} {name:32s} {architecture:3d} {k.registers:9d} {k.spilled:14d} {k.shared:13d}")


if __name__ == "__main__":
    report(sys.argv[1:], (80, 90))
