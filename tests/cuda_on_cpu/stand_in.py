"""A strict stand-in for CuPy 14 that runs on the CPU, for tests of GPU code paths.

`sys.modules["cupy"] = fakecupy` (and cupyx).  As CuPy does, it refuses numpy arrays and implicit conversion, returns 0-d
arrays from reductions, accepts only names and keywords that CuPy has (read from the real package, which imports without a
GPU), and raises on what is undefined on a GPU.  `no_sync()` makes every host synchronisation an error.  RawModule runs
the same CUDA source through minicuda."""
import contextlib, functools, inspect, sys, types
import numpy as np
from tests.cuda_on_cpu import minicuda

try:
    import cupy as _real                  # only for names and signatures
except ImportError:
    _real = None
_scalars = (bool, int, float, complex, np.generic)
_state = types.SimpleNamespace(forbid=False, capturing=False, syncs=[])


def _sync(what):
    """Called where CuPy would block the host."""
    if _state.capturing or _state.forbid:
        raise RuntimeError(f"{what} synchronises with the device")
    f = sys._getframe(2)
    while f and f.f_code.co_filename == __file__:
        f = f.f_back
    _state.syncs.append(f"{what} at {f.f_code.co_filename}:{f.f_lineno}")


@contextlib.contextmanager
def no_sync():
    old, _state.forbid = _state.forbid, True
    try:
        yield
    finally:
        _state.forbid = old


def _wrap(v):
    if isinstance(v, tuple) and hasattr(v, "_fields"):
        return type(v)(*map(_wrap, v))
    if isinstance(v, (tuple, list)):
        return type(v)(map(_wrap, v))
    return ndarray._of(np.asarray(v)) if isinstance(v, (np.ndarray, np.generic)) else v


def _unwrap(v, lists=True):
    if isinstance(v, ndarray):
        return v._a
    if isinstance(v, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(v, (tuple, list)) and lists:
        return type(v)(map(_unwrap, v))
    return v


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    __slots__ = ("_a",)
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, **_):
        self._a = np.empty(shape, dtype)
        self._a.view(np.uint8).fill(0xC5) if self._a.ndim else None     # empty() is not zeros()

    @classmethod
    def _of(cls, a):
        if a.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {a.dtype}")
        self = cls.__new__(cls)
        self._a = a
        return self

    def __array__(self, *a, **k):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly.")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kw):
        for x in (*inputs, *(out or ())):
            if not isinstance(x, (ndarray, *_scalars)):
                raise TypeError(f"Unsupported type {type(x)}")
        if method == "at":
            if inputs[0].dtype not in map(np.dtype, ("i4", "i8", "u4", "u8", "f2", "f4", "f8")) or ufunc not in (np.add, np.subtract, np.maximum, np.minimum):
                raise NotImplementedError(f"cupy.{ufunc.__name__}.at on {inputs[0].dtype}")
        if not hasattr(_real or np, ufunc.__name__):
            return NotImplemented
        if out is not None:
            kw["out"] = tuple(map(_unwrap, out))
            with np.errstate(all="ignore"):
                getattr(ufunc, method)(*map(_unwrap, inputs), **kw)
            return out[0]
        with np.errstate(all="ignore"):
            return _wrap(getattr(ufunc, method)(*map(_unwrap, inputs), **kw))

    def __array_function__(self, func, types_, args, kw):
        if not all(issubclass(t, ndarray) for t in types_):
            raise TypeError("numpy and cupy arrays mixed")
        return getattr(sys.modules[__name__], func.__name__)(*args, **kw)

    # what blocks the host
    def get(self, *a, **k): _sync(".get()"); return self._a.copy()
    def item(self, *a): _sync(".item()"); return self._a.item(*a)
    def tolist(self): _sync(".tolist()"); return self._a.tolist()
    def __float__(self): _sync("float()"); return float(self._a)
    def __int__(self): _sync("int()"); return int(self._a)
    def __index__(self): _sync("index()"); return self._a.__index__()
    def __bool__(self): _sync("bool()"); return bool(self._a)
    def nonzero(self): _sync("nonzero()"); return _wrap(self._a.nonzero())

    def _key(self, k, write):
        if isinstance(k, tuple):
            return tuple(self._key(i, write) for i in k)
        if isinstance(k, ndarray):
            if k.dtype == bool and not write:
                _sync("boolean-mask indexing")
            return k._a
        return _unwrap(k)

    def __getitem__(self, k): return _wrap(self._a[self._key(k, False)])

    def __setitem__(self, k, v):
        if not isinstance(v, (ndarray, *_scalars)) and not isinstance(v, (list, tuple)):
            raise TypeError(f"Unsupported type {type(v)}")
        key = self._key(k, True)
        if any(isinstance(i, np.ndarray) and i.dtype.kind in "iu" and i.ndim for i in (key if isinstance(key, tuple) else (key,))):
            where = np.zeros(self.shape, np.int32)
            np.add.at(where, key, 1)
            if where.max(initial=0) > 1 and isinstance(v, ndarray) and v.size > 1:
                raise RuntimeError("assignment through repeated indices: undefined on a GPU")
        self._a[key] = _unwrap(v)

    def __len__(self): return len(self._a)
    def __iter__(self): return (self[i] for i in range(len(self)))
    def __repr__(self): return "fake" + repr(self._a)
    def __matmul__(self, o): return __getattr__("matmul")(self, o)
    def __rmatmul__(self, o): return __getattr__("matmul")(o, self)

    @property
    def data(self): return types.SimpleNamespace(ptr=self._a.ctypes.data)
    @property
    def __cuda_array_interface__(self): return self._a.__array_interface__
    @property
    def T(self): return _wrap(self._a.T)


for _n in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"):
    setattr(ndarray, _n, property(functools.partial(lambda n, s: getattr(s._a, n), _n)))
ndarray.shape = ndarray.shape.setter(lambda s, v: setattr(s._a, "shape", v))


def _method(n):
    def f(self, *a, **k):
        r = getattr(self._a, n)(*map(_unwrap, a), **{i: _unwrap(v) for i, v in k.items()})
        return self if r is self._a else _wrap(r)
    return f


for _n in ("reshape transpose swapaxes ravel astype copy fill sum mean max min argmax argmin any all std var prod cumsum argsort sort "
           "argpartition partition take repeat clip dot squeeze flatten round view conj put choose diagonal trace").split():
    setattr(ndarray, _n, _method(_n))

_SYNC = {"nonzero", "flatnonzero", "argwhere", "unique", "array_equal", "allclose", "asnumpy", "compress", "extract", "count_nonzero_"}
_CUBLAS = {"matmul", "dot", "tensordot", "einsum", "inner", "vdot"}


_made = {}                              # not globals(): cupy.max must not shadow max here


def __getattr__(name):
    if name in _made:
        return _made[name]
    if name.startswith("__"):
        raise AttributeError(name)
    if _real is not None and not hasattr(_real, name):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    f = getattr(np, name)
    if isinstance(f, (type, type(np.pi), type(None))) or not callable(f):
        return f
    if isinstance(f, np.ufunc) and name not in _CUBLAS:
        return _made.setdefault(name, _Ufunc(f))
    try:
        sig = inspect.signature(getattr(_real, name)) if _real else None
    except (TypeError, ValueError):
        sig = None

    @functools.wraps(f)
    def g(*a, **k):
        if sig is not None:
            sig.bind(*a, **k)                                # TypeError for keywords CuPy lacks
        if name in _SYNC or name == "where" and len(a) == 1:
            _sync(name)
        if name in _CUBLAS and _state.capturing:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        with np.errstate(all="ignore"):
            r = _wrap(f(*map(_unwrap, a), **{i: _unwrap(v) for i, v in k.items()}))
        return k["out"] if k.get("out") is not None else r
    _made[name] = g
    return g


class _Ufunc:
    def __init__(self, f): self._f = f
    def __call__(self, *a, **k):
        if not any(isinstance(x, ndarray) for x in a):
            a = [ndarray._of(np.asarray(x)) if isinstance(x, _scalars) else x for x in a]
        return ndarray.__array_ufunc__(next((x for x in a if isinstance(x, ndarray)), None), self._f, "__call__", *a,
                                       **{i: (v,) if i == "out" and v is not None and not isinstance(v, tuple) else v for i, v in k.items()})
    def at(self, a, i, b): ndarray.__array_ufunc__(a, self._f, "at", a, *[ndarray._of(_unwrap(x)) if isinstance(x, ndarray) else x for x in (i, b)])
    def reduce(self, a, *r, **k): return _wrap(self._f.reduce(_unwrap(a), *r, **k))


def array(x, dtype=None, copy=True, order="K", ndmin=0):      # the one door for numpy data
    def plain(v):
        return v._a if isinstance(v, ndarray) else [plain(i) for i in v] if isinstance(v, (list, tuple)) else v
    return ndarray._of(np.array(plain(x), dtype=dtype, ndmin=ndmin))


def asarray(x, dtype=None, order=None, **_):
    return x if isinstance(x, ndarray) and (dtype is None or x.dtype == dtype) else array(x, dtype)


def asnumpy(x): return x.get() if isinstance(x, ndarray) else np.asarray(x)
def empty(shape, dtype=float, order="C"): return ndarray(shape, dtype)
def empty_like(x, dtype=None, **_): return ndarray(x.shape, dtype or x.dtype)
def get_array_module(*a): return sys.modules[__name__] if any(isinstance(x, ndarray) for x in a) else np
def fuse(*a, **k): return a[0] if a and callable(a[0]) else (lambda f: f)


def _device(args):
    """Kernel arguments: cupy arrays become memory, everything else must be a scalar."""
    for x in args:
        if isinstance(x, np.ndarray) and x.size != 1:
            raise TypeError("You are trying to pass a numpy.ndarray as a kernel parameter")
    return tuple(x._a if isinstance(x, ndarray) else x for x in args)


class RawKernel(minicuda.RawKernel):
    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        super().__call__(tuple(max(1, int(g)) for g in grid), block, _device(args), shared_mem=shared_mem)   # CuPy clamps 0 to 1


class RawModule(minicuda.RawModule):
    def get_function(self, name):
        return RawKernel._of(self._lib, self._index[name], name)


class _Stream:
    ptr = 1
    def __init__(self, *a, **k): pass
    def __enter__(self): return self
    def __exit__(self, *a): pass
    def use(self): return self
    def synchronize(self): _sync("Stream.synchronize()")
    def begin_capture(self, mode=None): _state.capturing = True
    def end_capture(self): _state.capturing = False


cuda = types.SimpleNamespace(is_available=lambda: True, Device=lambda *a: types.SimpleNamespace(id=0), Stream=_Stream, get_current_stream=_Stream, Event=_Stream,
                             runtime=types.SimpleNamespace(getDeviceCount=lambda: 1))


def install():
    me = sys.modules[__name__]
    x = types.ModuleType("cupyx")
    x.scatter_add = lambda a, i, v: np.add.at(a._a, a._key(i, True), _unwrap(v))
    sys.modules.update(cupy=me, cupyx=x)
    return me
