"""Reads and checks one annotation of a COCO json, and converts to COCO's own form what can be read without guessing."""

import numpy as np

from minimask.datasets.problems import Defect
from minimask.datasets.segmentation import (
    box_of_segmentation,
    kind_of,
    number_of,
    read_numbers,
    read_segmentation,
    short,
)

CROWD = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}  # texts that say whether it is one


def read_object(where, annotation, image, needs, keypoints, note):
    """The annotation with its segmentation, bbox, area, iscrowd and keypoints in COCO's own form.

    where: the beginning of messages, such as "annotation 5".
    image: the entry of its image, with integer height and width, or None for both.
    needs: "segmentation" or "bbox" if it must have one (a segmentation serves as a box, too), or None.
    keypoints: how many its category names; 0: they are not looked at.
    note: function of a text, called for what was not in COCO's form but was read anyway.
    Returns a new dict. Raises Defect if something cannot be used.
    """
    segmentation = read_segmentation(where, annotation.get("segmentation"), image["height"], image["width"], note)
    bbox = annotation.get("bbox")
    bbox = None if bbox is None or (isinstance(bbox, list) and not bbox) else bbox
    if segmentation is None and needs == "segmentation":
        raise Defect(
            "object without a segmentation",
            f"{where} has no segmentation; a box alone does not say where the mask is",
        )
    if segmentation is None and bbox is None and needs == "bbox":
        raise Defect("object without a box", f"{where} has neither a bbox nor a segmentation")

    read = {**annotation, "segmentation": segmentation}
    read["bbox"] = None if bbox is None else _read_bbox(where, bbox, note)
    if segmentation is not None or bbox is not None:
        _check_place(where, read, image)
    read["iscrowd"] = _read_crowd(where, annotation.get("iscrowd"), note)
    read["area"] = _read_area(where, annotation.get("area"), note)
    if keypoints and annotation.get("keypoints"):
        read["keypoints"] = _read_keypoints(where, annotation["keypoints"], keypoints, note)
    return read


def box_of(annotation):
    """The box x1, y1, x2, y2 of a checked annotation: its own, otherwise the one around its segmentation."""
    if annotation.get("bbox") is not None:
        x, y, w, h = annotation["bbox"]
        return x, y, x + w, y + h
    return box_of_segmentation(annotation["segmentation"])


def _read_bbox(where, bbox, note):
    if not isinstance(bbox, (list, tuple, np.ndarray)) or len(bbox) != 4:
        raise Defect("bbox of an unknown kind", f"{where} must have a bbox [x, y, width, height], has {short(bbox)}")
    values = list(bbox)
    bbox = read_numbers(where, values, "a bbox", note)
    if bbox[2] <= 0 or bbox[3] <= 0:
        raise Defect("box without area", f"{where} has a box without area: bbox {values} (x, y, width, height)")
    return bbox


def _check_place(where, annotation, image):
    x1, y1, x2, y2 = box_of(annotation)
    if x2 <= x1 or y2 <= y1:
        raise Defect("segmentation that covers no pixel", f"{where} has a segmentation without area")
    if image["width"] is not None and (x2 <= 0 or y2 <= 0 or x1 >= image["width"] or y1 >= image["height"]):
        box = ", ".join(f"{v:g}" for v in (x1, y1, x2, y2))
        size = f"{image['width']} x {image['height']}"
        raise Defect(
            "box outside its image",
            f"{where} has a box outside its image of {size} pixels: x1, y1, x2, y2 = {box}",
        )


def _read_crowd(where, crowd, note):
    """0 or 1; null stands for 0, and a text may spell it."""
    if crowd is None:
        return 0
    if isinstance(crowd, str) and crowd.strip().lower() in CROWD:
        note("iscrowd that is written as text")
        return CROWD[crowd.strip().lower()]
    if isinstance(crowd, (bool, int, float, np.number)) and crowd in (0, 1):
        return int(crowd)
    raise Defect("iscrowd that is neither 0 nor 1", f"{where} must have 0 or 1 as iscrowd, has {short(crowd)}")


def _read_area(where, area, note):
    if area is None:
        return None
    number = number_of(area)
    if number is None or number < 0:
        raise Defect("area that is not a number", f"{where} must have a number as area, has {short(area)}")
    if isinstance(area, str):
        note("area that is written as text")
    return number


def _read_keypoints(where, keypoints, count, note):
    """The 3 * count numbers of an object; without a visibility, a point is not labeled."""
    if not isinstance(keypoints, list) or len(keypoints) != 3 * count:
        found = len(keypoints) if isinstance(keypoints, list) else kind_of(keypoints)
        raise Defect(
            "another number of keypoints than the category names",
            f"{where} must have {3 * count} keypoint numbers (x, y, visibility of {count}), has {found}",
        )
    if None in keypoints:
        note("keypoint with null, taken as not labeled")
        points = [keypoints[i : i + 3] for i in range(0, len(keypoints), 3)]
        keypoints = sum(([0, 0, 0] if None in point else point for point in points), [])
    return read_numbers(where, keypoints, "keypoints", note)
