"""Damaged image files: reading one may raise InputError, nothing else; its size is that of the array, if it is read.

python -m tests.fuzz_images --count 5000      a long run; tests/test_fuzzing.py does a short one
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from minimask.datasets.photos import image_size, read_image
from minimask.errors import InputError
from tests.fuzzing import main

KINDS = ("png", "jpeg", "webp", "tiff", "gif", "bmp", "png16", "tiff16", "tifff", "tifflzw", "palette", "alpha", "cmyk")


def _encoded(kind, orientation):
    """The bytes of a small picture."""
    rng = np.random.default_rng(orientation)
    color = Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    gray = rng.integers(0, 4096, (24, 40)).astype(np.uint16)
    picture, form, more = {
        "png16": (Image.fromarray(gray), "png", {}),
        "tiff16": (Image.fromarray(gray), "tiff", {}),
        "tifff": (Image.fromarray(gray.astype(np.float32)), "tiff", {}),
        "tifflzw": (color, "tiff", {"compression": "tiff_lzw"}),
        "palette": (color.quantize(16), "png", {"transparency": 3}),
        "alpha": (color.convert("RGBA"), "png", {}),
        "cmyk": (color.convert("CMYK"), "jpeg", {}),
    }.get(kind, (color, kind, {}))
    if form in ("png", "jpeg", "webp", "tiff"):
        more = {**more, "exif": exif}
    file = io.BytesIO()
    picture.save(file, form, **more)
    return file.getvalue()


def _damaged(data, rng):
    way = ("flip", "cut", "header", "swap", "repeat")[rng.integers(5)]
    changed = bytearray(data)
    if way == "flip":
        for place in rng.integers(0, len(data), int(rng.integers(1, 12))):
            changed[place] ^= 1 << int(rng.integers(8))
    elif way == "cut":
        changed = changed[: int(rng.integers(len(data)))]
    elif way == "header":
        for place in rng.integers(0, min(len(data), 120), int(rng.integers(1, 5))):
            changed[place] = int(rng.integers(256))
    elif way == "swap":
        a, b = sorted(rng.integers(0, len(data), 2))
        changed = changed[:a] + changed[b:]
    else:
        a, b = sorted(rng.integers(0, len(data), 2))
        changed = changed[:b] + changed[a:]
    return way, bytes(changed)


def prepare(folder, seed):
    """Returns a function that reads damaged file `number`: see fuzzing.py."""

    def attempt(number):
        rng, wrong = np.random.default_rng((seed, number)), []
        kind, orientation = KINDS[rng.integers(len(KINDS))], int(rng.integers(1, 9))
        way, data = _damaged(_encoded(kind, orientation), rng)
        path = Path(folder) / f"fuzz.{kind[:4]}"
        path.write_bytes(data)
        return _outcome(f"{kind} {way}", path, wrong), wrong

    return attempt


def _outcome(way, path, wrong):
    """How reading one file ends; a wrong end is added to `wrong`."""
    try:
        array = read_image(path)
        size = image_size(path)
    except InputError as error:
        if not str(error).startswith(str(path)):
            wrong.append((way, f"message: {error!r}"))
        return "InputError"
    except Exception as error:
        wrong.append((way, f"{type(error).__name__}: {error}"))
        return "failed"
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        wrong.append((way, f"array {array.shape} {array.dtype}"))
    if size != array.shape[:2]:
        wrong.append((way, f"size {size}, but the array is {array.shape}"))
    return "read"


if __name__ == "__main__":
    raise SystemExit(main(prepare, "image files"))
