"""Annotations drawn as outlines: labelme, the VGG Image Annotator, YOLO."""

import base64
import io
import math

import numpy as np
from PIL import Image

from minimask.datasets.formats.common import ENDINGS, encode, find, read_json
from minimask.errors import InputError

CIRCLE_POINTS = 64  # corners of the polygon that replaces a circle or an ellipse

# -------------------------------------------------------------------------------------------------------------- labelme


def read_labelme(source, target, classes):
    """Each json has "imagePath" and "shapes". Shapes with the same label and group_id are parts of one object."""
    for name in classes or ():
        target.category(name)
    for path in sorted(source.rglob("*.json")):
        content = read_json(path)
        if not isinstance(content, dict) or "shapes" not in content:
            target.problems.note("json that is no annotation of labelme", path.name)
            continue
        named = str(content.get("imagePath") or f"{path.stem}.png").replace("\\", "/")
        places = [path.parent / named, path.parent / named.rsplit("/", 1)[-1], target.root / named.rsplit("/", 1)[-1]]
        places += [path.with_suffix(ending) for ending in ENDINGS]
        file = next((place for place in places if place.is_file()), places[0])
        image = target.image(file.resolve() if ".." in file.parts else file)
        if image is None:
            continue
        objects = {}
        for index, shape in enumerate(content["shapes"]):
            where = f"{path.name}, shape {index}"
            group = shape.get("group_id")
            key = (shape.get("label"), group if group is not None else f"alone {index}")
            part = _labelme_part(shape, image, where, target.problems)
            if part is not None:
                objects.setdefault(key, []).append(part)
        for (label, _), parts in objects.items():
            _add_parts(target, image, str(label), parts)


def _labelme_part(shape, image, where, problems):
    """Convert a shape to a flat polygon, or to run lengths if it is a drawn mask. Returns None if it has a problem."""
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not shape.get("label"):
        problems.add("shape without a label", where)
        return None
    if shape["label"] == "_background_":
        return None
    try:
        points = np.array(points, float).reshape(-1, 2)
    except (TypeError, ValueError):
        problems.add("points that are not pairs of numbers", where)
        return None
    if kind == "mask":
        return _labelme_mask(shape, points, image, where, problems)
    if kind == "rectangle" and len(points) == 2:
        (x1, y1), (x2, y2) = points
        return [x1, y1, x2, y1, x2, y2, x1, y2]
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        return ellipse(*points[0], radius, radius)
    if kind in ("polygon", "rectangle") and is_area(points):
        return points.ravel().tolist()
    fault = "polygon of fewer than three points" if kind == "polygon" else f"{kind} (it has no area)"
    problems.add(fault, where)
    return None


def _labelme_mask(shape, points, image, where, problems):
    try:
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
    except (KeyError, TypeError, ValueError, OSError):
        problems.add("mask that cannot be decoded", where)
        return None
    x, y = (int(v) for v in points.min(0))
    mask = np.zeros(image[1:], bool)
    room = mask[max(y, 0) : y + drawn.shape[0], max(x, 0) : x + drawn.shape[1]]
    room[:] = drawn[max(-y, 0) :, max(-x, 0) :][: room.shape[0], : room.shape[1]]
    return mask


def _add_parts(target, image, name, parts):
    """Add an object of one or several polygons. If one of them is a drawn mask, all become pixels."""
    crowd = name == "__ignore__"  # labelme's name for regions to ignore
    if crowd and not target.content["categories"]:
        target.problems.add("__ignore__ before any class", f"image {image[0]}")
        return
    name = target.content["categories"][0]["name"] if crowd else name
    if all(isinstance(part, list) for part in parts):
        target.add(image, name, parts, crowd)
        return
    from pycocotools import mask as coco_mask

    mask = np.zeros(image[1:], bool)
    for part in parts:
        if isinstance(part, list):
            part = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([part], *image[1:]))) > 0
        mask |= part
    target.add(image, name, encode(mask), crowd)


# ------------------------------------------------------------------------------------------------------------------ via


def via_entries(content):
    """The images of a VIA file, or {} if it is something else."""
    entries = content.get("_via_img_metadata", content)
    good = isinstance(entries, dict) and entries and all(isinstance(e, dict) for e in entries.values())
    return entries if good and all("filename" in e and "regions" in e for e in entries.values()) else {}


def read_via(source, target, classes):
    """Each image has "regions". The class is the only text attribute of a region, or the only class in `classes`."""
    for name in classes or ():
        target.category(name)
    for entry in via_entries(read_json(source) or {}).values():
        image = target.image(target.root / str(entry["filename"]).replace("\\", "/"))
        regions = entry["regions"]
        if image is None:
            continue
        for index, region in enumerate(regions.values() if isinstance(regions, dict) else regions):
            where = f"{entry['filename']}, region {index}"
            name = _via_class(region.get("region_attributes") or {}, classes)
            if name is None:
                target.problems.add("region without a class (its attributes hold no text)", where)
                continue
            polygon = _via_polygon(region.get("shape_attributes") or {})
            if polygon is None:
                shape = (region.get("shape_attributes") or {}).get("name", "no shape")
                target.problems.add(f"{shape} that has no area", where)
            else:
                target.add(image, name, [polygon])


def _via_class(attributes, classes):
    for value in attributes.values():
        if isinstance(value, dict):  # a check box: {"cat": true}
            value = next((name for name, chosen in value.items() if chosen), None)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return classes[0] if classes and len(classes) == 1 else None


def _via_polygon(shape):
    try:
        if shape.get("name") in ("polygon", "polyline"):
            points = np.array([shape["all_points_x"], shape["all_points_y"]], float).T
            return points.ravel().tolist() if is_area(points) else None
        if shape.get("name") == "rect":
            x, y, w, h = (float(shape[key]) for key in ("x", "y", "width", "height"))
            return [x, y, x + w, y, x + w, y + h, x, y + h] if w > 0 and h > 0 else None
        if shape.get("name") == "circle":
            return ellipse(*(float(shape[key]) for key in ("cx", "cy", "r", "r")))
        if shape.get("name") == "ellipse":
            x, y, rx, ry = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
            return ellipse(x, y, rx, ry, float(shape.get("theta") or 0))
    except (KeyError, TypeError, ValueError):
        pass
    return None


# ----------------------------------------------------------------------------------------------------------------- yolo


def yolo_labels(source):
    """The text files with labels: in labels/, labels/train, train/labels, ..."""
    found = [path for path in sorted(source.rglob("*.txt")) if "labels" in path.relative_to(source).parts[:-1]]
    return [path for path in found if path.name not in ("classes.txt", "labelmap.txt")]


def read_yolo(source, target, classes):
    """One line per object: its class, then x, y of each corner as fractions of the image's width and height."""
    names = classes or _yolo_names(source)
    for name in names or ():
        target.category(name)
    for path in yolo_labels(source):
        parts = list(path.relative_to(source).parts)
        parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
        base = (target.given / path.name) if target.given else source.joinpath(*parts)
        file = find(base.with_suffix(""))
        if file is None:
            target.problems.add("labels without an image", path.relative_to(source))
            continue
        image = target.image(file)
        if image is None:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.strip():
                _yolo_line(line.split(), image, names, f"{path.relative_to(source)}, line {number}", target)


def _yolo_line(fields, image, names, where, target):
    try:
        label, values = int(float(fields[0])), [float(v) for v in fields[1:]]
    except ValueError:
        target.problems.add("line with something that is no number", where)
        return
    if len(values) == 4:
        target.problems.add("box without a polygon (this is YOLO detection, not segmentation)", where)
    elif len(values) < 6 or len(values) % 2:
        target.problems.add("polygon with an odd number of values, or fewer than three corners", where)
    elif not all(-0.01 <= v <= 1.01 for v in values):
        target.problems.add("corner outside 0 to 1 (parts of the image's size are expected)", where)
    elif label < 0 or (names is not None and label >= len(names)):
        target.problems.add(f"class that has no name (there are {len(names or ())})", f"{where}: class {label}")
    else:
        _, height, width = image
        corners = np.reshape(values, (-1, 2)) * [width, height]
        target.add(image, names[label] if names else f"class {label}", [corners.ravel().tolist()])


def _yolo_names(source):
    """The class names from classes.txt or data.yaml, or None if there is neither."""
    lists = [path for path in sorted(source.rglob("classes.txt"))]
    if lists:
        return [line.strip() for line in lists[0].read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    tables = sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
    if not tables:
        return None
    try:
        import yaml
    except ImportError:
        raise InputError(
            f"{tables[0]}: reading it needs PyYAML (pip install pyyaml); or give the classes' names with --classes"
        ) from None
    try:
        names = (yaml.safe_load(tables[0].read_text(encoding="utf-8-sig")) or {}).get("names")
    except (yaml.YAMLError, AttributeError) as error:
        raise InputError(f"{tables[0]}: is no YAML with names ({error})") from error
    if isinstance(names, dict):
        return [str(names[i]) if i in names else f"class {i}" for i in range(max(names) + 1)]
    return [str(name) for name in names] if names else None


# --------------------------------------------------------------------------------------------------------------- shapes


def ellipse(x, y, rx, ry, theta=0.0):
    """The corners of a polygon with the area of an ellipse, given its center, half axes and rotation in radians."""
    grow = math.sqrt(2 * math.pi / (CIRCLE_POINTS * math.sin(2 * math.pi / CIRCLE_POINTS)))
    angle = 2 * np.pi * np.arange(CIRCLE_POINTS) / CIRCLE_POINTS
    along, across = grow * rx * np.cos(angle), grow * ry * np.sin(angle)
    cos, sin = math.cos(theta), math.sin(theta)
    corners = [x + along * cos - across * sin, y + along * sin + across * cos]
    return np.stack(corners, axis=1).ravel().tolist()


def is_area(points):
    return len(points) >= 3 and np.isfinite(points).all() and (points.max(0) > points.min(0)).all()
