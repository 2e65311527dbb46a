"""The worst mistakes of a model: what it missed, found twice, named wrongly or outlined badly, and pictures of them.

The kinds are those of TIDE (Bolya et al. 2020, section 2.2), which also says from which overlap on a detection is meant
for an object; bad masks are added.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from minimask.draw import LIGHT, draw_prediction, draw_sample
from minimask.draw.pen import Pen
from minimask.draw.resizing import resized
from minimask.structures import Prediction

SCORE = 0.5  # detections below it are not counted as mistakes
IOU = 0.5  # what counts as found, and as a good mask
NEAR = 0.1  # from this IoU on, a detection is meant for an object, even if its box is bad
SIDE, LABEL = 480, 22  # pixels: a picture's longer side, the text of its labels
MARK = (220, 0, 50)

KINDS = {
    "missed": "Objects without a detection.",
    "doubled": "Detections of an object that another detection, with a higher score, has found already.",
    "wrong class": "Detections that call an object something else, perhaps beside one that has its name right.",
    "bad box": f"Detections whose box fits their object badly: the IoU is between {NEAR} and {IOU}.",
    "bad mask": f"Objects whose box is right and whose mask is not: the IoU of the masks is below {IOU}.",
    "nothing there": f"Detections where there is no object of their class, not even at an IoU of {NEAR}.",
}


@dataclass
class Mistake:
    """One mistake: its kind (of KINDS), how bad it is (to sort by), where it is, and what to say about it."""

    kind: str
    badness: float
    image_id: int | str
    box: np.ndarray  # x1, y1, x2, y2, pixels of the image
    text: str


def find_mistakes(scoring, names):
    """Dict from kind of mistake to the list of Mistakes, worst first.

    scoring: dict from kind of result ("bbox", ...) to COCOeval.
    names: dict from COCO's category id to the name of the class.
    """
    found = {kind: [] for kind in KINDS}
    for image_id in scoring["bbox"].params.imgIds:
        for mistake in _in_image(scoring, names, image_id):
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
    overlap = _overlaps(found, truth, "bbox")
    alike = _same_class(found, truth)
    in_crowd = (_same_class(found, crowds) & (_overlaps(found, crowds, "bbox", crowd=True) >= IOU)).any(axis=1)

    taken, seen = {}, set()  # index of an object -> the detection that took it; objects with another mistake
    for d, detection in enumerate(found):
        name, score, box = names.get(detection["category_id"]), detection["score"], corners(detection["bbox"])
        near = [g for g in np.argsort(-overlap[d]) if overlap[d, g] >= IOU]
        same = [g for g in near if alike[d, g]]
        free = [g for g in same if g not in taken]
        of_class = np.where(alike[d], overlap[d], 0)
        nearest = int(of_class.argmax()) if truth else None
        if free:
            taken[free[0]] = detection
        elif in_crowd[d]:
            continue
        elif same:
            first = taken[same[0]]["score"]
            yield Mistake("doubled", score, image_id, box, f"{name} {score:.2f}, already found with {first:.2f}")
        elif near:
            seen.add(near[0])
            other = names.get(truth[near[0]]["category_id"])
            yield Mistake("wrong class", score, image_id, box, f"{other}, taken for {name} {score:.2f}")
        elif truth and of_class[nearest] >= NEAR:
            seen.add(nearest)
            text = f"{name} {score:.2f}, IoU of the boxes {of_class[nearest]:.2f}"
            yield Mistake("bad box", score, image_id, box, text)
        else:
            yield Mistake("nothing there", score, image_id, box, f"{name} {score:.2f}")
    yield from _about_objects(scoring, names, image_id, truth, taken, seen)


def _about_objects(scoring, names, image_id, truth, taken, seen):
    """The Mistakes that are told from the side of the objects: missed ones and bad masks."""
    for g, annotation in enumerate(truth):
        name, box = names.get(annotation["category_id"]), corners(annotation["bbox"])
        if g not in taken and g not in seen:
            w, h = annotation["bbox"][2:]
            yield Mistake("missed", w * h, image_id, box, f"{name}, {w:.0f} x {h:.0f} pixels")
        elif g in taken and "segm" in scoring:
            iou = _overlaps([_mask_of(scoring, taken[g], "cocoDt")], [_mask_of(scoring, annotation, "cocoGt")], "mask")
            if iou[0, 0] < IOU:
                yield Mistake("bad mask", 1 - iou[0, 0], image_id, box, f"{name}, IoU of the masks {iou[0, 0]:.2f}")


def _same_class(found, truth):
    """Which detections and objects have the same category: (D, G) bool."""
    ours, theirs = ([a["category_id"] for a in some] for some in (found, truth))
    return np.array(ours).reshape(-1, 1) == np.array(theirs).reshape(1, -1)


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
    """Two pictures of the place of a mistake: (what is there, what was found), (H, W, 3) uint8 each.

    Corners mark the mistake. Objects whose boxes do not touch it are left out.
    """
    found = [a for a in scoring["bbox"].cocoDt.imgToAnns.get(mistake.image_id, []) if a["score"] >= SCORE]
    masks = _decode([_mask_of(scoring, a, "cocoDt") for a in found]) if "segm" in scoring and found else None
    detected = dataclasses.replace(
        sample,
        boxes=np.array([corners(a["bbox"]) for a in found], np.float32).reshape(-1, 4),
        labels=np.array([category_ids.index(a["category_id"]) + 1 for a in found], np.int64),
        masks=masks,
        crowd=np.zeros(len(found), bool),
    )
    scores = np.array([a["score"] for a in found], np.float32)

    names = class_names if len(class_names) > 1 else [""]  # a single name says nothing
    shown = dict(caption=False, side=SIDE, text=LABEL)
    truth, _ = _at(mistake, sample)
    detected, kept = _at(mistake, detected)
    prediction = Prediction(detected.boxes, detected.labels, scores[kept], detected.masks)
    return (
        draw_sample(truth, names, keypoints=False, **shown),
        draw_prediction(detected.image, prediction, names, SCORE, **shown),
    )


def _at(mistake, sample):
    """The place of a mistake, marked, as a Sample at the size of pictures, and which objects it kept."""
    window = _window(mistake.box, sample.image.shape[:2])
    image = np.ascontiguousarray(sample.image[window])
    shift = np.array([window[1].start, window[0].start] * 2, np.float32)
    kept = ((sample.boxes[:, :2] < mistake.box[2:]) & (sample.boxes[:, 2:] > mistake.box[:2])).all(axis=1)
    part = dataclasses.replace(
        sample,
        image=image,
        boxes=sample.boxes[kept] - shift,
        labels=sample.labels[kept],
        masks=None if sample.masks is None else sample.masks[kept][(slice(None), *window)],
        crowd=sample.crowd[kept],
        keypoints=None,
    )
    part = resized(part, SIDE)
    mark = (mistake.box - shift) * SIDE / max(image.shape[:2])
    return dataclasses.replace(part, image=_marked(part.image, mark)), kept


def _marked(picture, box):
    """The picture with four corners around a box."""
    pen, (height, width) = Pen(picture), picture.shape[:2]
    x1, y1, x2, y2 = np.clip(box + np.array([-8, -8, 8, 8]), 3, [width - 4, height - 4] * 2)
    length = max(12, 0.2 * min(x2 - x1, y2 - y1))
    for x, dx in ((x1, length), (x2, -length)):
        for y, dy in ((y1, length), (y2, -length)):
            for end in ((x + dx, y), (x, y + dy)):
                pen.line((x, y), end, MARK, 5, edge=LIGHT)
    return pen.array()


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
