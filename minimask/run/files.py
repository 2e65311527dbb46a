"""Writing results so that a file is either the old one or the new one, never half of one."""

import contextlib
import errno
import json
import os
from pathlib import Path

from minimask.errors import InputError


def write_files(contents):
    """Write several files, all or none: each goes to a temporary name beside its place, then all are renamed.

    contents: dict path -> bytes. Missing folders are made. Raises InputError naming the file that could not be
    written (a full disk, a folder without permission, ...); then every file of those names is as it was before.
    """
    temporary = {}
    try:
        for path, data in contents.items():
            with _naming(path):
                path = Path(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "a folder has this name")
                temporary[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                _write_through(temporary[path], data)
        for path in list(temporary):
            with _naming(path):
                os.replace(temporary[path], path)
            del temporary[path]
    finally:
        for leftover in temporary.values():
            with contextlib.suppress(OSError):
                os.unlink(leftover)


def json_bytes(value):
    """`value` as JSON text in bytes. Raises ValueError if it holds NaN or infinity, which JSON does not know."""
    return (json.dumps(value, allow_nan=False) + "\n").encode()


def _write_through(path, data):
    """Write `data` to the file, down to the disk: a full disk shows here, not after the rename."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _naming(path):
    """Turn an operating system's error into one that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: could not be written ({reason}); what was there before is as it was") from error
