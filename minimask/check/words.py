"""Values, calls and mistakes of a student's function, in words."""

import inspect
import linecache
import numbers
import traceback

import numpy as np


def call_text(function, arguments):
    """The call as text, with each argument in a few words."""
    return f"{name_of(function)}({', '.join(f'{name}={_argument(value)}' for name, value in arguments.items())})"


def _argument(value):
    if isinstance(value, np.ndarray):
        text = np.array2string(value, separator=", ", precision=4)
        return text if len(text) <= 60 and "\n" not in text else f"array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else describe(value)


def name_of(function):
    return getattr(function, "__name__", type(function).__name__)


def describe(value):
    """What a value is, in a few words: 'an array of shape (2, 3)', 'the number 4', 'a list of length 2', 'None'."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    if isinstance(value, (numbers.Number, np.generic, np.ndarray)):
        return f"the number {number(value)}" if np.asarray(value).dtype.kind in "iuf" else f"{value}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of length {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def number(value):
    value = np.asarray(value)[()]
    return f"{value:.6g}" if value.dtype.kind == "f" else str(value)


def short(value):
    """A number for a narrow cell: 0.0145, 12.3, 1066.5, 1e+07."""
    if value.dtype.kind != "f":
        return str(value)
    return f"{value:.1f}".removesuffix(".0") if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def count(n, what):
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def capital(text):
    return text[0].upper() + text[1:]


def where_it_stops(error, function):
    """'It stops with ZeroDivisionError: division by zero in line 3: return a / b', with the student's last line."""
    kind = type(error).__name__
    text = f"It stops with {kind}: {error}" if str(error) else f"It stops with {kind}"
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename
    ]
    if not frames:
        return text + "."
    line = linecache.getline(frames[-1].filename, frames[-1].lineno).strip()
    return f"{text}\nin line {frames[-1].lineno}: {line}"


def same_value(a, b):
    """Whether two arguments are equal, element by element. NaN equals NaN."""
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_value(a[key], b[key]) for key in a)
    return True  # numbers and strings cannot change, and other objects are not compared


def first_change(before, after):
    """': [0, 2] was 3, is 1', if both are arrays of the same shape; otherwise ''."""
    if not isinstance(before, np.ndarray) or before.shape != after.shape or not before.ndim:
        return ""
    changed = np.argwhere((before != after) & ~((before != before) & (after != after)))
    if not len(changed):
        return ""
    index = tuple(int(i) for i in changed[0])
    at = ", ".join(map(str, index))
    return f": [{at}] was {number(before[index])} and is now {number(after[index])}"


def relation(found, expected):
    """A sentence if `found` is `expected` transposed, reversed, negated, scaled or shifted; otherwise ''."""
    if found.dtype.kind not in "fiu" or found.size < 2 or not np.isfinite(found).all():
        return ""

    def same(a, b):
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=1e-9)

    found, expected = found.astype(float), expected.astype(float)
    if found.ndim > 1 and same(found, np.swapaxes(expected, -1, -2)):
        return "Rows and columns are swapped (the last two axes)."
    for axis in range(found.ndim):
        if same(found, np.flip(expected, axis)):
            return f"The order is reversed along axis {axis}."
    if same(found, -expected):
        return "Every element has the wrong sign."
    if same(found, np.zeros_like(found)):
        return "Every element is 0."
    if same(found - expected, np.full_like(found, (found - expected).flat[0])):
        return f"Every element is {number(abs((found - expected).flat[0]))} too {_too(found, expected)}."
    nonzero = np.flatnonzero(expected)
    if len(nonzero) > 1:
        ratio = found.flat[nonzero[0]] / expected.flat[nonzero[0]]
        if same(found, ratio * expected):
            return f"Every element is {number(ratio)} times the expected one."
    for axis in range(found.ndim):
        for step in (1, -1):
            if found.shape[axis] > 3:
                inner = np.take(found, range(1, found.shape[axis] - 1), axis)
                if same(inner, np.take(expected, range(1 - step, found.shape[axis] - 1 - step), axis)):
                    return f"Everything is shifted by one along axis {axis}."
    return ""


def _too(found, expected):
    return "large" if found.flat[0] > expected.flat[0] else "small"
