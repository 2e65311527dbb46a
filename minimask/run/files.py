"""Writing files so that each is either the old one or the new one, never half of one; every file is written here."""

import contextlib
import errno
import json
import os
from pathlib import Path

from minimask.errors import InputError

PARTIAL = ".partial"  # ending of a temporary name


def write_files(contents, otherwise="what was there before is unchanged"):
    """Write several files, all or none: each goes to a temporary name beside its place, then all are renamed.

    contents: dict from path to bytes, or to a function that writes into the binary file that it is given. Missing
        folders are made.
    otherwise: what is said to be left if a file cannot be written.

    Raises InputError naming the file that could not be written (a full disk, a folder without permission, ...). Every
    file of these names is then as it was before.
    """
    temporary = {}
    try:
        for path, content in contents.items():
            path = Path(path)
            with _naming(path, otherwise):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "a folder has this name")
                temporary[path] = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
                _write_through(temporary[path], content)
        for path in list(temporary):
            with _naming(path, otherwise):
                put_in_place(temporary[path], path)
            del temporary[path]
    finally:
        for leftover in temporary.values():
            with contextlib.suppress(OSError):
                leftover.unlink()


def check_writable(folder):
    """Raises InputError if no file can be written into a folder, which need not exist yet. Leaves nothing behind."""
    folder = Path(folder)
    with _refusing(folder):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _probe(folder)


def check_writable_file(path):
    """Raises InputError if a file cannot be written, before the work for its contents begins. Leaves nothing behind."""
    path = Path(path)
    with _refusing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has this name")
        _probe(path.parent)


def can_write(folder):
    """Whether files can be written into a folder, which need not exist yet, as far as its permissions say."""
    try:
        return os.access(_nearest(Path(folder)), os.W_OK | os.X_OK)
    except OSError:
        return False


def _probe(folder):
    probe = _nearest(folder) / f".{os.getpid()}{PARTIAL}"
    probe.write_bytes(b"")
    probe.unlink()


def _nearest(folder):
    """The folder itself or, if it does not exist, the nearest of its parents that does. Raises OSError."""
    return next(place for place in (folder, *folder.parents) if place.exists())


@contextlib.contextmanager
def _refusing(path):
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written to ({error.strerror or error})") from error


def put_in_place(temporary, path):
    """Give a finished file its name, in one step that survives a power cut. Raises OSError."""
    os.replace(temporary, path)
    _flush_folder(Path(path).parent)


def remove_leftovers(folder):
    """Delete what `write_files` left in a folder when its process was killed."""
    for path in Path(folder).glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def json_bytes(value):
    """`value` as JSON text in bytes. Raises ValueError if it holds NaN or infinity, which JSON does not know."""
    return (json.dumps(value, allow_nan=False) + "\n").encode()


def _write_through(path, content):
    """Write the file down to the disk, so that a full disk shows here and not after the rename."""
    with open(path, "wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder):
    """Make a rename in `folder` survive a power cut. (Windows neither offers nor needs this.)"""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _naming(path, otherwise):
    """Turn an error of the operating system into one that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: could not be written ({reason}); {otherwise}") from error
