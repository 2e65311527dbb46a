"""Reading photo files: what a person sees is what the array holds."""

import numpy as np
import pytest
from PIL import Image

from minimask.datasets.photos import read_image
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
