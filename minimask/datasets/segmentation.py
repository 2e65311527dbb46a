"""COCO's two ways to write a mask: polygons, and run lengths (RLE). Checked, decoded, encoded.

pycocotools trusts its input: counts that do not fill the mask make it read memory that is not its own, and a point far
outside makes it allocate memory for the whole way there. Everything from a file is therefore checked here first.
"""

import numpy as np

from minimask.errors import InputError


def decode_segmentation(segmentation, height, width):
    """Decode a COCO segmentation.

    segmentation: a list of polygons [x, y, x, y, ...], or an RLE {"size", "counts"} with counts as a list or a string.
    height, width: size of the image in pixels.
    Returns (height, width) uint8, 1 inside.
    """
    from pycocotools import mask as rle

    if isinstance(segmentation, list):
        return rle.decode(rle.merge(rle.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        return rle.decode(rle.frPyObjects(segmentation, height, width))
    return rle.decode(segmentation)


def encode_segmentation(segmentation, height, width):
    """A checked segmentation of any kind as compressed RLE, the form that pycocotools compares."""
    from pycocotools import mask as rle

    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": segmentation["counts"]}


def box_of_segmentation(segmentation):
    """The box x1, y1, x2, y2 around a checked segmentation, in pixels. It is empty (all 0) if an RLE is empty."""
    if isinstance(segmentation, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])  # (P, 2)
        return *points.min(axis=0), *points.max(axis=0)
    mask = decode_segmentation(segmentation, *segmentation["size"])
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)


def rle_counts(counts):
    """The run lengths of an RLE, from COCO's list of them or from its compressed string.

    Each character of the string holds six bits, counted from "0". Five of them belong to the number, lowest first; the
    sixth says that more follow. The highest bit of the last character is the sign. From the fourth number on, each is
    the difference to the number two places before it.

    Returns (n,) int64, or None if the counts are damaged.
    """
    if isinstance(counts, list):
        good = all(type(count) is int and abs(count) < 2**62 for count in counts)
        return np.array(counts, dtype=np.int64) if good else None
    if not isinstance(counts, (str, bytes)) or not counts:
        return None
    data = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None

    ends = np.flatnonzero((codes & 32) == 0)  # last character of each number
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:  # more than 35 bits: no image has so many pixels
        return None

    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) > 0
    numbers[negative] -= 1 << (5 * (place[ends][negative] + 1))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


# ------------------------------------------------------------------------------------------------------------ checking


def check_segmentation(where, segmentation, height, width):
    """Raise InputError if a segmentation cannot be decoded.

    where: the beginning of the message, such as "a.json: annotation 5".
    height, width: size of the image in pixels, or None if it is not known; then sizes are not compared.
    """
    if isinstance(segmentation, dict):
        _check_rle(where, segmentation, height, width)
    elif isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(where, polygon, height, width)
    else:
        raise InputError(
            f"{where} must have a list of polygons or an RLE object as segmentation, has {kind_of(segmentation)}"
        )


def _check_polygon(where, polygon, height, width):
    if not isinstance(polygon, list):
        raise InputError(f"{where} must have polygons that are lists of numbers, has {kind_of(polygon)}")
    if len(polygon) % 2:
        raise InputError(f"{where} has a polygon of {len(polygon)} numbers; x and y must come in pairs")
    if len(polygon) < 6:
        raise InputError(f"{where} has a polygon of {_count(len(polygon) // 2, 'point')}; it takes at least 3")
    points = check_numbers(where, polygon, "a polygon").reshape(-1, 2)
    if height is None:
        return
    size = np.array([width, height], dtype=np.float64)
    far = ((points < -size) | (points > 2 * size)).any(axis=1)
    if far.any():  # slightly beyond the border is common and is cut off
        x, y = points[far][0]
        raise InputError(f"{where} has a polygon with a point far outside its image: ({x:g}, {y:g})")


def _check_rle(where, segmentation, height, width):
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise InputError(f"{where} has an RLE whose size must be [height, width], but is {size!r}")
    if height is not None and size != [height, width]:
        raise InputError(
            f"{where} has an RLE of size {size[0]} x {size[1]} (height x width), but its image is {height} x {width}"
        )
    if not isinstance(counts, (list, str, bytes)) or not counts:
        raise InputError(f"{where} has an RLE whose counts must be a list or a string, but are {kind_of(counts)}")
    if isinstance(counts, list) and any(type(count) is not int for count in counts):
        raise InputError(f"{where} has an RLE whose counts are not integers")

    area = size[0] * size[1]
    runs = rle_counts(counts)
    if runs is None or runs.min() < 0 or runs.max() > area:
        raise InputError(f"{where} has an RLE whose counts cannot be decoded for {size[0]} x {size[1]} pixels")
    if runs.sum() != area:
        raise InputError(
            f"{where} has an RLE whose counts add up to {runs.sum()} pixels; {size[0]} x {size[1]} are {area}"
        )


def check_numbers(where, values, what):
    """The values as (n,) float64. Raises InputError unless all are finite numbers that can be pixels."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise InputError(f"{where} has {what} with values that are not numbers")
    if len(numbers) and np.abs(numbers).max() > 1e7:
        raise InputError(
            f"{where} has {what} with a value too large for any image: {numbers[np.abs(numbers).argmax()]:g}"
        )
    return numbers


def kind_of(value):
    """What a json value is, for messages."""
    names = {list: "a list", str: "text", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _count(number, thing):
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
