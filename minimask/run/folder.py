"""The checkpoints in the folder of a run: checkpoint-00000400.npz, checkpoint-00000500.npz, numbered by step."""

import re
from pathlib import Path

from minimask.errors import DamagedError, InputError
from minimask.run.archive import read

KEEP = 2
_NAME = re.compile(r"checkpoint-\d{8}\.npz")


def checkpoint_path(folder, step):
    """Where the checkpoint after `step` steps belongs."""
    return Path(folder) / f"checkpoint-{step:08d}.npz"


def checkpoints(folder):
    """Paths of the checkpoints in `folder`, in ascending order of steps; [] if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def find(path):
    """The file meant by `path`: the file itself or, for the folder of a run, its newest checkpoint.

    Raises InputError if there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = checkpoints(path)
        if not found:
            raise InputError(f"{path}: this folder holds no checkpoint (checkpoint-00000100.npz, ...)")
        return found[-1]
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    return path


def load_newest(folder):
    """(path, arrays, settings, damaged) of the newest checkpoint in `folder` that is not damaged.

    damaged: dict from the path of each newer, damaged one to what is wrong with it. A failing disk may leave one; our
        way of writing does not.
    Raises InputError if all are damaged, or if one cannot be read for another reason (no permission, no memory).
    """
    damaged = {}
    for path in reversed(checkpoints(folder)):
        try:
            return (path, *read(path), damaged)
        except DamagedError as error:
            damaged[path] = str(error)
    raise InputError("; ".join(damaged.values()) or f"{folder}: this folder holds no checkpoint")


def check_complete(path, settings):
    """Raises InputError if the settings of a checkpoint lack what a run needs in order to go on."""
    needed = {"step": int, "seconds": (int, float), "training": dict, "model": dict, "class_names": list}
    wrong = [name for name, kind in needed.items() if not isinstance(settings.get(name), kind)]
    if wrong:
        raise InputError(f"{path}: its settings lack {', '.join(wrong)}, so no run can go on from it")


def set_aside(path):
    """Rename a damaged checkpoint so that nothing takes it for one. Returns the new path."""
    place = path.with_name(path.name + ".damaged")
    number = 2
    while place.exists():
        place = path.with_name(f"{path.name}.damaged-{number}")
        number += 1
    path.rename(place)
    return place


def newest_settings(folder):
    """The settings of the newest checkpoint in `folder` that can be read."""
    return load_newest(folder)[2]


def refuse_earlier_run(folder):
    """Raises InputError if the folder holds a run."""
    earlier = checkpoints(folder)
    if earlier:
        raise InputError(
            f"{folder}: holds a run already (its last checkpoint is {earlier[-1].name}); resume it (--resume), "
            "delete it (--overwrite) or choose another folder (--output)"
        )


def remove_old(folder):
    """Delete all checkpoints in `folder` but the last two."""
    for path in checkpoints(folder)[:-KEEP]:
        path.unlink(missing_ok=True)
