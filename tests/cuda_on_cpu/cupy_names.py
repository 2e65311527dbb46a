"""Writes cupy_names.json for the stand-in: CuPy's names and their parameters. Needs CuPy but no GPU.

python -m tests.cuda_on_cpu.cupy_names
"""

import inspect
import json
import re
from pathlib import Path

FILE = Path(__file__).parent / "cupy_names.json"


def parameters(name, function):
    """[[name, kind, has a default], ...] of a function, or None if CuPy does not reveal its signature."""
    if isinstance(function, type) or not callable(function):
        return None
    try:
        signature = inspect.signature(function)
    except ValueError:  # a compiled method: the first line of its docstring is its signature
        line = re.match(r"\w+\." + name + r"\((.*)\)", (function.__doc__ or "").split("\n")[0])
        if line is None:
            return None
        text = re.sub(r"\b(?:int|bool|Py_ssize_t|\w*ndarray\w*) (\w)", r"\1", line[1])
        signature = inspect.signature(eval(f"lambda {text}: None"))
    return [[p.name, int(p.kind), p.default is not p.empty] for p in signature.parameters.values()]


def names():
    import cupy
    import cupyx

    found = {"version": cupy.__version__}
    for title, scope in [("cupy", cupy), ("cupy.ndarray", cupy.ndarray), ("cupy.cuda", cupy.cuda), ("cupyx", cupyx)]:
        public = sorted(
            name for name in dir(scope) if not name.startswith("_") and not inspect.ismodule(getattr(scope, name))
        )
        found[title] = {name: parameters(name, getattr(scope, name)) for name in public}
    return found


if __name__ == "__main__":
    groups = [
        f'"{title}": {{\n' + ",\n".join(f'"{n}": {json.dumps(p)}' for n, p in value.items()) + "\n}"
        if isinstance(value, dict)
        else f'"{title}": {json.dumps(value)}'
        for title, value in names().items()
    ]
    FILE.write_text("{\n" + ",\n".join(groups) + "\n}\n", encoding="utf-8")
