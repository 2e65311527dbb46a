"""Reading photo files the way people see them: turned upright, in color, without transparency."""

import contextlib
import ctypes
import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minimask.datasets.gray_levels import to_8_bits
from minimask.errors import InputError

# A photo of 10,000 x 10,000 pixels is a photo, not an attack. Beyond 179 megapixels Pillow still refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damaged EXIF data, which nobody needs
logging.getLogger("PIL").addHandler(logging.NullHandler())  # our InputError already says what is wrong

ORIENTATION = 0x0112  # tags of EXIF and TIFF
WIDTH, LENGTH, STRIP_OFFSETS, ROWS_PER_STRIP = 256, 257, 273, 278
SIDEWAYS = (5, 6, 7, 8)
UNDO = {  # what turns an upright image into the one that is stored
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def _silence_libtiff():
    """Keep the library of TIFF files, where Pillow brings its own, from writing lines of its own to the console.

    What it cannot read still ends in an error of Pillow's, and the message then names the file.
    """
    package = Path(Image.__file__).parent
    for file in (*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(file))  # the one that Pillow has loaded
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                function = getattr(library, name)
                function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
                function(None)


_silence_libtiff()


def read_image(path, rotate=True):
    """Read an image file.

    Grayscale becomes RGB, transparent parts are put on white, palettes are looked up, more than 8 bits are scaled to 8
    (gray_levels.py).

    path: the file.
    rotate: whether to turn the image as its EXIF orientation says.
    Returns (H, W, 3) uint8, RGB. Raises InputError that names the file if it is missing or not readable.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as picture:  # given a path, Pillow maps gray TIFFs wrongly
            orientation, tags = _orientation(picture), getattr(picture, "tag_v2", None) or {}
            _check_strips(tags)
            picture.load()
            turned = orientation != 1 and _orientation(picture) == 1  # Pillow turns TIFF files when it loads them
            if rotate:
                picture = ImageOps.exif_transpose(picture)
            elif turned:
                picture = picture.transpose(UNDO[orientation])
            return np.array(_to_rgb(picture, path, tags))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file") from None
    except MemoryError:
        raise InputError(f"{path}: too large for this machine's memory") from None
    except Exception as error:  # damaged files make Pillow raise OSError, SyntaxError, zlib.error ...
        raise InputError(f"{path}: not a readable image ({_reason(error, path)})") from None


def image_size(path, rotate=True):
    """(height, width) of the array that `read_image` would return, from the file's header alone.

    Raises InputError if there is no such file or it is not an image.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as picture:
            width, height = picture.size
            tags = getattr(picture, "tag_v2", None)
            if tags is not None:  # a TIFF file; Pillow's size may be that of the upright image already
                width, height = int(tags[WIDTH]), int(tags[LENGTH])
            sideways = rotate and _orientation(picture) in SIDEWAYS
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file") from None
    except Exception as error:
        raise InputError(f"{path}: not a readable image ({_reason(error, path)})") from None
    return (width, height) if sideways else (height, width)


def rgb_array(picture):
    """The array (H, W, 3) uint8 that `read_image` would return for a PIL image."""
    name, tags = getattr(picture, "filename", "") or "image", getattr(picture, "tag_v2", None) or {}
    return np.array(_to_rgb(ImageOps.exif_transpose(picture), name, tags))


def _check_strips(tags):
    """Raises ValueError if a TIFF file lacks a part of its rows, which Pillow would fill with black, however many."""
    if STRIP_OFFSETS in tags:
        rows, length = len(tags[STRIP_OFFSETS]) * int(tags.get(ROWS_PER_STRIP, tags[LENGTH])), int(tags[LENGTH])
        if rows < length:
            raise ValueError(f"it contains only {rows} of its {length} rows")


def _orientation(picture):
    """1 to 8; 1 if the image is upright, or its tag is damaged."""
    value = picture.getexif().get(ORIENTATION, 1)
    return value if value in UNDO else 1


def _reason(error, path):
    """What is wrong with a file, in a few words."""
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "permission denied"
    if "cannot identify" in str(error):
        return _unknown_format(path)
    return str(error) or type(error).__name__


def _unknown_format(path):
    with open(path, "rb") as file:
        start = file.read(32)
    if not start:
        return "the file is empty"
    if start[:4] in (b"II*\0", b"MM\0*"):
        return "a TIFF of a kind that Pillow does not read; save it with 8 or 16 bits in 1 or 3 channels"
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "HEIC, which Pillow does not read; convert it to JPEG"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, not a photo"
    return "its format is unknown"


def _to_rgb(picture, path, tags):
    if picture.mode.startswith(("I", "F")):  # more than 8 bits per pixel; Pillow's own conversion would clip at 255
        picture = Image.fromarray(to_8_bits(np.asarray(picture), tags, path))
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
