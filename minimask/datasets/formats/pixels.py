"""Annotations drawn in pixels: Pascal VOC's masks, and label images with one number per object."""

import numpy as np
from PIL import Image

from minimask.datasets.formats.common import ENDINGS, encode, find

VOID = 255  # in Pascal VOC, the number of pixels that belong to no object

VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()


def read_voc(source, target, classes):
    """SegmentationObject has the objects' numbers, SegmentationClass their classes. 255, the contour, is no object."""
    colors = _labelmap(source / "labelmap.txt")
    names = classes or [name for name in colors.values() if name != "background"] or VOC_CLASSES
    for name in names:
        target.category(name)
    folder = target.given or source / "JPEGImages"
    target.root = folder
    for path in sorted((source / "SegmentationObject").glob("*.png")):
        file = find(folder / path.stem)
        if file is None:
            target.problems.add("masks without an image", path.name)
            continue
        image = target.image(file)
        if image is None:
            continue
        objects, kinds = _numbers(path), _class_numbers(source / "SegmentationClass" / path.name, colors, names)
        if kinds is None or objects is None or not objects.shape == kinds.shape == image[1:]:
            target.problems.add("masks of another size than the image, or no SegmentationClass", path.name)
            continue
        for number in np.unique(objects):
            if number in (0, VOID):
                continue
            mask = objects == number
            kind = int(np.bincount(kinds[mask]).argmax())
            if not 1 <= kind <= len(names):
                target.problems.add("object of a class without a name", f"{path.name}, object {number}, class {kind}")
            else:
                target.add(image, names[kind - 1], encode(mask))


def _labelmap(path):
    """The names in CVAT's labelmap.txt ("name:r,g,b:parts:actions"), by color."""
    colors = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            name, color, *_ = [*line.split(":"), ""]
            if color.count(",") == 2 and not line.startswith("#"):
                colors[tuple(int(v) for v in color.split(","))] = name
    return colors


def _class_numbers(path, colors, names):
    """SegmentationClass as numbers from 1, taken from the palette indices or from the labelmap's colors."""
    if not path.is_file():
        return None
    if not colors:
        return _numbers(path)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    kinds = np.zeros(pixels.shape[:2], np.int64)
    for color, name in colors.items():
        if name in names:
            kinds[(pixels == color).all(-1)] = names.index(name) + 1
    return kinds


def read_labels(source, target, classes):
    """Pairs of an image and a label image of the same name, perhaps with _mask or _label behind it."""
    name = classes[0] if classes else "object"
    target.category(name)
    for file, path in pairs_of(source, target.given):
        image = target.image(file)
        if image is None:
            continue
        numbers = _numbers(path)
        if numbers is None or numbers.shape != image[1:]:
            found = "colors" if numbers is None else f"{numbers.shape[1]} x {numbers.shape[0]} pixels"
            target.problems.add("label image that is no map of numbers of the image's size", f"{path.name}: {found}")
            continue
        values = [number for number in np.unique(numbers) if number != 0]
        if len(values) == 1 and (numbers == values[0]).sum() > 1:
            target.problems.note("label image with one object (a mask of the foreground?)", path.name)
        for number in values:
            target.add(image, name, encode(numbers == number))


def pairs_of(source, images):
    """(image, label image) for each label image in masks/, labels/ or the like."""
    folders = [source / n for n in ("masks", "labels", "mask", "label", "GT", "annotations") if (source / n).is_dir()]
    pictures = images or source / "images"
    masks = folders[0] if folders else source if images else None
    if masks is None or not pictures.is_dir():
        return []
    by_stem = {p.stem: p for p in sorted(pictures.iterdir()) if p.suffix.lower() in ENDINGS}
    pairs = []
    for path in sorted(masks.iterdir()):
        stems = [path.stem, *(path.stem.removesuffix(end) for end in ("_mask", "_masks", "_label", "_labels", "_seg"))]
        stem = next((s for s in stems if s in by_stem), None)
        if path.suffix.lower() in ENDINGS and stem is not None:
            pairs.append((by_stem[stem], path))
    return pairs


def _numbers(path):
    """A picture or .npy as integers (H, W); None if it holds colors or fractions."""
    if path.suffix == ".npy":
        numbers = np.load(path, allow_pickle=False)
    else:
        picture = Image.open(path)
        numbers = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    if numbers.ndim == 3 and (numbers[..., :1] == numbers[..., : min(3, numbers.shape[2])]).all():
        numbers = numbers[..., 0]  # gray, saved with three equal channels
    if numbers.ndim != 2 or (numbers.dtype.kind == "f" and (numbers != np.round(numbers)).any()):
        return None
    return numbers.astype(np.int64)
