"""The worst mistakes of a model: what it missed, found twice, named wrongly or outlined badly, and pictures of them."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from minimask.draw import draw_prediction, draw_sample
from minimask.structures import Prediction

SCORE = 0.5  # detections below it are not counted as mistakes
IOU = 0.5  # what counts as found, and as a good mask
SIDE = 420  # pixels of a picture's longer side

KINDS = {
    "missed": "An object that nothing was found at.",
    "doubled": "An object that was found already, with a higher score.",
    "wrong class": "An object that was given another name, perhaps beside the right one.",
    "bad mask": "An object whose box is right and whose mask is not.",
    "nothing there": "A detection where there is no object.",
}


@dataclass
class Mistake:
    """One mistake: its kind (of KINDS), how bad it is (to sort by), where it is, and what to say about it."""

    kind: str
    badness: float
    image_id: int
    box: np.ndarray  # x1, y1, x2, y2, pixels of the image
    text: str


def find_mistakes(scoring, names):
    """Dict from kind of mistake to the list of Mistakes, worst first.

    scoring: dict from kind of result ("bbox", ...) to COCOeval.
    names: dict from COCO's category id to the name of the class.
    """
    found = {kind: [] for kind in KINDS}
    for image_id in scoring["bbox"].params.imgIds:
        for mistake in _in_image(scoring, names, int(image_id)):
            found[mistake.kind].append(mistake)
    return {kind: sorted(mistakes, key=lambda m: -m.badness) for kind, mistakes in found.items()}


def _in_image(scoring, names, image_id):
    """The Mistakes in one image. Detections take objects of their class in descending order of score, as in COCO."""
    boxes = scoring["bbox"]
    everything = boxes.cocoGt.imgToAnns.get(image_id, [])
    truth = [a for a in everything if not a["iscrowd"]]
    crowds = [a for a in everything if a["iscrowd"]]
    found = [a for a in boxes.cocoDt.imgToAnns.get(image_id, []) if a["score"] >= SCORE]
    found.sort(key=lambda a: -a["score"])
    overlap, in_crowd = _overlaps(found, truth, "bbox"), _overlaps(found, crowds, "bbox", crowd=True)

    taken, seen = {}, set()  # index of an object -> the detection that took it; objects found under another name
    for d, detection in enumerate(found):
        name, score, box = names.get(detection["category_id"]), detection["score"], corners(detection["bbox"])
        near = [g for g in np.argsort(-overlap[d]) if overlap[d, g] >= IOU]
        same = [g for g in near if truth[g]["category_id"] == detection["category_id"]]
        free = [g for g in same if g not in taken]
        if free:
            taken[free[0]] = detection
        elif same:
            first = taken[same[0]]["score"]
            yield Mistake("doubled", score, image_id, box, f"{name} {score:.2f}, found before with {first:.2f}")
        elif near:
            seen.add(near[0])
            other = names.get(truth[near[0]]["category_id"])
            yield Mistake("wrong class", score, image_id, box, f"{other}, taken for {name} {score:.2f}")
        elif not (in_crowd[d] >= IOU).any():
            yield Mistake("nothing there", score, image_id, box, f"{name} {score:.2f}")

    for g, annotation in enumerate(truth):
        name, box = names.get(annotation["category_id"]), corners(annotation["bbox"])
        if g not in taken and g not in seen:
            w, h = annotation["bbox"][2:]
            yield Mistake("missed", w * h, image_id, box, f"{name}, {w:.0f} x {h:.0f} pixels")
        elif g in taken and "segm" in scoring:
            iou = _overlaps([_mask_of(scoring, taken[g], "cocoDt")], [_mask_of(scoring, annotation, "cocoGt")], "mask")
            if iou[0, 0] < IOU:
                yield Mistake("bad mask", 1 - iou[0, 0], image_id, box, f"{name}, IoU of the masks {iou[0, 0]:.2f}")


def _overlaps(found, truth, kind, crowd=False):
    """IoU (D, G) of annotations' boxes, or of masks; with crowds, the share of the detection that lies in them."""
    from pycocotools import mask as rle

    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    if kind == "bbox":
        found, truth = ([list(map(float, a["bbox"])) for a in some] for some in (found, truth))
    return np.asarray(rle.iou(found, truth, [int(crowd)] * len(truth))).reshape(len(found), len(truth))


def _mask_of(scoring, annotation, side):
    """The compressed RLE of an annotation, which has the same id among boxes and masks."""
    coco = getattr(scoring["segm"], side)
    return coco.annToRLE(coco.anns[annotation["id"]])


def corners(bbox):
    """COCO's x, y, width, height as x1, y1, x2, y2."""
    x, y, w, h = bbox
    return np.array([x, y, x + w, y + h], np.float64)


# ------------------------------------------------------------------------------------------------------------ pictures


def draw_mistake(mistake, sample, scoring, category_ids, class_names):
    """Two pictures of the place of a mistake: (what is there, what was found), (H, W, 3) uint8 each."""
    window = _window(mistake.box, sample.image.shape[:2])
    image = sample.image[window]
    shift = np.array([window[1].start, window[0].start] * 2, np.float32)
    size = np.array([image.shape[1], image.shape[0]] * 2, np.float32)

    def cut(boxes, masks):
        """Which boxes are in the window, the boxes there, the masks there."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4) - shift
        inside = ((boxes[:, :2] < size[:2]) & (boxes[:, 2:] > 0)).all(axis=1)
        return inside, boxes[inside], None if masks is None else masks[inside][(slice(None), *window)]

    inside, boxes, masks = cut(sample.boxes, sample.masks)
    part = dict(labels=sample.labels[inside], crowd=sample.crowd[inside], keypoints=None)
    truth = dataclasses.replace(sample, image=np.ascontiguousarray(image), boxes=boxes, masks=masks, **part)

    found = [a for a in scoring["bbox"].cocoDt.imgToAnns.get(mistake.image_id, []) if a["score"] >= SCORE]
    decoded = _decode([_mask_of(scoring, a, "cocoDt") for a in found]) if "segm" in scoring and found else None
    inside, boxes, masks = cut([corners(a["bbox"]) for a in found], decoded)
    labels = np.array([category_ids.index(a["category_id"]) + 1 for a in found], np.int64)[inside]
    scores = np.array([a["score"] for a in found], np.float32)[inside]
    prediction = Prediction(boxes, labels, scores, masks)
    return (
        reduced(draw_sample(truth, class_names, keypoints=False, caption=False, side=SIDE)),
        reduced(draw_prediction(truth.image, prediction, class_names, SCORE, caption=False, side=SIDE)),
    )


def reduced(picture):
    """The picture, made smaller where it is larger than SIDE."""
    from PIL import Image

    scale = SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = tuple(max(1, round(n * scale)) for n in picture.shape[1::-1])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _window(box, shape):
    """Rows and columns around a box: a square of twice its longer side, at least 48 pixels, inside the image."""
    side = int(max(48, 2 * max(box[2] - box[0], box[3] - box[1])))
    slices = []
    for low, high, size in ((box[1], box[3], shape[0]), (box[0], box[2], shape[1])):
        first = int(np.clip((low + high) / 2 - side / 2, 0, max(0, size - side)))
        slices.append(slice(first, min(size, first + side)))
    return tuple(slices)


def _decode(masks):
    from pycocotools import mask as rle

    return np.stack([rle.decode(mask) for mask in masks]).astype(bool)
