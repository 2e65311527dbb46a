"""Launching CUDA kernels: CuPy compiles NAME.cu when it is first used, and NAME_cuda.py launches it.

A kernel takes flat arrays and numbers. `launch` converts Python's numbers to the types that kernels declare (int,
float) and refuses what a kernel would misread: an array with strides, an int of more than 32 bits.
"""

import contextlib
import re
import sys
from pathlib import Path

import numpy as np

NULL = np.uint64(0)  # instead of an array that is left out
FOLDER = Path(__file__).parent
_modules = {}
_as_in_a_graph = False


def launch(source, name, blocks, threads, *arguments, shared=0):
    """Start a kernel of SOURCE.cu without waiting for it.

    name: the function, with template arguments as in `forward<true>`; a line `// instantiate:` of the file lists it.
    blocks, threads: ints or tuples (x, y, z).
    arguments: CuPy arrays, NULL, Python numbers (int and bool become int, float becomes float), NumPy scalars (passed
        as they are), or a NumPy array that holds one record (a C struct).
    shared: bytes of dynamic shared memory.
    """
    kernel = _kernel(source, name)
    blocks, threads = (size if isinstance(size, tuple) else (size,) for size in (blocks, threads))
    if shared > 48 << 10:  # more than 48 KiB must be requested
        kernel.max_dynamic_shared_size_bytes = shared
    kernel(blocks, threads, tuple(_argument(name, i, a) for i, a in enumerate(arguments)), shared_mem=shared)


def float32_arrays(*arrays):
    """Whether all of these are float32 arrays, which is what most kernels take."""
    return all(getattr(array, "dtype", None) == np.float32 for array in arrays)


def blocks_for(items, threads, most=1 << 16):
    """How many blocks of `threads` threads give each item a thread, but at most `most`: kernels loop over the grid."""
    return max(1, min(most, -(-items // threads)))


def channel_threads(channels, threads=256):
    """For maps (N, H, W, C): the channels per step of a thread (4 or 1), and the block (lanes, rows) of threads.

    Up to 32 lanes share the channels of a pixel, so that a warp reads whole lines of memory.
    """
    vector = 1 if channels % 4 else 4
    lanes = min(32, 1 << max(channels // vector - 1, 0).bit_length())
    return vector, (lanes, threads // lanes)


def capturing():
    """Whether what runs now is being captured into a CUDA graph, or rehearsed for it: then cuBLAS may not be called."""
    return _as_in_a_graph or sys.modules["cupy"].cuda.get_current_stream().is_capturing()


@contextlib.contextmanager
def as_in_a_graph():
    """Inside, the same kernels run as in the capture of a CUDA graph, which compiles all of them beforehand."""
    global _as_in_a_graph
    before, _as_in_a_graph = _as_in_a_graph, True
    try:
        yield
    finally:
        _as_in_a_graph = before


def source_text(source):
    """SOURCE.cu as it is compiled: common.cuh, then the file itself, with the .cuh files that it includes."""
    return _expanded("common.cuh") + _expanded(f"{source}.cu")


def instantiations(text):
    """The template instances that a source lists in lines like `// instantiate: a<true>, a<false>`."""
    lines = re.findall(r"^// instantiate: (.*)$", text, re.MULTILINE)
    return tuple(name.strip() for line in lines for name in re.split(r",(?![^<]*>)", line))


def _expanded(name):
    """The text of a file with its includes, and #line directives that keep the compiler's line numbers right."""
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((FOLDER / name).read_text(encoding="utf-8").splitlines(), 1):
        included = re.fullmatch(r'#include "(\w+\.cuh)"', line)
        lines.append(f'{_expanded(included[1])}#line {number + 1} "{name}"' if included else line)
    return "\n".join(lines) + "\n"


def _kernel(source, name):
    """The compiled kernel, on the current card."""
    cupy = sys.modules["cupy"]
    key = cupy, cupy.cuda.Device().id, source
    if key not in _modules:
        text = source_text(source)
        names = instantiations(text)
        _modules[key] = cupy.RawModule(code=text, options=("--std=c++17",), name_expressions=names or None), {}
    module, functions = _modules[key]
    if name not in functions:
        functions[name] = module.get_function(name)
    return functions[name]


def _argument(name, i, value):
    """Argument i of kernel `name` in the type that the kernel declares."""
    if isinstance(value, (bool, int)):
        if not -(2**31) <= value < 2**31:
            raise OverflowError(f"{name}: argument {i} does not fit into 32 bits: {value}")
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    if hasattr(value, "flags") and not isinstance(value, np.generic) and not value.flags.c_contiguous:
        raise ValueError(f"{name}: argument {i} must be a contiguous array, got strides {value.strides}")
    return value
