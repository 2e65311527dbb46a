"""CuPy's RawModule and RawKernel on a CPU: g++ compiles the CUDA source together with minicuda.h.

Each launch is checked against the limits of CUDA and the kernel's declaration; real CuPy passes on arguments of a wrong
type unchecked. ORDER chooses the schedule (see minicuda.h). With CHECK, every memory access is checked as well
(minicuda_check.h), which takes about three times as long.
"""

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / f"minimask-kernels-{os.getuid()}"
ORDER = 0
CHECK = False
# -fno-weak: the shared memory of templates and that of other functions can be in the same section.
FLAGS = [
    "-std=c++17",
    "-O2",
    "-march=native",
    "-fPIC",
    "-fno-weak",
    "-w",
    *os.environ.get("MINICUDA_CXXFLAGS", "").split(),
]
CHECK_FLAGS = [
    "-DMINICUDA_CHECK", "-g1", "-fno-threadsafe-statics", "-fsanitize=thread",
    "-fsanitize=bounds,alignment,integer-divide-by-zero,signed-integer-overflow,shift-exponent",
]  # fmt: skip
MOST_SHARED = 99 << 10  # bytes per block that every architecture except the oldest allows
MOST_THREADS = 256  # per block, unless __launch_bounds__ allows more: 65,536 registers are then 256 per thread

_KERNEL = re.compile(
    r"(?:template\s*<(?P<template>[^;{]*?)>\s*)?(?:extern\s+\"C\"\s+)?__global__\s+"
    r"(?:__launch_bounds__\s*\((?P<before>[^)]*)\)\s*)?void\s+(?:__launch_bounds__\s*\((?P<after>[^)]*)\)\s*)?"
    r"(?P<name>\w+)\s*\("
)
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?(?P<type>[\w:\s]+?)\s+(?P<name>\w+)\s*\[\s*\]\s*;"
)
_SHARED = re.compile(r"__shared__\s+([^;]*);")


class CompileError(Exception):
    """The compiler's messages."""


class KernelError(RuntimeError):
    """The kernel did something that fails or is undefined on a GPU."""


class RawModule:
    def __init__(self, *, code, options=(), backend="nvrtc", name_expressions=None):
        kernels = {match["name"]: match for match in _KERNEL.finditer(code)}
        plain = [name for name, match in kernels.items() if not match["template"]]
        self._names = list(dict.fromkeys([*plain, *(name_expressions or ())]))
        text = _DYNAMIC_SHARED.sub(r"\g<type> *\g<name> = (\g<type> *)mc::dynamic_shared;", code)
        text = _SHARED.sub(_shared, text)
        for i, name in enumerate(self._names):
            text += (
                f'\nextern "C" void mc_entry_{i}(void **values) {{ mc::entry<&{name}>(values); }}'
                f'\nextern "C" const char *mc_signature_{i}() {{ return mc::signature(&{name}); }}'
                f'\nextern "C" int mc_threads_{i}() {{ return {_bound(kernels[name.split("<")[0]])}; }}'
            )
        self._library = _library(text, [o for o in options if o.startswith(("-D", "-I"))], CHECK)

    def get_function(self, name):
        return self.kernel._of(self._library, self._names.index(name), name)


def _shared(declaration):
    """C++ code for `__shared__ T a, b[2];`: references to the members of a struct in the block's shared memory."""
    kind = f"Shared{declaration.start()}"
    members = re.sub(r"__align__\(\d+\)|\[[^]]*\]", "", declaration[1]).split(",")
    references = "".join(f" auto &{name} = mc::shared<{kind}>().{name};" for name in (m.split()[-1] for m in members))
    return f"struct {kind} {{ {declaration[1]}; }};{references}"


def _bound(kernel):
    """C++ code of the largest number of threads with which a kernel may be launched."""
    bounds = kernel["before"] or kernel["after"]
    if bounds is None:
        return str(MOST_THREADS)
    most = bounds.split(",")[0]
    parameters = re.findall(r"(\w+)\s*(?:,|=|$)", kernel["template"] or "")
    return "1024" if set(re.findall(r"\w+", most)) & set(parameters) else most


def _library(text, options, check):
    """The compiled code as a library, which is also cached on disk."""
    flags = [*FLAGS, *(CHECK_FLAGS if check else ()), *options]
    headers = [(HERE / name).read_text(encoding="utf-8") for name in ("minicuda.h", "minicuda_check.h")]
    key = hashlib.sha256("\0".join([text, *headers, *flags, _compiler()]).encode()).hexdigest()[:24]
    path = CACHE / f"{key}.so"
    if not path.exists():
        CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            # Linked in a separate step: with -fsanitize, the compiler would link its own run-time libraries too.
            built, linked = Path(folder) / "kernel.o", Path(folder) / "kernel.so"
            _run(["g++", *flags, "-include", str(HERE / "minicuda.h"), "-x", "c++", "-c", "-", "-o", str(built)], text)
            address = [flag for flag in flags if flag.startswith("-fsanitize=address")]
            _run(["g++", "-shared", *address, str(built), "-o", str(linked)], "")
            os.replace(linked, path)
    library = ctypes.CDLL(str(path))
    library.mc_launch.restype = ctypes.c_char_p
    library.path = path
    return library


@functools.cache
def _compiler():
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def _run(command, text):
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise CompileError(result.stderr)


class _Memory(ctypes.Structure):
    """struct Memory of minicuda.h."""

    _fields_ = [("begin", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("granule", ctypes.c_size_t)]


class RawKernel:
    @classmethod
    def _of(cls, library, i, name):
        self = cls.__new__(cls)
        self.name, self._library, self._entry = name, library, getattr(library, f"mc_entry_{i}")
        signature = getattr(library, f"mc_signature_{i}")
        signature.restype = ctypes.c_char_p
        self._declared = signature().decode().split()
        self._most_threads = getattr(library, f"mc_threads_{i}")()
        self._most_shared = 48 << 10
        return self

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        if size > MOST_SHARED:
            raise ValueError(f"{self.name}: a block can have at most {MOST_SHARED} bytes of shared memory")
        self._most_shared = size

    def __call__(self, grid, block, args, *, shared_mem=0):
        grid, block = (tuple(int(n) for n in size) + (1,) * (3 - len(size)) for size in (grid, block))
        self._check_sizes(grid, block, shared_mem)
        if len(args) != len(self._declared):
            raise TypeError(f"{self.name} takes {len(self._declared)} arguments, got {len(args)}")
        values = [self._value(i, a, declared) for i, (a, declared) in enumerate(zip(args, self._declared))]
        arrays = self._arrays(args)
        memory = (_Memory * len(arrays))(*[(a.ctypes.data, a.nbytes, a.itemsize) for a in arrays])
        error = self._library.mc_launch(
            self._entry, (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values]), (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block), ctypes.c_size_t(shared_mem), ORDER, memory, len(arrays),
        )  # fmt: skip
        if error:
            raise KernelError(f"{self.name}: {self._with_line(error.decode())}")

    @staticmethod
    def array_at(address):
        """The array that contains an address stored in a struct argument; None if there is none."""
        return None

    def _arrays(self, args):
        """All arrays that the kernel may read or write."""
        arrays = [a for a in args if isinstance(a, np.ndarray) and not a.dtype.fields]
        if not CHECK:
            return arrays
        structs = [a for a in args if isinstance(a, np.ndarray) and a.dtype.fields]
        pointers = [a[name].ravel() for a in structs for name in a.dtype.names if a.dtype[name].base == np.uint64]
        found = [self.array_at(int(p)) for p in np.unique(np.concatenate([*pointers, np.zeros(0, np.uint64)])) if p]
        return arrays + [a for a in found if a is not None]

    def _check_sizes(self, grid, block, shared):
        threads = block[0] * block[1] * block[2]
        if not (0 < threads <= 1024 and block[2] <= 64):
            raise ValueError(f"{self.name}: CUDA refuses the block {block}")
        if threads > self._most_threads:
            raise ValueError(
                f"{self.name}: a block of {threads} threads, but __launch_bounds__ allows {self._most_threads} "
                f"({MOST_THREADS} without it): there may not be enough registers"
            )
        if not (0 < grid[0] < 2**31 and 0 < grid[1] < 2**16 and 0 < grid[2] < 2**16):
            raise ValueError(f"{self.name}: CUDA refuses the grid {grid}")
        if shared > self._most_shared:
            raise ValueError(f"{self.name}: {shared} bytes of shared memory, but {self._most_shared} are allowed")

    def _value(self, i, value, declared):
        """A NumPy array that holds the bytes of an argument."""

        def wrong(what):
            return TypeError(f"{self.name}: argument {i} is {what}, the kernel declares {declared}")

        if isinstance(value, np.ndarray) and value.dtype.fields:  # a struct
            if declared != f"V{value.nbytes}":
                raise wrong(f"a struct of {value.nbytes} bytes")
            return value
        if isinstance(value, np.ndarray):
            pointed = declared[1:]
            if declared[0] != "P" or pointed not in ("?", _code(value.dtype)) and pointed[0] not in "V":
                raise wrong(f"an array of {value.dtype}")
            if not value.flags.c_contiguous:
                raise wrong(f"an array with strides {value.strides}, which kernels ignore")
            return np.array(value.ctypes.data, np.uint64)
        if isinstance(value, np.uint64) and value == 0 and declared[0] == "P":  # no array
            return np.array(value)
        number = np.array(value)  # Python's int and float become 64 bits, as in CuPy
        if not isinstance(value, (np.generic, int, float)) or _code(number.dtype) != declared:
            raise wrong(type(value).__name__)
        return number

    def _with_line(self, text):
        """The message, with the address in the library replaced by file:line."""
        text, _, address = text.partition(" @")
        if not address:
            return text
        try:
            found = subprocess.run(
                ["addr2line", "-e", str(self._library.path), hex(int(address) - 1)], capture_output=True, text=True
            ).stdout
        except OSError:  # binutils are not installed
            return text
        return f"{text}, at {Path(found.split()[0]).name}" if found else text


RawModule.kernel = RawKernel


def _code(dtype):
    return "b1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"
