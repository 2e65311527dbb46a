"""Masks that stay run lengths have the same pixels as masks decoded at the size of the photo and then resized."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minimask.datasets.augmentation import flip, turn
from minimask.datasets.encoded_masks import EncodedMasks
from minimask.datasets.segmentation import decode_segmentation
from minimask.image import ImageTransform, resize_masks
from minimask.machine.memory import LARGE, sparse_zeros
from minimask.structures import Sample
from tests.helpers import make_sample

HEIGHT, WIDTH = 41, 60


def some_segmentations(rng):
    """Polygons inside, across the border, and in two parts; run lengths of noise, of one pixel, and of everything."""
    noise = (rng.random(HEIGHT * WIDTH) < 0.3).astype(int)
    runs = np.diff(np.flatnonzero(np.concatenate([[1], np.diff(noise) != 0, [1]]))).tolist()
    runs = runs if noise[0] == 0 else [0, *runs]
    polygons = [rng.uniform((-9, -9), (WIDTH + 9, HEIGHT + 9), (7, 2)).ravel().tolist() for _ in range(3)]
    size = [HEIGHT, WIDTH]
    return [
        [[3, 4, 20, 5, 11, 30.5]],
        [polygons[0]],
        polygons[1:],
        {"size": size, "counts": runs},
        {"size": size, "counts": [777, 1, HEIGHT * WIDTH - 778]},
        {"size": size, "counts": [0, HEIGHT * WIDTH]},
        {"size": size, "counts": [HEIGHT * WIDTH - 50, 50]},
    ]


@pytest.fixture
def both():
    """(EncodedMasks, the array that they stand for)"""
    rng = np.random.default_rng(4)
    segmentations = some_segmentations(rng)
    array = np.stack([decode_segmentation(segmentation, HEIGHT, WIDTH) for segmentation in segmentations])
    return EncodedMasks.of(segmentations, HEIGHT, WIDTH), array


SIZES = [(41, 60), (20, 30), (13, 60), (41, 7), (82, 120), (97, 33), (50, 200), (1, 1), (3, 2)]


@pytest.mark.parametrize("size", SIZES)
def test_resized_masks_are_those_of_the_decoded_array(both, size):
    encoded, array = both
    np.testing.assert_array_equal(resize_masks(encoded, *size), resize_masks(array, *size))
    for masks, expected in ((encoded[:, ::-1, ::-1], array[:, ::-1, ::-1]), (encoded[:, 5:, 9:50], array[:, 5:, 9:50])):
        np.testing.assert_array_equal(resize_masks(masks, *size), resize_masks(expected, *size))


def test_they_can_be_used_like_an_array(both):
    encoded, array = both
    assert encoded.shape == array.shape and encoded.dtype == array.dtype and len(encoded) == len(array)
    np.testing.assert_array_equal(encoded, array)
    for index in (0, -1, (2, 5), (1, slice(3, 9), slice(None, None, -1)), (..., 4), (slice(None), 7), None):
        np.testing.assert_array_equal(encoded[index], array[index])
    for index in ([3, 0], np.arange(len(array)) > 4, slice(1, 6, 2), (slice(0, 3), slice(4, 30), slice(50, None))):
        assert isinstance(encoded[index], EncodedMasks)
        np.testing.assert_array_equal(encoded[index], array[index])
    np.testing.assert_array_equal(encoded.sum(axis=(1, 2)), array.sum(axis=(1, 2)))
    np.testing.assert_array_equal(encoded > 0, array > 0)
    np.testing.assert_array_equal(255 * encoded, 255 * array)
    assert [mask.tolist() for mask in encoded] == array.tolist()
    assert not hasattr(encoded, "no_such_thing")
    with pytest.raises(IndexError):
        encoded[len(array)]
    with pytest.raises(TypeError):
        encoded += 1


def test_flips_and_turns_in_any_order(both):
    encoded, array = both
    rng = np.random.default_rng(0)
    one = make_sample(HEIGHT, WIDTH, objects=len(array))
    samples = [Sample(one.image, one.boxes, one.labels, masks, one.crowd, 1, "a") for masks in both]
    for _ in range(12):
        change = (flip, turn)[rng.integers(2)]
        samples = [change(sample) for sample in samples]
        ours, expected = (sample.masks for sample in samples)
        assert isinstance(ours, EncodedMasks)
        np.testing.assert_array_equal(ours, expected)
        np.testing.assert_array_equal(resize_masks(ours, 33, 29), resize_masks(np.ascontiguousarray(expected), 33, 29))


def test_a_batch_is_the_same(both):
    one = make_sample(HEIGHT, WIDTH, objects=len(both[1]))
    for size in (HEIGHT, 32, 100):
        batches = [
            ImageTransform(size, 2 * size)([Sample(one.image, one.boxes, one.labels, masks, one.crowd, 1, "a")])
            for masks in both
        ]
        np.testing.assert_array_equal(batches[0].masks, batches[1].masks)
        assert batches[0].masks.any()


def test_no_masks():
    masks = EncodedMasks.of([], 5, 7)
    assert masks.shape == (0, 5, 7) and np.asarray(masks).shape == (0, 5, 7)
    assert resize_masks(masks, 3, 3).shape == (0, 3, 3) and masks[:, ::-1].swapaxes(1, 2).shape == (0, 7, 5)


def test_large_zeros_are_zeros_that_can_be_written():
    zeros = sparse_zeros((3, LARGE // 4), np.float32)
    assert zeros.shape == (3, LARGE // 4) and zeros.dtype == np.float32 and not zeros[:, ::1000].any()
    zeros[1, 5:8] = 2
    assert zeros[1].sum() == 6 and not zeros[0].any() and not zeros[2].any()
    assert sparse_zeros((2, 3), np.uint8).tolist() == [[0, 0, 0], [0, 0, 0]]


PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
assert done.returncode == 0, done.stderr
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_2000_objects_in_a_photo_of_16_megapixels_take_less_than_a_gigabyte(tmp_path):
    width, height, across = 4800, 3400, 50
    rng = np.random.default_rng(0)
    Image.effect_noise((width // 8, height // 8), 60).resize((width, height)).save(tmp_path / "a.jpg")
    annotations = []
    for g in range(2000):
        x, y = width / across * (g % across + 0.5), height / 40 * (g // across + 0.5)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 20))
        radius = rng.uniform(20, 40)
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).round(2)
        annotations.append(
            {"id": g + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [points.ravel().tolist()]}
        )
    images = [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))

    command = f"-m minimask train --steps 2 --images {tmp_path} --annotations {tmp_path}/a.json --output {tmp_path}/run"
    measured = subprocess.run(
        [sys.executable, "-c", PEAK, sys.executable, *command.split()], capture_output=True, text=True, timeout=300
    )
    assert measured.returncode == 0, measured.stderr
    assert int(measured.stdout) < 1e6  # kilobytes; the masks at the size of the photo would be 32 GB
