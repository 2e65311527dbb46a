"""What a file of weights may contain: tensors, NumPy arrays and plain containers, built as its pickle describes them.

`pickle_reader.py` reads the pickle, and `torch_file.py` the file around it. A PyTorch tensor is a view of a storage, a
sequence of numbers elsewhere in the file. It has an offset and, for each axis of its shape, a stride, the number of
elements from one position to the next. Several tensors may be views of one storage. Each must stay inside, and no two
may share an element, except for tied tensors, which are the same view and become one array.
"""

import math
from collections import OrderedDict

import numpy as np

from minimask.errors import InputError
from minimask.weights.pickle_reader import Symbol, set_item, show

MAX_DEPTH = 100
MAX_VALUES = 1_000_000
MAX_SIDES = 32  # axes of an array; the limit of NumPy 1

# The element types that can be read. NumPy has no bfloat16, which is the upper half of a float32.
_STORAGES = {
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_NUMPY_TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")
_PATHS = ("pathlib PosixPath", "pathlib WindowsPath", "pathlib PurePosixPath", "pathlib PureWindowsPath")
_FACTORIES = ("builtins int", "builtins long", "builtins float", "builtins list", "builtins dict")  # of a defaultdict
_ADMITTED = {
    *_STORAGES,
    *_PATHS,
    *_FACTORIES,
    "collections OrderedDict",
    "collections Counter",
    "collections defaultdict",
    "argparse Namespace",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "_codecs encode",
    "builtins bytes",
    "numpy ndarray",
    "numpy dtype",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy.core.numeric _frombuffer",
}

WHOLE_MODEL = (
    ". If the file holds a whole model or more than weights, save the weights alone in PyTorch: "
    'torch.save(model.state_dict(), "weights.pth")'
)


class Storage:
    """`count` consecutive elements of type `element` ("float32", "bfloat16", ...) in the file, from byte `start`."""

    def __init__(self, element, count, start):
        self.element, self.count, self.start = element, count, start
        self.itemsize = _numpy_type(element).itemsize
        self.elements = None  # a flat array, once a tensor needs it
        self.arrays = {}  # (offset, shape, strides) -> array, so that tied tensors become one array
        self.used = None  # (count,) bool: the elements that belong to those arrays


class Window:
    """`count` elements of a storage from `offset` on, usually all of it. Tensors are views of a window."""

    def __init__(self, storage, offset, count):
        self.storage, self.offset, self.count = storage, offset, count


class TorchTensor:
    """A view of a window, with the file's offset, shape and strides, which are not yet checked."""

    def __init__(self, window, offset, shape, strides):
        self.window, self.offset, self.shape, self.strides = window, offset, shape, strides


class NumpyArray:
    """An array that a pickle creates first and fills later."""

    array = None


class NumpyType:
    """A dtype that a pickle creates first and gives a byte order later."""

    def __init__(self, dtype):
        self.dtype = dtype


class Namespace(dict):
    """An argparse.Namespace, the arguments of a training run, as a dict."""


class Builder:
    """Builds the values that the pickles of a file describe, if they are allowed (see `read_pickle`).

    `plain` then turns them into the result.

    data: the bytes of the file.
    locate: function from a storage's key to its (first byte, end), or to None if the place is known only later; None
        if the format has no storages.
    byte_order: "<" or ">".
    """

    def __init__(self, data, locate=None, byte_order="<"):
        self.data, self.locate, self.byte_order = data, locate, byte_order
        self.storages = {}
        self.bytes_left = 2 * len(data)
        self.values = 0
        self.place = []

    def symbol(self, name):
        if _modern(name) not in _ADMITTED:
            raise InputError(
                f"asks for {show(Symbol(name))}, which is not one of the few names that weights need. Nothing was run"
                + (WHOLE_MODEL if _is_class(name) else "")
            )

    def call(self, name, args):
        match _modern(name), args:
            case "collections OrderedDict", ():
                return OrderedDict()
            case "collections OrderedDict", (list() as pairs,):  # Python 2's
                result = OrderedDict()
                for pair in pairs:
                    if not (isinstance(pair, list) and len(pair) == 2):
                        raise InputError(f"an OrderedDict is made of {show(pair)}; it must be made of pairs")
                    set_item(result, *pair)
                return result
            case "collections Counter", (dict() as counts,):
                return counts
            case "collections defaultdict", () | (Symbol(),):
                return {}
            case "argparse Namespace", ():
                return Namespace()
            case name, parts if name in _PATHS and all(isinstance(part, str) for part in parts):
                return "/".join(parts).replace("//", "/", 1)
            case "torch Size", (tuple() as shape,):
                return shape
            case "torch device", (str() as kind, *_):
                return kind
            case "torch._utils _rebuild_tensor", (Window() as window, offset, shape, strides):
                return TorchTensor(window, offset, shape, strides)
            case "torch._utils _rebuild_tensor_v2", (Window() as window, offset, shape, strides, _, _):
                return TorchTensor(window, offset, shape, strides)
            case "torch._utils _rebuild_parameter", (TorchTensor() as tensor, _, _):
                return tensor
            case "builtins bytes", ():
                return b""
            case "_codecs encode", (str() as text, "latin1" | "latin-1"):
                self._count_bytes(len(text))
                return text.encode("latin-1")
            case "numpy dtype", (str() as code, *_):
                if code not in _NUMPY_TYPES:
                    raise InputError(f"an array of NumPy's type {show(code)}, which cannot be read")
                return NumpyType(np.dtype(code))
            case "numpy.core.multiarray _reconstruct", (Symbol(name="numpy ndarray"), (0,), _):
                return NumpyArray()
            case "numpy.core.multiarray scalar", (NumpyType() as kind, content):
                return self._array(content, kind.dtype, (), "C").item()
            case "numpy.core.numeric _frombuffer", (content, NumpyType() as kind, shape, "C" | "F" as order):
                return self._array(content, kind.dtype, shape, order)
        kinds = ", ".join(show(arg) for arg in args[:10])
        raise InputError(f"a call of {show(Symbol(name))} with ({kinds}), which cannot be read")

    def fill(self, value, state):
        match value, state:
            case OrderedDict(), dict():
                pass  # `_metadata` of a state_dict: versions of the modules
            case Namespace(), dict():
                value.update(state)
            case NumpyType(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                value.dtype = value.dtype.newbyteorder(order)
            case NumpyArray(array=None), (int(), shape, NumpyType() as kind, fortran, content):
                value.array = self._array(content, kind.dtype, shape, "F" if fortran else "C")
            case _:
                raise InputError(f"{show(value)} cannot be filled with {show(state)}")

    def persistent(self, identifier):
        """The window for ("storage", type, key, device, count), which in the legacy format ends with a view or None."""
        match identifier:
            case ("storage", Symbol(name=kind), str() as key, _, int() as count, *view) if (
                kind in _STORAGES and self.locate is not None and count >= 0
            ):
                storage = self.storages.get(key) or self._storage(_STORAGES[kind], key, count)
            case _:
                raise InputError(f"refers to {show(identifier)} outside the pickle, which is not a tensor's storage")
        if (storage.element, storage.count) != (_STORAGES[kind], count):
            raise InputError(f"the storage {show(key)} has two different descriptions")
        match view:
            case [] | [None]:
                return Window(storage, 0, count)
            case [(_, int() as offset, int() as part)] if 0 <= offset <= offset + part <= count:
                return Window(storage, offset, part)
        raise InputError(f"the storage {show(key)} of {count} elements has a view beyond its end")

    def _storage(self, element, key, count):
        storage = self.storages[key] = Storage(element, count, None)
        place = self.locate(key)
        if place is not None:
            storage.start, end = place
            if end - storage.start != count * storage.itemsize:
                raise InputError(
                    f"the storage {show(key)} has {end - storage.start} bytes, but its tensors expect {count} elements "
                    f"of {storage.itemsize} bytes"
                )
        return storage

    def _array(self, content, dtype, shape, order):
        """A read-only array from `content`, which is bytes, or text if Python 2 wrote the pickle."""
        _check_shape(shape)
        if not isinstance(content, (bytes, str)) or len(content) != math.prod(shape) * dtype.itemsize:
            raise InputError(f"an array of type {dtype} and shape {shape} is filled with {show(content)}")
        self._count_bytes(len(content))
        if isinstance(content, str):
            content = content.encode("latin-1")
        array = np.ndarray(shape, dtype, content, order=order)
        return _finish(array.astype(dtype.newbyteorder("="), copy=False))

    def _count_bytes(self, size):
        """Limit the bytes in arrays, because a pickle can ask for the same bytes any number of times."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise InputError("the arrays in the pickle are larger than the file")

    # ----------------------------------------------------------------------------------- after the pickle was read

    def plain(self, value):
        """The value with real arrays in it. Checks the kind, the depth and the number of all values."""
        try:
            return self._plain(value)
        except InputError as error:
            place = "".join(f"[{show(key)}]" for key in self.place[:5]) + "..." * (len(self.place) > 5)
            raise InputError(f"{place}: {error}" if place else str(error)) from error

    def _plain(self, value):
        self.values += 1
        if self.values > MAX_VALUES:
            raise InputError(f"more than {MAX_VALUES:,} values, too many for a file of weights")
        if value is None or isinstance(value, (bool, int, float, str, bytes, np.ndarray)):
            return value
        if isinstance(value, TorchTensor):
            return _tensor(self.data, self.byte_order, value)
        if isinstance(value, NumpyArray) and value.array is not None:
            return value.array
        if len(self.place) == MAX_DEPTH:
            raise InputError(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
        if isinstance(value, dict):
            return {key: self._item(key, item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self._item(key, item) for key, item in enumerate(value)])
        raise InputError(f"contains {show(value)}, which is neither a tensor nor a plain value")

    def _item(self, key, value):
        self.place.append(key)  # stays if an error is raised, for its message
        value = self._plain(value)
        self.place.pop()
        return value


# ------------------------------------------------------------------------------------------------------------ tensors


def _tensor(data, byte_order, tensor):
    """The array of a TorchTensor. Raises InputError if it leaves its window or overlaps itself or another tensor."""
    window, offset, shape, strides = tensor.window, tensor.offset, tensor.shape, tensor.strides
    storage = window.storage
    _check_shape(shape)
    if not (isinstance(strides, tuple) and len(strides) == len(shape)):
        raise InputError(f"the tensor's strides are {show(strides)}; there must be one for each axis of {shape}")
    if not all(type(number) is int and number >= 0 for number in (offset, *strides)):
        raise InputError("the tensor's offset and strides must be non-negative integers")
    if 0 not in shape and offset + _extent(shape, strides) > window.count:
        raise InputError(
            f"the tensor of shape {shape}, strides {strides} and offset {offset} ends after its storage "
            f"of {window.count} elements"
        )
    view = (window.offset + offset, shape, strides)
    if view not in storage.arrays:
        _claim(storage, view)
        storage.arrays[view] = _view(data, byte_order, storage, view)
    return storage.arrays[view]


def _extent(shape, strides):
    """The number of elements from the first to the last one of a view. Raises InputError if it has an element twice.

    In ascending order of stride, one step along an axis must lead beyond everything the axes before it can reach.
    """
    extent = 1
    for stride, side in sorted(zip(strides, shape)):
        if side > 1 and stride < extent:
            raise InputError(f"the tensor's elements overlap: shape {shape}, strides {strides}")
        extent += (side - 1) * stride
    return extent


def _claim(storage, view):
    """Mark the elements of a view as used. Raises InputError if another view of the storage has one of them."""
    if storage.arrays and storage.used is None:  # the second view; as long as there is one, nothing needs marking
        storage.used = np.zeros(storage.count, bool)
        for other in storage.arrays:
            _strided(storage.used, *other)[...] = True
    if storage.arrays:
        used = _strided(storage.used, *view)
        if used.any():
            raise InputError("the tensor shares elements with another one of a different offset, shape or strides")
        used[...] = True


def _view(data, byte_order, storage, view):
    """The read-only array of a view, in this machine's byte order."""
    if storage.elements is None:
        storage.elements = _elements(data, byte_order, storage)
    array = _strided(storage.elements, *view)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if storage.element == "bfloat16":
        array = np.asarray(array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _finish(array)


def _elements(data, byte_order, storage):
    """The storage as a flat array: a view of the file, or a copy if it is not aligned to its elements."""
    start, size = storage.start, storage.count * storage.itemsize
    if start % storage.itemsize:
        data, start = data[start : start + size], 0
    return np.ndarray(storage.count, _numpy_type(storage.element).newbyteorder(byte_order), data, start)


def _strided(elements, offset, shape, strides):
    """A view of a flat array, with strides in elements. NumPy checks that it stays inside."""
    size = elements.itemsize
    if 0 in shape:
        return np.empty(shape, elements.dtype)
    return np.ndarray(shape, elements.dtype, elements, offset * size, [stride * size for stride in strides])


def _finish(array):
    if array.dtype == bool and (array.view(np.uint8) > 1).any():
        raise InputError("an array of type bool contains bytes other than 0 and 1")
    array.flags.writeable = False
    return array


def _check_shape(shape):
    if not (isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)):
        raise InputError(
            f"the shape of a tensor or array is {show(shape)}; it must be a tuple of non-negative integers"
        )
    if len(shape) > MAX_SIDES or math.prod(max(side, 1) for side in shape) >= 2**48:
        raise InputError(f"the shape of a tensor or array has {len(shape)} axes, or is too large")


def _numpy_type(element):
    return np.dtype("uint16" if element == "bfloat16" else element)


def _is_class(name):
    """Whether a name is one of PyTorch's, or looks like that of a class."""
    return name.startswith("torch") or name.rpartition(" ")[2][:1].isupper()


def _modern(name):
    """A name from Python 2 or NumPy 2, as it is in Python 3 and NumPy 1."""
    return name.replace("numpy._core", "numpy.core", 1).replace("__builtin__", "builtins", 1)
