"""COCO's two ways to write a mask: polygons, and run lengths (RLE). Read, decoded, encoded.

pycocotools trusts its input: counts that do not fill the mask make it read memory that is not its own, and a point far
outside makes it allocate memory for the whole way there. What comes from a file is read by `read_segmentation`.
"""

import math
from operator import mul

import numpy as np

from minimask.datasets.problems import Defect

LARGEST_SIDE = 1_000_000  # of an image, in pixels
LARGEST_NUMBER = 1e7  # that can be a coordinate


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
    """The box x1, y1, x2, y2 around a checked segmentation, in pixels. It is empty if an RLE has no pixel."""
    if isinstance(segmentation, list):
        points = segmentation[0] if len(segmentation) == 1 else sum(segmentation, [])
        x, y = points[::2], points[1::2]
        return min(x), min(y), max(x), max(y)

    from pycocotools import mask as rle

    x, y, w, h = rle.toBbox(encode_segmentation(segmentation, *segmentation["size"]))
    return x, y, x + w, y + h


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


# ------------------------------------------------------------------------------------------------------------- reading


def read_segmentation(where, segmentation, height, width, note=None, empty=False):
    """A checked segmentation in COCO's own form, converted to it if that is possible without guessing.

    where: the beginning of messages, such as "annotation 5".
    height, width: size of the image in pixels, or None if it is not known; then sizes are not compared.
    note: function of a text, called for what was not in COCO's form but was read anyway.
    empty: whether it may have no pixel, as a predicted mask may.
    Returns the polygons or the RLE; None if there is none (null, or an empty list).
    Raises Defect if it cannot be decoded or has no pixel.
    """
    note = note or (lambda kind: None)
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        return _read_rle(where, segmentation, height, width, empty)
    if not isinstance(segmentation, list):
        raise Defect(
            "segmentation of an unknown kind",
            f"{where} must have a list of polygons or an RLE object as segmentation, has {kind_of(segmentation)}",
        )
    polygons = [_read_polygon(where, p, note) for p in _as_polygons(segmentation, note)]
    if height is not None:
        large = [_check_polygon(where, polygon, height, width) for polygon in polygons]
        if polygons and not empty and not any(large) and not decode_segmentation(polygons, height, width).any():
            raise Defect("segmentation that covers no pixel", f"{where} has a segmentation without area")
    return polygons or None


def _as_polygons(segmentation, note):
    """The list of polygons that a list stands for: also one flat polygon, points [x, y], and empty polygons."""
    if len(segmentation) >= 6 and not any(isinstance(value, (list, dict)) for value in segmentation):
        note("segmentation that is one flat polygon")
        return [segmentation]
    if len(segmentation) >= 3 and all(map(_is_point, segmentation)):
        note("polygon of [x, y] pairs")
        return [sum(segmentation, [])]
    polygons = []
    for polygon in segmentation:
        if polygon == []:
            note("empty polygon, left out of its segmentation")
        elif isinstance(polygon, list) and all(map(_is_point, polygon)):
            note("polygon of [x, y] pairs")
            polygons.append(sum(polygon, []))
        else:
            polygons.append(polygon)
    return polygons


def _is_point(value):
    return isinstance(value, list) and len(value) == 2 and not isinstance(value[0], (list, dict))


def _read_polygon(where, polygon, note):
    """The polygon as a list of numbers. Raises Defect if it is none."""
    if not isinstance(polygon, list):
        raise Defect(
            "segmentation of an unknown kind",
            f"{where} must have polygons that are lists of numbers, has {kind_of(polygon)}",
        )
    if len(polygon) % 2:
        raise Defect(
            "polygon of an odd count of numbers",
            f"{where} has a polygon of {len(polygon)} numbers; x and y must come in pairs",
        )
    if len(polygon) < 6:
        raise Defect(
            "polygon of fewer than 3 points",
            f"{where} has a polygon of {_count(len(polygon) // 2, 'point')}; it takes at least 3",
        )
    return read_numbers(where, polygon, "a polygon", note)


def _check_polygon(where, polygon, height, width):
    """Raise Defect if a polygon cannot belong to an image of this size.

    Returns whether it is so large that it surely covers a pixel; if not, only drawing it can tell.
    """
    x1, y1, x2, y2 = box_of_segmentation([polygon])
    if x1 < -width or y1 < -height or x2 > 2 * width or y2 > 2 * height:  # a little beyond the border is cut off
        points, size = np.reshape(polygon, (-1, 2)), np.array([width, height])
        x, y = points[((points < -size) | (points > 2 * size)).any(axis=1)][0]
        raise Defect(
            "polygon with a point far outside its image",
            f"{where} has a polygon with a point far outside its image: ({x:g}, {y:g})",
        )
    small = max(x2, y2) <= 1 < min(height, width) / 4 and min(x1, y1) >= 0
    if small and any(value not in (0, 1) for value in polygon):
        raise Defect(
            "polygon in parts of the image (0 to 1)",
            f"{where} has a polygon with coordinates from 0 to 1; they must be pixels (multiply by width and height)",
        )

    inside = x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
    return inside and _area(polygon) > 2 * (x2 - x1 + y2 - y1)


def _area(polygon):
    """The area of a polygon [x, y, x, y, ...], by the shoelace formula."""
    x, y = polygon[::2], polygon[1::2]
    return abs(sum(map(mul, x, y[1:] + y[:1])) - sum(map(mul, y, x[1:] + x[:1]))) / 2


def _read_rle(where, segmentation, height, width, empty):
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if isinstance(size, (list, tuple)):
        size = [_integer(side) for side in size]
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise Defect(
            "RLE without a size", f"{where} has an RLE whose size must be [height, width], but is {short(size)}"
        )
    if height is not None and size != [height, width]:
        raise Defect(
            "RLE whose size is not that of its image",
            f"{where} has an RLE of size {size[0]} x {size[1]} (height x width), but its image is {height} x {width}",
        )
    if max(size) > LARGEST_SIDE:
        raise Defect("RLE without a size", f"{where} has an RLE of size {size[0]} x {size[1]}, too large for an image")
    kind = "RLE whose counts cannot be decoded"
    if not isinstance(counts, (list, str, bytes)) or not counts:
        raise Defect(kind, f"{where} has an RLE whose counts must be a list or a string, but are {kind_of(counts)}")
    if isinstance(counts, list):
        counts = [_integer(count) for count in counts]
        if any(type(count) is not int for count in counts):
            raise Defect(kind, f"{where} has an RLE whose counts are not integers")

    area = size[0] * size[1]
    runs = rle_counts(counts)
    if runs is None or runs.min() < 0 or runs.max() > area:
        raise Defect(kind, f"{where} has an RLE whose counts cannot be decoded for {size[0]} x {size[1]} pixels")
    if runs.sum() != area:
        raise Defect(
            kind,
            f"{where} has an RLE whose counts add up to {runs.sum()} pixels; {size[0]} x {size[1]} are {area}",
        )
    if not empty and not runs[1::2].any():
        raise Defect("segmentation that covers no pixel", f"{where} has a segmentation without area")
    return {**segmentation, "size": size, "counts": counts}


def read_numbers(where, values, what, note=None):
    """Values from a file as a list of numbers; numbers that were written as text are read.

    Raises Defect unless all are finite numbers that can be pixels.
    """
    numbers = set(map(type, values)) <= {int, float}
    small = numbers and -LARGEST_NUMBER <= min(values, default=0) and max(values, default=0) <= LARGEST_NUMBER
    if small and math.isfinite(sum(values)):  # a NaN shows in the sum, while min and max may miss it
        return values

    plain = what.removeprefix("a ")
    if not numbers:
        texts = any(isinstance(value, str) for value in values)
        values = [number_of(value) for value in values]
        if texts and note and None not in values:
            note(f"{plain} whose numbers are written as text")
    if None in values or not _all_finite(values):
        raise Defect(
            f"{plain} with values that are not numbers", f"{where} has {what} with values that are not numbers"
        )
    largest = max(values, key=abs, default=0)
    if abs(largest) > LARGEST_NUMBER:
        raise Defect(
            f"{plain} with a value too large for any image",
            f"{where} has {what} with a value too large for any image: {short_number(largest)}",
        )
    return values


def _all_finite(values):
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond all floats
        return True


def short_number(value):
    """A number for messages; an integer may have hundreds of digits."""
    return f"{value:g}" if abs(value) < 1e300 else "more than 1e300"


def number_of(value):
    """The finite number that a value is, or that a text spells; None if it is none."""
    if isinstance(value, str):
        try:
            value = float(value) if len(value) < 40 else None
        except ValueError:
            return None
    if not isinstance(value, (int, float, np.number)) or isinstance(value, bool):
        return None
    try:
        return value if np.isfinite(float(value)) else None
    except OverflowError:
        return None


def _integer(value):
    """A float that is an integer as that integer; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def kind_of(value):
    """What a json value is, for messages."""
    names = {list: "a list", str: "text", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def short(value):
    """A value as text for messages, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _count(number, thing):
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
