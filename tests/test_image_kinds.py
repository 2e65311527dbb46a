"""Kinds of image files as cameras, scanners, web pages and microscopes write them; each is made here."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from minimask.datasets.photos import image_size, read_image
from minimask.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
COLOR = Image.fromarray(PIXELS)
OTHER = Image.fromarray(255 - PIXELS)


def encoded(picture, form, **more):
    file = io.BytesIO()
    picture.save(file, form, **more)
    return file.getvalue()


def png_with(kind, content):
    """A PNG with one more chunk after its header."""
    data = encoded(COLOR, "png")
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk + data[33:]


def png16_rgb():
    """A PNG of three channels of 16 bits, each value 257 times that of PIXELS."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = PIXELS.shape
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).astype(">u2").tobytes() for row in PIXELS)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


EXACT = {  # name: bytes of a file that shows PIXELS
    "plain.png": encoded(COLOR, "png"),
    "png.jpg": encoded(COLOR, "png"),  # by its content, not by its name
    "ppm.ppm": encoded(COLOR, "ppm"),
    "bmp.bmp": encoded(COLOR, "bmp"),
    "pages.tif": encoded(COLOR, "tiff", save_all=True, append_images=[OTHER, OTHER]),  # the first page
    "deflate.tif": encoded(COLOR, "tiff", compression="tiff_adobe_deflate"),
    "moving.webp": encoded(COLOR, "webp", save_all=True, append_images=[OTHER], lossless=True),
    "broken_profile.png": png_with(b"iCCP", b"Photoshop\0\0no profile"),
    "broken_text.png": png_with(b"zTXt", b"Comment\0\0no deflate"),
    "gamma.png": png_with(b"gAMA", struct.pack(">I", 45455)),
    "rgb16.png": png16_rgb(),
}


@pytest.mark.parametrize("name", EXACT)
def test_files_that_show_the_same_pixels(tmp_path, name):
    (tmp_path / name).write_bytes(EXACT[name])
    np.testing.assert_array_equal(read_image(tmp_path / name), PIXELS)
    assert image_size(tmp_path / name) == (12, 20)


def test_jpeg2000(tmp_path):
    if not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    COLOR.save(tmp_path / "a.jp2", irreversible=False)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2"), PIXELS)


def test_jpegs_with_something_behind_their_end(tmp_path):
    data = encoded(COLOR, "jpeg", quality=95)
    (tmp_path / "plain.jpg").write_bytes(data)
    (tmp_path / "more.jpg").write_bytes(data + b"a second thumbnail" * 100)
    (tmp_path / "phone.jpg").write_bytes(encoded(COLOR, "mpo", save_all=True, append_images=[OTHER], quality=95))
    plain = read_image(tmp_path / "plain.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "more.jpg"), plain)
    np.testing.assert_array_equal(read_image(tmp_path / "phone.jpg"), plain)


def test_the_first_picture_of_a_gif(tmp_path):
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif"), np.full((3, 4, 3), (255, 0, 0)))


@pytest.mark.parametrize("orientation, shape", [(0, (12, 20)), (9, (12, 20)), (99, (12, 20)), (6, (20, 12))])
def test_orientations_that_do_not_exist_are_none(tmp_path, orientation, shape):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, picture in (("a.jpg", COLOR), ("gray.jpg", COLOR.convert("L"))):
        picture.save(tmp_path / name, exif=exif)
        assert read_image(tmp_path / name).shape == (*shape, 3) and image_size(tmp_path / name) == shape


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1)])
def test_one_row_or_column(tmp_path, shape):
    values = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 1], values)


def test_signed_16_bits_are_scaled_by_their_range(tmp_path):
    """As computed tomographs write them: a TIFF of 16 bits, which the file says are signed."""
    stored = Image.fromarray(np.array([[64536, 0, 1000]], np.uint16))  # 64536 is -1000
    stored.save(tmp_path / "a.tif", tiffinfo={339: 2})
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_cut_off_jpeg(tmp_path):
    data = encoded(COLOR.resize((200, 200)), "jpeg")
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="a.jpg: not a readable image .*truncated"):
        read_image(tmp_path / "a.jpg")
