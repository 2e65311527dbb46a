"""The checks of the exercises for a student's own .py file: each function `NAME` or `my_NAME` in it has check NAME."""

import importlib.util
import sys
import traceback
from pathlib import Path

from minimask import check
from minimask.check.engine import NOT_WRITTEN, CheckFailed
from minimask.errors import InputError


def load(path):
    """Import a Python file that is not part of any package. Raises InputError with the line that stops it."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise InputError(f"{path}: is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # it may import its neighbors
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        raise InputError(f"{path}: stops in line {line} with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def run(path, only=None):
    """Check the functions of a file, print what came of each; returns the exit status, 1 if one is not right."""
    if only is not None and only not in check.CHECKS:
        raise InputError(f"there is no check {only!r}; there are: {', '.join(check.CHECKS)}")
    functions = vars(load(path))
    names = [name for name in check.CHECKS if only in (None, name)]
    found = {name: functions.get(f"my_{name}", functions.get(name)) for name in names}
    found = {name: function for name, function in found.items() if function is not None}
    if not found:
        raise InputError(f"{path}: has no function my_NAME with NAME one of: {', '.join(names)}")
    failed = 0
    for name, function in found.items():
        try:
            print(f"pass  {check.CHECKS[name].run(function)}")
        except CheckFailed as failure:
            failed += 1
            print(f"{'todo' if NOT_WRITTEN in str(failure) else 'FAIL'}  {failure}")
    print(f"{len(found) - failed} passed, {failed} failed")
    return 1 if failed else 0
