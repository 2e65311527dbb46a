"""Which versions of Python minimask runs on; on any other, one sentence says so instead of a page of errors."""

import importlib.util
import sys

OLDEST, NEWEST = (3, 10), (3, 14)  # those that Numba has packages for


def check():
    """Refuse a Python that is older than `OLDEST`, or newer than `NEWEST` and without Numba.

    Raises ImportError, or SystemExit under `python -m minimask`, so that the message stands alone.
    """
    version = sys.version_info[:2]
    if OLDEST <= version <= NEWEST or (version > NEWEST and importlib.util.find_spec("numba") is not None):
        return

    supported = f"{_text(OLDEST)} to {_text(NEWEST)}, the versions that Numba has packages for"
    message = f"minimask runs on Python {supported}; this is Python {_text(version)}"
    if sys.argv[:1] == ["-m"]:
        raise SystemExit(message)
    raise ImportError(message)


def _text(version):
    return ".".join(map(str, version))
