"""Checks of the functions that students write: from minimask import check; check.iou(my_iou).

Each module here belongs to one topic and defines its `Check` objects at module level; all of them are attributes of
this package, by their names, and in `CHECKS`. Where a module and a check share a name, `check.roi_align` is the check.
"""

import importlib
import pkgutil

from minimask.check.engine import Check, CheckFailed

CHECKS = {}  # name -> Check, in the order of the modules' names

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    for _name, _check in vars(importlib.import_module(f"{__name__}.{_module}")).items():
        if isinstance(_check, Check) and _check.name is None:
            _check.name = _name
        if isinstance(_check, Check) and CHECKS.setdefault(_check.name, _check) is not _check:
            raise TypeError(f"two checks are called {_check.name!r}; one of them is in minimask/check/{_module}.py")
globals().update(CHECKS)

__all__ = ["CHECKS", "Check", "CheckFailed", *CHECKS]
