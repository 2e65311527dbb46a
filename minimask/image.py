"""Pictures in and out: read, normalize, resize, pad; boxes, masks and keypoints go along, and back again.

The pixel model, everywhere in this project: pixel 3 covers 3.0 to 4.0 and its center is 3.5. A box
(x1, y1, x2, y2) has the width x2 - x1, with no "+ 1". The transform computes what torchvision's
GeneralizedRCNNTransform computes.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from minimask.device import to_cpu
from minimask.errors import InputError
from minimask.structures import Batch, Prediction, Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ROWS_AT_A_TIME = 32  # of a resized picture: they stay in the cache, and a huge photo is never held as floats

# A photo of 10,000 x 10,000 pixels is a photo. What is beyond 179 Mpixel, Pillow still refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


# -------------------------------------------------------------------------------- reading


def read_image(path, rotate=True):
    """Read a picture file as a person sees it.

    Gray becomes RGB, transparent parts lie over white, palettes are looked up, 16 bits are scaled to 8.
    rotate: turn the picture as its EXIF orientation says.
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


def _reason(error):
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "permission denied"
    return "its format is unknown" if "cannot identify" in str(error) else str(error) or type(error).__name__


def _to_rgb(picture):
    if picture.mode.startswith("I"):  # 16 bits a pixel; Pillow itself would clip at 255
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        picture = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


# -------------------------------------------------------------------------------- resizing


def resized_size(height, width, min_size, max_size, rounded=False):
    """Size of a picture whose short side becomes `min_size`, unless its long side would exceed `max_size`.

    480 x 640 with (800, 1333): scale = min(800/480, 1333/640) = 1.667, so 800 x 1066 (1066.7 rounded down, or
    `rounded`, as in Detectron, 1067). No side becomes less than 1.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    half = 0.5 if rounded else 0
    return max(1, int(height * scale + half)), max(1, int(width * scale + half))


def _neighbors(size_in, size_out, dtype):
    """Of each output pixel: the input pixel before its center, the one after, and the latter's weight."""
    ratio = np.float64(dtype.type(size_in) / dtype.type(size_out))
    centers = ((np.arange(size_out) + 0.5) * ratio - 0.5).astype(dtype)  # rounded where torch rounds
    centers = np.maximum(centers, 0)
    before = np.minimum(centers.astype(np.int64), size_in - 1)
    after = np.minimum(before + 1, size_in - 1)
    return before, after, centers - before.astype(dtype)


def resize_bilinear(image, height, width, convert=None):
    """Resize by bilinear interpolation between pixel centers, without smoothing (torch: align_corners=False).

    image: (H, W, C), float32 or float64; or of any type that `convert` accepts.
    convert: function from some rows (r, W, C) to floats (r, W, C), so that only rows in use are ever floats.
    Returns (height, width, C) in the float type. Two pixels (0, 1) become four: (0, 0.25, 0.75, 1).
    """
    convert = convert or (lambda rows: rows)
    dtype = convert(image[:1]).dtype
    if dtype.kind != "f":
        raise ValueError(f"resize_bilinear: image must be of a float type, got {dtype}")
    channels = image.shape[2]
    above, below, down = _neighbors(image.shape[0], height, dtype)
    left, right, across = _neighbors(image.shape[1], width, dtype)
    across = np.repeat(across, channels)  # one weight for each column of a (rows, width*C) matrix
    result = np.empty((height, width * channels), dtype)
    for start in range(0, height, ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        used, position = np.unique((above[part], below[part]), return_inverse=True)
        position = position.reshape(2, -1)
        rows = convert(image[used])
        lines = rows.take(left, axis=1).reshape(len(used), -1)  # (r, width*C)
        lines *= 1 - across
        second = rows.take(right, axis=1).reshape(len(used), -1)
        second *= across
        lines += second
        target = result[part]
        np.multiply(lines[position[0]], (1 - down[part])[:, None], out=target)
        target += lines[position[1]] * down[part, None]
    return result.reshape(height, width, channels)


def resize_nearest(masks, height, width):
    """Resize (G, H, W) masks to (G, height, width): pixel i copies input pixel floor(i * H / height)."""
    # float32, as torch: where i * H / height is a whole number but for rounding, the same pixel is taken
    rows = np.arange(height, dtype=np.float32) * np.float32(masks.shape[1] / height)
    columns = np.arange(width, dtype=np.float32) * np.float32(masks.shape[2] / width)
    rows = np.minimum(rows.astype(np.int64), masks.shape[1] - 1)
    columns = np.minimum(columns.astype(np.int64), masks.shape[2] - 1)
    result = np.empty((len(masks), height, width), masks.dtype)
    if height < masks.shape[1]:
        for mask, target in zip(masks, result):
            mask[rows].take(columns, axis=1, out=target, mode="clip")
    else:
        for mask, target in zip(masks, result):
            mask.take(columns, axis=1, mode="clip").take(rows, axis=0, out=target, mode="clip")
    return result


def resize_boxes(boxes, size_from, size_to):
    """Boxes (..., 4) in pixels of a picture of size_from (h, w), as pixels of the same picture at size_to."""
    down, across = (np.float32(new) / np.float32(old) for new, old in zip(size_to, size_from))
    return boxes * np.array([across, down, across, down], boxes.dtype)


def resize_keypoints(keypoints, size_from, size_to):
    """Keypoints (..., 3: x, y, visibility or score) of a picture of size_from (h, w), at size_to."""
    down, across = (np.float32(new) / np.float32(old) for new, old in zip(size_to, size_from))
    return keypoints * np.array([across, down, 1], keypoints.dtype)


# -------------------------------------------------------------------------------- flipping


def flip_order(names):
    """Where each keypoint goes in a mirrored picture: the index of left_X for right_X and the reverse.

    names: K keypoint names. Returns (K,) int64: flipped[k] = original[order[k]].
    """
    places = {name: k for k, name in enumerate(names)}
    return np.array([places.get(_other_side(name), k) for k, name in enumerate(names)], np.int64)


def _other_side(name):
    for side, other in (("left", "right"), ("right", "left")):
        if name.startswith(side):
            return other + name[len(side) :]
    return name


def flip(sample, keypoint_order=None):
    """The mirrored Sample: x becomes W - x, and left and right keypoints change places.

    keypoint_order: (K,) from flip_order; without it keypoints keep their places.
    """
    width = sample.image.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, 0], boxes[:, 2] = width - sample.boxes[:, 2], width - sample.boxes[:, 0]
    keypoints = sample.keypoints
    if keypoints is not None:
        keypoints = keypoints.copy() if keypoint_order is None else keypoints[:, keypoint_order]
        keypoints[..., 0] = np.where(keypoints[..., 2] > 0, width - keypoints[..., 0], 0)
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        boxes=boxes,
        masks=sample.masks[:, :, ::-1],
        keypoints=keypoints,
    )


def turn(sample):
    """The Sample turned by a quarter to the left: what was the right side is the top. (x, y) becomes (y, W - x)."""
    width = sample.image.shape[1]
    x1, y1, x2, y2 = sample.boxes.T
    keypoints = sample.keypoints
    if keypoints is not None:
        x, y, visibility = np.moveaxis(keypoints, -1, 0)
        keypoints = np.stack([y, np.where(visibility > 0, width - x, 0), visibility], axis=-1)
    return replace(
        sample,
        image=np.ascontiguousarray(np.rot90(sample.image)),
        boxes=np.stack([y1, width - x2, y2, width - x1], axis=1),
        masks=np.rot90(sample.masks, axes=(1, 2)),
        keypoints=keypoints,
    )


# -------------------------------------------------------------------------------- the transform


@dataclass
class ImageTransform:
    """Pictures of any size -> one Batch: normalize, resize, pad with zeros at the bottom and the right.

    min_size, max_size: the short side becomes min_size unless the long side would exceed max_size.
    mean, std: of each channel, for values 0 to 1.
    divisor: height and width of the batch are multiples of it (the deepest feature map's stride).
    padded_size: (height, width) of every batch, or None: as large as its largest picture needs.
    rounded: a resized picture's sides are rounded, as in Detectron; else rounded down, as in torchvision.
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
            raise InputError(
                f"picture sizes must be 1 <= min_size <= max_size, got {self.min_size} and {self.max_size}"
            )

    def __call__(self, pictures, short_sides=None):
        """Make a Batch.

        pictures: list of Samples, or of (H, W, 3) arrays (uint8, or float in 0 to 1); sizes may differ.
        short_sides: a min_size for each picture (scale jitter), or None.
        Ground truth is in the batch when Samples came in. ValueError: an array of another shape or type.
        """
        if not pictures:
            raise ValueError("ImageTransform: needs at least one picture")
        samples = isinstance(pictures[0], Sample)
        images = [p.image for p in pictures] if samples else pictures
        for i, image in enumerate(images):
            _check_image(image, pictures[i].name if samples else f"picture {i}")
        short_sides = short_sides or [self.min_size] * len(images)
        sizes = [
            resized_size(*image.shape[:2], short, self.max_size, self.rounded)
            for image, short in zip(images, short_sides)
        ]
        height, width = self._padded(sizes)

        batch = Batch(
            images=np.zeros((len(images), height, width, 3), np.float32),
            sizes=np.array(sizes, np.int64),
            original_sizes=np.array([image.shape[:2] for image in images], np.int64),
            image_ids=[p.image_id for p in pictures] if samples else list(range(len(images))),
            names=[p.name for p in pictures] if samples else [f"picture {i}" for i in range(len(images))],
        )
        for target, image, (h, w) in zip(batch.images, images, sizes):
            if image.shape[:2] == (h, w):
                target[:h, :w] = self._normalize(image)
            else:
                target[:h, :w] = resize_bilinear(image, h, w, self._normalize)
        if samples:
            _add_ground_truth(batch, pictures, sizes)
        return batch

    def _normalize(self, rows):
        """(x - mean) / std for some rows (r, W, 3), x in 0 to 1; uint8 is divided by 255 first."""
        lines = rows.reshape(len(rows), -1).astype(np.float32)  # (r, W*3): NumPy is fast at long rows
        if rows.dtype == np.uint8:
            lines /= np.float32(255)
        lines -= np.tile(np.array(self.mean, np.float32), rows.shape[1])
        lines /= np.tile(np.array(self.std, np.float32), rows.shape[1])
        return lines.reshape(rows.shape)

    def _padded(self, sizes):
        needed = [-(-max(side) // self.divisor) * self.divisor for side in zip(*sizes)]
        if self.padded_size is None:
            return needed
        height, width = self.padded_size
        if needed[0] > height or needed[1] > width:
            raise InputError(
                f"padded_size {height} x {width} is too small: a picture needs {needed[0]} x {needed[1]} "
                f"(min_size {self.min_size}, max_size {self.max_size}, multiples of {self.divisor})"
            )
        return height, width


def _check_image(image, name):
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    fits = shape is not None and len(shape) == 3 and shape[2] == 3 and 0 not in shape
    if not fits or not (dtype == np.uint8 or dtype.kind == "f"):
        raise ValueError(
            f"ImageTransform: {name} must be an (H, W, 3) array, uint8 or float in 0 to 1, "
            f"got {type(image).__name__ if shape is None else f'shape {shape}, {dtype}'}"
        )


def _add_ground_truth(batch, samples, sizes):
    """Resize each Sample's objects and write them into arrays padded to the largest number of objects."""
    count, (height, width) = len(samples), batch.images.shape[1:3]
    objects = max(1, *(len(sample.boxes) for sample in samples))
    batch.boxes = np.zeros((count, objects, 4), np.float32)
    batch.labels = np.zeros((count, objects), np.int64)
    batch.masks = np.zeros((count, objects, height, width), np.uint8)
    batch.crowd = np.zeros((count, objects), bool)
    batch.valid = np.zeros((count, objects), bool)
    if samples[0].keypoints is not None:
        batch.keypoints = np.zeros((count, objects, samples[0].keypoints.shape[1], 3), np.float32)
    for n, (sample, (h, w)) in enumerate(zip(samples, sizes)):
        g, size = len(sample.boxes), sample.image.shape[:2]
        if sample.masks.shape != (g, *size):
            raise ValueError(
                f"ImageTransform: {sample.name} has {g} boxes and a picture of {size[0]} x {size[1]}, "
                f"so masks must be {(g, *size)}, got {sample.masks.shape}"
            )
        batch.boxes[n, :g] = resize_boxes(sample.boxes, size, (h, w))
        batch.labels[n, :g] = sample.labels
        batch.masks[n, :g, :h, :w] = sample.masks if size == (h, w) else resize_nearest(sample.masks, h, w)
        batch.crowd[n, :g] = sample.crowd
        batch.valid[n, :g] = True
        if sample.keypoints is not None:
            batch.keypoints[n, :g] = resize_keypoints(sample.keypoints, size, (h, w))


def restore(detections, batch, threshold=0.5):
    """From the resized pictures back to the original ones.

    detections: Detections of `batch`. threshold: probability from which a mask's pixel is the object's.
    Returns a list of N Predictions in pixels of the original pictures, valid detections only, masks pasted.
    """
    from minimask.mask_head import paste_masks  # here, because reading and drawing pictures needs no model

    detections, sizes = detections.to("cpu"), to_cpu(batch.sizes).tolist()
    valid, boxes, labels, scores = detections.valid, detections.boxes, detections.labels, detections.scores
    soft_masks, keypoints = detections.masks, detections.keypoints
    predictions = []
    for n, (size, original) in enumerate(zip(sizes, batch.original_sizes.tolist())):
        keep = valid[n]
        found = Prediction(
            boxes=resize_boxes(boxes[n, keep], size, original),
            labels=labels[n, keep],
            scores=scores[n, keep],
        )
        if soft_masks is not None:
            found.soft_masks = soft_masks[n, keep]
            found.masks = paste_masks(found.soft_masks, found.boxes, *original, threshold, detections.whole_pixels)
        if keypoints is not None:
            found.keypoints = resize_keypoints(keypoints[n, keep], size, original)
        predictions.append(found)
    return predictions
