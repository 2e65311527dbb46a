"""Recognizes files and folders of other formats that were given as COCO json, and says how to convert them."""

from minimask.errors import InputError

NAMES = {
    "labelme": "annotations of labelme",
    "via": "annotations of VIA",
    "yolo": "annotations of YOLO",
    "voc": "annotations of Pascal VOC",
    "labels": "label images",
}


def other_format(content):
    """The end of a message for json of another kind than COCO's; "" if it may be COCO's, or is nothing known."""
    from minimask.datasets.formats.polygons import via_entries

    if isinstance(content, list):
        if content and all(isinstance(entry, dict) and "score" in entry for entry in content):
            return "holds results (a list of detections), not annotations; annotations have images and categories too"
        return ""
    if not isinstance(content, dict) or {"images", "annotations", "categories"} <= set(content):
        return _panoptic(content) if isinstance(content, dict) else ""
    if isinstance(content.get("shapes"), list):
        return (
            "holds one image's annotations of labelme, not COCO json; turn the folder of these files into it with: "
            "python -m minimask import FOLDER --output annotations.json"
        )
    if "_via_img_metadata" in content or via_entries(content):
        return (
            "holds annotations of VIA, not COCO json; turn them into it with: "
            "python -m minimask import FILE.json --images DIR --output annotations.json"
        )
    return ""


def _panoptic(content):
    entries = content["annotations"]
    if isinstance(entries, list) and entries and isinstance(entries[0], dict) and "segments_info" in entries[0]:
        return "is COCO's panoptic json, whose masks are in PNG files; it takes an instances file"
    return ""


def other_format_of_folder(folder):
    """The end of a message for a folder that was given instead of a json file."""
    from minimask.datasets.formats import recognize

    try:
        name = recognize(folder)
    except (InputError, OSError, ValueError, TypeError):
        return ""
    return (
        f"; it holds {NAMES[name]}; turn them into a COCO file with: "
        f"python -m minimask import {folder} --output annotations.json"
    )
