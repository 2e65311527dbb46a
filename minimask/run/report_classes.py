"""The table per class: how many objects there are, and their AP and AP50."""

import csv
import io

import numpy as np

SHOWN, NAMED = 100, 10  # rows that are printed, classes without objects that are named; the file has all
KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}


def per_class(scoring, names):
    """A dict per class: {"class", "objects", "box_AP", "box_AP50", "mask_AP", ...}; a number is -1 without objects.

    scoring: dict from kind to COCOeval.
    names: dict from COCO's category id to the name of the class.
    """
    params, truth = scoring["bbox"].params, scoring["bbox"].cocoGt
    images, counts = set(params.imgIds), dict.fromkeys(params.catIds, 0)
    for annotation in truth.anns.values():
        if annotation["image_id"] in images and not annotation["iscrowd"]:
            counts[annotation["category_id"]] += 1
    rows = []
    for k, category in enumerate(params.catIds):
        row = {"class": names.get(category, f"category {category}"), "objects": counts[category]}
        for kind, scored in scoring.items():
            precision = scored.eval["precision"][:, :, k, 0, -1]  # (T, R)
            row[f"{KINDS[kind]}_AP"] = _mean(precision)
            row[f"{KINDS[kind]}_AP50"] = _mean(precision[0])
        rows.append(row)
    return rows


def class_table(rows):
    """The table per class as text, one line per class that has objects."""
    columns, shown = list(rows[0])[2:], with_objects(rows)[:SHOWN]
    width = max([5, *(len(row["class"]) for row in shown)])
    lines = [f"{'class':<{width}}{'objects':>9}" + "".join(f"{name.replace('_', ' '):>15}" for name in columns)]
    for row in shown:
        cells = "".join(f"{number_text(row[name]):>15}" for name in columns)
        lines.append(f"{row['class']:<{width}}{row['objects']:>9}{cells}")
    if len(with_objects(rows)) > SHOWN:
        lines.append(f"... and {len(with_objects(rows)) - SHOWN} more classes")
    if without_objects(rows):
        lines.append(without_objects(rows))
    return "\n".join(lines)


def with_objects(rows):
    """The rows of the classes that have objects."""
    return [row for row in rows if row["objects"]]


def without_objects(rows):
    """A sentence that names the classes that have no objects; "" if there are none."""
    names = [row["class"] for row in rows if not row["objects"]]
    if not names:
        return ""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"no objects of {len(names)} class{'es' * (len(names) > 1)}: {', '.join(names[:NAMED])}{more}"


def class_csv(rows):
    """The table per class as CSV, in bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def precision_curves(scoring):
    """Dict from kind to {name of a curve: precision (101,)} over recall 0, 0.01, ..., 1: mean over the classes."""
    curves = {}
    for kind, scored in scoring.items():
        table = scored.eval["precision"][..., 0, -1]  # (T, R, K)
        table = table[:, :, (table > -1).any(axis=(0, 1))]  # classes that have objects
        if table.shape[2]:
            measure = "OKS" if kind == "keypoints" else "IoU"
            strict = {f"{measure} 0.50": table[0], f"{measure} 0.75": table[5], f"{measure} 0.90": table[8]}
            curves[KINDS[kind]] = {name: part.mean(axis=1) for name, part in strict.items()}
    return curves


def number_text(value):
    """A number of the table: "0.483", "-" if there are no objects."""
    return "-" if value == -1 else f"{value:.3f}"


def _mean(values):
    values = values[values > -1]
    return float(np.mean(values)) if values.size else -1.0
