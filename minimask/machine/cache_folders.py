"""Where libraries keep their files: in a container or a classroom, neither the home nor the package may be writable.

Kernels get a folder before the first of them is imported; Matplotlib and IPython get theirs when a command starts.
"""

import os
import sys
import tempfile
from pathlib import Path

from minimask.errors import InputError
from minimask.run.files import can_write
from minimask.run.messages import say


def choose_kernel_folder(function):
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
        try:
            numba.config.CACHE_DIR = _temporary_folder("minimask-kernels")
        except OSError as error:
            raise InputError(
                "no folder for the compiled kernels can be written to; name one in the environment variable "
                f"NUMBA_CACHE_DIR ({error})"
            ) from error
        say(f"compiled kernels are kept in {numba.config.CACHE_DIR}, because no other folder can be written to")


def choose_settings_folders():
    """Give Matplotlib and IPython a folder among the temporary files if they could not write to the one in the home.

    Otherwise they would make a new one each time, with a warning of several lines. Processes that this one starts
    (the kernels of notebooks) inherit the choice.
    """
    for variable, folders in {"MPLCONFIGDIR": _of_matplotlib(), "IPYTHONDIR": [_home() / ".ipython"]}.items():
        named = os.environ.get(variable)
        if not all(can_write(folder) for folder in ([named] if named else folders)):
            try:
                os.environ[variable] = _temporary_folder(f"minimask-{variable[:-3].lower()}")
            except OSError:
                return  # nothing can be written at all; whoever needs to write will say so


def _of_matplotlib():
    """The folders that Matplotlib writes to, according to its documentation."""
    if sys.platform.startswith(("linux", "freebsd")):
        variables = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}
        return [Path(os.environ.get(name) or _home() / folder, "matplotlib") for name, folder in variables.items()]
    return [Path(os.environ.get("LOCALAPPDATA") or _home()) if sys.platform == "win32" else _home() / ".matplotlib"]


def _home():
    try:
        return Path.home()
    except RuntimeError:  # this user has none
        return Path("/nonexistent")


def _temporary_folder(name):
    """A folder of ours that nobody else can write to, if possible the same one at the next start. Raises OSError."""
    root = Path(tempfile.gettempdir())
    if os.name != "posix":
        (root / name).mkdir(exist_ok=True)
        return str(root / name)
    folder = root / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
        return tempfile.mkdtemp(prefix=f"{name}-")
    return str(folder)
