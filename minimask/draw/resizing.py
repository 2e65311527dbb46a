"""A Sample at the size at which it is drawn, so that lines and labels have their usual size on it."""

from dataclasses import replace

import numpy as np

from minimask.image import resize_masks


def resized(sample, side):
    """The Sample with a longer side of `side` pixels: image, boxes, masks and keypoints."""
    from PIL import Image

    height, width = sample.image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    keypoints = sample.keypoints
    if keypoints is not None:
        keypoints = keypoints * np.array([scale, scale, 1], np.float32)
    masks = sample.masks
    if masks is not None:
        if scale < 0.5:  # masks that stay encoded are never decoded at the size of a large photo
            masks = resize_masks(masks, 2 * size[1], 2 * size[0])
        masks = np.array([_resized_mask(mask, size) for mask in masks], np.uint8).reshape(-1, *size[::-1])
    return replace(
        sample,
        image=np.asarray(Image.fromarray(sample.image).resize(size, method)),
        boxes=sample.boxes * np.float32(scale),
        masks=masks,
        keypoints=keypoints,
    )


def _resized_mask(mask, size):
    """A mask (H, W) resized to (width, height); an enlarged one gets a smooth outline."""
    from PIL import Image

    return np.asarray(Image.fromarray(np.asarray(mask, np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) >= 128
