"""The file format of a checkpoint: named arrays and settings in an .npz file, a zip of .npy arrays without pickle.

A model alone may be kept in a quarter of the size: each array of two or more axes as integers from -127 to 127, and
under scale/NAME what each output channel (the last axis) is multiplied by. Reading multiplies.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from minimask import __version__
from minimask.device import to_cpu
from minimask.errors import DamagedError, InputError
from minimask.run.files import write_files
from minimask.run.messages import printable

FORMAT = "minimask checkpoint 1"


def write(path, arrays, settings):
    """Write a checkpoint, completely or not at all.

    path: path of the .npz file.
    arrays: dict from name to array, on any device.
    settings: dict for JSON.

    Raises InputError if the disk is full or the folder cannot be written to; the folder is then as it was before.
    """
    settings = {"format": FORMAT, "version": __version__, "arrays": len(arrays), **settings}
    members = {**arrays, "settings": np.array(json.dumps(settings))}

    def write_members(file):
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in members.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(to_cpu(array)), allow_pickle=False)

    write_files({path: write_members}, otherwise="earlier checkpoints are unchanged")


def read(path):
    """Read a checkpoint that `write` made.

    Returns (arrays, settings): a dict from name to array, and a dict.
    Raises InputError that names the file and what is wrong with it: it is missing, empty, cut off, damaged, or
    something else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            if not start:
                raise DamagedError(f"{path}: the file is empty, not a checkpoint")
            if start != b"PK\x03\x04":
                raise DamagedError(f"{path}: not a checkpoint of minimask (not an .npz file: it begins with {start})")
            if not zipfile.is_zipfile(file):
                raise DamagedError(f"{path}: the checkpoint is cut off (the table of contents at its end is missing)")
            return _read_archive(path, file)
    except IsADirectoryError as error:
        raise DamagedError(f"{path}: is a folder, not a checkpoint") from error
    except MemoryError as error:
        raise InputError(f"{path}: there is not enough memory to read this checkpoint") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_archive(path, file):
    name = "table of contents"
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "settings.npy" not in names:
                raise DamagedError(f"{path}: not a checkpoint of minimask (it has no entry 'settings')")
            members = {}
            for name in names:
                data = archive.read(name)  # compares the checksum
                members[name.removesuffix(".npy")] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        name = "settings"
        settings = json.loads(members.pop("settings").item())
        if not isinstance(settings, dict):
            raise ValueError("it is not a dict")
        kind, count = settings.get("format"), settings.get("arrays")
    except (InputError, MemoryError, OSError):  # see `read`
        raise
    except Exception as error:  # damage may raise anything, in zipfile, zlib, json or NumPy's reader of headers
        raise DamagedError(f"{path}: the checkpoint is damaged ({printable(f'{name}: {error}')})") from error

    if kind != FORMAT:
        raise InputError(f"{path}: holds {kind!r}, but this version of minimask reads {FORMAT!r}")
    if count != len(members):
        raise DamagedError(f"{path}: the checkpoint is damaged ({count} arrays were saved, {len(members)} are there)")
    return _scaled(path, members), settings


def reduced(arrays):
    """The arrays of a model in a quarter of their size: int8, with a float32 scale per output channel."""
    result = dict(arrays)
    for name, array in arrays.items():
        if array.ndim > 1:
            scale = np.maximum(abs(array).max(axis=tuple(range(array.ndim - 1))), 1e-30) / 127
            result[name] = np.round(array / scale).astype(np.int8)
            result[f"scale/{name.removeprefix('model/')}"] = scale.astype(np.float32)
    return result


def _scaled(path, arrays):
    """Undo `reduced`."""
    scales = {name: arrays.pop(name) for name in list(arrays) if name.startswith("scale/")}
    for name, scale in scales.items():
        target = f"model/{name.removeprefix('scale/')}"
        if target not in arrays:
            raise DamagedError(f"{path}: the checkpoint is damaged (it has {name}, but not {target})")
        array = arrays[target]
        if scale.shape != array.shape[-1:] or scale.dtype.kind != "f" or array.dtype.kind not in "fi":
            raise DamagedError(f"{path}: the checkpoint is damaged ({name} does not fit {target})")
        arrays[target] = array * scale
    return arrays
