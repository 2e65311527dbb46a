"""Files of weights: what kind a file is, by its content, and the dict of arrays in it, wherever a script put it.

The suffix does not count: people name the same file .pth, .pt, .bin, .ckpt, .pth.tar, or nothing at all.
"""

import zipfile
from pathlib import Path

import numpy as np

from minimask.errors import InputError
from minimask.run.messages import printable

WRAPPERS = ("model_state_dict", "state_dict", "model_state", "model", "net", "weights", "model_ema", "ema", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "ema_model.", "network.")
MAX_WRAPPERS = 4  # one in another
OTHER_FILES = {  # what files of other kinds begin with
    b"version https://git-lfs": "it is a pointer of Git LFS; fetch the file itself with: git lfs pull",
    b"\x1f\x8b": "it is compressed by gzip; unpack it first, for example with: gunzip",
    b"\x89HDF": "it is an HDF5 file, as Keras writes them; only weights of PyTorch or NumPy can be read",
    b"\x93NUMPY": "it is a single array of NumPy; save the arrays by name with numpy.savez",
    b"{": "it is JSON, such as the index of a model in several files; merge these into one file first",
}
SAFETENSORS = {"BOOL": "?", **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}}
SAFETENSORS.update(F16="<f2", F32="<f4", F64="<f8")
ZIP_START = b"PK\x03\x04"


def kind(path):
    """What a file holds: "checkpoint" (of minimask), "torch", "safetensors", "npz", or None if it is none of these.

    Raises InputError or OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(ZIP_START):
        return _kind_of_zip(path, start)
    if start.startswith(b"\x80") or start[257:262] == b"ustar":
        return "torch"
    if start[8:9] == b"{" and Path(path).stat().st_size >= 8 + int.from_bytes(start[:8], "little"):
        return "safetensors"
    return None


def _kind_of_zip(path, start):
    size = int.from_bytes(start[26:28], "little")
    names = [start[30 : 30 + size].decode("latin-1")]  # the first entry, if the table of contents is damaged
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged table raises BadZipFile, NotImplementedError, UnicodeDecodeError, ...
        if names[0].startswith("model/") or not names[0]:
            return "checkpoint"  # its reader says what is damaged
    if "settings.npy" in names:
        return "checkpoint"
    return "npz" if any(name.endswith(".npy") for name in names) else "torch"


def read(path):
    """The dict from name to array in a file of weights. Raises InputError."""
    path = Path(path)
    readers = {"torch": _read_torch, "safetensors": _read_safetensors, "npz": _read_npz}
    found = kind(path)
    if found not in readers:
        raise InputError(f"{path}: {what_it_is(path)}")
    return find_state(readers[found](path), path)


def what_it_is(path):
    """A message about a file that holds no weights."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "the file is empty"
    reason = f"it begins with {start[:8]}"
    if known := [text for beginning, text in OTHER_FILES.items() if start.startswith(beginning)]:
        reason = known[0]
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        reason = "it is a web page; the download went wrong"
    return f"not a checkpoint of minimask, and no file of weights either ({reason})"


def _read_torch(path):
    from minimask.weights import torch_file

    return torch_file.read(path)


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path}: cannot be read ({printable(error)})") from error


def _read_safetensors(path):
    """The arrays of a .safetensors file; bfloat16, which NumPy lacks, becomes float32."""
    package, state = safetensors_package(), {}
    try:
        for name, info in package.deserialize(path.read_bytes()):
            dtype, data = info["dtype"], info["data"]
            if dtype == "BF16":
                wide = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
                state[name] = wide.view(np.float32).reshape(info["shape"])
            elif dtype in SAFETENSORS:
                state[name] = np.frombuffer(data, SAFETENSORS[dtype]).reshape(info["shape"])
            else:
                raise InputError(f"{path}: {name} has elements of type {dtype}; save them as F32 or F16")
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path}: cannot be read ({printable(error)})") from error
    return state


def safetensors_package():
    """The package safetensors, which is needed only for such files. Raises InputError if it is missing."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise InputError(".safetensors files need the package safetensors: pip install safetensors") from error
    return safetensors


def find_state(content, path):
    """The dict of arrays in the content of a file, wherever training scripts put it, without a wrapper's prefix."""
    for _ in range(MAX_WRAPPERS):
        inner = [content[key] for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        if not inner:
            break
        content = next((value for value in inner if _arrays(value)), inner[0])
    content = _arrays(content) or _only_model(content, path)
    if not content:
        raise InputError(
            f"{path}: contains no weights, that is, a dict of arrays by name, alone or under one of the keys "
            f"{', '.join(WRAPPERS)}"
        )
    return _without_prefixes(content)


def _only_model(content, path):
    """The arrays under a key that is none of WRAPPERS. Raises InputError if there are several such keys."""
    models = {key: value for key, value in content.items() if _arrays(value)} if isinstance(content, dict) else {}
    if len(models) > 1:
        raise InputError(f"{path}: contains several dicts of arrays ({', '.join(map(str, models))}); save one alone")
    return _arrays(next(iter(models.values()), None))


def _without_prefixes(state):
    """The arrays without the prefix that most names have; those that lack it (counters, a loss's weights) stay."""
    for _ in range(MAX_WRAPPERS):
        names = [[name for name in state if name.startswith(prefix)] for prefix in PREFIXES]
        prefix, inside = max(zip(PREFIXES, names), key=lambda pair: len(pair[1]))
        if 2 * len(inside) <= len(state):
            break
        state = {(name.removeprefix(prefix) if name.startswith(prefix) else name): v for name, v in state.items()}
    return state


def _arrays(value):
    """The arrays with a name in a dict; counters, metrics and the like are left out."""
    if not isinstance(value, dict):
        return {}
    return {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, np.ndarray)}
