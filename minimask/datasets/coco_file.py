"""Reads and checks COCO json. Training, evaluation and `split` all read through here, so that they agree.

The whole file is checked when it is opened. The first thing that cannot be used is named, with the file, the id and
what was found.
"""

import json
import os

import numpy as np

from minimask.datasets.coco_names import UNUSED
from minimask.datasets.segmentation import box_of_segmentation, check_numbers, check_segmentation, kind_of
from minimask.errors import InputError


def read_json(source, what="annotations"):
    """The content of a json file, and a name for it in messages.

    source: path, or the content itself, which is returned as it is.
    what: what is in it, for messages: "annotations", "results".
    Raises InputError if the file cannot be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source, f"the {what}"
    try:
        with open(source, encoding="utf-8-sig") as file:  # some Windows programs put a byte order mark first
            return json.load(file), str(source)
    except FileNotFoundError:
        raise InputError(f"{source}: no such file of {what}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: is not json ({error.msg}, line {error.lineno})") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: is not json (it is not UTF-8 text)") from None
    except RecursionError:
        raise InputError(f"{source}: is not COCO json (nested too deep)") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from None


def read_coco(annotations, source=None, needs=None, names=True, image_ids=None, size_of=None):
    """Read a COCO file and check it.

    annotations: path of the json file, or its content as a dict, which is left as it is.
    source: a name for the content in messages, if it is given as a dict.
    needs: "segmentation" or "bbox" if every object must have one (a segmentation serves as a box, too), or None.
    names: whether images and categories must have names. Ground truth for evaluation does not need them.
    image_ids: check only the objects of these images; by default all.
    size_of: function of an image's entry that returns its (height, width), for images whose size is not in the file.
    Returns (content, name): the dict, whose images have integer sizes, and the file's name for messages.
    Raises InputError at the first thing that cannot be used.
    """
    content, name = read_json(annotations)
    name = source or name
    _check_structure(content, name, names)
    known = {image["id"] for image in content["images"]}
    chosen = known if image_ids is None else set(image_ids)
    unknown = sorted(chosen - known, key=str)
    if unknown:
        raise InputError(f"{name}: has no image with the id {unknown[0]!r}")

    images = [_sized(image, name, size_of) if image["id"] in chosen else image for image in content["images"]]
    for image in images:
        if needs == "segmentation" and image["id"] in chosen and image["height"] is None:
            raise InputError(f"{name}: image {image['id']} has no height and width")
    content = {**content, "images": images}
    _check_categories(content["categories"], name)
    _check_annotations(content, name, chosen, needs)
    return content, name


def box_of(annotation):
    """The box x1, y1, x2, y2 of a checked annotation: its own, or else the one around its segmentation."""
    if annotation.get("bbox") is not None:
        x, y, w, h = annotation["bbox"]
        return x, y, x + w, y + h
    return box_of_segmentation(annotation["segmentation"])


def _check_structure(content, name, names):
    """Lists where COCO has lists, objects in them, and the keys that everything else rests on."""
    if not isinstance(content, dict):
        raise InputError(f"{name}: is not COCO json: it must hold an object, not {kind_of(content)}")
    needed = {
        "images": ("id", "file_name") if names else ("id",),
        "categories": ("id", "name") if names else ("id",),
        "annotations": ("image_id", "category_id"),
    }
    for key, fields in needed.items():
        if key not in content:
            raise InputError(f'{name}: is not COCO json: "{key}" is missing')
        if not isinstance(content[key], list):
            raise InputError(f'{name}: is not COCO json: "{key}" must be a list, not {kind_of(content[key])}')
        for number, entry in enumerate(content[key]):
            _check_fields(f"{name}: {key}[{number}]", entry, fields, key)

    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{name}: there are no {key} in it")
        seen = set()
        for entry in content[key]:
            if entry["id"] in seen:
                raise InputError(f"{name}: two {key} have the id {entry['id']}")
            seen.add(entry["id"])
    if len({isinstance(image["id"], str) for image in content["images"]}) > 1:
        raise InputError(f"{name}: some image ids are integers and some are text; they must all be of one kind")


def _check_fields(where, entry, fields, key):
    if not isinstance(entry, dict):
        raise InputError(f"{where} must be an object, not {kind_of(entry)}")
    for field in fields:
        if field not in entry:
            raise InputError(f'{where} has no "{field}"')
        value = entry[field]
        if not field.endswith("id"):
            good, expected = isinstance(value, str), "text"
        elif field == "image_id" or key == "images":  # some tools write an image's name as its id
            good, expected = isinstance(value, str) or _is_id(value), "an integer or text"
        else:
            good, expected = _is_id(value), "an integer"
        if not good:
            raise InputError(f'{where}: "{field}" must be {expected}, is {value!r}')


def _is_id(value):
    """Whether a value is an integer that fits into 64 bits, which pycocotools needs."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and abs(int(value)) < 2**63


def _sized(image, name, size_of):
    """The image's entry with integer height and width, or with None for both if nobody knows them."""
    height, width = image.get("height"), image.get("width")
    if height is None and width is None:
        height, width = (None, None) if size_of is None else size_of(image)
        return {**image, "height": height, "width": width}
    for side, value in (("height", height), ("width", width)):
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not number or not 1 <= value <= 1e6 or value != int(value):
            raise InputError(f"{name}: image {image['id']} must have a {side} of 1 to 1000000 pixels, has {value!r}")
    return {**image, "height": int(height), "width": int(width)}


def _check_categories(categories, name):
    names = [category["name"] for category in categories if "name" in category]
    for category_name in names:
        if category_name != UNUSED and names.count(category_name) > 1:
            raise InputError(f'{name}: two categories have the name "{category_name}"')
    named = [category for category in categories if category.get("keypoints")]
    for category in named:
        where = f'{name}: category "{category.get("name", category["id"])}"'
        _check_keypoint_names(where, category["keypoints"], category.get("skeleton") or [])
    if any(category["keypoints"] != named[0]["keypoints"] for category in named):
        raise InputError(f"{name}: its categories have different keypoints; they must share one list")


def _check_keypoint_names(where, names, skeleton):
    if not isinstance(names, list) or any(type(name) is not str for name in names):
        raise InputError(f"{where} must have a list of names as keypoints, has {names!r}")
    if not isinstance(skeleton, list):
        raise InputError(f"{where} must have a list of pairs as skeleton, has {kind_of(skeleton)}")
    numbers = range(1, len(names) + 1)
    for pair in skeleton:
        if not isinstance(pair, list) or len(pair) != 2 or any(point not in numbers for point in pair):
            raise InputError(f"{where} must have a skeleton of pairs of numbers from 1 to {len(names)}, has {pair!r}")


def _check_annotations(content, name, chosen, needs):
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category for category in content["categories"]}
    for number, annotation in enumerate(content["annotations"]):
        where = f"{name}: annotation {annotation['id']}" if "id" in annotation else f"{name}: annotations[{number}]"
        image, category = images.get(annotation["image_id"]), categories.get(annotation["category_id"])
        if image is None:
            raise InputError(f"{where} belongs to image {annotation['image_id']}, which is not among the images")
        if category is None:
            raise InputError(f"{where} has category {annotation['category_id']}, which is not among the categories")
        if image["id"] in chosen:
            _check_annotation(where, annotation, image, len(category.get("keypoints") or ()), needs)


def _check_annotation(where, annotation, image, keypoints, needs):
    segmentation = annotation.get("segmentation")
    if segmentation:
        check_segmentation(where, segmentation, image["height"], image["width"])
    elif needs == "segmentation":
        raise InputError(f"{where} has no segmentation; a box alone does not say where the mask is")
    elif needs == "bbox" and annotation.get("bbox") is None:
        raise InputError(f"{where} has neither a bbox nor a segmentation")
    if segmentation or annotation.get("bbox") is not None:
        _check_box(where, annotation, image)
    if keypoints and annotation.get("keypoints"):
        _check_keypoints(where, annotation["keypoints"], keypoints)
    if annotation.get("iscrowd") not in (None, 0, 1):
        raise InputError(f"{where} must have 0 or 1 as iscrowd, has {annotation['iscrowd']!r}")
    area = annotation.get("area")
    if area is not None and not (isinstance(area, (int, float, np.number)) and np.isfinite(area)):
        raise InputError(f"{where} must have a number as area, has {area!r}")


def _check_box(where, annotation, image):
    bbox = annotation.get("bbox")
    if bbox is not None:
        if not isinstance(bbox, (list, tuple, np.ndarray)) or len(bbox) != 4:
            raise InputError(f"{where} must have a bbox [x, y, width, height], has {bbox!r}")
        numbers = check_numbers(where, bbox, "a bbox")
        if numbers[2] <= 0 or numbers[3] <= 0:
            raise InputError(f"{where} has a box without area: bbox {list(bbox)} (x, y, width, height)")
        if any(isinstance(value, str) for value in bbox):
            raise InputError(f"{where} has a bbox with values that are not numbers")
    x1, y1, x2, y2 = box_of(annotation)
    if x2 <= x1 or y2 <= y1:
        raise InputError(f"{where} has a segmentation without area")
    if image["width"] is not None and (x2 <= 0 or y2 <= 0 or x1 >= image["width"] or y1 >= image["height"]):
        box = ", ".join(f"{v:g}" for v in (x1, y1, x2, y2))
        size = f"{image['width']} x {image['height']}"
        raise InputError(f"{where} has a box outside its image of {size} pixels: x1, y1, x2, y2 = {box}")


def _check_keypoints(where, keypoints, count):
    if not isinstance(keypoints, list) or len(keypoints) != 3 * count:
        found = len(keypoints) if isinstance(keypoints, list) else kind_of(keypoints)
        raise InputError(f"{where} must have {3 * count} keypoint numbers (x, y, visibility of {count}), has {found}")
    check_numbers(where, keypoints, "keypoints")
