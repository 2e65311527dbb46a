"""Converts gray levels of more than 8 bits, as microscopes and scanners write them, to 0 to 255.

The lowest and the highest level are determined, in this order, by

    the file      TIFF's tags SMinSampleValue and SMaxSampleValue (or MinSampleValue and MaxSampleValue)
    the data      integers: the least of 8, 10, 12, 14 and 16 bits that holds all of them (cameras of 12 bits write 0 to
                  4095 into files of 16); floats: 0 to 1, otherwise 0 to 255
    its range     from the smallest to the largest value, where these do not fit: negative values, 32 bits, floats
"""

import numpy as np

from minimask.run.messages import say

BITS = (8, 10, 12, 14, 16)
TAGS = ((340, 341), (280, 281))  # SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue

_said = set()


def to_8_bits(values, tags, path):
    """Scale gray levels to 0..255, rounded. Scaling from anything but full 16 bits is reported, once per kind.

    values: (H, W) integers or floats. tags: those of a TIFF file, a dict. path: for messages.
    Returns (H, W) uint8. Raises ValueError for NaN and infinity.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    low, high, why = _limits(values, tags)
    if why and why not in _said:
        _said.add(why)
        say(f"{path}: gray levels from {low:g} to {high:g} become 0 to 255: {why} (said once)")
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.floor(np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)


def _limits(values, tags):
    """(lowest level, highest level, reason), where reason is None for the full range of 8 and 16 bits."""
    for names in TAGS:
        low, high = (_number(tags.get(name)) for name in names)
        if high is not None and high > (low or 0):
            return low or 0, high, "the file says so"
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        if low >= 0 and high <= 1:
            return 0, 1, "they are floats up to 1"
        if low >= 0 and high <= 255:
            return 0, 255, None
        return low, high, "the range of these floats"
    bits = next((bits for bits in BITS if low >= 0 and high < 2**bits), None)
    if bits is None:
        return low, high, "the range of these integers"
    return 0, 2**bits - 1, None if bits == 16 else f"none of them needs more than {bits} bits"


def _number(value):
    """The value of a tag as a number, the largest if there is one per band; None if there is none."""
    try:
        number = float(np.max(value))
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
