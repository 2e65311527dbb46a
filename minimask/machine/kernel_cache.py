"""Where compiled kernels are kept: a folder that can be written to is found before the first kernel is imported."""

import os
import tempfile
from pathlib import Path

from minimask.errors import InputError
from minimask.run.messages import say


def choose_folder(function):
    """Make sure that Numba finds a folder for the compiled code of kernels.

    function: any Python function in the folder of the kernels.

    Numba looks at NUMBA_CACHE_DIR, at `__pycache__` beside the source and at the user's cache folder. If it can write
    to none of them (a container without a home, a package that the administrator installed), it refuses to define a
    kernel at all. It then gets a folder among the temporary files, which is said in one line.

    Raises InputError if no folder can be written to.
    """
    import numba

    try:
        numba.njit(cache=True)(function)  # compiles nothing yet, but looks for the folder
    except (RuntimeError, OSError):  # "no locator available"
        numba.config.CACHE_DIR = _temporary_folder()
        say(f"compiled kernels are kept in {numba.config.CACHE_DIR}, because no other folder can be written to")


def _temporary_folder():
    """A folder for compiled code that nobody else can write to, if possible the same one at the next start."""
    try:
        root = Path(tempfile.gettempdir())
        if os.name != "posix":
            return str(root / "minimask-kernels")
        folder = root / f"minimask-kernels-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
            return tempfile.mkdtemp(prefix="minimask-kernels-")
        return str(folder)
    except OSError as error:
        raise InputError(
            "no folder for the compiled kernels can be written to; name one in the environment variable "
            f"NUMBA_CACHE_DIR ({error})"
        ) from error
