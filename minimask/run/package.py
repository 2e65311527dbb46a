"""Functions of a package that share their name with one of its modules: `minimask.train` and minimask/train.py."""

import sys
import types


def functions_first(package, names):
    """Keep the attributes `names` of a package what the package makes them.

    Python stores a module as an attribute of its package when it is first imported, and would so replace a function of
    the same name. `from minimask.train import fit` works in any case.
    """

    class Package(types.ModuleType):
        def __setattr__(self, name, value):
            if not (name in names and isinstance(value, types.ModuleType)):
                super().__setattr__(name, value)

    sys.modules[package].__class__ = Package
