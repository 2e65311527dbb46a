"""A strict stand-in for CuPy on the CPU: the GPU code of the whole model runs on it, including the kernels.

`install()` makes it the module `cupy`. It computes with NumPy, runs CUDA sources through minicuda, and raises an error
- where CuPy raises: NumPy arrays passed to its functions, implicit conversion to NumPy, names and arguments that CuPy
  lacks (cupy_names.json lists what it has), cuBLAS and waiting while a graph is captured;
- where CuPy goes on with wrong or undefined numbers: indices out of range, assignment through repeated indices, kernel
  arguments that do not have the declared type;
- within no_sync(), where CuPy makes the host wait for the GPU.

Streams, events, graphs and memory are in stand_in_cuda.py.
"""

import functools
import inspect
import json
import operator
import sys
import threading
import types
from pathlib import Path

import numpy as np

from tests.cuda_on_cpu import minicuda
from tests.cuda_on_cpu import stand_in_cuda as cuda
from tests.cuda_on_cpu.stand_in_cuda import SynchronizationError, host_waits, no_sync  # noqa: F401

__version__ = "stand-in"
_SCALARS = (bool, int, float, complex, np.generic)
_NAMES = json.loads((Path(__file__).parent / "cupy_names.json").read_text(encoding="utf-8"))

# How CuPy's functions differ from NumPy's.
_READS_SIZES = {  # the size of the result, or an error, depends on values that the host must read
    "argwhere", "bincount", "compress", "digitize", "extract", "flatnonzero", "histogram", "isin", "nonzero", "place",
    "setdiff1d", "trim_zeros", "union1d", "unique",
}  # fmt: skip
_SORTS = {
    "argpartition",
    "argsort",
    "lexsort",
    "median",
    "partition",
    "percentile",
    "quantile",
    "sort",
}  # they use Thrust, which waits
_CUBLAS = {"dot", "einsum", "inner", "matmul", "outer", "tensordot", "vdot", "vecdot"}
_GIVES_ARRAY = {"allclose", "array_equal", "array_equiv"}  # return 0-d arrays instead of bools
_ATOMIC = [np.dtype(code) for code in ("i4", "u4", "i8", "u8", "f2", "f4", "f8")]


def _unwrap(value):
    """The argument to pass to NumPy's function for an argument of CuPy's function."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_unwrap, value))
    return value


def _arrays(value):
    """All NumPy arrays in unwrapped arguments."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (tuple, list)):
        return [array for item in value for array in _arrays(item)]
    return []


def _apply(function, args, kwargs, gives_array=False):
    """Call function(*args, **kwargs) with NumPy arrays, on the current stream."""
    args, kwargs = _unwrap(args), {name: _unwrap(value) for name, value in kwargs.items()}
    reads = _arrays(args) + _arrays(tuple(kwargs.values()))
    kind = []  # of the result: None for one array, tuple or list for several, otherwise the value itself

    def run():
        with np.errstate(all="ignore"):
            value = function(*args, **kwargs)
        if isinstance(value, (tuple, list)) and any(isinstance(v, (np.ndarray, np.generic)) for v in value):
            kind[:] = [type(value)]
            return [np.asarray(v) for v in value]
        if gives_array or isinstance(value, (np.ndarray, np.generic)):
            kind[:] = [None]
            return [np.asarray(value)]
        kind[:] = [value]  # a shape, a dtype, a bool
        return []

    if kwargs.get("out") is not None:
        targets = _arrays(kwargs["out"]) or [kwargs["out"]]
        cuda.change(run, targets)
        return None
    results = [ndarray._of(a) for a in cuda.compute(run, reads)]
    if not results:
        return kind[0]
    if kind[0] is None:
        return results[0]
    return kind[0](*results) if hasattr(kind[0], "_fields") else kind[0](results)


def _numeric(dtype):
    if dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    __slots__ = ("_a", "__weakref__")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        self._a = np.empty(shape, _numeric(np.dtype(dtype)), order=order)
        cuda.allocate(self._a)
        cuda.spoil(self._a)

    @classmethod
    def _of(cls, array):
        _numeric(array.dtype)
        self = cls.__new__(cls)
        self._a = array
        return self

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, function, method, *inputs, **kwargs):
        if method != "__call__":
            return NotImplemented
        return _ufunc(function)(*inputs, **kwargs)

    def __array_function__(self, function, classes, args, kwargs):
        return getattr(sys.modules[__name__], function.__name__)(*args, **kwargs)

    # operations that make the host wait

    def get(self, stream=None, order="C", out=None, blocking=True):
        with stream or cuda.get_current_stream():
            if out is None:
                out = np.empty(self.shape, self.dtype, order=order)
            elif out.shape != self.shape or out.dtype != self.dtype:
                raise TypeError(f"get: out is {out.dtype}{out.shape}, the array {self.dtype}{self.shape}")
            cuda.fetch(self._a, out, blocking)
        return out

    def set(self, arr, stream=None):
        if arr.shape != self.shape or arr.dtype != self.dtype:
            raise TypeError(f"set: an array {arr.dtype}{arr.shape} for {self.dtype}{self.shape}")
        with stream or cuda.get_current_stream():
            cuda.send(arr, self._a)

    def _read(self, what):
        host_waits(what)
        cuda.get_current_stream().wait_on_host()
        return self._a

    def item(self, *args):
        return self._read(".item()").item(*args)

    def tolist(self):
        return self._read(".tolist()").tolist()

    def __bool__(self):
        return bool(self._read("bool()"))

    def __int__(self):
        return int(self._read("int()"))

    def __float__(self):
        return float(self._read("float()"))

    def __complex__(self):
        return complex(self._read("complex()"))

    def __index__(self):
        return operator.index(self._read("index()")[()])

    def __repr__(self):
        return repr(self._read("repr()"))

    # indexing

    def __getitem__(self, key):
        key = _key(key)
        for part in _parts(key):
            if isinstance(part, np.ndarray) and part.dtype == bool:
                host_waits("reading through a boolean mask")
        return _apply(lambda a, *_: a[key], (self, *map(ndarray._of, _arrays(key))), {})

    def __setitem__(self, key, value):
        if not isinstance(value, (ndarray, *_SCALARS)):
            raise TypeError(f"Unsupported type {type(value)}")
        key, value = _key(key), _unwrap(value)
        if np.size(value) > 1:
            for part in _parts(key):
                if isinstance(part, np.ndarray) and part.dtype == bool:
                    host_waits("writing an array through a boolean mask")

        def write():
            if np.size(value) > 1 and any(isinstance(part, np.ndarray) and part.dtype != bool for part in _parts(key)):
                times = np.zeros(self.shape, np.int32)
                np.add.at(times, key, 1)
                if times.max(initial=0) > 1:
                    raise RuntimeError(
                        "assignment through repeated indices: on a GPU, it is undefined which value remains"
                    )
            with np.errstate(all="ignore"):
                self._a[key] = value

        cuda.change(write, [self._a])

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __matmul__(self, other):
        return __getattr__("matmul")(self, other)

    def __rmatmul__(self, other):
        return __getattr__("matmul")(other, self)

    # in-place operations

    def fill(self, value):
        if isinstance(value, ndarray):
            value = value._a  # 0-d
        cuda.change(lambda: self._a.fill(value), [self._a])

    def scatter_add(self, slices, value):
        __getattr__("add").at(self, slices, value)

    def put(self, indices, values, mode="wrap"):
        self.ravel()[indices] = values

    # attributes

    shape = property(lambda self: self._a.shape, lambda self, shape: setattr(self._a, "shape", shape))
    T = property(lambda self: self.transpose())
    base = property(lambda self: None if self._a.base is None else ndarray._of(cuda.owner(self._a)))
    device = property(lambda self: cuda.Device())
    data = property(lambda self: types.SimpleNamespace(ptr=self._a.ctypes.data, device_id=0))


for _name in ("dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"):
    setattr(ndarray, _name, property(lambda self, name=_name: getattr(self._a, name)))


def _key(key):
    """An index in the form that NumPy takes. In slices, CuPy's 0-d arrays make the host wait (`__index__`)."""
    if isinstance(key, tuple):
        return tuple(map(_key, key))
    if isinstance(key, slice):
        return slice(*(None if i is None else operator.index(i) for i in (key.start, key.stop, key.step)))
    return _unwrap(key)


def _parts(key):
    return key if isinstance(key, tuple) else (key,)


# ---------------------------------------------------------------- functions


def _signature(parameters):
    """The inspect.Signature for a list in cupy_names.json: [[name, kind, has a default], ...]."""
    if parameters is None:
        return None
    return inspect.Signature(
        [
            inspect.Parameter(n, inspect._ParameterKind(k), default=None if d else inspect.Parameter.empty)
            for n, k, d in parameters
        ]
    )


def _check(name, signature, args, kwargs):
    if signature is not None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"cupy.{name}: {error}") from None
    if name in _READS_SIZES or name == "where" and len(args) + len(kwargs) == 1:
        host_waits(name)
    if name == "repeat" and any(isinstance(a, ndarray) for a in args[1:2]):
        host_waits("repeat by an array")
    if name in _SORTS:
        host_waits(name)
    if name in _CUBLAS and cuda.capturing():
        raise NotImplementedError(f"{name}: calling cuBLAS API during stream capture is currently unsupported")


def _function(name, function, signature, method=False):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        _check(f"ndarray.{name}" if method else name, signature, args, kwargs)
        if method:
            _check(name, None, args, kwargs)
        result = _apply(function, args, kwargs, name in _GIVES_ARRAY)
        return kwargs["out"] if kwargs.get("out") is not None else result

    return wrapped


class _Ufunc:
    def __init__(self, function):
        self.function, self.name = function, function.__name__

    def __call__(self, *args, out=None, dtype=None, casting=None):
        for value in args:
            if not isinstance(value, (ndarray, *_SCALARS)):
                raise TypeError(f"cupy.{self.name}: Unsupported type {type(value)}")
        if len(args) > self.function.nin:
            *args, out = args
        out = out[0] if isinstance(out, tuple) else out
        kwargs = {"dtype": dtype, "casting": casting, "out": out}
        result = _apply(self.function, tuple(args), {k: v for k, v in kwargs.items() if v is not None})
        return result if out is None else out

    def at(self, array, indices, values):
        if array.dtype not in _ATOMIC or self.name not in ("add", "subtract", "maximum", "minimum"):
            raise NotImplementedError(f"cupy.{self.name}.at on {array.dtype}")
        key, values = _key(indices), _unwrap(values)
        for part in _parts(key):
            if isinstance(part, np.ndarray) and part.dtype == bool:
                host_waits("ufunc.at through a boolean mask")
        cuda.change(lambda: self.function.at(array._a, key, values), [array._a])

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        return _apply(self.function.reduce, (array,), {"axis": axis, "dtype": dtype, "keepdims": keepdims})

    def accumulate(self, array, axis=0, dtype=None, out=None):
        return _apply(self.function.accumulate, (array,), {"axis": axis, "dtype": dtype})


@functools.cache
def _ufunc(function):
    if function.__name__ not in _NAMES["cupy"]:
        raise AttributeError(f"module 'cupy' has no attribute {function.__name__!r}")
    return __getattr__(function.__name__)


_made = {}  # not in globals(), because cupy.max must not hide max in this file


def __getattr__(name):
    if name in _made:
        return _made[name]
    if name not in _NAMES["cupy"]:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    value = getattr(np, name)
    if isinstance(value, np.ufunc) and name not in _CUBLAS:
        value = _Ufunc(value)
    elif callable(value) and not isinstance(value, type):
        value = _function(name, value, _signature(_NAMES["cupy"][name]))
    return _made.setdefault(name, value)


for _name, _parameters in _NAMES["cupy.ndarray"].items():
    if _name not in vars(ndarray) and callable(getattr(np.ndarray, _name, None)):
        setattr(ndarray, _name, _function(_name, getattr(np.ndarray, _name), _signature(_parameters), method=True))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """The only function through which data of the host gets in."""
    if isinstance(obj, ndarray):
        result = obj if not copy and dtype in (None, obj.dtype) else obj.astype(dtype or obj.dtype)
    elif isinstance(obj, (list, tuple)) and any(isinstance(item, ndarray) for item in obj):
        result = __getattr__("stack")([asarray(item, dtype) for item in obj])
    else:
        host = np.asarray(obj)
        if dtype is None or host.dtype == dtype:
            values = host
        else:
            values = host.astype(dtype)
        result = ndarray(values.shape, values.dtype)
        cuda.send(values, result._a)
    return result.reshape((1,) * (ndmin - result.ndim) + result.shape) if ndmin > result.ndim else result


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, copy=bool(copy))


def ascontiguousarray(a, dtype=None):
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return ndarray(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def get_array_module(*args):
    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else np


def get_default_memory_pool():
    return cuda.default_pool


def get_default_pinned_memory_pool():
    return _pinned_pool


_pinned_pool = cuda.PinnedMemoryPool()

# ---------------------------------------------------------------- kernels

_shim = threading.Lock()  # minicuda runs one kernel at a time


class RawKernel(minicuda.RawKernel):
    array_at = staticmethod(cuda.array_at)

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        stream = stream or cuda.get_current_stream()
        arrays = [a._a for a in args if isinstance(a, ndarray)]
        for a in args:
            if isinstance(a, np.ndarray) and not (a.dtype.fields and a.size == 1):  # one record is a C struct
                raise TypeError(f"{self.name}: a numpy.ndarray as a kernel argument")
        grid = tuple(max(1, int(g)) for g in grid)  # as CuPy does
        args = tuple(a._a if isinstance(a, ndarray) else a for a in args)

        def run():
            with _shim:
                minicuda.RawKernel.__call__(self, grid, block, args, shared_mem=shared_mem)

        with stream:
            if not stream.computes:
                stream.begin_to_compute()
            cuda.change(run, arrays)


class RawModule(minicuda.RawModule):
    kernel = RawKernel


# ---------------------------------------------------------------- cupyx


def _pinned(shape, dtype=float, order="C"):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, buffer=cuda.alloc_pinned_memory(size), order=order)


cupyx = types.ModuleType("cupyx")
cupyx.empty_pinned = cupyx.zeros_pinned = _pinned
cupyx.empty_like_pinned = cupyx.zeros_like_pinned = lambda a, dtype=None: _pinned(a.shape, dtype or a.dtype)
cupyx.scatter_add = lambda a, slices, value: a.scatter_add(slices, value)


MODULES = {"cupy": sys.modules[__name__], "cupy.cuda": cuda, "cupyx": cupyx}


def install():
    """Replace CuPy by the stand-in for the rest of this process."""
    sys.modules.update(MODULES)
