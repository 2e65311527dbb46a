"""Ground truth and results in the form that pycocotools compares: nothing missing, masks as compressed RLE."""

import numpy as np

from minimask.datasets.coco_file import read_coco, read_json
from minimask.datasets.coco_objects import box_of
from minimask.datasets.problems import Defect
from minimask.datasets.segmentation import encode_segmentation, kind_of, read_numbers, read_segmentation, short
from minimask.errors import InputError

KINDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # kind -> what a result must have


def ground_truth(source, kind):
    """COCO ground truth with everything that pycocotools takes for granted.

    Annotations are numbered from 1, because pycocotools takes the id 0 for "not matched". A missing "iscrowd" becomes
    0, a missing "bbox" the box around the segmentation, and a missing "area" the area of the box (or of the mask, if
    there is no box).

    source: path of the json file, or its content as a dict, which is left as it is.
    kind: "bbox", "segm" or "keypoints".
    Returns the completed dict. Raises InputError, naming file and annotation, if something cannot be used.
    """
    needs = "segmentation" if kind == "segm" else "bbox"
    truth, problems = read_coco(source, needs=needs, names=False, keypoints=kind == "keypoints", advice=None)
    images = {image["id"]: image for image in truth["images"]}
    points = _keypoint_count(truth, problems.source) if kind == "keypoints" else 0
    annotations = []
    for number, original in enumerate(truth["annotations"], start=1):
        annotation = {**original, "id": number}
        if kind != "segm" and original.get("bbox") is None:
            x1, y1, x2, y2 = (float(v) for v in box_of(original))
            annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if kind == "segm":
            image = images[original["image_id"]]
            annotation["segmentation"] = encode_segmentation(original["segmentation"], image["height"], image["width"])
        if kind == "keypoints":
            _complete_keypoints(annotation, points)
        if original.get("area") is None:
            annotation["area"] = _area(annotation, kind)
        annotations.append(annotation)
    return {"info": {}, **truth, "annotations": annotations}


def detections(source, truth, kind):
    """The entries of a results file as annotations: with id, iscrowd, area and box, as COCO.loadRes makes them.

    source: path of the json file, or its content as a list, which is left as it is.
    truth: what `ground_truth` returned. kind: "bbox", "segm" or "keypoints".
    Raises InputError, naming file and entry, if something cannot be used.
    """
    results, name = read_json(source, "results")
    if not isinstance(results, list):
        raise InputError(f"{name}: COCO results must be a json list of detections, not {kind_of(results)}")
    images = {image["id"]: image for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    annotations = []
    for number, result in enumerate(results):
        where = f"{name}: result {number}"
        _check_result(where, result, images, categories, kind)
        annotation = {**result, "id": number + 1, "iscrowd": 0}
        if kind == "segm":
            image = images[result["image_id"]]
            annotation["segmentation"] = _encode_result(where, result["segmentation"], image)
        if kind == "keypoints":
            _check_result_keypoints(where, result["keypoints"], truth)
        annotation["area"] = _area(annotation, kind)
        annotations.append(annotation)
    return annotations


def some(values):
    """A few of the values as text, for messages."""
    values = sorted(values, key=str)
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")


def _keypoint_count(truth, name):
    """The number of keypoints per object: that of the categories, otherwise of the annotations, otherwise 17."""
    counts = [len(category.get("keypoints") or ()) for category in truth["categories"]]
    for annotation in truth["annotations"]:
        where = f"{name}: annotation {annotation.get('id')}"
        points = annotation.get("keypoints")
        if points and (not isinstance(points, list) or len(points) % 3):
            raise Defect("keypoints of no triples", f"{where} must have a list of x, y, visibility as keypoints")
        counts.append(len(read_numbers(where, points or [], "keypoints")) // 3)
    return max(counts) or 17


def _complete_keypoints(annotation, count):
    """Give an object without keypoints as many as the others have, none of them labeled."""
    if not annotation.get("keypoints"):
        annotation["keypoints"] = [0] * (3 * count)
        annotation["num_keypoints"] = 0
    if type(annotation.get("num_keypoints")) is not int:
        annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])


def _check_result(where, result, images, categories, kind):
    if not isinstance(result, dict):
        raise InputError(f"{where} must be an object, not {kind_of(result)}")
    for key in ("image_id", "category_id", "score", KINDS[kind]):
        if key not in result:
            raise InputError(f'{where} has no "{key}"')
    for key, known, plural in (("image_id", images, "images"), ("category_id", categories, "categories")):
        if not isinstance(result[key], (int, str, np.integer)) or result[key] not in known:
            raise InputError(
                f"{where} has {key} {short(result[key])}, which is not among the {plural} of the ground truth"
            )
    if not _is_number(result["score"]):
        raise InputError(f"{where} must have a number as score, has {short(result['score'])}")
    box = result.get("bbox")
    if kind == "bbox" or not (box is None or (isinstance(box, list) and not box)):
        if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4 or not all(map(_is_number, box)):
            raise InputError(f"{where} must have a bbox [x, y, width, height], has {short(box)}")


def _encode_result(where, segmentation, image):
    if image["height"] is None:
        raise InputError(f"{where} has a mask, but the ground truth does not say how large its image is")
    segmentation = read_segmentation(where, segmentation, image["height"], image["width"], empty=True)
    if segmentation is None:
        raise InputError(f"{where} has no segmentation")
    return encode_segmentation(segmentation, image["height"], image["width"])


def _check_result_keypoints(where, keypoints, truth):
    if not isinstance(keypoints, (list, tuple)) or not all(map(_is_number, keypoints)):
        raise InputError(f"{where} must have a list of numbers as keypoints")
    expected = {len(annotation["keypoints"]) for annotation in truth["annotations"]} or {len(keypoints)}
    if expected != {len(keypoints)} or not keypoints:
        raise InputError(f"{where} must have {some(expected)} keypoint numbers (x, y, score), has {len(keypoints)}")


def _is_number(value):
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and abs(value) < 1e15  # False for NaN


def _area(annotation, kind):
    """The area that makes an object small, medium or large. Like COCO.loadRes, take the box if there is one."""
    if annotation.get("bbox") is not None and len(annotation["bbox"]):
        return float(annotation["bbox"][2]) * float(annotation["bbox"][3])
    if kind == "segm":
        from pycocotools import mask as rle

        return float(rle.area(annotation["segmentation"]))
    x, y = annotation["keypoints"][0::3], annotation["keypoints"][1::3]
    annotation["bbox"] = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    return float((max(x) - min(x)) * (max(y) - min(y)))
