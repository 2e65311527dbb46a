"""Reads and checks COCO json. Training, evaluation, `split`, and `inspect` all read through here, so that they agree.

The whole file is checked when it is opened, and one report lists everything that cannot be used, with the ids and what
was found. What can be read without guessing is read: 96.0 as a size, null for what is missing, a polygon that is one
flat list.
"""

import json
import os

import numpy as np

from minimask.datasets.box_doubts import compare_boxes
from minimask.datasets.coco_kind import other_format, other_format_of_folder
from minimask.datasets.coco_names import UNUSED
from minimask.datasets.coco_objects import read_object
from minimask.datasets.problems import LEAVE_OUT, Defect, Problems
from minimask.datasets.segmentation import LARGEST_SIDE, box_of_segmentation, kind_of, number_of, short
from minimask.errors import InputError

HEADERS = 10_000  # images from which on photos are not opened before they are needed, unless bad ones are left out
UNLISTED = ("annotation of a category that is not listed", "annotation of an image that is not listed")


def read_json(source, what="annotations"):
    """The content of a json file, and a name for it in messages.

    source: path, or the content itself, which is returned as it is.
    what: what is in it, for messages: "annotations", "results".
    Raises InputError if the file cannot be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source, f"the {what}"
    try:
        with open(source, "rb") as file:
            data = file.read()
        return json.loads(data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")), str(source)
    except FileNotFoundError:
        raise InputError(f"{source}: no such file of {what}") from None
    except IsADirectoryError:
        raise InputError(f"{source}: is a folder, not a file of {what}{other_format_of_folder(source)}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: is not json ({error.msg}, line {error.lineno})") from None
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise InputError(
            f"{source}: is not json (it is not UTF-8 text: line {line} has the byte {byte:#04x}); save it as UTF-8, "
            f"for instance with: iconv -f latin1 -t utf-8 {source} > fixed.json"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "it has a number of thousands of digits"
        raise InputError(f"{source}: is not COCO json ({reason})") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from None


def read_coco(
    annotations,
    source=None,
    needs=None,
    names=True,
    image_ids=None,
    files=None,
    keypoints=True,
    skip_bad=False,
    advice=LEAVE_OUT,
):
    """Read a COCO file and check it.

    annotations: path of the json file, or its content as a dict, which is left as it is.
    source: a name for the content in messages, if it is given as a dict.
    needs: "segmentation" or "bbox" if every object must have one (a segmentation serves as a box, too), or None.
    names: whether images and categories must have names. Ground truth for evaluation does not need them.
    image_ids: check only the objects of these images; by default all.
    files: an ImageFiles, if the images' files must be there; it also gives the sizes that are not in the file.
    keypoints: whether to look at keypoints.
    skip_bad: leave out annotations and images that cannot be used, instead of refusing the file.
    advice: what to say at the end of a refusal.
    Returns (content, problems): the dict in COCO's own form, whose images have integer sizes, and the Problems.
    Raises InputError with all that cannot be used.
    """
    content, name = read_json(annotations)
    problems = Problems(source or name)
    _check_structure(content, problems.source)
    images = _read_entries(content["images"], "images", ("id", "file_name") if names else ("id",), problems)
    categories = _read_entries(content["categories"], "categories", ("id", "name") if names else ("id",), problems)
    complete = not len(problems)  # otherwise annotations of an unknown image or category are no problem of their own
    known = {image["id"] for image in images}
    unknown = sorted((known if image_ids is None else set(image_ids)) - known, key=str)
    if unknown:
        raise InputError(f"{problems.source}: has no image with the id {unknown[0]!r}")

    chosen = [image for image in images if image_ids is None or image["id"] in set(image_ids)]
    if files is not None:
        files.locate(chosen, problems)
        chosen = [image for image in chosen if image["id"] in files.paths]
    chosen = _sized(chosen, needs, files, problems)
    if files is not None and (skip_bad or len(chosen) <= HEADERS):
        chosen = files.check_headers(chosen, problems)
    usable = {image["id"]: image for image in chosen}
    others = [] if image_ids is None else [image for image in images if image["id"] not in set(image_ids)]

    categories = _without_unused_doubles(categories, content["annotations"], problems)
    _check_categories(categories, keypoints, problems)
    content = {**content, "images": chosen + others, "categories": categories}
    content["annotations"] = _read_annotations(content, usable, known, complete, needs, keypoints, problems)
    problems.leave_out(skip_bad, advice)
    if not chosen:
        raise InputError(f"{problems.source}: none of its images can be used\n{problems}")
    return content, problems


def finite(value):
    """The content of a json file with null for NaN and infinity, which json does not know."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list) else value


# ----------------------------------------------------------------------------------------------- images and categories


def _check_structure(content, name):
    """Raise InputError if something that COCO defines as a list is not one."""
    other = other_format(content)
    if other:
        raise InputError(f"{name}: {other}")
    if not isinstance(content, dict):
        raise InputError(f"{name}: is not COCO json: it must hold an object, not {kind_of(content)}")
    for key in ("images", "categories", "annotations"):
        if key not in content:
            raise InputError(f'{name}: is not COCO json: "{key}" is missing')
        if not isinstance(content[key], list):
            raise InputError(f'{name}: is not COCO json: "{key}" must be a list, not {kind_of(content[key])}')
    for key in ("images", "categories"):
        if not content[key]:
            raise InputError(f"{name}: there are no {key} in it")


def _read_entries(entries, key, fields, problems):
    """The images or categories that have these fields; what the others lack becomes a problem."""
    read, seen = [], set()
    for number, entry in enumerate(entries):
        where = f"{key}[{number}]"
        try:
            entry = _read_fields(where, entry, fields, key)
        except Defect as defect:
            problems.add(defect.kind, where, str(defect), final=key == "categories")
            continue
        if entry["id"] in seen:
            message = f"two {key} have the id {entry['id']}"
            problems.add(f"id that two {key} have", entry["id"], message, final=True)
            continue
        seen.add(entry["id"])
        read.append(entry)
    if len({isinstance(identity, str) for identity in seen}) > 1:
        message = "some image ids are integers and some are text; they must all be of one kind"
        problems.add("image ids, some of which are integers and some text", key, message, final=True)
    return read


def _read_fields(where, entry, fields, key):
    """The entry with integer ids. Raises Defect if a field is missing or of another kind."""
    if not isinstance(entry, dict):
        raise Defect(f"entry of {key} that is no object", f"{where} must be an object, not {kind_of(entry)}")
    changed = {}
    for field in fields:
        if field not in entry:
            raise Defect(f'entry of {key} without "{field}"', f'{where} has no "{field}"')
        value = entry[field]
        if isinstance(value, float) and value.is_integer():
            value = changed[field] = int(value)
        if not field.endswith("id"):
            good, expected = isinstance(value, str), "text"
        elif field == "image_id" or key == "images":  # some tools write an image's name or a 64-bit hash as its id
            good, expected = isinstance(value, str) or _is_integer(value), "an integer or text"
        elif isinstance(value, str) and value.isdecimal() and len(value) < 19:
            good, changed[field] = True, int(value)
        else:  # pycocotools sorts these ids as numbers of 64 bits
            good, expected = _is_integer(value) and abs(int(value)) < 2**63, "an integer below 2^63"
        if not good:
            kind = f'entry of {key} whose "{field}" is not {expected}'
            raise Defect(kind, f'{where}: "{field}" must be {expected}, is {short(value)}')
    return {**entry, **changed} if changed else entry


def _is_integer(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _sized(images, needs, files, problems):
    """The entries with integer height and width, or with None for both if nobody knows them."""
    read = []
    for image in images:
        try:
            height, width = _size(image, files)
            if needs == "segmentation" and height is None:
                raise Defect("image without height and width", f"image {image['id']} has no height and width")
        except InputError as error:
            kind = getattr(error, "kind", "image that cannot be read")
            problems.add(kind, f"image {image['id']}", str(error))
        else:
            read.append({**image, "height": height, "width": width})
    return read


def _size(image, files):
    height, width = image.get("height"), image.get("width")
    if height is None and width is None:
        return (None, None) if files is None else files.size(image)
    sides = []
    for side, value in (("height", height), ("width", width)):
        number = number_of(value)
        if number is None or not 1 <= number <= LARGEST_SIDE or number != int(number):
            raise Defect(
                "image with a size that is none",
                f"image {image['id']} must have a {side} of 1 to 1000000 pixels, has {short(value)}",
            )
        sides.append(int(number))
    return sides


def _without_unused_doubles(categories, annotations, problems):
    """The categories without those that no annotation uses and whose name another one has."""
    names = [category["name"] for category in categories if isinstance(category.get("name"), str)]
    if len(set(names)) == len(names):
        return categories
    used = {a.get("category_id") for a in annotations if isinstance(a, dict) and isinstance(a.get("category_id"), int)}
    kept = []
    for category in categories:
        name = category.get("name")
        double = isinstance(name, str) and name != UNUSED and names.count(name) > 1
        if double and category["id"] not in used and any(c["id"] in used for c in categories if c.get("name") == name):
            problems.note("unused category with the name of another one", f'"{name}" (id {category["id"]})')
        else:
            kept.append(category)
    return kept


def _check_categories(categories, keypoints, problems):
    names = [category["name"] for category in categories if isinstance(category.get("name"), str)]
    for name in sorted(set(names)):
        if name != UNUSED and names.count(name) > 1:
            message = f'two categories have the name "{name}"'
            problems.add("name that two categories have", f'"{name}"', message, final=True)
    if not keypoints:
        return
    named = []
    for number, category in enumerate(categories):
        if not category.get("keypoints"):
            continue
        where = f'category "{category.get("name", category["id"])}"'
        try:
            skeleton = _read_skeleton(where, category["keypoints"], category.get("skeleton") or [], problems)
        except Defect as defect:
            problems.add(defect.kind, where, str(defect), final=True)
            categories[number] = {**category, "keypoints": []}
        else:
            categories[number] = {**category, "skeleton": skeleton}
            named.append(category["keypoints"])
    if any(points != named[0] for points in named):
        message = "its categories have different keypoints; they must share one list"
        problems.add("categories with different keypoints", "all", message, final=True)


def _read_skeleton(where, names, skeleton, problems):
    """The pairs of keypoints, counted from 1. Raises Defect if names or pairs are none."""
    if not isinstance(names, list) or any(type(name) is not str for name in names):
        raise Defect("keypoints without names", f"{where} must have a list of names as keypoints, has {short(names)}")
    if not isinstance(skeleton, list):
        raise Defect("skeleton of no pairs", f"{where} must have a list of pairs as skeleton, has {kind_of(skeleton)}")
    pairs = [pair for pair in skeleton if isinstance(pair, list) and len(pair) == 2]
    points = {point for pair in pairs for point in pair if type(point) is int}
    first = 0 if 0 in points and len(names) not in points else 1
    for pair in skeleton:
        good = isinstance(pair, list) and len(pair) == 2 and all(type(p) is int for p in pair)
        if not good or not all(first <= p < first + len(names) for p in pair):
            raise Defect(
                "skeleton of no pairs",
                f"{where} must have a skeleton of pairs of numbers from 1 to {len(names)}, has {short(pair)}",
            )
    if first == 0:
        problems.note("skeleton that counts from 0", where)
        return [[a + 1, b + 1] for a, b in skeleton]
    return skeleton


# --------------------------------------------------------------------------------------------------------- annotations


def _read_annotations(content, usable, known, complete, needs, keypoints, problems):
    """The annotations in COCO's own form; those that cannot be used become problems.

    usable: image id -> entry, of the images whose objects are read. known: the ids of all images.
    complete: whether all images and categories could be read; if not, objects of others are left out without a word.
    """
    categories = {category["id"]: category for category in content["categories"]}
    by_text = {str(identity): identity for identity in known}
    points = {i: len(c.get("keypoints") or ()) if keypoints else 0 for i, c in categories.items()}
    read, pairs, place = [], [], ""

    def note(kind):
        problems.note(kind, place)

    for number, annotation in enumerate(content["annotations"]):
        where = place = f"annotations[{number}]"
        try:
            annotation = _read_fields(where, annotation, ("image_id", "category_id"), "annotations")
            where = f"annotation {short(annotation['id'])}" if "id" in annotation else where
            place = f"{where} (image {annotation['image_id']})"
            annotation = _of_image(where, annotation, known, by_text, note)
            if annotation["category_id"] not in categories:
                raise Defect(
                    UNLISTED[0],
                    f"{where} has category {annotation['category_id']}, which is not among the categories",
                )
            image = usable.get(annotation["image_id"])
            if image is None:
                continue
            annotation = read_object(where, annotation, image, needs, points[annotation["category_id"]], note)
        except Defect as defect:
            if complete or defect.kind not in UNLISTED:
                problems.add(defect.kind, place, str(defect))
            continue
        read.append(annotation)
        if annotation["bbox"] is not None and annotation["segmentation"] is not None and image["height"] is not None:
            pairs.append((place, annotation["bbox"], box_of_segmentation(annotation["segmentation"]), image))
    compare_boxes(pairs, problems)
    return read


def _of_image(where, annotation, known, by_text, note):
    """The annotation with the id of its image as the images have it."""
    image_id = annotation["image_id"]
    if image_id in known:
        return annotation
    if str(image_id) in by_text:
        note("image_id that is text where the image has a number, or the other way round")
        return {**annotation, "image_id": by_text[str(image_id)]}
    raise Defect(
        UNLISTED[1],
        f"{where} belongs to image {str(image_id)[:80]}, which is not among the images",
    )
