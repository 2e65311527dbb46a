"""Seeded ground truth and detections for average precision, and the numbers that pycocotools computes for them.

`python -m tests.references.average_precision` scores them with pycocotools alone and writes average_precision.json.
The data contains every case that affects the numbers: three classes, objects of all three sizes, crowds, missed
objects, false alarms, wrong classes, objects found twice, equal scores, images without objects or without detections,
and one image with more than ten objects of one class.
"""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np

EXPECTED = Path(__file__).with_suffix(".json")
CLASSES = (3, 7, 8)  # as in real files, the ids have gaps and do not start at 1
NAMES = {
    "bbox": ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"],
    "keypoints": ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"],
}
NAMES["segm"] = NAMES["bbox"]


def ellipse(box, points=24):
    """A polygon [[x1, y1, x2, y2, ...]] that fills the box (x, y, w, h)."""
    x, y, w, h = box
    angle = 2 * np.pi * np.arange(points) / points
    corners = np.stack([x + w / 2 * (1 + np.cos(angle)), y + h / 2 * (1 + np.sin(angle))], axis=1)  # (points, 2)
    return [corners.round(2).ravel().tolist()]


def ground_truth(rng, images=40, size=320):
    """The contents of a COCO file with boxes, polygons, crowds, and 17 keypoints per object."""
    truth = {"images": [], "annotations": [], "categories": []}
    for category in CLASSES:
        keypoints = [f"point {i}" for i in range(17)]
        truth["categories"].append({"id": category, "name": f"class {category}", "keypoints": keypoints})
    for image_id in range(1, images + 1):
        truth["images"].append({"id": image_id, "file_name": f"{image_id}.png", "height": size, "width": size})
        for _ in range(40 if image_id == images else rng.integers(0, 9)):
            side = rng.choice([18, 60, 150]) * (0.7 + 0.6 * rng.random(2))
            corner = rng.random(2) * (size - side)
            box = [round(float(v), 2) for v in (*corner, *side)]
            points = np.stack([box[0] + box[2] * rng.random(17), box[1] + box[3] * rng.random(17)], axis=1).round(1)
            visible = rng.integers(0, 3, 17)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(CLASSES)),
                    "bbox": box,
                    "area": round(float(np.pi / 4 * box[2] * box[3]), 2),
                    "segmentation": ellipse(box),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": np.concatenate([points, visible[:, None]], axis=1).ravel().tolist(),
                    "num_keypoints": int((visible > 0).sum()),
                }
            )
    return truth


def detections(truth, rng):
    """Results of all three kinds: boxes, masks (polygons as run lengths) and keypoints."""
    from pycocotools import mask as coco_mask

    found = []
    size = truth["images"][0]["height"]
    for annotation in truth["annotations"]:
        for _ in range(rng.choice([0, 1, 1, 1, 2])):  # missed, found, found twice
            box = np.array(annotation["bbox"])
            box = box + rng.normal(0, 0.06, 4) * np.tile(box[2:], 2)
            box = [round(float(v), 2) for v in (*box[:2], *np.maximum(box[2:], 1))]
            label = annotation["category_id"] if rng.random() < 0.9 else int(rng.choice(CLASSES))
            found.append((annotation["image_id"], label, box, annotation["keypoints"]))
    for _ in range(len(truth["annotations"]) // 3):  # false alarms
        side = 15 + 80 * rng.random(2)
        box = [round(float(v), 2) for v in (*(rng.random(2) * (size - side)), *side)]
        image = int(rng.integers(1, len(truth["images"]) + 1))
        found.append((image, int(rng.choice(CLASSES)), box, (rng.random(51) * size).tolist()))
    results = {kind: [] for kind in NAMES}
    for image, label, box, points in found:
        common = {
            "image_id": image,
            "category_id": label,
            "score": round(float(rng.random()), 2),
        }  # rounded, so that some are equal
        code = coco_mask.merge(coco_mask.frPyObjects(ellipse(box), size, size))
        points = np.array(points).reshape(17, 3) + rng.normal(0, 0.04, (17, 3)) * [*box[2:], 0]
        results["bbox"].append({**common, "bbox": box})
        results["segm"].append({**common, "segmentation": {"size": code["size"], "counts": code["counts"].decode()}})
        results["keypoints"].append({**common, "keypoints": points.round(1).ravel().tolist()})
    return results


def cases():
    """Ground truth and the results of each kind; the same on every call."""
    rng = np.random.default_rng(14)
    truth = ground_truth(rng)
    return truth, detections(truth, rng)


def scored_by_pycocotools(truth, results, kind):
    """The numbers that `summarize` of pycocotools prints, as a list."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        scoring = COCOeval(coco, coco.loadRes(copy.deepcopy(results[kind])), kind)
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return [float(value) for value in scoring.stats]


def main():
    truth, results = cases()
    expected = {kind: dict(zip(NAMES[kind], scored_by_pycocotools(truth, results, kind))) for kind in NAMES}
    EXPECTED.write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
