"""Checks of functions that students write: from minimask import check; check.iou(my_iou).

Each module here belongs to one topic and defines its `Check` objects at module level. All of them are attributes of
this package, by their names, and in `CHECKS`. Where a module and a check have the same name, `check.roi_align` is the
check.

`check.stage("roi_align", f)` compares a function that has the signature of the library's own stage.
"""

import importlib
import pkgutil

from minimask.check.engine import Check, CheckFailed
from minimask.check.stages import STAGES, stage

CHECKS = {}  # name -> Check, in the order of the modules' names

TOPICS = {}  # first line of a module's docstring -> names of its checks

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    _imported = importlib.import_module(f"{__name__}.{_module}")
    for _name, _check in vars(_imported).items():
        if isinstance(_check, Check) and _check.name is None:
            _check.name = _name
            TOPICS.setdefault(_imported.__doc__.splitlines()[0], []).append(_name)
        if isinstance(_check, Check) and CHECKS.setdefault(_check.name, _check) is not _check:
            raise TypeError(f"two checks are called {_check.name!r}; one of them is in minimask/check/{_module}.py")
globals().update(CHECKS)


def listing():
    """The text of `python -m minimask check --list`: every check by notebook, then the stages, with signatures."""
    lines = []
    for topic in sorted(TOPICS):
        lines += [topic, *(f"    my_{CHECKS[name].signature()}" for name in TOPICS[topic]), ""]
    lines.append("Stages with the library's own signature, for check.stage(NAME, function):")
    lines += [f"    {name}: {one.signature()}" for name, one in STAGES.items()]
    return "\n".join(lines)


__all__ = ["CHECKS", "STAGES", "Check", "CheckFailed", "listing", "stage", *CHECKS]
