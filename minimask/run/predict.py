"""Photos in, pictures and json out: what a trained model finds in your own photos."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from minimask.draw import LARGEST_SIDE, draw_prediction, picture_bytes
from minimask.errors import InputError
from minimask.machine.card import enough_memory
from minimask.machine.process import tuned_process
from minimask.mask_head import restore
from minimask.run.files import check_writable, json_bytes, write_files
from minimask.run.photo_paths import Page, file_of, find_photos, free_name, pages, read_photo
from minimask.run.report import encode_mask, xywh

MASK_BYTES = 256 * 2**20  # masks of a photo that are held at once; those of a huge photo are made in several parts


@tuned_process()
def predict_files(model, paths, output, score_threshold=0.5, progress=False, recursive=False):
    """Find objects in photos. Writes, for each NAME.jpg, a picture NAME.png and the objects as NAME.json.

    model: a Predictor; its class_names, category_ids, keypoint_names and skeleton go into the results.
    paths: photos, folders of photos, and patterns such as "holiday/*.jpg". A TIFF file of several pages counts as
        several photos: NAME-page1, NAME-page2, ...
    output: folder for the results; it is made if it does not exist.
    score_threshold: objects with a lower score are left out.
    progress: whether to show a bar.
    recursive: also take the photos in sub-folders.

    If another photo already has results under a name, in this call or an earlier one, the folder's name comes in front
    or a number behind; the same photo keeps the names of its results. A photo that cannot be read is skipped and named
    in an InputError once the others are done.
    Returns a list of paths (photo, picture, json).
    Raises InputError at once if a path does not exist, if there are no photos at all, or if results cannot be written;
    earlier results that were not replaced are unchanged.

    NAME.json holds {"photo", "height", "width", "score_threshold", "detections": [{"name", "label", "category_id",
    "score", "bbox": [x, y, width, height], "box": [x1, y1, x2, y2], "segmentation": {"size", "counts"}}]}, best first,
    in pixels of the upright photo; "segmentation" is COCO's RLE. A model with keypoints adds "keypoint_names" at the
    top, and "keypoints" to each detection: COCO's list x, y, v, x, y, v, ..., where v is the score of the point, a
    logit (higher is surer).
    """
    photos, output = [page for photo in find_photos(paths, recursive) for page in pages(photo)], Path(output)
    check_writable(output)
    written, taken, failures = [], set(), []
    for photo in _bar(photos, progress):
        try:
            image = read_photo(photo)
        except InputError as error:
            failures.append(str(error))
            continue
        detections, batch = _detect(model, image, score_threshold)
        picture = _draw(model, image, detections, batch, score_threshold)

        stem = free_name(photo, output, taken)
        taken.add(stem.casefold())  # some disks take A.png and a.png for one file
        names = {"keypoint_names": list(model.keypoint_names)} if model.keypoint_names else {}
        record = {
            "photo": str(file_of(photo).resolve()),
            **({"page": photo.number} if isinstance(photo, Page) else {}),
            "height": image.shape[0],
            "width": image.shape[1],
            "score_threshold": score_threshold,
            **names,
            "detections": _describe(model, detections, batch),
        }
        picture_path, json_path = output / f"{stem}.png", output / f"{stem}.json"
        write_files({picture_path: picture_bytes(picture), json_path: json_bytes(record)})
        written.append((file_of(photo), picture_path, json_path))
    if failures:
        others = f" ({len(written)} other photos are done)" if written else ""
        raise InputError("; ".join(failures) + others)
    return written


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


# -------------------------------------------------------------------------------------------------------- COCO results


def coco_results(written):
    """The results of several photos as one list in COCO's results format.

    written: what `predict_files` returned.
    Each entry has "file_name" besides. "image_id" is the number in the name of the photo (000000000139.jpg: 139) if
    all names are different numbers, as in COCO, else 1, 2, ... in the order of the photos.
    """
    stems = [record.stem for _, _, record in written]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    ids = numbers if len(set(numbers)) == len(stems) else range(1, len(stems) + 1)
    entries = []
    for image_id, (photo, _, record) in zip(ids, written):
        for found in json.loads(record.read_text(encoding="utf-8"))["detections"]:
            entry = {"image_id": image_id, "file_name": photo.name}
            kept = ("category_id", "score", "bbox", "segmentation", "keypoints")
            entries.append(entry | {name: found[name] for name in kept if name in found})
    return entries
