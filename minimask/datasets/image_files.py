"""Finds the file of each image that a COCO json names, even if the name is written a little differently."""

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote

from minimask.datasets.photos import image_size
from minimask.datasets.problems import Defect
from minimask.errors import InputError


class ImageFiles:
    """The image files in a folder.

    An image is looked for by its `file_name`, then by the last part of that name. If there is no such file, the one
    whose name differs only in upper and lower case, in the Unicode form of accents, or in %20 for a space is taken,
    provided that there is exactly one.

    folder: the folder of the images.
    source: the file of annotations, for messages.
    """

    def __init__(self, folder, source):
        self.folder, self.source = Path(folder), source
        self.paths = {}  # image id -> its file
        self._listed = None  # loose name -> the files that have it

    def locate(self, images, problems):
        """Find the files of these images and store them in `paths`. What is not found becomes a problem.

        Raises InputError if none of several images is found.
        """
        found = {}  # file -> the images that read it, each with whether its name is that of the file
        for image in images:
            try:
                path, exact = self._find(image, problems)
            except Defect as defect:
                problems.add(defect.kind, f"{image['file_name']!r} (image {image['id']})", str(defect))
            else:
                self.paths[image["id"]] = path
                found.setdefault(path, []).append((image, exact))
        if len(images) > 1 and not found:
            raise InputError(
                f"{self.folder / images[0]['file_name']}: no such image file, and none of the other {len(images) - 1} "
                f"that {self.source} names is there; is {self.folder} the right folder?"
            )
        for path, readers in found.items():
            if len(readers) > 1:
                self._tell_shared(path, readers, problems)

    def size(self, image):
        """(height, width) of an image that was located, from the file's header."""
        return image_size(self.paths[image["id"]])

    def check_headers(self, images, problems):
        """Compare each image's size with the one in its file's header. Returns the images that can be used.

        A photo may be annotated as it is displayed or as it is stored, without the turn of its EXIF data.
        """
        usable = []
        for image in images:
            path, stated = self.paths[image["id"]], (image["height"], image["width"])
            where = f"{image['file_name']} (image {image['id']})"
            try:
                found = image_size(path, rotate=False)  # Pillow decodes all of a PNG file to find an orientation
                if found != stated:
                    found = image_size(path)
            except InputError as error:
                problems.add("photo that cannot be read", where, str(error))
                continue
            if found == stated:
                usable.append(image)
                continue
            problems.add(
                "photo of another size than the file says",
                f"{where}: {found[1]} x {found[0]}, the file says {stated[1]} x {stated[0]}",
                f"{path}: is {found[1]} x {found[0]} pixels, but {self.source} says {stated[1]} x {stated[0]} for "
                f"image {image['id']}",
            )
        return usable

    def _tell_shared(self, path, readers, problems):
        names = {image["file_name"] for image, _ in readers}
        if len(names) == 1:
            ids = " and ".join(str(image["id"]) for image, _ in readers)
            problems.doubt("file listed as several images", f"{path.name} (images {ids})")
            return
        for image, exact in readers:
            if not exact:
                name, where = image["file_name"], f"{image['file_name']!r} (image {image['id']})"
                others = ", ".join(sorted(names - {name})[:3])
                message = f"image {image['id']}: {name} would be read from {path}, which {others} is read from too"
                problems.add("image whose file would be that of another image", where, message)
                del self.paths[image["id"]]

    def _find(self, image, problems):
        """(path, whether the name is exactly that of the file). Raises Defect if there is none."""
        name = image["file_name"].replace("\\", "/")
        last = name.rsplit("/", 1)[-1]
        for place in (name, last):
            path = self.folder / place
            if os.path.isfile(path):  # False for names that no file can have
                return path, place == name
        for place in (name, last):
            paths = self._loosely_named(place)
            if len(paths) == 1:
                problems.note(
                    "image whose file name is written differently", f"{image['file_name']!r} ({paths[0].name})"
                )
                return paths[0], False
        raise Defect(
            "image file that is not there",
            f"{self.folder / name}: no such image file; {self.source} names it as image {image['id']}",
        )

    def _loosely_named(self, name):
        if self._listed is None:
            self._listed = {}
            for folder, _, files in os.walk(self.folder):
                for file in files:
                    path = Path(folder, file)
                    self._listed.setdefault(_loose(path.relative_to(self.folder).as_posix()), []).append(path)
        return self._listed.get(_loose(name), [])


def _loose(name):
    """The name without differences in case, in the Unicode form of accents, and in %20 for a space."""
    return unicodedata.normalize("NFC", unquote(name)).casefold().strip("/")
