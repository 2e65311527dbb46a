"""Reading photo files: what a person sees is what the array holds."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from minimask.datasets import gray_levels
from minimask.datasets.photos import UNDO, image_size, read_image
from minimask.errors import InputError


def test_grey_becomes_rgb(tmp_path):
    Image.fromarray(np.array([[0, 128, 255]], np.uint8)).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_one_bit_picture(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read_image(tmp_path / "bits.png").tolist() == [[[255] * 3, [0] * 3]]


def test_transparency_lies_over_white(tmp_path):
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    read = read_image(tmp_path / "rgba.png")
    assert read[0, 0].tolist() == [200, 0, 0] and read[0, 1].tolist() == [255, 255, 255]
    assert abs(int(read[0, 2, 0]) - 127) <= 1


def test_grey_with_alpha(tmp_path):
    gray, alpha = Image.new("L", (2, 1), 9), Image.fromarray(np.array([[255, 0]], np.uint8))
    Image.merge("LA", (gray, alpha)).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[9] * 3, [255] * 3]]


def test_palette_and_its_transparent_entry(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "palette.png")
    picture.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "palette.png").tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert read_image(tmp_path / "clear.png").tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # the white corner belongs at the top left
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    undo |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"turned.{suffix}", exif=exif)
    read = read_image(tmp_path / f"turned.{suffix}")
    assert read.shape == (16, 32, 3)
    assert np.abs(read.astype(int) - upright).mean() < 3
    assert read_image(tmp_path / f"turned.{suffix}", rotate=False).shape[:2] == stored.size[::-1]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert np.abs(read_image(tmp_path / "print.jpg")[0, 0].astype(int) - [255, 0, 0]).max() < 12


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.png").mkdir()
    for name, reason in [
        ("absent.png", "no such image file"),
        ("text.png", "not a readable image (its format is unknown)"),
        ("cut.png", "not a readable image"),
        ("empty.jpg", "not a readable image"),
        ("folder.png", "not a readable image"),
    ]:
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- TIFF, gray levels


def levels(path, values, **arguments):
    """Write gray values as a TIFF, and read them."""
    Image.fromarray(values).save(path, **arguments)
    return read_image(path)[..., 0].tolist()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("gray", [None, np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_once(tmp_path, orientation, gray, compression):
    upright = np.random.default_rng(orientation).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    upright[0, 0] = 255  # so that floats are not taken for 0 to 1
    if gray:
        upright[..., 1:] = upright[..., :1]
    stored = Image.fromarray(upright[..., 0].astype(gray) if gray else upright)
    if orientation > 1:
        stored = stored.transpose(UNDO[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.tif"
    stored.save(path, exif=exif, compression=compression)
    assert image_size(path) == (16, 32)
    np.testing.assert_array_equal(read_image(path), upright)
    plain = np.array(stored)
    unturned = plain if plain.ndim == 3 else np.repeat(plain[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(path, rotate=False), unturned)


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),  # floats up to 1
        (np.array([[0, 127.6, 255]], np.float32), [0, 128, 255]),
        (np.array([[-1000, 0, 1000]], np.float32), [0, 128, 255]),  # their range
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),  # 8 bits in 32
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),  # 12 bits in 16
        (np.array([[0, 512, 1023]], np.uint16), [0, 128, 255]),
        (np.array([[0, 8192, 16383]], np.uint16), [0, 128, 255]),
        (np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
        (np.array([[0, 50_000, 100_000]], np.int32), [0, 128, 255]),
        (np.array([[-500, 0, 500]], np.int32), [0, 128, 255]),  # a tomography
        (np.array([[3, 3, 3]], np.int32), [3, 3, 3]),
        (np.array([[-3, -3, -3]], np.int32), [0, 0, 0]),
    ],
)
def test_gray_levels_by_the_data(tmp_path, values, expected):
    assert levels(tmp_path / "a.tif", values) == [expected]


@pytest.mark.parametrize("tags, expected", [((340, 341), 20), ((280, 281), 20)])
def test_gray_levels_by_the_file(tmp_path, tags, expected):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[tags[0]], info[tags[1]] = 0, 51_000
    assert levels(tmp_path / "a.tif", np.array([[0, 4000, 51_000]], np.uint16), tiffinfo=info) == [[0, expected, 255]]


def test_the_scaling_of_gray_levels_is_reported_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gray_levels, "_said", set())
    for name in ("a.tif", "b.tif"):
        levels(tmp_path / name, np.array([[0, 4095]], np.uint16))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a.tif: gray levels from 0 to 4095 become 0 to 255: none of them needs" in said
    levels(tmp_path / "c.tif", np.array([[0, 65535]], np.uint16))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_not_numbers(tmp_path, value):
    with pytest.raises(InputError, match="a.tif: not a readable image .it holds NaN or infinite values"):
        levels(tmp_path / "a.tif", np.array([[0, value]], np.float32))


def test_damaged_exif_prints_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker with a long name"
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 8)).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"Exif\0\0") + 6
    path.write_bytes(data[: start + 8] + b"\xff\x7f" + data[start + 10 :])  # so many entries are not there
    code = f"from minimask.datasets.photos import read_image; print(read_image({str(path)!r}).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and done.stdout.startswith("("), done.stderr


def test_a_tiff_file_that_lacks_rows(tmp_path):
    """Pillow would take 0.5 GB for this file of 300 bytes and return black rows."""
    path = tmp_path / "a.tif"
    Image.new("RGB", (40, 4)).save(path)
    length = (257).to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little")
    data = path.read_bytes()
    assert length + (4).to_bytes(4, "little") in data
    path.write_bytes(data.replace(length + (4).to_bytes(4, "little"), length + (1_000_000).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"a.tif: not a readable image .it contains only 4 of its 1000000 rows"):
        read_image(path)


def test_pillow_logs_nothing(tmp_path):
    """It would log an error on stderr, besides the InputError that says what is wrong."""
    path = tmp_path / "a.tif"
    Image.new("RGB", (4, 8)).save(path)
    data = path.read_bytes()
    tag = (277).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")  # samples per pixel
    path.write_bytes(data.replace(tag + b"\3", tag + b"\x08"))
    code = f"from minimask.datasets.photos import read_image; read_image({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a.tif: not a readable image" in done.stderr and "More samples" not in done.stderr


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file is empty"),
        (b"II*\0" + bytes(40), "a TIFF of a kind that Pillow does not read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which Pillow does not read; convert it to JPEG"),
        (b"<!DOCTYPE html><p>moved", "it is a web page, not a photo"),
    ],
)
def test_what_a_file_is_instead_of_a_photo(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=f"a.jpg: not a readable image .{reason}"):
            read(tmp_path / "a.jpg")


def test_a_damaged_tiff_is_named_and_its_library_prints_nothing(tmp_path, capfd):
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(path, compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    for place in range(200, len(content) - 400, 97):
        content[place] ^= 0x5A
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.tif: not a readable image"):
        read_image(path)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
