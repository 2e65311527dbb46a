"""Bad input: the error for what a person gave us (a file, a setting), and checks of an operation's arguments."""

import numbers

import numpy as np


class InputError(ValueError):
    """A file, argument or setting of the user's cannot be used. The command line prints it without a traceback."""


class DamagedError(InputError):
    """A file of ours was damaged: it is cut off, or its checksums do not fit."""


def check_shape(name, argument, x, shape):
    """Raise ValueError unless x, an argument of operation `name`, has this shape, or is None (left out).

    A letter instead of a number, as in ("N", "H", "W", 3), stands for any.
    """
    if x is None:
        return
    found = np.shape(x)
    if len(found) != len(shape) or any(n != m and not isinstance(n, str) for n, m in zip(shape, found)):
        expected = str(tuple(shape)).replace("'", "")
        raise ValueError(f"{name}: {argument} must have shape {expected}, got {tuple(found)}")


def check_pair(name, argument, value, least):
    """An int or (y, x) as (y, x) of ints; raises ValueError unless each is at least `least`."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, numbers.Integral) or v < least for v in pair):
        raise ValueError(f"{name}: {argument} must be an int >= {least} or two of them (y, x), got {value!r}")
    return int(pair[0]), int(pair[1])
