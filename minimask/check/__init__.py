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

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    for _name, _check in vars(importlib.import_module(f"{__name__}.{_module}")).items():
        if isinstance(_check, Check) and _check.name is None:
            _check.name = _name
        if isinstance(_check, Check) and CHECKS.setdefault(_check.name, _check) is not _check:
            raise TypeError(f"two checks are called {_check.name!r}; one of them is in minimask/check/{_module}.py")
globals().update(CHECKS)

__all__ = ["CHECKS", "STAGES", "Check", "CheckFailed", "stage", *CHECKS]
