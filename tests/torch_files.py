"""PyTorch files made by hand, one instruction at a time, and helpers for the tests that read them."""

import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minimask.errors import InputError
from minimask.weights.torch_file import read

GOLDEN = Path(__file__).parent / "references" / "torch_files"  # made by make_torch_files.py
GOLDEN_FILES = sorted(path.name for path in GOLDEN.iterdir() if path.suffix in (".pth", ".pkl"))
FORMATS = ["zip", "legacy"]
KINDS = ["zip", "legacy", "pickle"]


def piece(value):
    """The instructions that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def name(dotted):
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(dotted, *arguments):
    return name(dotted) + b"(" + b"".join(arguments) + b"tR"


def storage(key="0", count=12, kind="torch.FloatStorage", view=()):
    return b"(" + piece("storage") + name(kind) + piece(key) + piece("cpu") + piece(count) + b"".join(view) + b"tQ"


def tensor(stored, offset=0, shape=(12,), strides=(1,)):
    numbers = [piece(number) for number in (offset, shape, strides, False)]
    return call("torch._utils._rebuild_tensor_v2", stored, *numbers, call("collections.OrderedDict"))


def list_of(*values):
    return b"](" + b"".join(values) + b"e"


def write_zip(path, value, storages=None, byteorder=None, folder="archive", **arguments):
    with zipfile.ZipFile(path, "w", **arguments) as archive:
        archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + value + b".")
        if byteorder:
            archive.writestr(f"{folder}/byteorder", byteorder)
        for key, data in (storages or {}).items():
            archive.writestr(f"{folder}/data/{key}", data)
        archive.writestr(f"{folder}/version", "3\n")


def write_legacy(path, value, storages=None, itemsize=4):
    storages = storages or {}
    with open(path, "wb") as file:
        pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
        pickle.dump(1001, file, protocol=2)
        pickle.dump({"little_endian": True, "protocol_version": 1001}, file, protocol=2)
        file.write(b"\x80\x02" + value + b".")
        pickle.dump(sorted(storages), file, protocol=2)
        for key in sorted(storages):
            file.write(struct.pack("<q", len(storages[key]) // itemsize) + storages[key])


def write(kind, path, value, storages=None):
    if kind == "zip":
        write_zip(path, value, storages)
    elif kind == "legacy":
        write_legacy(path, value, storages)
    else:
        path.write_bytes(b"\x80\x02" + value + b".")


TWELVE = np.arange(12, dtype="<f4").tobytes()


def refused(path, message=""):
    """Check that reading raises an InputError of one line that begins with the file's name, and return the rest."""
    with pytest.raises(InputError) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and len(text) < len(str(path)) + 700, text
    assert message in text, text
    return text[len(str(path)) + 2 :]


def is_plain(value):
    if isinstance(value, dict):
        return type(value) is dict and all(is_plain(key) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(is_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return not value.flags.writeable and value.flags.aligned and value.dtype.isnative
    return value is None or type(value) in (str, bytes, bool, int, float)


def flatten(value, place, arrays):
    """Collect the arrays in nested containers, by the path to them."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            flatten(item, f"{place}/{key}", arrays)
    return arrays


def same(found, expected):
    """Check that the values are equal bit for bit, including type and shape."""
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


def peak_of_reading(path, expected):
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found[-1] if isinstance(found, list) else found, expected)
    return peak
