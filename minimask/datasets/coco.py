"""A dataset of photos with COCO annotations: polygons, RLE, crowds, keypoints, images without objects.

The annotations are checked when the file is opened (`coco_file.py`). Images are read and masks decoded one at a time,
when they are asked for.

Rules
- Labels are 1 to C in the order of the category ids (0 is the background).
- A box is the annotation's own `bbox`, clipped to the image; without one, it is the box around the segmentation.
- An object without a segmentation is an error, because masks are what is trained.
- An image without annotations is a picture of background, and is trained as such.
- An image is turned as its EXIF data says, unless only the unturned one has the size that the json states.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from minimask.datasets.augmentation import flip_order
from minimask.datasets.coco_file import box_of, read_coco, read_json
from minimask.datasets.photos import read_image
from minimask.datasets.segmentation import decode_segmentation
from minimask.errors import InputError
from minimask.structures import Sample


class CocoDataset:
    """A dataset of photos in a folder, with a COCO json. dataset[i] is a Sample.

    images: the folder. An image is looked for by its `file_name`, then by the last part of that name.
    annotations: path of the json, or its content as a dict.
    image_ids: use only these images; by default all.
    class_names: the names of labels 1, 2, ..., if the file's categories are to be ordered like those of another file.

    Attributes:
    class_names, category_ids: name and COCO id of label 1, 2, ...
    keypoint_names: names of the keypoints, or None if the categories have none.
    coco_dict: the json's content, restricted to these images, with all class_names as categories.

    Raises InputError if the folder or the file cannot be used.
    """

    def __init__(self, images, annotations, image_ids=None, class_names=None):
        self.folder = Path(images)
        content, self.source = read_json(annotations)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder of images")
        content, _ = read_coco(
            content,
            source=self.source,
            needs="segmentation",
            image_ids=image_ids,
            size_of=lambda image: image_size(self._find(image)),
        )
        wanted = {image["id"] for image in content["images"]} if image_ids is None else set(image_ids)
        self.images = [image for image in content["images"] if image["id"] in wanted]
        if not self.images:
            raise InputError(f"{self.source}: there are no images in it")
        self._files = [self._find(image) for image in self.images]

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

    def _find(self, image):
        """The file of an image."""
        name = image["file_name"].replace("\\", "/")
        for place in (self.folder / name, self.folder / name.rsplit("/", 1)[-1]):
            if place.is_file():
                return place
        raise InputError(f"{self.folder / name}: no such image file; {self.source} names it as image {image['id']}")

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        return f"CocoDataset: {len(self.images)} images, {len(self.coco_dict['annotations'])} objects of " + ", ".join(
            self.class_names
        )

    def __getitem__(self, index):
        if not 0 <= index < len(self.images):
            raise IndexError(f"{self.source}: image {index} of {len(self.images)}")
        image, annotations = self.images[index], self._annotations[self.images[index]["id"]]
        pixels = self._read(index)
        height, width = pixels.shape[:2]
        masks = np.zeros((len(annotations), height, width), np.uint8)
        for mask, annotation in zip(masks, annotations):
            mask[:] = decode_segmentation(annotation["segmentation"], height, width)
        boxes = [box_of(annotation) for annotation in annotations]
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        return Sample(
            image=pixels,
            boxes=np.clip(boxes, 0, np.array([width, height, width, height], np.float32)),
            labels=np.array([self._labels[annotation["category_id"]] for annotation in annotations], np.int64),
            masks=masks,
            crowd=np.array([bool(annotation.get("iscrowd")) for annotation in annotations], bool),
            image_id=image["id"],
            name=image["file_name"],
            keypoints=self._keypoints(annotations),
        )

    def _read(self, index):
        """The pixels of an image, whose size must be the one that the json states."""
        image, file = self.images[index], self._files[index]
        pixels = read_image(file)
        stated = image["height"], image["width"]
        if pixels.shape[:2] != stated and pixels.shape[:2] == stated[::-1]:
            pixels = read_image(file, rotate=False)  # annotated as stored, not as displayed
        if pixels.shape[:2] != stated:
            raise InputError(
                f"{file}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, "
                f"but {self.source} says {image['width']} x {image['height']} for image {image['id']}"
            )
        return pixels

    def _keypoints(self, annotations):
        if self.keypoint_names is None:
            return None
        count = len(self.keypoint_names)
        keypoints = np.zeros((len(annotations), count, 3), np.float32)
        for points, annotation in zip(keypoints, annotations):
            given = annotation.get("keypoints")
            if given and len(given) == 3 * count:  # objects of a category without keypoints may have other ones
                points[:] = np.reshape(given, (count, 3))
        keypoints[keypoints[..., 2] == 0] = 0
        return keypoints


def split(coco_dict, every=5):
    """Split a COCO dict into a training and a validation part.

    With the images sorted by file name, images 0, every, 2 * every, ... are for validation.

    coco_dict: content of a COCO file. every: 2 or more.
    Returns (train, val), two COCO dicts.
    """
    if every < 2:
        raise InputError(f"split: every must be 2 or more, got {every}")
    images = sorted(coco_dict["images"], key=lambda image: image["file_name"])
    train = [image for number, image in enumerate(images) if number % every]
    parts = []
    for chosen in (train, images[::every]):
        ids = {image["id"] for image in chosen}
        annotations = [annotation for annotation in coco_dict["annotations"] if annotation["image_id"] in ids]
        parts.append({**coco_dict, "images": chosen, "annotations": annotations})
    return tuple(parts)


def to_coco(dataset, count=None):
    """Write the ground truth of any dataset as a COCO dict.

    dataset: has class_names and category_ids; keypoints are included if it has keypoint_names.
    count: how many samples, from the first; by default all.
    Returns a dict that json can write.
    """
    from pycocotools import mask as rle

    names = getattr(dataset, "keypoint_names", None)
    categories = []
    for label, name in enumerate(dataset.class_names, start=1):
        category = {"id": dataset.category_ids[label - 1], "name": name, "supercategory": ""}
        if names:
            category["keypoints"] = list(names)
            category["skeleton"] = [[a + 1, b + 1] for a, b in getattr(dataset, "skeleton", ())]  # COCO counts from 1
        categories.append(category)

    images, annotations = [], []
    for index in range(len(dataset) if count is None else min(count, len(dataset))):
        sample = dataset[index]
        height, width = sample.image.shape[:2]
        images.append({"id": sample.image_id, "file_name": sample.name, "height": height, "width": width})
        for g, (x1, y1, x2, y2) in enumerate(sample.boxes.tolist()):
            code = rle.encode(np.asfortranarray(sample.masks[g]))
            annotation = {
                "id": len(annotations) + 1,  # from 1: pycocotools takes 0 for "no match"
                "image_id": sample.image_id,
                "category_id": dataset.category_ids[int(sample.labels[g]) - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(rle.area(code)),
                "iscrowd": int(sample.crowd[g]),
                "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
            }
            if names:
                points = sample.keypoints[g]
                annotation["keypoints"] = points.ravel().tolist()
                annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
            annotations.append(annotation)
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def image_size(path):
    """(height, width) of the array that `read_image` would return, from the file's header alone.

    Raises InputError if there is no such file or it is not an image.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file") from None
    except Exception as error:
        raise InputError(f"{path}: not a readable image ({error})") from None
    return (width, height) if turned else (height, width)


def _in_order(categories, class_names, source):
    """The categories in the order of class_names. A name that the file lacks gets an id that the file does not use."""
    by_name = {category["name"]: category for category in categories}
    for name in by_name:
        if name not in class_names:
            raise InputError(f'{source}: has a category "{name}", which is not one of {", ".join(class_names)}')
    free = max(category["id"] for category in categories) + 1
    return [by_name.get(name, {"id": free + k, "name": name}) for k, name in enumerate(class_names)]
