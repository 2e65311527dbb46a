"""Reading photo files the way people see them: turned upright, in color, without transparency."""

import warnings

import numpy as np
from PIL import Image, ImageOps

from minimask.errors import InputError

# A photo of 10,000 x 10,000 pixels is a photo, not an attack. Beyond 179 megapixels Pillow still refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path, rotate=True):
    """Read an image file.

    Grayscale becomes RGB, transparent parts are put on white, palettes are looked up, 16 bits are scaled to 8.

    path: the file.
    rotate: whether to turn the image as its EXIF orientation says.
    Returns (H, W, 3) uint8, RGB. Raises InputError that names the file if it is missing or not readable.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            if rotate:
                picture = ImageOps.exif_transpose(picture)
            return np.array(_to_rgb(picture))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file") from None
    except MemoryError:
        raise InputError(f"{path}: too large for this machine's memory") from None
    except Exception as error:  # damaged files make Pillow raise OSError, SyntaxError, zlib.error ...
        raise InputError(f"{path}: not a readable image ({_reason(error)})") from None


def image_size(path):
    """(height, width) of the array that `read_image` would return, from the file's header alone.

    Raises InputError if there is no such file or it is not an image.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file") from None
    except Exception as error:
        raise InputError(f"{path}: not a readable image ({error})") from None
    return (width, height) if turned else (height, width)


def rgb_array(picture):
    """The array (H, W, 3) uint8 that `read_image` would return for a PIL image."""
    return np.array(_to_rgb(ImageOps.exif_transpose(picture)))


def _reason(error):
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "permission denied"
    return "its format is unknown" if "cannot identify" in str(error) else str(error) or type(error).__name__


def _to_rgb(picture):
    if picture.mode.startswith("I"):  # 16 bits per pixel; Pillow's own conversion would clip at 255
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        picture = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
