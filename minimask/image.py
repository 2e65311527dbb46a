"""Resizing, and the transform that makes a batch of images of any size.

The pixel model, everywhere in this project: pixel 3 covers 3.0 to 4.0, and its center is 3.5. A box (x1, y1, x2, y2) is
x2 - x1 wide, without a "+ 1". Whatever is resized follows it: feature maps (differentiably), photos, masks, boxes and
keypoints. The transform computes what torchvision's GeneralizedRCNNTransform computes.
"""

from dataclasses import dataclass

import numpy as np

from minimask.device import accelerated, array_module
from minimask.errors import InputError, check_shape
from minimask.machine.memory import sparse_zeros
from minimask.structures import Batch, Sample
from minimask.tensor import Function

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ROWS_AT_A_TIME = 32  # of a resized photo: they stay in the cache, and a huge photo is never held as floats

# ------------------------------------------------------------------------------------------------------- interpolation


def neighbors(size_in, size_out, dtype=np.float64):
    """For each output pixel: the input pixel before its center, the one after it, and the weight of the latter.

    Output pixel i has its center at (i + 1/2) size_in / size_out - 1/2 in input pixels (torch: align_corners=False).
    Beyond the center of the first or last input pixel, that pixel counts alone.

    dtype: the float type in which the ratio and the centers are rounded, as in torch.
    Returns three NumPy arrays (size_out,).
    """
    dtype = np.dtype(dtype)
    ratio = float(dtype.type(size_in) / dtype.type(size_out))
    centers = np.maximum(((np.arange(size_out) + 0.5) * ratio - 0.5).astype(dtype), 0)
    before = np.minimum(centers.astype(np.int64), size_in - 1)
    after = np.minimum(before + 1, size_in - 1)
    return before, after, centers - before.astype(dtype)


def bilinear_matrix(size_in, size_out, dtype=np.float32):
    """The (size_out, size_in) matrix of linear interpolation between pixel centers.

    From two pixels to four: [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]].
    """
    before, after, weight = neighbors(size_in, size_out)
    rows, matrix = np.arange(size_out), np.zeros((size_out, size_in))
    matrix[rows, before] = 1 - weight
    matrix[rows, after] += weight
    return matrix.astype(dtype)


def nearest_matrix(size_in, size_out, dtype=np.float32):
    """The (size_out, size_in) matrix that copies: output pixel i is input pixel floor(i size_in / size_out)."""
    copied = np.arange(size_out) * size_in // size_out
    return (copied[:, None] == np.arange(size_in)).astype(dtype)


# -------------------------------------------------------------------------------------------------------- feature maps


class Resize(Function):
    """y = A x B^T for every channel, with one matrix of weights per axis;  gx = A^T gy B."""

    fresh = True

    def __init__(self, resize, resize_backward, size):
        self.resize, self.resize_backward, self.size = resize, resize_backward, size

    def forward(self, x):
        self.shape = x.shape
        return self.resize(x, self.size)

    def backward(self, gy):
        return (self.resize_backward(gy, self.shape),)


def resize_nearest(x, size):
    """Resize a feature map: each output pixel copies the input pixel it falls in. Source: FPN, section 3.

    x: Tensor (N, H, W, C).  size: (H', W').
    Returns (N, H', W', C). Raises ValueError for other shapes.
    """
    return Resize(nearest, nearest_backward, _checked_size("resize_nearest", x, size))(x)


def resize_bilinear(x, size):
    """Resize a feature map: each output pixel is interpolated between the centers of the four pixels around it.

    x: Tensor (N, H, W, C).  size: (H', W').
    Returns (N, H', W', C). Raises ValueError for other shapes.
    """
    return Resize(bilinear, bilinear_backward, _checked_size("resize_bilinear", x, size))(x)


def _checked_size(name, x, size):
    if x.ndim != 4 or len(size) != 2 or not all(s >= 1 for s in size):
        raise ValueError(f"{name}: x must be (N, H, W, C) and size two numbers >= 1, got {x.shape} and {size}")
    return tuple(int(s) for s in size)


@accelerated("resize")
def nearest(x, size):
    """`resize_nearest` of a raw array: (N, H, W, C) -> (N, H', W', C)."""
    down, across = (nearest_matrix(*sizes, x.dtype) for sizes in zip(x.shape[1:3], size))
    return _stretched(x, down, across)


@accelerated("resize")
def nearest_backward(gy, shape):
    """The gradient of `nearest` for a map of `shape` (N, H, W, C)."""
    down, across = (nearest_matrix(*sizes, gy.dtype) for sizes in zip(shape[1:3], gy.shape[1:3]))
    return _stretched(gy, down.T, across.T)


@accelerated("resize")
def bilinear(x, size):
    """`resize_bilinear` of a raw array: (N, H, W, C) -> (N, H', W', C)."""
    down, across = (bilinear_matrix(*sizes, x.dtype) for sizes in zip(x.shape[1:3], size))
    return _stretched(x, down, across)


@accelerated("resize")
def bilinear_backward(gy, shape):
    """The gradient of `bilinear` for a map of `shape` (N, H, W, C)."""
    down, across = (bilinear_matrix(*sizes, gy.dtype) for sizes in zip(shape[1:3], gy.shape[1:3]))
    return _stretched(gy, down.T, across.T)


def _stretched(x, down, across):
    """A x B^T: map (N, h, w, C), matrices A (H, h) and B (W, w) -> (N, H, W, C)."""
    xp = array_module(x)
    n, h, w, c = x.shape
    x = (xp.asarray(down) @ x.reshape(n, h, w * c)).reshape(n * len(down), w, c)  # (N * H, w, C)
    return (xp.asarray(across) @ x).reshape(n, len(down), len(across), c)


# ---------------------------------------------------------------------------------- photos, masks, boxes and keypoints


def resized_size(height, width, min_size, max_size, rounded=False):
    """Height and width after resizing: the short side becomes `min_size`, unless the long side would exceed `max_size`.

    480 x 640 with (800, 1333): scale = min(800/480, 1333/640) = 1.667, so 800 x 1066 (1066.7 rounded down; with
    `rounded`, as in Detectron, 1067). No side becomes smaller than 1.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    half = 0.5 if rounded else 0
    return max(1, int(height * scale + half)), max(1, int(width * scale + half))


def resize_photo(image, height, width, convert=None):
    """Resize an image by bilinear interpolation, without smoothing: two pixels (0, 1) become four, (0, 0.25, 0.75, 1).

    image: (H, W, C) float32 or float64; any type that `convert` accepts.
    convert: function from some rows (r, W, C) to floats (r, W, C), so that only the rows in use are ever floats.
    Returns (height, width, C) of the float type.
    """
    convert = convert or (lambda rows: rows)
    dtype = convert(image[:1]).dtype
    if dtype.kind != "f":
        raise ValueError(f"resize_photo: image must be of a float type, got {dtype}")
    channels = image.shape[2]
    above, below, down = neighbors(image.shape[0], height, dtype)
    left, right, across = neighbors(image.shape[1], width, dtype)
    across = np.repeat(across, channels)  # one weight per column of a (rows, width * C) matrix

    result = np.empty((height, width * channels), dtype)
    for start in range(0, height, ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        used, position = np.unique((above[part], below[part]), return_inverse=True)
        position = position.reshape(2, -1)

        rows = convert(image[used])
        lines = rows.take(left, axis=1).reshape(len(used), -1)  # (r, width * C)
        lines *= 1 - across
        second = rows.take(right, axis=1).reshape(len(used), -1)
        second *= across
        lines += second

        target = result[part]
        np.multiply(lines[position[0]], (1 - down[part])[:, None], out=target)
        target += lines[position[1]] * down[part, None]
    return result.reshape(height, width, channels)


def resize_masks(masks, height, width, out=None):
    """Resize masks (G, H, W) to (G, height, width): pixel i copies input pixel floor(i * H / height).

    masks: an array, or EncodedMasks.  out: zeros that receive the result; by default a new array.
    """
    # float32, as in torch: where i * H / height should be an integer, rounding decides which pixel is taken
    rows = np.arange(height, dtype=np.float32) * np.float32(masks.shape[1] / height)
    columns = np.arange(width, dtype=np.float32) * np.float32(masks.shape[2] / width)
    rows = np.minimum(rows.astype(np.int64), masks.shape[1] - 1)
    columns = np.minimum(columns.astype(np.int64), masks.shape[2] - 1)

    out = np.zeros((len(masks), height, width), masks.dtype) if out is None else out
    if hasattr(masks, "decode"):
        return masks.decode(out, rows, columns)
    for mask, target in zip(masks, out):
        target[:] = mask if mask.shape == target.shape else mask[rows].take(columns, axis=1, mode="clip")
    return out


def resize_boxes(boxes, size_from, size_to):
    """Boxes (..., 4) in pixels of an image of size_from (h, w), in pixels of the same image at size_to."""
    down, across = (np.float32(new) / np.float32(old) for new, old in zip(size_to, size_from))
    return boxes * np.array([across, down, across, down], boxes.dtype)


def resize_keypoints(keypoints, size_from, size_to):
    """Keypoints (..., 3: x, y, visibility or score) of an image of size_from (h, w), in the same image at size_to."""
    down, across = (np.float32(new) / np.float32(old) for new, old in zip(size_to, size_from))
    return keypoints * np.array([across, down, 1], keypoints.dtype)


# -------------------------------------------------------------------------------------------------------- the transform


@dataclass
class ImageTransform:
    """Makes one Batch of images of any size: normalize, resize, pad with zeros at the bottom and on the right.

    min_size, max_size: pixels; the short side becomes min_size unless the long side would exceed max_size.
    mean, std: of each channel, for values from 0 to 1.
    divisor: height and width of the batch are multiples of it (the stride of the deepest feature map).
    padded_size: (height, width) of every batch, or None for what its largest image needs.
    rounded: round the sides of a resized image, as Detectron does, instead of rounding down, as torchvision does.
    """

    min_size: int = 800
    max_size: int = 1333
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    divisor: int = 32
    padded_size: tuple | None = None
    rounded: bool = False

    def __post_init__(self):
        if not 1 <= self.min_size <= self.max_size:
            raise InputError(f"image sizes must be 1 <= min_size <= max_size, got {self.min_size} and {self.max_size}")

    def __call__(self, images, short_sides=None):
        """Make a Batch.

        images: list of Samples, or of (H, W, 3) arrays (uint8, or float from 0 to 1); sizes may differ.
        short_sides: a min_size per image (scale jitter), or None.
        Returns a Batch, with ground truth if Samples came in. Raises ValueError for an array of another shape or type.
        """
        if not images:
            raise ValueError("ImageTransform: needs at least one image")
        samples = images if isinstance(images[0], Sample) else None
        names = [f"image {i}" for i in range(len(images))]
        if samples:
            images, names = [sample.image for sample in samples], [sample.name for sample in samples]
        for image, name in zip(images, names):
            _check_image(image, name)

        short_sides = short_sides or [self.min_size] * len(images)
        sizes = [
            resized_size(*image.shape[:2], short, self.max_size, self.rounded)
            for image, short in zip(images, short_sides)
        ]
        batch = Batch(
            images=np.zeros((len(images), *self._padded(sizes), 3), np.float32),
            sizes=np.array(sizes, np.int64),
            original_sizes=np.array([image.shape[:2] for image in images], np.int64),
            image_ids=[sample.image_id for sample in samples] if samples else list(range(len(images))),
            names=names,
        )
        for target, image, (h, w) in zip(batch.images, images, sizes):
            if image.shape[:2] == (h, w):
                target[:h, :w] = self._normalize(image)
            else:
                target[:h, :w] = resize_photo(image, h, w, self._normalize)

        if samples:
            _add_ground_truth(batch, samples, sizes)
        return batch

    def _normalize(self, rows):
        """(x - mean) / std for some rows (r, W, 3), x from 0 to 1; uint8 is divided by 255 first."""
        lines = rows.reshape(len(rows), -1).astype(np.float32)  # (r, W * 3): NumPy is fast on long rows
        if rows.dtype == np.uint8:
            lines /= np.float32(255)
        lines -= np.tile(np.array(self.mean, np.float32), rows.shape[1])
        lines /= np.tile(np.array(self.std, np.float32), rows.shape[1])
        return lines.reshape(rows.shape)

    def _padded(self, sizes):
        """Height and width of the batch for resized images of these sizes."""
        needed = [-(-max(side) // self.divisor) * self.divisor for side in zip(*sizes)]
        if self.padded_size is None:
            return needed
        height, width = self.padded_size
        if needed[0] > height or needed[1] > width:
            raise InputError(
                f"padded_size {height} x {width} is too small: an image needs {needed[0]} x {needed[1]} "
                f"(min_size {self.min_size}, max_size {self.max_size}, multiples of {self.divisor})"
            )
        return height, width


def _check_image(image, name):
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    fits = shape is not None and len(shape) == 3 and shape[2] == 3 and 0 not in shape
    if not fits or not (dtype == np.uint8 or dtype.kind == "f"):
        raise ValueError(
            f"ImageTransform: {name} must be an (H, W, 3) array, uint8 or float from 0 to 1, "
            f"got {type(image).__name__ if shape is None else f'shape {shape}, {dtype}'}"
        )


def _add_ground_truth(batch, samples, sizes):
    """Resize each Sample's objects and write them into arrays padded to the largest number of objects."""
    count, (height, width) = len(samples), batch.images.shape[1:3]
    objects = max(1, *(len(sample.boxes) for sample in samples))
    batch.boxes = np.zeros((count, objects, 4), np.float32)
    batch.labels = np.zeros((count, objects), np.int64)
    batch.masks = sparse_zeros((count, objects, height, width), np.uint8)
    batch.crowd, batch.valid = np.zeros((2, count, objects), bool)
    if samples[0].keypoints is not None:
        batch.keypoints = np.zeros((count, objects, samples[0].keypoints.shape[1], 3), np.float32)

    for n, (sample, (h, w)) in enumerate(zip(samples, sizes)):
        g, size = len(sample.boxes), sample.image.shape[:2]
        check_shape("ImageTransform", f"masks of {sample.name}", sample.masks, (g, *size))
        batch.boxes[n, :g] = resize_boxes(sample.boxes, size, (h, w))
        batch.labels[n, :g], batch.crowd[n, :g], batch.valid[n, :g] = sample.labels, sample.crowd, True
        resize_masks(sample.masks, h, w, out=batch.masks[n, :g, :h, :w])
        if sample.keypoints is not None:
            batch.keypoints[n, :g] = resize_keypoints(sample.keypoints, size, (h, w))
