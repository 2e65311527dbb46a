"""Other people's annotation formats, turned into one COCO file.

    labelme      a folder of json files with "shapes", one per image (folders may be nested)
    via          one json file of the VGG Image Annotator: a project, or its exported annotations
    yolo         the folders of YOLO segmentation: labels/*.txt with "class x1 y1 x2 y2 ..." as fractions of the image
    voc          Pascal VOC: SegmentationObject/*.png (one number per object) and SegmentationClass/*.png
    labels       label images, as used in microscopy: 0 is background, every other number is one object

Polygons stay polygons with unchanged coordinates. Objects drawn in pixels become run lengths (RLE).
"""

from pathlib import Path

from minimask.datasets.formats.common import CocoFile, read_json
from minimask.datasets.formats.pixels import pairs_of, read_labels, read_voc
from minimask.datasets.formats.polygons import read_labelme, read_via, read_yolo, via_entries, yolo_labels
from minimask.errors import InputError

READERS = {"labelme": read_labelme, "via": read_via, "yolo": read_yolo, "voc": read_voc, "labels": read_labels}
FORMATS = tuple(READERS)


def to_coco(source, format=None, images=None, classes=None):
    """Read annotations in another format.

    What cannot be used is collected in Problems and left out.

    source: a folder, or a json file of VIA.
    format: one of FORMATS; by default it is recognized.
    images: folder of the images, if the format does not say where they are.
    classes: names of classes 0, 1, ... (YOLO) or 1, 2, ... (VOC), or the one name of all objects (label images).
    Returns the COCO dict, the folder that its file names are relative to, and the Problems.
    Raises InputError if the format is not recognized or nothing can be read.
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
    """Recognize the format of a folder or file by its content. Raises InputError that says what was looked for."""
    source = Path(source)
    if source.is_file():
        content = read_json(source)
        if isinstance(content, dict) and via_entries(content):
            return "via"
        if isinstance(content, dict) and "annotations" in content and "images" in content:
            raise InputError(f"{source}: is already a COCO file; pass it as --annotations")
        if isinstance(content, dict) and "shapes" in content:
            raise InputError(f"{source}: is labelme's file for one image; pass the folder that contains these files")
    elif (source / "SegmentationObject").is_dir():
        return "voc"
    elif yolo_labels(source):
        return "yolo"
    elif any("shapes" in content for content in map(read_json, sorted(source.rglob("*.json"))[:20]) if content):
        return "labelme"
    elif pairs_of(source, None):
        return "labels"
    raise InputError(
        f"{source}: has no known annotations; looked for labelme (json files with shapes), VIA (a json file), YOLO "
        "(labels/*.txt), Pascal VOC (SegmentationObject/) and label images (images/ and masks/ or labels/)"
    )
