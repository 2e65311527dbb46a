"""Run the checks of the exercises on a student's own .py file: check NAME tests its function `my_NAME` or `NAME`."""

import difflib
import importlib.util
import sys
import traceback
from pathlib import Path

from minimask import check
from minimask.check.engine import NOT_WRITTEN, CheckFailed
from minimask.errors import InputError


def load(path):
    """Import a Python file that belongs to no package. Raises InputError naming the line where it fails."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise InputError(f"{path}: is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)

    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # the file may import others beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        raise InputError(f"{path}: stops in line {line} with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module


def run(path, only=None):
    """Check the functions of a file and print the outcome of each. Returns the exit status: 1 if one is wrong."""
    if only is not None and only not in check.CHECKS:
        raise InputError(f"there is no check {only!r}{_did_you_mean(only)}; there are: {', '.join(check.CHECKS)}")
    functions = {name: value for name, value in vars(load(path)).items() if callable(value)}
    names = [name for name in check.CHECKS if only in (None, name)]
    found = {name: functions.get(f"my_{name}", functions.get(name)) for name in names}
    found = {name: function for name, function in found.items() if function is not None}
    for name in functions:
        if name.startswith("my_") and name[3:] not in check.CHECKS:
            print(f"skip  {name} matches no check{_did_you_mean(name[3:])}")
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


def _did_you_mean(name):
    parts = [part for part in check.CHECKS if f"_{part}_" in f"_{name}_"]  # box_iou: iou
    close = difflib.get_close_matches(name, check.CHECKS, n=1, cutoff=0.75) or sorted(parts, key=len)[-1:]
    close = close or difflib.get_close_matches(name, check.CHECKS, n=1)
    return f", did you mean {close[0]}?" if close else ""
