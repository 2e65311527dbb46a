"""Shared by the readers: building a COCO file, finding images, reading json."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from minimask.datasets.problems import Problems
from minimask.errors import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".npy")


def find(base):
    """The image file with this name and any extension, or None."""
    names = (base.parent / (base.name + ending) for e in ENDINGS for ending in (e, e.upper()))
    return next((path for path in names if path.is_file()), None)


class CocoFile:
    """A COCO file that is being built."""

    def __init__(self, source, images):
        self.source, self.given = source, images
        self.root = images or (source if source.is_dir() else source.parent)
        self.problems = Problems(source)
        self.content = {"images": [], "annotations": [], "categories": []}
        self.ids = {}

    def category(self, name):
        """The id of a category, which is created when the name is first seen."""
        if name not in self.ids:
            self.ids[name] = len(self.ids) + 1
            self.content["categories"].append({"id": self.ids[name], "name": name})
        return self.ids[name]

    def image(self, path):
        """Add an image. Returns its id, height and width, or None if it cannot be read."""
        try:
            width, height = _array_size(path) if path.suffix == ".npy" else _picture_size(path)
        except OSError as error:
            self.problems.add("image that cannot be read", f"{path} ({error.strerror or 'no picture'})")
            return None
        number = len(self.content["images"]) + 1
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        self.content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        return number, height, width

    def add(self, image, name, segmentation, crowd=False):
        """Add an object: polygons, or an RLE of pycocotools. Its box and area are those of its segmentation."""
        from pycocotools import mask as coco_mask

        number, height, width = image
        if isinstance(segmentation, dict):
            box, area = coco_mask.toBbox(segmentation).tolist(), int(coco_mask.area(segmentation))
            segmentation = {"size": [height, width], "counts": segmentation["counts"].decode()}
        else:
            points = np.concatenate([np.reshape(part, (-1, 2)) for part in segmentation])
            low, high = points.min(0), points.max(0)
            box = [*low.tolist(), *(high - low).tolist()]
            area = int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))))
        self.content["annotations"].append(
            {
                "id": len(self.content["annotations"]) + 1,
                "image_id": number,
                "category_id": self.category(name),
                "bbox": box,
                "area": area,
                "segmentation": segmentation,
                "iscrowd": int(crowd),
            }
        )

    def finish(self):
        if not self.content["images"]:
            self.problems.refuse(f"{self.source}: none of its images can be used")
            raise InputError(f"{self.source}: contains nothing that can be read")
        return self.content


def encode(mask):
    from pycocotools import mask as coco_mask

    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def _picture_size(path):
    with Image.open(path) as picture:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return picture.size[::-1] if turned else picture.size


def _array_size(path):
    return np.load(path, mmap_mode="r", allow_pickle=False).shape[1::-1]


def read_json(path):
    """The content of a json file, or None if it is not json."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
