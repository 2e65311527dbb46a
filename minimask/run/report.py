"""What evaluation writes and prints: detections in COCO's results format, the files that hold them, and the table."""

from pathlib import Path

import numpy as np

from minimask.datasets.coco_results import KINDS
from minimask.run.files import json_bytes, write_files

TITLES = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}


# ------------------------------------------------------------------------------------------------ COCO's results format


def predictions_to_coco(predictions, image_ids, category_ids):
    """Predictions as entries of COCO's results files.

    predictions: list of Prediction, at least one.
    image_ids: COCO's id of each image.
    category_ids: COCO's id of label 1, of label 2, ..., or a dict from label to id.

    Returns a dict of lists, with one entry per detection in each: "bbox", whose entries hold "bbox": [x, y, width,
    height]; "segm", with "segmentation": compressed RLE, if there are masks; "keypoints", with "keypoints": [x, y,
    score, x, y, score, ...], if there are keypoints.
    Raises ValueError for a label without a category.
    """
    category_ids = category_list(category_ids)
    has = {"bbox": True, "segm": predictions[0].masks is not None, "keypoints": predictions[0].keypoints is not None}
    found = {kind: [] for kind in KINDS if has[kind]}
    for prediction, image_id in zip(predictions, image_ids):
        for i, label in enumerate(prediction.labels):
            if not 1 <= label <= len(category_ids):
                raise ValueError(f"predictions_to_coco: label {label} has no category: there are {len(category_ids)}")
            entry = {
                "image_id": image_id,
                "category_id": category_ids[int(label) - 1],
                "score": float(prediction.scores[i]),
            }
            found["bbox"].append({**entry, "bbox": xywh(prediction.boxes[i])})
            if has["segm"]:
                found["segm"].append({**entry, "segmentation": encode_mask(prediction.masks[i])})
            if has["keypoints"]:
                found["keypoints"].append({**entry, "keypoints": prediction.keypoints[i].ravel().tolist()})
    return found


def add_sample(truth, sample, category_ids):
    """Add the image and the objects of a Sample to `truth`, a dict in COCO's format for ground truth."""
    height, width = sample.image.shape[:2]
    truth["images"].append({"id": sample.image_id, "file_name": sample.name, "height": height, "width": width})
    for i, (box, label, mask, crowd) in enumerate(zip(sample.boxes, sample.labels, sample.masks, sample.crowd)):
        annotation = {
            "image_id": sample.image_id,
            "category_id": category_ids[int(label) - 1],
            "bbox": xywh(box),
            "area": float(mask.sum()),
            "segmentation": encode_mask(mask),
            "iscrowd": int(crowd),
        }
        if sample.keypoints is not None:
            annotation["keypoints"] = sample.keypoints[i].ravel().tolist()
        truth["annotations"].append(annotation)


def category_list(category_ids):
    """COCO's ids of label 1, of label 2, ... as a list of ints, from such a list or from a dict from label to id."""
    if isinstance(category_ids, dict):
        category_ids = [category_ids[label] for label in range(1, len(category_ids) + 1)]
    return [int(i) for i in category_ids]


def xywh(box):
    """A box x1, y1, x2, y2 as COCO writes it: a list of floats x, y, width, height."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def encode_mask(mask):
    """A mask (H, W) as COCO's compressed RLE: {"size": [H, W], "counts": text}."""
    from pycocotools import mask as rle

    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def write_results(folder, results):
    """Write KIND_results.json for each kind in `results` (dict from kind to entries): all files or none."""
    write_files({Path(folder) / f"{kind}_results.json": json_bytes(found) for kind, found in results.items()})


# ------------------------------------------------------------------------------------------------------------ the table


def format_table(numbers):
    """The result of `evaluate` as text: a row per number, a column each for boxes, masks and keypoints."""
    explained = {
        "AP": "mean over IoU 0.50 to 0.95",
        "AP50": "IoU 0.50",
        "AP75": "IoU 0.75",
        "APs": "objects under 32 x 32 pixels",
        "APm": "objects up to 96 x 96",
        "APl": "larger objects",
    }
    rows = list(dict.fromkeys(name for column in numbers.values() for name in column))
    lines = [" " * 38 + "".join(f"{TITLES.get(kind, kind):>10}" for kind in numbers)]
    for name in rows:
        text = explained.get(name) or _explain_recall(name, [kind for kind in numbers if name in numbers[kind]])
        cells = "".join(f"{_cell(column.get(name, -1)):>10}" for column in numbers.values())
        lines.append(f"{name:<7}{text:<31}{cells}")
    if "keypoints" in numbers:
        lines.append("keypoints: OKS (similarity by distance) instead of IoU; at most 20 per image")
    return "\n".join(lines)


def _explain_recall(name, kinds):
    sizes = {"s": "recall, small objects", "m": "recall, medium objects", "l": "recall, large objects", "": "recall"}
    rest = name.removeprefix("AR")
    if rest in sizes:
        return sizes[rest]
    if "keypoints" not in kinds:
        return f"recall, at most {rest} per image"
    # For keypoints AR50 means a threshold, not a number of detections; in a table with other kinds it may mean both.
    return f"recall, OKS 0.{rest}" if len(kinds) == 1 else f"recall, at most {rest}; OKS 0.{rest}"


def _cell(value):
    return "-" if value == -1 else f"{value:.3f}"
