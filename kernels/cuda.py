"""CUDA kernels: NAME.cu lies beside NAME.py, is compiled by CuPy when first used, and launched from NAME_cuda.py.

A kernel takes flat arrays and numbers. `launch` turns Python's numbers into those that the kernels declare (int, float)
and refuses what a kernel would misread: an array with strides, an int that is too large.
"""

import re
import sys
from pathlib import Path

import numpy as np

NULL = np.uint64(0)  # in place of an array that is not there
FOLDER = Path(__file__).parent
_modules = {}


def launch(source, name, blocks, threads, *arguments, shared=0):
    """Run a kernel of SOURCE.cu, without waiting for it.

    name: the function, with its template's arguments as in `forward<true>`, one that a line `// instantiate:` of the
    file lists. blocks, threads: ints or tuples (x, y, z). arguments: CuPy arrays, NULL, Python numbers (int and bool
    become int, float becomes float), NumPy scalars as they are. shared: bytes of dynamic shared memory.
    """
    kernel = _kernel(source, name)
    blocks, threads = (size if isinstance(size, tuple) else (size,) for size in (blocks, threads))
    kernel(blocks, threads, tuple(_argument(name, i, a) for i, a in enumerate(arguments)), shared_mem=shared)


def blocks_for(items, threads, most=1 << 16):
    """How many blocks of `threads` give each item a thread; at most `most`: kernels go on in strides of the grid."""
    return max(1, min(most, -(-items // threads)))


def source_text(source):
    """The text of SOURCE.cu as it is compiled: common.cuh, then the file."""
    common, own = FOLDER / "common.cuh", FOLDER / f"{source}.cu"
    parts = [f'#line 1 "{path.name}"\n{path.read_text(encoding="utf-8")}' for path in (common, own)]
    return "\n".join(parts)


def instantiations(text):
    """The templates' names that the lines `// instantiate: a<true>, a<false>` of a source list."""
    lines = re.findall(r"^// instantiate: (.*)$", text, re.MULTILINE)
    return tuple(name.strip() for line in lines for name in re.split(r",(?![^<]*>)", line))


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
