"""Other people's annotation formats, turned into one COCO file.

    labelme      a folder of json files, one per image, with "shapes" (also nested folders)
    via          one json of the VGG Image Annotator: a project, or its exported annotations
    yolo         the folders of YOLO segmentation: labels/*.txt with "class x1 y1 x2 y2 ..." in parts of the image
    voc          Pascal VOC: SegmentationObject/*.png (one number per object) and SegmentationClass/*.png
    labels       label images, as microscopy has them: 0 is background, each other number is one object

Polygons stay polygons, with the coordinates as they are; what is drawn in pixels becomes run lengths, pixel by pixel.
"""

from pathlib import Path

from minimask.datasets.formats.common import CocoFile, read_json
from minimask.datasets.formats.pixels import pairs_of, read_labels, read_voc
from minimask.datasets.formats.polygons import read_labelme, read_via, read_yolo, via_entries, yolo_labels
from minimask.errors import InputError

READERS = {"labelme": read_labelme, "via": read_via, "yolo": read_yolo, "voc": read_voc, "labels": read_labels}
FORMATS = tuple(READERS)


def to_coco(source, format=None, images=None, classes=None):
    """Read annotations in another format. Returns (COCO dict, folder its file names start from, Problems).

    source: a folder, or for VIA a json file. format: one of FORMATS; by default it is recognized.
    images: folder of the images, where the format does not say. classes: names of class 0, 1, ... (YOLO), of class
    1, 2, ... (VOC), or the one name of all objects (label images).
    Raises InputError if the format is not recognized or there is nothing to read; what cannot be used of the rest is
    collected in Problems and left out.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    format = format or recognize(source)
    if format not in READERS:
        raise InputError(f"import: format must be one of {', '.join(FORMATS)}, got {format!r}")
    target = CocoFile(source, Path(images) if images else None)
    READERS[format](source, target, list(classes) if classes else None)
    return target.finish(), target.root, target.problems


def recognize(source):
    """The format of a folder or file, by its content. Raises InputError with what was looked for."""
    source = Path(source)
    if source.is_file():
        content = read_json(source)
        if isinstance(content, dict) and via_entries(content):
            return "via"
        if isinstance(content, dict) and "annotations" in content and "images" in content:
            raise InputError(f"{source}: this is a COCO file already; give it as --annotations")
        if isinstance(content, dict) and "shapes" in content:
            raise InputError(f"{source}: this is one image's file of labelme; give the folder that holds them")
    elif (source / "SegmentationObject").is_dir():
        return "voc"
    elif yolo_labels(source):
        return "yolo"
    elif any("shapes" in content for content in map(read_json, sorted(source.rglob("*.json"))[:20]) if content):
        return "labelme"
    elif pairs_of(source, None):
        return "labels"
    raise InputError(
        f"{source}: no known annotations there; looked for labelme (json files with shapes), VIA (a json file), YOLO "
        "(labels/*.txt), Pascal VOC (SegmentationObject/) and label images (images/ and masks/ or labels/)"
    )
