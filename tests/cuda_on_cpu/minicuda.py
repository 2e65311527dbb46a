"""Compile CUDA C with g++ and minicuda.h, and launch it with checked arguments (no GPU)."""
import ctypes, hashlib, os, re, subprocess, tempfile
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ.get("MINICUDA_CACHE", os.path.join(tempfile.gettempdir(), "minicuda-cache"))
CXX = ["g++", "-std=c++17", "-O2", "-march=native", "-fPIC", "-shared", "-fno-weak", "-w",
       *os.environ.get("MINICUDA_CXXFLAGS", "").split()]
_KERNEL = re.compile(r"(template\s*<[^;{]*?>\s*)?(?:extern\s+\"C\"\s+)?__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+"
                     r"(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
_DYN = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s+(\w+)\s*\[\s*\]\s*;")
_CODES = {np.dtype(t): c for t, c in [("f4", "f4"), ("f8", "f8"), ("i1", "i1"), ("i2", "i2"), ("i4", "i4"), ("i8", "i8"),
                                      ("u1", "u1"), ("u2", "u2"), ("u4", "u4"), ("u8", "u8"), ("?", "b1")]}
ORDER = int(os.environ.get("MINICUDA_ORDER", "0"))     # 0 forward, 1 reverse, n>1 shuffled with seed n


class CompileError(Exception):
    pass


class RawModule:
    def __init__(self, *, code, options=(), backend="nvrtc", name_expressions=None, **_):
        kernels = [m.group(2) for m in _KERNEL.finditer(code) if not m.group(1)]
        exprs = list(dict.fromkeys([*kernels, *(name_expressions or ())]))
        body = _DYN.sub(lambda m: f"{m.group(1)} *{m.group(2)} = ({m.group(1)} *)mc::dynshared;", code)
        tail = "".join(f'\nextern "C" void mc_thunk_{i}(void **a) {{ mc::call<&{e}>(a); }}'
                       f'\nextern "C" const char *mc_sig_{i}() {{ return mc::sig(&{e}); }}' for i, e in enumerate(exprs))
        src = '#line 1 "kernel.cu"\n' + body + tail
        flags = [o for o in options if o.startswith(("-D", "-I"))]
        header = open(os.path.join(HERE, "minicuda.h")).read()
        key = hashlib.sha1("\0".join([src, header, *CXX, *flags]).encode()).hexdigest()[:20]
        so = os.path.join(CACHE, key + ".so")
        if not os.path.exists(so):
            os.makedirs(CACHE, exist_ok=True)
            tmp = f"{so}.{os.getpid()}"
            r = subprocess.run([*CXX, *flags, "-include", os.path.join(HERE, "minicuda.h"), "-x", "c++", "-", "-o", tmp],
                               input=src, text=True, capture_output=True,
                               env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"})
            if r.returncode:
                raise CompileError(r.stderr)
            os.replace(tmp, so)
        self._lib = ctypes.CDLL(so)
        self._lib.mc_launch.restype = ctypes.c_char_p
        self._lib.mc_static_shared.restype = ctypes.c_size_t
        self._index = {e: i for i, e in enumerate(exprs)}

    def get_function(self, name):
        return RawKernel._of(self._lib, self._index[name], name)


class RawKernel:
    def __init__(self, code, name, options=(), **kw):
        self.__dict__.update(RawModule(code=code, options=options, **kw).get_function(name).__dict__)

    @classmethod
    def _of(cls, lib, i, name):
        self = cls.__new__(cls)
        self.name, self._lib, self._thunk = name, lib, getattr(lib, f"mc_thunk_{i}")
        sig = getattr(lib, f"mc_sig_{i}")
        sig.restype = ctypes.c_char_p
        self.signature = sig().decode().split()
        self.max_dynamic_shared_size_bytes = 48 << 10
        return self

    def __call__(self, grid, block, args, *, shared_mem=0):
        grid, block = (tuple(int(v) for v in d) + (1,) * (3 - len(d)) for d in (grid, block))
        self._check_launch(grid, block, shared_mem)
        if len(args) != len(self.signature):
            raise TypeError(f"{self.name} takes {len(self.signature)} arguments, got {len(args)}")
        keep = [self._argument(i, a, want) for i, (a, want) in enumerate(zip(args, self.signature))]
        ptrs = (ctypes.c_void_p * len(keep))(*[k.ctypes.data for k in keep])
        err = self._lib.mc_launch(self._thunk, ptrs, (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block),
                                  ctypes.c_size_t(shared_mem), ORDER)
        if err:
            raise RuntimeError(f"{self.name}: {err.decode()}")

    def _check_launch(self, g, b, shared_mem):
        if not (0 < b[0] * b[1] * b[2] <= 1024 and b[0] <= 1024 and b[1] <= 1024 and 0 < b[2] <= 64):
            raise ValueError(f"{self.name}: CUDA refuses the block {b}")
        if not (0 < g[0] < 2**31 and 0 < g[1] < 65536 and 0 < g[2] < 65536):
            raise ValueError(f"{self.name}: CUDA refuses the grid {g}")
        if shared_mem > self.max_dynamic_shared_size_bytes or self._lib.mc_static_shared() > 48 << 10:
            raise ValueError(f"{self.name}: too much shared memory")

    def _argument(self, i, a, want):
        """One element holding the argument's bytes; real CuPy passes wrong types on unchecked."""
        def fail(what):
            raise TypeError(f"{self.name}: argument {i} is {what}, the kernel declares {want}")
        if isinstance(a, np.ndarray) and a.dtype.fields:         # a struct, by value
            if want != f"V{a.nbytes}":
                fail(f"a struct of {a.nbytes} bytes")
            return a
        if isinstance(a, np.ndarray):
            if want[0] != "P":
                fail(f"an array of {a.dtype}")
            if want[1:] not in ("?", _CODES.get(a.dtype)) and not want.startswith("PV"):
                fail(f"an array of {a.dtype}")
            if not a.flags.c_contiguous:
                fail("an array that is not C-contiguous (RawKernel ignores strides)")
            return np.array([a.ctypes.data], np.uint64)
        if a is None and want[0] == "P":
            return np.array([0], np.uint64)
        if isinstance(a, np.uint64) and a == 0 and want[0] == "P":
            return np.array([a])
        v = np.int64(a) if type(a) is int else np.float64(a) if type(a) is float else a   # as CuPy passes Python scalars
        if not isinstance(v, (np.generic,)) or _CODES.get(v.dtype) != want:
            fail(f"{type(a).__name__} passed as {getattr(v, 'dtype', '?')}")
        return np.array([v])
