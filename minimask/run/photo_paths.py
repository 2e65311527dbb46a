"""Which photos a command means: files, folders, patterns, and the pages of TIFF files."""

import collections
import glob
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minimask.datasets.photos import read_image, rgb_array
from minimask.errors import InputError
from minimask.run.show import count_text

PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")  # taken from a folder


@dataclass(frozen=True)
class Page:
    """A page of a TIFF file that has several. number: counted from 1."""

    path: Path
    number: int

    @property
    def stem(self):
        return f"{self.path.stem}-page{self.number}"


def find_photos(paths, recursive=False, passed=None):
    """The photos that paths name: a list of Path, files as they are, the photos of a folder in order of their names.

    paths: files, folders, and patterns such as "holiday/*.jpg".
    recursive: take the photos of sub-folders too.
    passed: a collections.Counter that counts, by kind, what is passed over in folders.

    Pictures that `predict_files` wrote into such a folder are left out, and a photo that is named twice is taken once.
    Raises InputError if a path does not exist or there is no photo at all.
    """
    photos = {}  # keeps the order; the keys are resolved paths
    passed = collections.Counter() if passed is None else passed
    for path in paths:
        if "://" in str(path):
            raise InputError(f"{path}: is an address; fetch the photo first, then give its path")
        for named in _matches(path):
            inside = _in_folder(named, recursive, passed) if named.is_dir() else [named]
            for photo in inside:
                photos.setdefault(photo.resolve(), photo)
    if not photos:
        others = f" (passed over: {passed_text(passed)})" if passed else ""
        raise InputError(f"no photos found in {', '.join(map(str, paths)) or 'an empty list of paths'}{others}")
    return list(photos.values())


def passed_text(passed):
    """What was passed over, for people: "3 .heic files, 1 sub-folder"."""
    return ", ".join(count_text(count, kind) for kind, count in sorted(passed.items()))


def _matches(path):
    """The paths that a path or a pattern names. The shell of Windows leaves patterns to the program."""
    if Path(path).exists():
        return [Path(path)]
    found = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
    if not found:
        raise InputError(f"{path}: no such photo or folder")
    return [Path(name) for name in found]


def _in_folder(folder, recursive, passed):
    """The photos in a folder."""
    photos = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if recursive:
                photos += _in_folder(path, recursive, passed)
            else:
                passed["sub-folder"] += 1
        elif path.suffix.lower() in PHOTO_ENDINGS:
            if not is_result(path):
                photos.append(path)
        elif not (path.suffix == ".json" and photo_of(path)):
            passed[f"{path.suffix} file" if path.suffix else "file without an ending"] += 1
    return photos


def pages(photo):
    """The images of a photo file: itself or, for a TIFF file of several pages, a Page for each."""
    from PIL import Image

    if photo.suffix.lower() not in (".tif", ".tiff"):
        return [photo]
    try:
        with Image.open(photo) as picture:
            count = getattr(picture, "n_frames", 1)
    except Exception:  # reading it says what is wrong
        count = 1
    return [photo] if count == 1 else [Page(photo, number) for number in range(1, count + 1)]


def read_photo(photo):
    """The image (H, W, 3) uint8 of a photo or a Page. Raises InputError if it cannot be read."""
    if not isinstance(photo, Page):
        return read_image(photo)
    from PIL import Image

    try:
        with open(photo.path, "rb") as file, Image.open(file) as picture:
            picture.seek(photo.number - 1)
            picture.load()
            return np.ascontiguousarray(rgb_array(picture))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{photo.path}: page {photo.number} is not readable ({error})") from None


# ------------------------------------------------------------------------------------------------- names of results


def free_name(photo, output, taken):
    """The first of NAME, FOLDER-NAME, NAME-2, NAME-3, ... that holds no results of another photo."""
    folder = file_of(photo).resolve().parent.name
    names = [photo.stem] + ([f"{folder}-{photo.stem}"] if folder else [])
    number = 2
    while True:
        for name in names:
            if name.casefold() not in taken and _is_free(photo, output, name):
                return name
        names = [f"{photo.stem}-{number}"]
        number += 1


def file_of(photo):
    """The file of a photo or a Page."""
    return photo.path if isinstance(photo, Page) else photo


def _is_free(photo, output, name):
    """True if there is neither NAME.png nor NAME.json, or both are results of this photo or of one that has gone."""
    picture, record, file = output / f"{name}.png", output / f"{name}.json", file_of(photo).resolve()
    if picture.exists() and picture.resolve() == file:
        return False
    if not picture.exists() and not record.exists():
        return True
    earlier = photo_of(record)
    return earlier == str(file) or (earlier is not None and not Path(earlier).exists())


def is_result(path):
    """True if `predict_files` wrote this picture: the json beside it names another file as its photo."""
    photo = photo_of(path.with_suffix(".json")) if path.suffix == ".png" else None
    return photo is not None and photo != str(path.resolve())


def photo_of(record):
    """The photo that a NAME.json was written for; None if the file is missing or is something else."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("photo") if isinstance(content, dict) and "detections" in content else None
