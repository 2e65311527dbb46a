"""Objects in a picture: detections, and a dataset's ground truth."""

import numpy as np

from minimask.draw.colors import COLORS, CROWD, contrast, instance_colors, outline_of
from minimask.draw.labels import caption_strip, place_labels
from minimask.draw.pen import Pen, line_width
from minimask.draw.pictures import READABLE_SIDE, as_rgb, readable, title_strip

FILL = 0.33  # opacity of a mask's color
SURE = 2.0  # a predicted keypoint is drawn if its logit is above this, as in Detectron: absent ones get a place too


def draw_prediction(
    image,
    prediction,
    class_names,
    score_threshold=0.5,
    title=None,
    skeleton=(),
    caption=True,
    side=READABLE_SIDE,
    text=None,
):
    """Draw what was found in an image: translucent masks, boxes, labels with scores, keypoints.

    image: (H, W, 3) uint8, RGB, or (H, W) gray.
    prediction: a Prediction in pixels of `image`. Keypoints are drawn if their score, a logit, is above SURE.
    class_names: the names of labels 1, 2, ... (label 0 is the background and has none).
    score_threshold: objects with lower scores are left out.
    title: a line of text above the picture.
    skeleton: pairs of keypoint indices (from 0) to join by lines.
    caption: whether a strip below lists the classes and counts the objects.
    side: a small image is enlarged by an integer factor as long as its longer side stays within this, in pixels.
    text: size of the labels in pixels; by default it follows from the size of the picture.
    Returns (H', W', 3) uint8.
    Raises ValueError if the shapes of image and masks do not fit.
    """
    shown = np.flatnonzero(np.asarray(prediction.scores) >= score_threshold)
    shown = shown[np.argsort(-np.asarray(prediction.scores)[shown], kind="stable")]
    names = [class_name(class_names, label) for label in prediction.labels[shown]]
    scores = [f"{score:.2f}" for score in prediction.scores[shown]]
    keypoints = None
    if prediction.keypoints is not None:
        keypoints = np.array(prediction.keypoints[shown])  # (D, K, 3)
        keypoints[..., 2] = np.where(keypoints[..., 2] > SURE, 2, 0)  # visible or missing
    return _draw_objects(
        image,
        boxes=prediction.boxes[shown],
        labels=prediction.labels[shown],
        names=names,
        texts=[(f"{name} {score}".strip(), score) for name, score in zip(names, scores)],
        masks=None if prediction.masks is None else prediction.masks[shown],
        keypoints=keypoints,
        skeleton=skeleton,
        title=title,
        caption=f"found above {score_threshold:.2f}:" if caption else None,
        side=side,
        text=text,
    )


def draw_sample(
    sample, class_names, title=None, keypoints=True, skeleton=(), caption=True, side=READABLE_SIDE, text=None
):
    """Draw an image of a dataset with its ground truth. Crowds are hatched and labeled as such.

    sample: a Sample. keypoints: whether to draw them. The other arguments are those of `draw_prediction`.
    Returns (H', W', 3) uint8.
    """
    names = [class_name(class_names, label) for label in sample.labels]
    texts = [(f"{name} (crowd)".strip() if crowd else name,) for name, crowd in zip(names, sample.crowd)]
    return _draw_objects(
        sample.image,
        boxes=sample.boxes,
        labels=sample.labels,
        names=names,
        texts=texts,
        masks=sample.masks,
        crowd=sample.crowd,
        keypoints=sample.keypoints if keypoints else None,
        skeleton=skeleton,
        title=title,
        caption="ground truth:" if caption else None,
        side=side,
        text=text,
    )


def class_name(class_names, label):
    """The name of a label (label 1 has the first name), or "class 7" if the list is too short."""
    label = int(label)
    return str(class_names[label - 1]) if 1 <= label <= len(class_names) else f"class {label}"


def _draw_objects(
    image, boxes, labels, names, texts, masks, title, caption, side, text, crowd=None, keypoints=None, skeleton=()
):
    """Draw masks, then boxes, keypoints and labels, and add the title and the caption."""
    image = as_rgb(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(boxes)
    crowd = np.zeros(count, dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool)
    if masks is not None and np.shape(masks) != (count, *image.shape[:2]):
        raise ValueError(
            f"draw: masks must be (D, H, W) = {(count, *image.shape[:2])} for these boxes and this image, "
            f"got {np.shape(masks)}"
        )

    colors = np.where(crowd[:, None], CROWD, COLORS[instance_colors(boxes)])
    picture, scale = readable(image, side)
    width = line_width(picture)
    covered = np.zeros(picture.shape[:2], dtype=bool)  # True where there are objects: labels avoid these pixels
    boxes = boxes * scale

    if masks is not None:
        area = np.array([mask.sum() for mask in masks], dtype=np.int64)
        for i in np.argsort(-area, kind="stable"):  # small ones last, so that larger ones do not hide them
            _paint_mask(picture, masks[i], scale, colors[i], width, covered, hatched=crowd[i])

    pen = Pen(picture)
    thin = max(2, width - 1) if count > 20 else width
    if count > 30 and len(set(map(int, labels))) == 1:  # one class, named in the caption: the scores are enough
        texts = [options[1:] for options in texts]
    for i in range(count):
        pen.outline(boxes[i], colors[i], thin, outline_of(labels[i]))
    if keypoints is not None:
        for i in range(count):
            pen.keypoints(np.asarray(keypoints[i]) * (scale, scale, 1), colors[i], width, skeleton)
    place_labels(pen, boxes, texts, colors, covered, text)

    strips = [pen.array()]
    if title:
        strips.insert(0, title_strip(title, picture.shape[1]))
    if caption:
        hidden = keypoints is not None and any((np.asarray(points)[:, 2] == 1).any() for points in keypoints)
        strips.append(caption_strip(caption, labels, names, crowd, picture.shape[1], hidden))
    return np.concatenate(strips)


def _paint_mask(picture, mask, scale, color, width, covered, hatched=False):
    """Blend the mask's color into the picture, in place, and draw its border with a contrasting edge."""
    scaled = _scaled_mask(np.asarray(mask), scale, picture.shape[:2], margin=2)
    if scaled is None:
        return
    window, inside = scaled
    part = picture[window].astype(np.float32)
    fill = inside
    if hatched:
        y, x = np.mgrid[window]
        fill = inside & ((x + y) % (6 * width) < 2 * width)
    part[fill] += FILL * (color - part[fill])
    border = inside & ~_grow(inside, -width)
    part[_grow(inside, 1) & ~inside] = contrast(color)
    part[border] = color
    picture[window] = part.round().astype(np.uint8)
    covered[window] |= inside


def _scaled_mask(mask, scale, shape, margin):
    """Crop a mask to where it is not empty, and scale it. Returns (window in the picture, bool mask of that size)."""
    from PIL import Image

    bounds = _bounds(mask)
    if bounds is None:
        return None
    y0, y1, x0, x1 = bounds
    y0, x0, y1, x1 = max(y0 - 1, 0), max(x0 - 1, 0), min(y1 + 1, mask.shape[0]), min(x1 + 1, mask.shape[1])
    top, left = int(np.floor(y0 * scale)), int(np.floor(x0 * scale))
    bottom, right = min(shape[0], int(np.ceil(y1 * scale))), min(shape[1], int(np.ceil(x1 * scale)))
    crop = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    if scale != 1:  # linear interpolation: an enlarged mask gets a smooth outline
        crop = crop.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BILINEAR)
    window = (
        slice(max(top - margin, 0), min(bottom + margin, shape[0])),
        slice(max(left - margin, 0), min(right + margin, shape[1])),
    )
    inside = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), dtype=bool)
    y, x = top - window[0].start, left - window[1].start
    crop = np.asarray(crop) >= 128
    inside[y : y + crop.shape[0], x : x + crop.shape[1]] = crop[: inside.shape[0] - y, : inside.shape[1] - x]
    return window, inside


def _bounds(mask):
    """The smallest window that contains the mask: rows y0 to y1, columns x0 to x1. None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _grow(mask, pixels):
    """The mask grown by some pixels on all sides, or shrunk if `pixels` is negative. Edge values extend outward."""
    from PIL import Image, ImageFilter

    size = 2 * abs(pixels) + 1
    kind = ImageFilter.MaxFilter if pixels > 0 else ImageFilter.MinFilter
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(kind(size))) > 0
