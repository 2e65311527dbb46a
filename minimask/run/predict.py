"""Photos in, pictures and json out: what a trained model finds in your own photos."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from minimask.datasets.photos import read_image
from minimask.draw import LARGEST_SIDE, draw_prediction, picture_bytes
from minimask.errors import InputError
from minimask.machine.card import enough_memory
from minimask.machine.process import tuned_process
from minimask.mask_head import restore
from minimask.run.files import json_bytes, write_files
from minimask.run.report import encode_mask, xywh

PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")  # taken from a folder
MASK_BYTES = 256 * 2**20  # masks of a photo that are held at once; those of a huge photo are made in several parts


@tuned_process()
def predict_files(model, paths, output, score_threshold=0.5, progress=False):
    """Find objects in photos. Writes, for each NAME.jpg, a picture NAME.png and the objects as NAME.json.

    model: a Predictor; its class_names, category_ids, keypoint_names and skeleton go into the results.
    paths: photos, and folders of photos.
    output: folder for the results; it is made if it does not exist.
    score_threshold: objects with a lower score are left out.
    progress: whether to show a bar.

    If another photo already has results under a name, in this call or an earlier one, the folder's name comes in front
    or a number behind. A photo that cannot be read is skipped and named in an InputError once the others are done.
    Returns a list of paths (photo, picture, json).
    Raises InputError at once if a path does not exist, if there are no photos at all, or if results cannot be written;
    earlier results that were not replaced are unchanged.

    NAME.json holds {"photo", "height", "width", "score_threshold", "detections": [{"name", "label", "category_id",
    "score", "bbox": [x, y, width, height], "box": [x1, y1, x2, y2], "segmentation": {"size", "counts"}}]}, best first,
    in pixels of the upright photo; "segmentation" is COCO's RLE. A model with keypoints adds "keypoint_names" at the
    top, and "keypoints" to each detection: COCO's list x, y, v, x, y, v, ..., where v is the score of the point, a
    logit (higher is surer).
    """
    photos, output = find_photos(paths), Path(output)
    written, taken, failures = [], set(), []
    for photo in _bar(photos, progress):
        try:
            image = read_image(photo)
        except InputError as error:
            failures.append(str(error))
            continue
        detections, batch = _detect(model, image, score_threshold)
        picture = _draw(model, image, detections, batch, score_threshold)

        stem = _free_name(photo, output, taken)
        taken.add(stem.casefold())  # some disks take A.png and a.png for one file
        names = {"keypoint_names": list(model.keypoint_names)} if model.keypoint_names else {}
        record = {
            "photo": str(photo.resolve()),
            "height": image.shape[0],
            "width": image.shape[1],
            "score_threshold": score_threshold,
            **names,
            "detections": _describe(model, detections, batch),
        }
        picture_path, json_path = output / f"{stem}.png", output / f"{stem}.json"
        write_files({picture_path: picture_bytes(picture), json_path: json_bytes(record)})
        written.append((photo, picture_path, json_path))
    if failures:
        others = f" ({len(written)} other photos are done)" if written else ""
        raise InputError("; ".join(failures) + others)
    return written


def find_photos(paths):
    """The photos that paths name: a list of Path, files as they are, the photos of a folder in order of their names.

    Pictures that `predict_files` wrote into such a folder are left out, and a photo that is named twice is taken once.
    Raises InputError if a path does not exist or there is no photo at all.
    """
    photos = {}  # keeps the order; the keys are resolved paths
    for path in paths:
        if "://" in str(path):
            raise InputError(f"{path}: is an address; fetch the photo first, then give its path")
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path}: no such photo or folder")
        inside = [path]
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in PHOTO_ENDINGS and p.is_file()]
            inside = [p for p in inside if not p.name.startswith(".") and not _is_result(p)]
        for photo in inside:
            photos.setdefault(photo.resolve(), photo)
    if not photos:
        raise InputError(f"no photos found in {', '.join(map(str, paths)) or 'an empty list of paths'}")
    return list(photos.values())


def _bar(photos, progress):
    from tqdm.auto import tqdm

    return tqdm(photos, desc="predict", unit="photo", disable=not progress, dynamic_ncols=True, leave=False)


def _detect(model, image, score_threshold):
    """The detections in one photo, invalid where they score below the threshold, and the Batch they belong to."""
    with enough_memory("use a model that resizes photos to a smaller size (max_size)"):
        batch = model.transform([image])
        detections = model.detect(batch).to("cpu")
    keep = detections.valid & (detections.scores >= score_threshold)
    return replace(detections, valid=keep), batch


def _describe(model, detections, batch):
    """The detections in one photo as dicts for json, best first."""
    height, width = batch.original_sizes[0]
    scores = detections.scores[0]
    places = np.flatnonzero(detections.valid[0])
    places = places[np.argsort(-scores[places], kind="stable")]
    at_once = max(1, MASK_BYTES // int(height * width))
    entries = []
    for start in range(0, len(places), at_once):
        part = np.zeros_like(detections.valid)
        part[0, places[start : start + at_once]] = True
        found = restore(replace(detections, valid=part), batch)[0]
        found.class_names = model.class_names
        entries += [_entry(found, i, model.category_ids) for i in np.argsort(-found.scores, kind="stable")]
    return entries


def _entry(found, i, category_ids):
    label = int(found.labels[i])
    entry = {
        "name": found.names[i],
        "label": label,
        "category_id": category_ids[label - 1] if category_ids else label,
        "score": float(found.scores[i]),
        "bbox": xywh(found.boxes[i]),
        "box": [float(v) for v in found.boxes[i]],
    }
    if found.masks is not None:
        entry["segmentation"] = encode_mask(found.masks[i])
    if found.keypoints is not None:
        entry["keypoints"] = [float(v) for v in found.keypoints[i].reshape(-1)]  # x, y, score; x, y, score; ...
    return entry


def _draw(model, image, detections, batch, score_threshold):
    """The picture. A huge photo is reduced first, so that its masks fit into memory."""
    reduction = -(-max(image.shape[:2]) // LARGEST_SIDE)
    if reduction > 1:
        image = _reduced(image, reduction)
        batch = replace(batch, original_sizes=np.array([image.shape[:2]], dtype=np.int64))
    found = restore(detections, batch)[0]
    return draw_prediction(image, found, model.class_names, score_threshold, skeleton=model.skeleton)


def _reduced(image, factor):
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(factor))


def _free_name(photo, output, taken):
    """The first of NAME, FOLDER-NAME, NAME-2, NAME-3, ... that holds no results of another photo."""
    folder = photo.resolve().parent.name
    names = [photo.stem] + ([f"{folder}-{photo.stem}"] if folder else [])
    number = 2
    while True:
        for name in names:
            if name.casefold() not in taken and _is_free(photo, output, name):
                return name
        names = [f"{photo.stem}-{number}"]
        number += 1


def _is_free(photo, output, name):
    """True if there is neither NAME.png nor NAME.json, or both are earlier results of this photo."""
    picture, record = output / f"{name}.png", output / f"{name}.json"
    if picture.exists() and picture.resolve() == photo.resolve():
        return False
    if not picture.exists() and not record.exists():
        return True
    return _photo_of(record) == str(photo.resolve())


def _is_result(path):
    """True if `predict_files` wrote this picture: the json beside it names another file as its photo."""
    photo = _photo_of(path.with_suffix(".json")) if path.suffix == ".png" else None
    return photo is not None and photo != str(path.resolve())


def _photo_of(record):
    """The photo that a NAME.json was written for; None if the file is missing or is something else."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("photo") if isinstance(content, dict) and "detections" in content else None
