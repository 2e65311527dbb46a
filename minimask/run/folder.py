"""The checkpoints in the folder of a run: checkpoint-00000400.npz, checkpoint-00000500.npz, numbered by step."""

import re
from pathlib import Path

from minimask.errors import InputError
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
    """(path, arrays, settings) of the newest checkpoint in `folder` that can be read.

    A damaged one is skipped; a failing disk may leave one, our way of writing does not. Raises InputError if none can
    be read.
    """
    problems = []
    for path in reversed(checkpoints(folder)):
        try:
            return (path, *read(path))
        except InputError as error:
            problems.append(str(error))
    raise InputError("; ".join(problems) or f"{folder}: this folder holds no checkpoint")


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
