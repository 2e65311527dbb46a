"""COCO json as people have it: polygons, RLE, crowds, keypoints, images without objects, ids of any kind.

The whole file is checked when it is opened: the first thing that cannot be used is named, with the file, the id and
what was found. Pictures are read, and masks decoded, one image at a time when they are asked for.

Rules
- Labels are 1 to C in the order of the category ids (0 is the background).
- A box is the annotation's own `bbox`, cut at the picture's border; without one it is that of the segmentation.
- An object without a segmentation is an error, for masks are what is trained.
- An image without annotations is a picture of background, and is trained as such.
- A picture is turned as its EXIF data says, unless only the unturned one has the size that the json states.
"""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from minimask.errors import InputError
from minimask.image import flip_order, read_image
from minimask.structures import Sample


class CocoDataset:
    """A data set of photos in a folder and a COCO json.

    images: folder; pictures are found in it by `file_name`, or by the last part of it.
    annotations: path of the json, or its content as a dict.
    image_ids: use only these images. class_names: the labels' order, for a file whose categories have other ids.
    dataset[i] is a Sample. class_names[label - 1] and category_ids[label - 1] are a label's name and COCO id.
    keypoint_names is None where the categories name no keypoints. coco_dict is the json's content, these images only,
    with all class_names as categories.
    Raises InputError.
    """

    def __init__(self, images, annotations, image_ids=None, class_names=None):
        self.folder = Path(images)
        content, self.source = _read_json(annotations)
        _check_structure(content, self.source)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder of images")
        self.images, self._files = self._select_images(content["images"], image_ids)
        _Checks(content, self.images, self.source).run()

        categories = sorted(content["categories"], key=lambda category: category["id"])
        if class_names is not None:
            categories = _in_order(categories, class_names, self.source)
        self.class_names = tuple(category["name"] for category in categories)
        self.category_ids = tuple(category["id"] for category in categories)
        self._labels = {category_id: label for label, category_id in enumerate(self.category_ids, start=1)}
        self._read_keypoint_names(categories)

        self._annotations = {image["id"]: [] for image in self.images}
        for annotation in content["annotations"]:
            if annotation["image_id"] in self._annotations:
                self._annotations[annotation["image_id"]].append(annotation)
        kept = [annotation for annotations in self._annotations.values() for annotation in annotations]
        self.coco_dict = {**content, "images": self.images, "annotations": kept, "categories": categories}

    def _read_keypoint_names(self, categories):
        named = [category for category in categories if category.get("keypoints")]
        self.keypoint_names = tuple(named[0]["keypoints"]) if named else None
        self.keypoint_order = flip_order(self.keypoint_names) if named else None
        skeleton = named[0].get("skeleton") or () if named else ()
        self.skeleton = tuple((a - 1, b - 1) for a, b in skeleton)  # COCO counts from 1

    def _select_images(self, images, image_ids):
        """The images asked for, each with its size, and their files."""
        if image_ids is not None:
            wanted = set(image_ids)
            unknown = sorted(wanted - {image["id"] for image in images}, key=str)
            if unknown:
                raise InputError(f"{self.source}: has no image with the id {unknown[0]!r}")
            images = [image for image in images if image["id"] in wanted]
        if not images:
            raise InputError(f"{self.source}: there are no images in it")
        files = [self._find(image) for image in images]
        sized = []
        for image, file in zip(images, files):
            if "height" not in image and "width" not in image:
                height, width = image_size(file)
                image = {**image, "height": height, "width": width}
            sized.append(image)
        return sized, files

    def _find(self, image):
        name = image["file_name"].replace("\\", "/")
        for place in (self.folder / name, self.folder / name.rsplit("/", 1)[-1]):
            if place.is_file():
                return place
        raise InputError(f"{self.folder / name}: no such image file; {self.source} names it as image {image['id']}")

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if not 0 <= index < len(self.images):
            raise IndexError(f"{self.source}: image {index} of {len(self.images)}")
        image, annotations = self.images[index], self._annotations[self.images[index]["id"]]
        pixels = self._read(index)
        height, width = pixels.shape[:2]
        masks = np.zeros((len(annotations), height, width), np.uint8)
        for mask, annotation in zip(masks, annotations):
            mask[:] = decode_segmentation(annotation["segmentation"], height, width)
        boxes = [_box(annotation) for annotation in annotations]
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        return Sample(
            image=pixels,
            boxes=np.clip(boxes, 0, np.array([width, height, width, height], np.float32)),
            labels=np.array([self._labels[annotation["category_id"]] for annotation in annotations], np.int64),
            masks=masks,
            crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool),
            image_id=image["id"],
            name=image["file_name"],
            keypoints=self._keypoints(annotations),
        )

    def _read(self, index):
        """The pixels of an image, which must be as many as the json says."""
        image, file = self.images[index], self._files[index]
        pixels = read_image(file)
        stated = image["height"], image["width"]
        if pixels.shape[:2] != stated and pixels.shape[:2] == stated[::-1]:
            pixels = read_image(file, rotate=False)  # annotated as stored, not as seen
        if pixels.shape[:2] != stated:
            raise InputError(
                f"{file}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, "
                f"but {self.source} says {image['width']} x {image['height']} for image {image['id']}"
            )
        return pixels

    def _keypoints(self, annotations):
        if self.keypoint_names is None:
            return None
        keypoints = np.zeros((len(annotations), len(self.keypoint_names), 3), np.float32)
        for points, annotation in zip(keypoints, annotations):
            if annotation.get("keypoints"):
                points[:] = np.reshape(annotation["keypoints"], (-1, 3))
        keypoints[keypoints[..., 2] == 0] = 0
        return keypoints


def split(coco_dict, every=5):
    """Split a COCO dict in two: (train, val). Of the images by file name, number 0, every, 2 every ... are val."""
    if every < 2:
        raise InputError(f"split: every must be 2 or more, got {every}")
    images = sorted(coco_dict["images"], key=lambda image: image["file_name"])
    parts = []
    for chosen in ([im for k, im in enumerate(images) if k % every], images[::every]):
        ids = {image["id"] for image in chosen}
        annotations = [a for a in coco_dict["annotations"] if a["image_id"] in ids]
        parts.append({**coco_dict, "images": chosen, "annotations": annotations})
    return tuple(parts)


def decode_segmentation(segmentation, height, width):
    """A COCO segmentation (list of polygons, or RLE with counts in a list or a string) as (height, width) uint8."""
    from pycocotools import mask as rle

    if isinstance(segmentation, list):
        return rle.decode(rle.merge(rle.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        return rle.decode(rle.frPyObjects(segmentation, height, width))
    return rle.decode(segmentation)


def _box(annotation):
    """x1, y1, x2, y2 of an annotation."""
    if annotation.get("bbox") is not None:
        x, y, w, h = annotation["bbox"]
        return x, y, x + w, y + h
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        return *points.min(0), *points.max(0)
    mask = decode_segmentation(segmentation, *segmentation["size"])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)


# --------------------------------------------------------------------------------- checking the json


def _read_json(annotations):
    """The content of the json, and its name for messages."""
    if not isinstance(annotations, (str, os.PathLike)):
        return annotations, "the annotations"
    try:
        with open(annotations, encoding="utf-8") as file:
            return json.load(file), str(annotations)
    except FileNotFoundError:
        raise InputError(f"{annotations}: no such annotation file") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{annotations}: is not json ({error.msg}, line {error.lineno})") from None
    except UnicodeDecodeError:
        raise InputError(f"{annotations}: is not json (it is no text)") from None
    except RecursionError:
        raise InputError(f"{annotations}: is not COCO json (nested too deep)") from None
    except OSError as error:
        raise InputError(f"{annotations}: cannot be read ({error.strerror or error})") from None


def _check_structure(content, source):
    """Lists where COCO has lists, objects in them, and the keys without which nothing can be said."""
    if not isinstance(content, dict):
        raise InputError(f"{source}: is not COCO json: it must hold an object, not {_kind(content)}")
    needed = {
        "images": ("id", "file_name"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id"),
    }
    for key, fields in needed.items():
        if key not in content:
            raise InputError(f'{source}: is not COCO json: "{key}" is missing')
        if not isinstance(content[key], list):
            raise InputError(f'{source}: is not COCO json: "{key}" must be a list, not {_kind(content[key])}')
        for number, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise InputError(f"{source}: {key}[{number}] must be an object, not {_kind(entry)}")
            for field in fields:
                if field not in entry:
                    raise InputError(f'{source}: {key}[{number}] has no "{field}"')
                kind, expected = (int, "a whole number") if field.endswith("id") else (str, "text")
                if type(entry[field]) is not kind:
                    found = f'"{field}" must be {expected}, is {entry[field]!r}'
                    raise InputError(f"{source}: {key}[{number}]: {found}")
    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{source}: there are no {key} in it")
        seen = set()
        for entry in content[key]:
            if entry["id"] in seen:
                raise InputError(f"{source}: two {key} have the id {entry['id']}")
            seen.add(entry["id"])


def _kind(value):
    names = {list: "a list", str: "text", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _in_order(categories, class_names, source):
    """The categories by name in the order of class_names; one that the file lacks gets an id that it doesn't use."""
    by_name = {category["name"]: category for category in categories}
    for name in by_name:
        if name not in class_names:
            raise InputError(f'{source}: has a category "{name}", which is none of {", ".join(class_names)}')
    free = max(category["id"] for category in categories) + 1
    return [by_name.get(name, {"id": free + k, "name": name}) for k, name in enumerate(class_names)]


class _Checks:
    """Looks at the images in use, the categories, the annotations; raises InputError at the first that is no use."""

    def __init__(self, content, images, source):
        self.content, self.source = content, source
        self.images = {image["id"]: image for image in images}
        self.known = {image["id"] for image in content["images"]}
        self.categories = {category["id"]: category for category in content["categories"]}

    def run(self):
        for image in self.images.values():
            self._check_image(image)
        self._check_categories()
        for number, annotation in enumerate(self.content["annotations"]):
            name = f"annotation {annotation['id']}" if "id" in annotation else f"annotations[{number}]"
            self._where = f"{self.source}: {name}"
            self._check_annotation(annotation)

    def _fail(self, what):
        raise InputError(f"{self._where} {what}")

    def _check_image(self, image):
        self._where = f"{self.source}: image {image['id']}"
        for side in ("height", "width"):
            if type(image.get(side)) is not int or image[side] < 1:
                self._fail(f"must have a {side} of 1 pixel or more, has {image.get(side)!r}")

    def _check_categories(self):
        names = [category["name"] for category in self.content["categories"]]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f'{self.source}: two categories have the name "{name}"')
        named = [category for category in self.content["categories"] if category.get("keypoints")]
        for category in named:
            self._where = f'{self.source}: category "{category["name"]}"'
            self._check_keypoint_names(category["keypoints"], category.get("skeleton") or [])
        points = [category["keypoints"] for category in named]
        if any(other != points[0] for other in points):
            raise InputError(f"{self.source}: its categories have different keypoints; they must share one list")

    def _check_keypoint_names(self, names, skeleton):
        if not isinstance(names, list) or any(type(name) is not str for name in names):
            self._fail(f"must have a list of names as keypoints, has {names!r}")
        if not isinstance(skeleton, list):
            self._fail(f"must have a list of pairs as skeleton, has {_kind(skeleton)}")
        numbers = range(1, len(names) + 1)
        for pair in skeleton:
            if not isinstance(pair, list) or len(pair) != 2 or any(p not in numbers for p in pair):
                self._fail(f"must have a skeleton of pairs of numbers 1 to {len(names)}, has {pair!r} in it")

    def _check_annotation(self, annotation):
        if annotation["image_id"] not in self.known:
            self._fail(f"is of image {annotation['image_id']}, which is not among the images")
        category = self.categories.get(annotation["category_id"])
        if category is None:
            self._fail(f"is of category {annotation['category_id']}, which is not among the categories")
        image = self.images.get(annotation["image_id"])
        if image is None:  # known, but not in use
            return
        self._check_segmentation(annotation.get("segmentation"), image)
        self._check_box(annotation, image)
        if category.get("keypoints") and annotation.get("keypoints"):
            self._check_keypoints(annotation["keypoints"], len(category["keypoints"]))

    def _check_segmentation(self, segmentation, image):
        if not segmentation:
            self._fail("has no segmentation; masks cannot be learned from boxes alone")
        if isinstance(segmentation, dict):
            self._check_rle(segmentation, image)
        elif isinstance(segmentation, list):
            for polygon in segmentation:
                self._check_polygon(polygon, image)
        else:
            self._fail(f"must have a list of polygons or an RLE object as segmentation, has {_kind(segmentation)}")

    def _check_polygon(self, polygon, image):
        if not isinstance(polygon, list):
            self._fail(f"must have polygons that are lists of numbers, has {_kind(polygon)}")
        if len(polygon) % 2:
            self._fail(f"has a polygon of {len(polygon)} numbers; x and y must come in pairs")
        if len(polygon) < 6:
            self._fail(f"has a polygon of {_count(len(polygon) // 2, 'point')}; it takes at least 3")
        size = np.array([image["width"], image["height"]], np.float64)
        points = self._numbers(polygon, "a polygon").reshape(-1, 2)
        far = ((points < -size) | (points > 2 * size)).any(1)
        if far.any():  # a point or two beyond the border is common; pycocotools needs memory for all the way there
            x, y = points[far][0]
            self._fail(f"has a polygon with a point far outside its picture: ({x:g}, {y:g})")

    def _numbers(self, values, what):
        try:
            numbers = np.array(values, np.float64)
        except (TypeError, ValueError):
            numbers = None
        if numbers is None or numbers.ndim != 1 or not np.isfinite(numbers).all():
            self._fail(f"has {what} with values that are no numbers")
        if len(numbers) and np.abs(numbers).max() > 1e7:
            self._fail(f"has {what} with a value beyond any picture: {numbers[np.abs(numbers).argmax()]:g}")
        return numbers

    def _check_rle(self, segmentation, image):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int for side in size):
            self._fail(f"has an RLE whose size must be [height, width], is {size!r}")
        if size != [image["height"], image["width"]]:
            self._fail(
                f"has an RLE of size {size[0]} x {size[1]} (height x width), "
                f"but image {image['id']} is {image['height']} x {image['width']}"
            )
        if not isinstance(counts, (list, str)) or not counts:
            self._fail(f"has an RLE whose counts must be a list or a string, are {_kind(counts)}")
        if isinstance(counts, list) and any(type(count) is not int for count in counts):
            self._fail("has an RLE whose counts are not whole numbers")
        if isinstance(counts, list) and max(counts) > size[0] * size[1]:
            self._fail(f"has an RLE with a count of {max(counts)}; {size[0]} x {size[1]} are {size[0] * size[1]}")
        lengths = np.array(counts, np.int64) if isinstance(counts, list) else rle_counts(counts)
        if lengths is None or lengths.min() < 0 or lengths.sum() != size[0] * size[1]:
            found = "cannot be decoded" if lengths is None or lengths.min() < 0 else f"add up to {lengths.sum()} pixels"
            self._fail(f"has an RLE whose counts {found}; {size[0]} x {size[1]} are {size[0] * size[1]}")

    def _check_box(self, annotation, image):
        bbox = annotation.get("bbox")
        if bbox is not None:
            if not isinstance(bbox, list) or len(bbox) != 4:
                self._fail(f"must have a bbox [x, y, width, height], has {bbox!r}")
            self._numbers(bbox, "a bbox")
            if bbox[2] <= 0 or bbox[3] <= 0:
                self._fail(f"has a box of no area: bbox {bbox} (x, y, width, height)")
        x1, y1, x2, y2 = _box(annotation)
        if x2 <= x1 or y2 <= y1:
            self._fail("has a segmentation of no area")
        if x2 <= 0 or y2 <= 0 or x1 >= image["width"] or y1 >= image["height"]:
            box = ", ".join(f"{v:g}" for v in (x1, y1, x2, y2))
            size = f"{image['width']} x {image['height']}"
            self._fail(f"has a box outside its picture of {size} pixels: x1, y1, x2, y2 = {box}")

    def _check_keypoints(self, keypoints, count):
        if not isinstance(keypoints, list) or len(keypoints) != 3 * count:
            found = len(keypoints) if isinstance(keypoints, list) else _kind(keypoints)
            self._fail(f"must have {3 * count} keypoint numbers (x, y, visibility of {count}), has {found}")
        self._numbers(keypoints, "keypoints")


def _count(number, thing):
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def rle_counts(text):
    """The run lengths in COCO's compressed RLE string, as int64; None if it is damaged.

    Six bits a character from "0" on, of which the sixth says that more follow; the fifth of the last one is the
    sign. From the fourth number on, each is the difference to the one two places before it.
    """
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero((codes & 32) == 0)  # last character of each number
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:  # more than 35 bits: no picture has so many pixels
        return None
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) > 0
    numbers[negative] -= 1 << (5 * (place[ends][negative] + 1))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def image_size(path):
    """(height, width) that `read_image` would give, from the file's head alone. Raises InputError as it does."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file") from None
    except Exception as error:
        raise InputError(f"{path}: not a readable image ({error})") from None
    return (width, height) if turned else (height, width)
