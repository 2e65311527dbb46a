"""Settings that document and check themselves: for the parts of the model, for training, for the command line.

A group of settings is a frozen dataclass that derives from `Settings`; each field is made by `setting`, which holds its
default, one line of documentation, and the values it may take. Types come from the annotations.
"""

import dataclasses
import difflib
import math
import numbers
import types
import typing

from minimask.errors import InputError

KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "none"}


def setting(default, text, choices=None, least=None, most=None, above=None, below=None, **extra):
    """A field of a `Settings` class.

    default: its value if nothing is given.
    text: one line of documentation, which is also the help on the command line.
    choices: the values it may take, if they can be listed.
    least, most, above, below: limits of a number, or of every number in a tuple; the last two exclude the limit.
    extra: more metadata for whoever reads the field (such as "resume" for the command line).
    """
    limits = dict(least=least, most=most, above=above, below=below)
    metadata = dict(text=text, choices=choices, limits={k: v for k, v in limits.items() if v is not None}, **extra)
    return dataclasses.field(default=default, metadata=metadata)


class Settings:
    """Base of frozen dataclasses of settings; `owner` comes before a field's name in messages ("rpn.samples")."""

    owner = ""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _tuples(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if not allowed(value, field):
                choices = field.metadata.get("choices")
                hint = did_you_mean(value, choices) if choices and isinstance(value, str) else ""
                raise InputError(f"{self.owner}{field.name} must be {description(field)}, got {value!r}{hint}")

    @classmethod
    def of(cls, given):
        """The settings in `given`: None (the defaults), a dict, or an object of this class. InputError if unknown."""
        if isinstance(given, cls):
            return given
        if given is not None and not isinstance(given, dict):
            raise InputError(f"{cls.owner.rstrip('.')} must be a dict of settings, got {given!r}")
        kind = f"setting {cls.owner}" if cls.owner.endswith(".") else "setting"
        for name in given or {}:
            check_name(kind, name, [field.name for field in dataclasses.fields(cls)])
        return cls(**(given or {}))

    def __repr__(self):
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


def _tuples(value):
    """Lists, as they come from json, become tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def allowed(value, field):
    """Whether `value` has the type of `field` and lies within its choices or limits."""
    metadata = field.metadata
    if not _has_type(value, field.type):
        return False
    if metadata.get("choices") and isinstance(value, str):
        return value in metadata["choices"]
    return all(_within(number, **metadata.get("limits", {})) for number in _numbers(value))


def _has_type(value, kind):
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_has_type(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_has_type(v, parts[0]) for v in value)
        return len(value) == len(parts) and all(_has_type(v, part) for v, part in zip(value, parts))
    if isinstance(value, bool):
        return kind is bool
    if kind is int:
        return isinstance(value, numbers.Integral)
    if kind is float:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, kind)


def _numbers(value):
    if isinstance(value, tuple):
        return [number for v in value for number in _numbers(v)]
    return [value] if isinstance(value, numbers.Real) and not isinstance(value, bool) else []


def _within(number, least=-math.inf, most=math.inf, above=-math.inf, below=math.inf):
    return least <= number <= most and above < number < below


def description(field):
    """What a field may be, in words: "an integer of at least 1", "adamw or sgd", "2 numbers above 0, or none"."""
    choices, limits = field.metadata.get("choices"), field.metadata.get("limits", {})
    kinds = [kind for kind in _union(field.type) if kind is not types.NoneType]
    names = [one_of(choices) if choices and kind is str else _kind(kind) for kind in kinds]
    words = {"least": "of at least", "most": "at most", "above": "above", "below": "below"}
    ranges = " and ".join(f"{words[name]} {limit:g}" for name, limit in limits.items())
    optional = ", or none" if len(kinds) < len(_union(field.type)) else ""
    return " or ".join(names) + (f" {ranges}" if ranges else "") + optional


def _union(kind):
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def _kind(kind):
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        inner = {int: "integers", float: "numbers"}.get(parts[0], "lists of numbers")
        return f"a list of {inner}" if parts[-1] is Ellipsis else f"{len(parts)} {inner}"
    return KINDS.get(kind, "a function")


def may_change(kind):
    """Names of the fields of a settings class that may change when a run is resumed: the steps stay the same."""
    return [field.name for field in dataclasses.fields(kind) if field.metadata.get("resume")]


# ------------------------------------------------------------------------------------------------------------- messages


def one_of(names):
    """ "a", "a or b", "a, b or c"."""
    *others, last = map(str, names)
    return f"{', '.join(others)} or {last}" if others else last


def did_you_mean(name, known):
    """ "; did you mean X?" if a known name resembles `name` or begins with it, else an empty string."""
    known = {str(k).lower(): str(k) for k in known}
    name = str(name).lower()
    close = difflib.get_close_matches(name, known, n=1) or [k for k in known if len(name) > 1 and k.startswith(name)]
    return f"; did you mean {known[close[0]]}?" if close else ""


def check_name(kind, name, known):
    """Raises InputError, with a suggestion, if `name` is not among the `known` names; `kind` says what it names."""
    if name not in known:
        space = "" if kind.endswith(".") else " "
        names = ", ".join(map(str, known))
        raise InputError(f"unknown {kind}{space}{name}{did_you_mean(name, known)} (known: {names})")
