"""A small sound COCO file, and changes of it as people's exports have them."""

import copy

import numpy as np
from PIL import Image
from pycocotools import mask as rle

WIDTH, HEIGHT, IMAGES = 96, 64, 6


def sound():
    """Six images of 96 x 64 with two objects each: a box and a triangle."""
    images, annotations = [], []
    for i in range(IMAGES):
        images.append({"id": i + 1, "file_name": f"img{i}.png", "width": WIDTH, "height": HEIGHT})
        for category, polygon in (
            (1, [10 + i, 20, 40 + i, 20, 40 + i, 50, 10 + i, 50]),
            (2, [60, 10 + i, 90, 40, 60, 40]),
        ):
            x, y = polygon[::2], polygon[1::2]
            box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": category,
                    "segmentation": [[float(v) for v in polygon]],
                    "bbox": [float(v) for v in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 1, "name": "box"}, {"id": 2, "name": "tri"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def save(folder, name, color=0):
    path = folder / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (color, 90, 120)).save(path)


def change(content, what, function):
    """Apply a function to each entry of `what`."""
    for number, entry in enumerate(content[what]):
        function(number, entry)
    return content


def each(**values):
    """A change of all annotations: values, or functions of the annotation."""
    return lambda content: change(
        content,
        "annotations",
        lambda _, a: a.update({key: value(a) if callable(value) else value for key, value in values.items()}),
    )


def first(**values):
    """A change of the first annotation."""
    return lambda content: content["annotations"][0].update(values)


def images(**values):
    return lambda content: change(
        content, "images", lambda n, i: i.update({k: v(n, i) if callable(v) else v for k, v in values.items()})
    )


def without(what, *keys):
    return lambda content: change(content, what, lambda _, entry: [entry.pop(key) for key in keys])


def renumbered(number):
    """Other ids of the images."""

    def apply(content):
        change(content, "annotations", lambda _, a: a.update(image_id=number(a["image_id"])))
        change(content, "images", lambda _, i: i.update(id=number(i["id"])))

    return apply


def corners(annotation):
    x, y, w, h = annotation["bbox"]
    return [x, y, x + w, y + h]


def normalized(annotation):
    polygon = np.reshape(annotation["segmentation"][0], (-1, 2)) / [WIDTH, HEIGHT]
    return [polygon.ravel().tolist()]


def as_rle(text):
    def code(annotation):
        coded = rle.frPyObjects(annotation["segmentation"], HEIGHT, WIDTH)[0]
        if text:
            return {"size": [HEIGHT, WIDTH], "counts": coded["counts"].decode()}
        flat = np.concatenate([[0], rle.decode(coded).ravel(order="F"), [0]])
        edges = np.flatnonzero(np.diff(np.concatenate([flat[1:-1], [2]]))) + 1
        return {"size": [HEIGHT, WIDTH], "counts": np.diff(np.concatenate([[0], edges])).tolist()}

    return code


def keypoints(names=("a", "b"), skeleton=((1, 2),), points=(12, 22, 2, 30, 30, 1)):
    def apply(content):
        content["categories"][0].update(keypoints=list(names), skeleton=[list(pair) for pair in skeleton])
        for annotation in content["annotations"][::2]:
            annotation["keypoints"] = list(points)

    return apply


def spoiled(count=20):
    """A larger set with ten kinds of defects on 25 annotations. Returns (content, ids of the bad annotations)."""
    content = sound()
    plain = content["annotations"]
    content["annotations"] = [copy.deepcopy(plain[k % len(plain)]) for k in range(count * len(plain))]
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    defects = [
        {"segmentation": []},
        {"segmentation": [[1, 1, 5, 5]]},
        {"segmentation": [[1, 1, 5, 5, 7, 9, 3]]},
        {"segmentation": [[10, 10, 20, 10, 15, 10]]},
        {"segmentation": [[1, 1, 1e9, 1, 1, 9]]},
        {"bbox": [10, 10, 0, 5]},
        {"bbox": [200, 10, 10, 10]},
        {"iscrowd": "no"},
        {"area": float("nan")},
        {"category_id": 77},
    ]
    bad = list(range(3, 3 + 25 * 7, 7))
    for k, identity in enumerate(bad):
        content["annotations"][identity - 1].update(defects[k % 10])
    return content, bad
