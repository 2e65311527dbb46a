"""Checkpoints: all that a run needs to go on, in one file that `numpy.load` opens and that needs no pickle.

A checkpoint is an .npz file, that is a zip of .npy arrays:

    model/NAME         every parameter and buffer, under its name in `model.state_dict()`
    optimizer/NAME     every array of `optimizer.state_dict()`
    settings           one json string: how to build the model, class names, training settings, data, step, ...

A model alone can be kept in a quarter of the size (`write_model(small=True)`): each large array as whole numbers from
-127 to 127, and under scale/NAME what to multiply each output channel by. Reading multiplies.

No random state is kept, because there is none: what is random in a step is a function of (seed, step).
A file is written under a temporary name, flushed to the disk and renamed, so that whatever happens (a kill, a full
disk, a power cut) a file with a checkpoint's name is a whole checkpoint. The last two of a run are kept.
"""

import io
import json
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from minimask.device import to_cpu
from minimask.errors import InputError

KEEP = 2
FORMAT = "minimask checkpoint 1"
_NAME = re.compile(r"checkpoint-(\d{8})\.npz")
_PARTIAL = ".partial"  # ending of the temporary name


# ------------------------------------------------------------------------------------------------- the files of a run


def checkpoints(folder):
    """Paths of the checkpoints in `folder`, oldest (fewest steps) first; [] if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def step_of(path):
    """The step that is in a checkpoint's name."""
    return int(_NAME.fullmatch(Path(path).name)[1])


def find(path):
    """The checkpoint meant by `path`: the file itself, or the newest one in the folder of a run. InputError if none."""
    path = Path(path)
    if path.is_dir():
        found = checkpoints(path)
        if not found:
            raise InputError(f"{path}: this folder holds no checkpoint (checkpoint-00000100.npz, ...)")
        return found[-1]
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    return path


def remove_partial(folder):
    """Delete what an interrupted save left behind."""
    for path in Path(folder).glob(f"*.npz{_PARTIAL}"):
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------ arrays <-> file


def write(path, arrays, settings):
    """Write `arrays` (name -> array) and `settings` (what json can hold) to `path`, whole or not at all.

    Raises InputError if the disk is full or the folder cannot be written; the folder is then as it was before.
    """
    path = Path(path)
    temporary = path.with_name(path.name + _PARTIAL)
    settings = {"format": FORMAT, "arrays": len(arrays), **settings}
    members = {**arrays, "settings": np.array(json.dumps(settings))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, array in members.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asanyarray(to_cpu(array)), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        _delete(temporary)
        raise InputError(
            f"{path}: the checkpoint could not be saved ({error.strerror or error}); earlier checkpoints are unchanged"
        ) from error
    except BaseException:  # Ctrl-C while writing
        _delete(temporary)
        raise


def _delete(path):
    try:
        path.unlink()
    except OSError:  # it was never made, or its folder is none
        pass


def _flush_folder(folder):
    """Make a rename in `folder` survive a power cut (not offered, and not needed, on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# What reading a damaged zip or npy file can raise, as the damage may be anywhere.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, KeyError, AttributeError, EOFError, OverflowError,
    NotImplementedError, RuntimeError, MemoryError,
)  # fmt: skip


def read(path):
    """(arrays: name -> array, settings: dict) of a checkpoint that `write` made.

    Raises InputError that names the file and what is wrong: missing, empty, cut off, damaged, or something else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            if not start:
                raise InputError(f"{path}: the file is empty, not a checkpoint")
            if start != b"PK\x03\x04":
                raise InputError(f"{path}: not a checkpoint of minimask (it is no .npz file: it begins with {start})")
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path}: the checkpoint is cut off (the table of contents at its end is missing)")
            return _read_archive(path, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_archive(path, file):
    name = "table of contents"
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "settings.npy" not in names:
                raise InputError(f"{path}: not a checkpoint of minimask (it has no entry 'settings')")
            members = {}
            for name in names:
                data = archive.read(name)  # compares the checksum
                members[name.removesuffix(".npy")] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        name = "settings"
        settings = json.loads(members.pop("settings").item())
        kind, count = settings.get("format"), settings.get("arrays")
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: the checkpoint is damaged ({name}: {error})") from error
    if kind != FORMAT:
        raise InputError(f"{path}: holds {kind!r}, this version of minimask reads {FORMAT!r}")
    if count != len(members):
        raise InputError(f"{path}: the checkpoint is damaged ({count} arrays were saved, {len(members)} are there)")
    for name, scale in part(members, "scale").items():
        if f"model/{name}" not in members:
            raise InputError(f"{path}: the checkpoint is damaged (it has a scale for {name}, but not the array)")
        members[f"model/{name}"] = members[f"model/{name}"] * scale
        del members[f"scale/{name}"]
    return members, settings


# ------------------------------------------------------------------------------------------------ runs, models, weights


def save(folder, step, model, optimizer, settings):
    """Write the state after `step` steps to FOLDER/checkpoint-STEP.npz, delete all but the last two, return the path.

    settings: dict for json: what must be known beside the weights (see `train.py`).
    Raises InputError if a weight is not finite or the file cannot be written; earlier checkpoints then stay.
    """
    state = model.state_dict()
    for name, array in state.items():
        if not np.isfinite(to_cpu(array)).all():
            raise InputError(f"step {step}: the weight {name} is not finite; earlier checkpoints are unchanged")
    arrays = {f"model/{name}": array for name, array in state.items()}
    arrays.update({f"optimizer/{name}": array for name, array in optimizer.state_dict().items()})
    path = Path(folder) / f"checkpoint-{step:08d}.npz"
    write(path, arrays, {**settings, "step": step, "model": model.settings})
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def write_model(path, model, settings, small=False):
    """Write a checkpoint that holds a model and what its labels mean (class_names, category_ids), no run to go on.

    small: in a quarter of the size; a weight is then off by at most 1/254 of the largest of its output channel.
    """
    arrays = {f"model/{name}": to_cpu(array) for name, array in model.state_dict().items()}
    for name, array in list(arrays.items()) if small else ():
        if array.ndim > 1:  # the last axis is the output channel
            scale = np.maximum(abs(array).max(axis=tuple(range(array.ndim - 1))), 1e-30) / 127
            arrays[name] = np.round(array / scale).astype(np.int8)
            arrays[f"scale/{name.removeprefix('model/')}"] = scale.astype(np.float32)
    write(path, arrays, {"step": 0, **settings, "model": model.settings})


def part(arrays, prefix):
    """The arrays under `prefix/`, without it."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + "/")}


def load_newest(folder):
    """(path, arrays, settings) of the newest checkpoint in the folder of a run that can be read.

    A damaged one (by a failing disk: our writing leaves none) is passed over for the one before. InputError if all are.
    """
    problems = []
    for path in reversed(checkpoints(folder)):
        try:
            return (path, *read(path))
        except InputError as error:
            problems.append(str(error))
    raise InputError("; ".join(problems) or f"{folder}: this folder holds no checkpoint")


def read_settings(path):
    """The settings of a checkpoint; InputError as `read`."""
    return read(path)[1]


def newest_settings(folder):
    """The settings of the newest checkpoint in the folder of a run that can be read."""
    return load_newest(folder)[2]


def copy_weights(model, path, arrays, settings):
    """Copy what `read` made of the checkpoint at `path` into `model`.

    Raises InputError, with the model unchanged, if it is for another number of classes or another model.
    """
    theirs, ours = settings["model"].get("num_classes"), model.settings.get("num_classes")
    if theirs != ours:
        raise InputError(
            f"{path}: holds weights for {count_classes(theirs)}, but the model here has {count_classes(ours)}"
        )
    try:
        model.load_state_dict(part(arrays, "model"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def count_classes(num_classes):
    """For messages: how many classes, and kinds of object."""
    objects = num_classes - 1
    return f"{num_classes} classes (the background and {objects} kind{'s' * (objects != 1)} of object)"


def load_model(path):
    """(model, class_names, category_ids) from a checkpoint or the folder of a run, for prediction and evaluation.

    class_names[i] is the name of label i + 1, category_ids[i] its id in the data set's COCO file.
    """
    model, settings = load_with_settings(path)
    return model, settings["class_names"], settings["category_ids"]


def load_with_settings(path, **changes):
    """(model, settings of the checkpoint). changes: settings of `mask_rcnn.build` in the place of the model's own."""
    from minimask.mask_rcnn import build
    from minimask.presets import merge

    path = find(path)
    arrays, settings = read(path)
    try:
        model = build(**merge(settings["model"], changes))
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: holds a model that this version cannot build ({error})") from error
    copy_weights(model, path, arrays, settings)
    model.eval()
    return model, settings
