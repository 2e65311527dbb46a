"""A dataset of photos with COCO annotations: polygons, RLE, crowds, keypoints, images without objects.

The annotations are checked when the file is opened (`coco_file.py`). Images are read when they are needed, and masks
are decoded at the size at which they are needed (`encoded_masks.py`).

Rules
- Labels are 1 to C in the order of the category ids (0 is the background).
- A box is the annotation's own `bbox`, clipped to the image; without one, it is the box around the segmentation.
- An object without a segmentation is an error, because masks are what is trained.
- An image without annotations is a picture of background, and is trained as such.
- An image is turned as its EXIF data says, unless only the unturned one has the size that the json states.
"""

from pathlib import Path

import numpy as np

from minimask.datasets.augmentation import flip_order
from minimask.datasets.coco_file import read_coco, read_json
from minimask.datasets.coco_objects import box_of
from minimask.datasets.encoded_masks import EncodedMasks
from minimask.datasets.image_files import ImageFiles
from minimask.datasets.photos import read_image
from minimask.errors import InputError
from minimask.run.settings import did_you_mean
from minimask.structures import Sample


class CocoDataset:
    """A dataset of photos in a folder, with a COCO json. dataset[i] is a Sample.

    images: the folder. An image is looked for by its `file_name`, then by the last part of that name (image_files.py).
    annotations: path of the json, or its content as a dict.
    image_ids: use only these images; by default all.
    class_names: the names of labels 1, 2, ... in the order of another file, if labels must follow that order.
    keypoints: whether to read keypoints; False: the objects have none.
    skip_bad: leave out annotations and images that cannot be used, instead of refusing the file.

    Attributes:
    class_names, category_ids: name and COCO id of label 1, 2, ...
    keypoint_names: names of the keypoints, or None if the categories have none.
    coco_dict: the json's content, restricted to these images, with all class_names as categories.
    images, files: the entry of each image in the json, and its file.
    problems: what was left out, what is probably wrong, and what was read anyway (a problems.Problems).

    Raises InputError if the folder or the file cannot be used.
    """

    def __init__(self, images, annotations, image_ids=None, class_names=None, keypoints=True, skip_bad=False):
        self.folder = Path(images)
        content, self.source = read_json(annotations)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder of images")
        files = ImageFiles(self.folder, self.source)
        content, self.problems = read_coco(
            content,
            source=self.source,
            needs="segmentation",
            image_ids=image_ids,
            files=files,
            keypoints=keypoints,
            skip_bad=skip_bad,
        )
        self.images = [image for image in content["images"] if image["id"] in files.paths]
        self.files = [files.paths[image["id"]] for image in self.images]

        categories = sorted(content["categories"], key=lambda category: category["id"])
        if class_names is not None:
            used = {annotation["category_id"] for annotation in content["annotations"]}
            categories = _in_order(categories, class_names, used, self.problems)
        self.class_names = tuple(category["name"] for category in categories)
        self.category_ids = tuple(category["id"] for category in categories)
        self._labels = {category_id: label for label, category_id in enumerate(self.category_ids, start=1)}
        self._read_keypoint_names(categories if keypoints else [])

        self._annotations = {image["id"]: [] for image in self.images}
        for annotation in content["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        kept = [annotation for annotations in self._annotations.values() for annotation in annotations]
        self.coco_dict = {**content, "images": self.images, "annotations": kept, "categories": categories}

    def _read_keypoint_names(self, categories):
        named = [category for category in categories if category.get("keypoints")]
        self.keypoint_names = tuple(named[0]["keypoints"]) if named else None
        self.keypoint_order = flip_order(self.keypoint_names) if named else None
        skeleton = named[0].get("skeleton") or () if named else ()
        self.skeleton = tuple((a - 1, b - 1) for a, b in skeleton)  # COCO counts from 1

    def check_learnable(self):
        """Raise InputError if there is nothing to learn: no objects, or only crowds."""
        objects = self.coco_dict["annotations"]
        if not objects:
            raise InputError(f"{self.source}: there is nothing to learn: none of its {len(self)} images has an object")
        if all(annotation["iscrowd"] for annotation in objects):
            raise InputError(
                f"{self.source}: there is nothing to learn: all of its {len(objects)} objects are crowds (iscrowd 1), "
                "which only say where not to look; single objects have iscrowd 0"
            )

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
        masks = EncodedMasks.of([annotation["segmentation"] for annotation in annotations], height, width)
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
        image, file = self.images[index], self.files[index]
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

    With the images sorted by file name, images 0, every, 2 * every, ... are for validation. Images of the same file
    stay together.

    coco_dict: content of a COCO file. every: 2 or more.
    Returns (train, val), two COCO dicts.
    """
    if every < 2:
        raise InputError(f"split: every must be 2 or more, got {every}")
    images = sorted(coco_dict["images"], key=lambda image: image["file_name"])
    number = {name: n for n, name in enumerate(dict.fromkeys(image["file_name"] for image in images))}
    parts = []
    for is_val in (False, True):
        chosen = [image for image in images if (number[image["file_name"]] % every == 0) == is_val]
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


def _in_order(categories, class_names, used, problems):
    """The categories in the order of class_names. A name that the file lacks gets an id that the file does not use.

    used: ids of the categories that have objects; others may have any name, and are left out.
    """
    by_name = {category["name"]: category for category in categories}
    for name, category in by_name.items():
        if name not in class_names and category["id"] in used:
            hint = did_you_mean(name, class_names)
            raise InputError(
                f'{problems.source}: has a category "{name}", which is not one of {", ".join(class_names)}{hint}'
            )
        if name not in class_names:
            problems.note("category without objects that the model does not have", f'"{name}"')
    free = max(category["id"] for category in categories) + 1
    return [by_name.get(name, {"id": free + k, "name": name}) for k, name in enumerate(class_names)]
