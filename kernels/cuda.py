"""CUDA kernels: NAME.cu lies beside NAME.py, is compiled by CuPy when first used, and launched from NAME_cuda.py.

A kernel takes flat arrays and numbers. `launch` turns Python's numbers into those that the kernels declare (int, float)
and refuses what a kernel would misread: an array with strides, an int that is too large.
"""

import contextlib
import re
import sys
from pathlib import Path

import numpy as np

NULL = np.uint64(0)  # in place of an array that is not there
FOLDER = Path(__file__).parent
_modules = {}
_as_in_a_graph = False


def launch(source, name, blocks, threads, *arguments, shared=0):
    """Run a kernel of SOURCE.cu, without waiting for it.

    name: the function, with its template's arguments as in `forward<true>`, one that a line `// instantiate:` of the
    file lists. blocks, threads: ints or tuples (x, y, z). arguments: CuPy arrays, NULL, Python numbers (int and bool
    become int, float becomes float), NumPy scalars as they are, a NumPy array that holds one record (a C struct).
    shared: bytes of dynamic shared memory.
    """
    kernel = _kernel(source, name)
    blocks, threads = (size if isinstance(size, tuple) else (size,) for size in (blocks, threads))
    if shared > 48 << 10:  # more than that only on demand
        kernel.max_dynamic_shared_size_bytes = shared
    kernel(blocks, threads, tuple(_argument(name, i, a) for i, a in enumerate(arguments)), shared_mem=shared)


def blocks_for(items, threads, most=1 << 16):
    """How many blocks of `threads` give each item a thread; at most `most`: kernels go on in strides of the grid."""
    return max(1, min(most, -(-items // threads)))


def channel_threads(channels, threads=256):
    """For maps (N, H, W, C): how many channels a thread takes at once (4 or 1), and a block (lanes, rows) of threads.

    The lanes of a row share the channels of a pixel, up to 32 of them: a warp then reads whole lines of memory.
    """
    vector = 1 if channels % 4 else 4
    lanes = min(32, 1 << max(channels // vector - 1, 0).bit_length())
    return vector, (lanes, threads // lanes)


def capturing():
    """Whether what runs now becomes part of a CUDA graph, or is a rehearsal for it: cuBLAS may not be called then."""
    return _as_in_a_graph or sys.modules["cupy"].cuda.get_current_stream().is_capturing()


@contextlib.contextmanager
def as_in_a_graph():
    """Inside, the kernels are those that a CUDA graph will be captured of, so that all of them are compiled."""
    global _as_in_a_graph
    before, _as_in_a_graph = _as_in_a_graph, True
    try:
        yield
    finally:
        _as_in_a_graph = before


def source_text(source):
    """The text of SOURCE.cu as it is compiled: common.cuh, then the file, with the .cuh files it includes."""
    return _expanded("common.cuh") + _expanded(f"{source}.cu")


def instantiations(text):
    """The templates' names that the lines `// instantiate: a<true>, a<false>` of a source list."""
    lines = re.findall(r"^// instantiate: (.*)$", text, re.MULTILINE)
    return tuple(name.strip() for line in lines for name in re.split(r",(?![^<]*>)", line))


def _expanded(name):
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((FOLDER / name).read_text(encoding="utf-8").splitlines(), 1):
        included = re.fullmatch(r'#include "(\w+\.cuh)"', line)
        lines.append(f'{_expanded(included[1])}#line {number + 1} "{name}"' if included else line)
    return "\n".join(lines) + "\n"


def _kernel(source, name):
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
    if isinstance(value, (bool, int)):
        if not -(2**31) <= value < 2**31:
            raise OverflowError(f"{name}: argument {i} does not fit into 32 bits: {value}")
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    if hasattr(value, "flags") and not isinstance(value, np.generic) and not value.flags.c_contiguous:
        raise ValueError(f"{name}: argument {i} must be a contiguous array, got strides {value.strides}")
    return value
