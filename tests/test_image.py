"""Resizing and the transform against torch, torchvision and numbers worked out by hand, and the way back."""

import tracemalloc

import numpy as np
import pytest

from minimask import image
from minimask.errors import InputError
from minimask.image import (
    ImageTransform,
    resize_boxes,
    resize_keypoints,
    resize_masks,
    resize_photo,
    resized_size,
)
from minimask.tensor import Tensor
from tests.helpers import make_sample

# ------------------------------------------------------------------------------------------- resizing, worked numbers


def test_resized_size():
    assert resized_size(480, 640, 800, 1333) == (800, 1066)
    assert resized_size(427, 640, 800, 1333) == (800, 1199)
    assert resized_size(300, 900, 800, 1333) == (444, 1333)  # limited by the long side
    assert resized_size(128, 128, 128, 192) == (128, 128)
    assert resized_size(1, 1, 800, 1333) == (800, 800)
    assert resized_size(1, 10_000, 800, 1333) == (1, 1333)  # never 0


def test_two_pixels_become_four():
    row = np.array([[[0.0], [1.0]]])
    assert resize_photo(row, 1, 4)[0, :, 0].tolist() == [0, 0.25, 0.75, 1]
    assert resize_photo(row.transpose(1, 0, 2), 4, 1)[:, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert resize_photo(np.array([[[0.0], [1.0], [2.0], [3.0]]]), 1, 2)[0, :, 0].tolist() == [0.5, 2.5]


def test_a_ramp_stays_a_ramp():
    y, x = np.mgrid[0:9, 0:7] + 0.5
    resized = resize_photo((2 * x + 3 * y)[..., None], 27, 35)[3:-3, 5:-5, 0]
    y, x = (np.mgrid[0:27, 0:35] + 0.5) / np.array([3, 5])[:, None, None]
    assert np.abs(resized - (2 * x + 3 * y)[3:-3, 5:-5]).max() < 1e-12


def test_nearest_worked_numbers():
    mask = np.array([[[1, 2, 3]]], np.uint8)
    assert resize_masks(mask, 1, 6)[0, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert resize_masks(mask, 2, 2)[0].tolist() == [[1, 2], [1, 2]]
    assert resize_masks(mask[:0], 4, 4).shape == (0, 4, 4)


def test_resize_rejects_integers():
    with pytest.raises(ValueError, match="float type, got uint8"):
        resize_photo(np.zeros((2, 2, 3), np.uint8), 4, 4)


@pytest.mark.parametrize("bilinear", [image.bilinear, image.bilinear.plain])
def test_a_map_is_enlarged_along_each_axis(bilinear):
    x = np.array([[0.0, 1], [2, 3], [4, 5]]).reshape(1, 3, 2, 1)
    across = [[0, 0.25, 0.75, 1], [2, 2.25, 2.75, 3], [4, 4.25, 4.75, 5]]
    np.testing.assert_array_equal(bilinear(x, (3, 4))[0, :, :, 0], across)


@pytest.mark.parametrize("forward", [image.bilinear, image.nearest])
def test_the_backward_pass_of_resizing_is_the_transpose(forward):
    """<gy, resize(x)> = <resize_backward(gy), x>, for sides that differ."""
    rng = np.random.default_rng(0)
    x, gy = rng.standard_normal((2, 3, 5, 2)), rng.standard_normal((2, 7, 4, 2))
    backward = image.bilinear_backward if forward is image.bilinear else image.nearest_backward
    for to, back in ((forward, backward), (forward.plain, backward.plain)):
        gx = back(gy, x.shape)
        assert gx.shape == x.shape
        assert (gy * to(x, (7, 4))).sum() == pytest.approx((gx * x).sum(), abs=1e-10)


@pytest.mark.parametrize("resize", [image.resize_bilinear, image.resize_nearest])
def test_maps_and_sizes_that_do_not_fit(resize):
    x = Tensor(np.zeros((1, 3, 2, 1)))
    assert resize(x, (1, 4)).shape == (1, 1, 4, 1)
    for bad, size in ((x[0], (1, 4)), (x, (4,)), (x, (0, 4)), (x, (4, 0))):
        with pytest.raises(ValueError, match=rf"{resize.__name__}: x must be \(N, H, W, C\) and size two numbers >= 1"):
            resize(bad, size)


def test_rounded_sizes():
    """480 x 640 with 800 and 1333 is 800 x 1066.67; 427 x 640 is 800 x 1199.06."""
    assert resized_size(480, 640, 800, 1333, rounded=True) == (800, 1067)
    assert resized_size(427, 640, 800, 1333, rounded=True) == (800, 1199)
    assert resized_size(640, 480, 800, 1333, rounded=True) == (1067, 800)


def test_objects_are_padded_to_the_largest_number():
    batch = ImageTransform(32, 64)([make_sample(32, 32, objects=1), make_sample(32, 32, objects=3)])
    assert batch.valid.tolist() == [[True, False, False], [True, True, True]]
    assert batch.boxes.shape == (2, 3, 4) and not batch.boxes[0, 1:].any() and not batch.labels[0, 1:].any()


def test_boxes_and_keypoints_scale_by_axis():
    boxes = np.array([[1, 2, 3, 4]], np.float32)
    assert resize_boxes(boxes, (10, 20), (20, 60)).tolist() == [[3, 4, 9, 8]]
    points = np.array([[[1, 2, 2], [0, 0, 0]]], np.float32)
    assert resize_keypoints(points, (10, 20), (20, 60)).tolist() == [[[3, 4, 2], [0, 0, 0]]]


# ------------------------------------------------------------------------------------------- against torch


SIZES = [(7, 5, 14, 15), (64, 48, 33, 17), (1, 1, 5, 3), (1, 9, 1, 4), (5, 7, 5, 7), (480, 640, 800, 1066)]
SIZES += [(427, 640, 800, 1199), (33, 65, 100, 31), (200, 3, 1, 1), (641, 427, 1201, 800)]


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_equals_torch(size):
    torch = pytest.importorskip("torch")
    height, width, new_height, new_width = size
    image = np.random.default_rng(1).standard_normal((height, width, 3))
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 2e-6)):
        ours = resize_photo(image.astype(dtype), new_height, new_width)
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(image.astype(dtype)).permute(2, 0, 1)[None],
            size=(new_height, new_width),
            mode="bilinear",
            align_corners=False,
        )[0].permute(1, 2, 0)
        assert ours.dtype == dtype
        assert np.abs(ours - theirs.numpy()).max() <= tolerance


def test_nearest_equals_torch_for_many_sizes():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    for _ in range(300):
        h, w, new_h, new_w = rng.integers(1, 700, 4).tolist()
        index = (np.arange(h)[:, None] * 1000 + np.arange(w))[None].astype(np.int32)  # each pixel's value is its index
        theirs = torch.nn.functional.interpolate(torch.from_numpy(index)[:, None].float(), size=(new_h, new_w))
        assert np.array_equal(resize_masks(index, new_h, new_w), theirs[:, 0].numpy().astype(np.int32))


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("limits", [(64, 96), (800, 1333), (40, 60), (31, 33)])
def test_transform_equals_torchvision(kind, limits):
    torch = pytest.importorskip("torch")
    transform_module = pytest.importorskip("torchvision.models.detection.transform")
    samples = [make_sample(40, 60, 2, 5, 0), make_sample(61, 47, 4, 5, 1), make_sample(33, 90, 1, 5, 2)]
    ours = ImageTransform(*limits)
    theirs = transform_module.GeneralizedRCNNTransform(*limits, list(ours.mean), list(ours.std)).eval()
    images = [torch.from_numpy(s.image).permute(2, 0, 1) / 255 for s in samples]
    if kind == "float32":
        for sample, image in zip(samples, images):
            sample.image = image.permute(1, 2, 0).numpy().copy()
    targets = [
        {name: torch.from_numpy(getattr(s, name)) for name in ("boxes", "labels", "masks", "keypoints")}
        for s in samples
    ]
    batch = ours(samples)
    expected, expected_targets = theirs(images, targets)
    assert batch.images.shape == tuple(expected.tensors.permute(0, 2, 3, 1).shape)
    assert np.abs(batch.images - expected.tensors.permute(0, 2, 3, 1).numpy()).max() < 5e-6
    assert [tuple(size) for size in batch.sizes] == expected.image_sizes
    for n, (target, (h, w)) in enumerate(zip(expected_targets, expected.image_sizes)):
        g = len(target["boxes"])
        assert batch.valid[n].tolist() == [i < g for i in range(4)]
        assert np.array_equal(batch.boxes[n, :g], target["boxes"].numpy())
        assert np.array_equal(batch.labels[n, :g], target["labels"].numpy())
        assert np.array_equal(batch.masks[n, :g, :h, :w], target["masks"].numpy())
        assert np.array_equal(batch.keypoints[n, :g], target["keypoints"].numpy())
        assert np.array_equal(batch.crowd[n, :g], samples[n].crowd)
        assert not batch.masks[n, :, h:].any() and not batch.masks[n, :, :, w:].any()


# ------------------------------------------------------------------------------------------- the transform


def test_normalized_values():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = (255, 0, 51)
    batch = ImageTransform(2, 2, divisor=4)([image])
    assert batch.images.shape == (1, 4, 4, 3) and batch.images.dtype == np.float32
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    assert np.abs(batch.images[0, 0, 0] - expected).max() < 1e-6
    assert not batch.images[0, 2:].any() and not batch.images[0, :, 2:].any()  # padding is zero, the mean color


def test_batch_of_images_without_ground_truth():
    batch = ImageTransform(32, 64)([make_sample(20, 30).image, make_sample(50, 30).image])
    assert batch.boxes is None and batch.masks is None and batch.image_ids == [0, 1]
    assert batch.sizes.tolist() == [[32, 48], [53, 32]]
    assert batch.original_sizes.tolist() == [[20, 30], [50, 30]]
    assert batch.images.shape == (2, 64, 64, 3)


def test_no_objects_leave_one_invalid_entry():
    batch = ImageTransform(32, 64)([make_sample(32, 32, objects=0)])
    assert batch.boxes.shape == (1, 1, 4) and batch.masks.shape == (1, 1, 32, 32)
    assert not batch.valid.any()


def test_short_sides_override_min_size():
    batch = ImageTransform(32, 64)([make_sample(32, 32), make_sample(32, 32)], short_sides=[16, 48])
    assert batch.sizes.tolist() == [[16, 16], [48, 48]]


def test_padded_size():
    transform = ImageTransform(32, 64, padded_size=(64, 96))
    assert transform([make_sample(32, 40)]).images.shape == (1, 64, 96, 3)
    with pytest.raises(InputError, match="padded_size 64 x 96 is too small: an image needs 64 x 128"):
        ImageTransform(64, 128, padded_size=(64, 96))([make_sample(32, 64)])


def test_inputs_are_not_changed():
    sample = make_sample(40, 60, 2, 3)
    before = [a.copy() for a in (sample.image, sample.boxes, sample.masks, sample.keypoints)]
    ImageTransform(64, 96)([sample])
    after = (sample.image, sample.boxes, sample.masks, sample.keypoints)
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


@pytest.mark.parametrize(
    "bad, found",
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\), uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\), uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\), uint8"),
        (np.zeros((4, 4, 3), np.int64), r"shape \(4, 4, 3\), int64"),
        ("photo.png", "got str"),
    ],
)
def test_wrong_arrays_are_named(bad, found):
    with pytest.raises(ValueError, match=r"image 0 must be an \(H, W, 3\) array.*" + found):
        ImageTransform()([bad])


def test_wrong_masks_and_settings_are_named():
    sample = make_sample(20, 30)
    sample.masks = sample.masks[:, :10]
    with pytest.raises(ValueError, match=r"masks of sample 0 must have shape \(2, 20, 30\), got \(2, 10, 30\)"):
        ImageTransform(32, 64)([sample])
    with pytest.raises(InputError, match="min_size <= max_size, got 800 and 600"):
        ImageTransform(800, 600)
    with pytest.raises(ValueError, match="at least one image"):
        ImageTransform()([])


def test_an_image_of_one_pixel():
    sample = make_sample(1, 1, objects=0)
    batch = ImageTransform(64, 96)([sample])
    assert batch.sizes.tolist() == [[64, 64]]
    assert np.ptp(batch.images[0].reshape(-1, 3), axis=0).max() < 1e-6


@pytest.mark.parametrize("shape", [(10_000, 1), (1, 10_000), (10_000, 2_000)])
def test_ten_thousand_pixels_in_bounded_memory(shape):
    image = np.full((*shape, 3), 128, np.uint8)
    tracemalloc.start()
    batch = ImageTransform(800, 1333)([image])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(batch.sizes[0]) == 1333 and min(batch.sizes[0]) >= 1
    assert peak < 3 * batch.images.nbytes + 20e6  # the photo as floats would be 240 MB
    h, w = batch.sizes[0]
    assert np.abs(batch.images[0, :h, :w, 0] - (128 / 255 - 0.485) / 0.229).max() < 1e-5
