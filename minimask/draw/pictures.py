"""Pictures as (H, W, 3) uint8 arrays: their size on the page, several in a grid, and writing them to a file."""

import io
from pathlib import Path

import numpy as np

from minimask.draw.colors import DARK, LIGHT
from minimask.draw.pen import font_of
from minimask.errors import InputError
from minimask.run.files import write_files

READABLE_SIDE = 1024  # pixels: a small photo is enlarged as long as its longer side stays within this
LARGEST_SIDE = 4000  # pixels: a photo whose longer side exceeds this is reduced


def as_rgb(image):
    """The image as an (H, W, 3) uint8 array."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"draw: image must be (H, W, 3) uint8, got shape {image.shape} {image.dtype}")
    return image


def readable(image, side=READABLE_SIDE):
    """Enlarge or reduce an image to a size at which text can be read. Returns (picture, scale)."""
    from PIL import Image

    longest = max(image.shape[:2])
    scale = max(1, side // longest) if longest <= LARGEST_SIDE else 1 / -(-longest // LARGEST_SIDE)
    if scale == 1:
        return image.copy(), 1
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return np.array(Image.fromarray(image).resize((width, height), method)), scale


def title_strip(text, width, size=None):
    """A white strip with one line of text, shortened to fit the width."""
    from PIL import Image, ImageDraw

    size = size or int(np.clip(round(width / 40), 13, 32))
    strip = Image.new("RGB", (width, int(1.7 * size)), LIGHT)
    font = font_of(size, bold=True)
    while text and font.getlength(text) > width - 12:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    ImageDraw.Draw(strip).text((6, strip.height / 2), text, font=font, fill=DARK, anchor="lm")
    return np.array(strip)


def grid(pictures, columns=None, titles=None, gap=12):
    """Arrange pictures in rows on a white page.

    pictures: list of (H, W, 3) uint8 arrays of any size. Each stands at the top of a cell as wide as the widest
        picture; small ones are enlarged by an integer factor as long as they fit.
    columns: how many pictures per row; by default the grid is about square.
    titles: a text above each picture, or None.
    gap: pixels between the pictures.
    Returns (H, W, 3) uint8.
    Raises ValueError if there are no pictures, or if the number of titles differs.
    """
    pictures = [as_rgb(picture) for picture in pictures]
    if not pictures:
        raise ValueError("grid: no pictures")
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"grid: {len(pictures)} pictures but {len(titles)} titles")

    columns = columns or int(np.ceil(np.sqrt(len(pictures))))
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    pictures = [_padded(enlarged_into(picture, height, width), width) for picture in pictures]
    if titles is not None:
        pictures = [np.concatenate([title_strip(title, width), p]) for title, p in zip(titles, pictures)]

    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    page_width = gap + len(rows[0]) * (width + gap)
    page = np.full((gap + sum(heights) + gap * len(rows), page_width, 3), 255, dtype=np.uint8)

    y = gap
    for row, row_height in zip(rows, heights):
        for i, picture in enumerate(row):
            x = gap + i * (width + gap)
            page[y : y + picture.shape[0], x : x + width] = picture
        y += row_height + gap
    return page


def enlarged_into(picture, height, width):
    factor = max(1, min(height // picture.shape[0], width // picture.shape[1]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else picture


def _padded(picture, width):
    """The picture, widened to `width` with white on the right."""
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


def save_picture(path, picture):
    """Write a picture to a PNG or JPEG file. If writing fails, an earlier file of that name is left as it was.

    path: the file; its extension (.png, .jpg, .jpeg) selects the format.
    picture: (H, W, 3) uint8.
    Raises InputError, naming the file, if it cannot be written or if its extension is unknown.
    """
    write_files({path: picture_bytes(picture, path)})


def picture_bytes(picture, path="picture.png"):
    """Encode an (H, W, 3) uint8 array as an image file. The extension of `path` selects the format. Returns bytes."""
    from PIL import Image

    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    kind = kinds.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"{path}: a picture can be saved as .png or .jpg only")
    data = io.BytesIO()
    Image.fromarray(as_rgb(picture)).save(data, kind, **({"quality": 92} if kind == "JPEG" else {"compress_level": 4}))
    return data.getvalue()
