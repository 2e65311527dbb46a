"""Photos in, pictures and json out: what a trained model finds in a person's own photos."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from minimask.datasets.photos import read_image
from minimask.draw import LARGEST_SIDE, class_name, draw_prediction, picture_bytes
from minimask.errors import InputError
from minimask.machine.card import enough_memory
from minimask.machine.process import tuned_process
from minimask.mask_head import restore
from minimask.run.files import json_bytes, write_files
from minimask.run.report import category_list, encode_mask, xywh

PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")  # taken from a folder
MASK_BYTES = 256 * 2**20  # masks of a photo that are held at once: huge photos go in several parts


@tuned_process()
def predict_files(
    model,
    class_names,
    paths,
    out_dir,
    score_threshold=0.5,
    category_ids=None,
    skeleton=(),
    progress=False,
    keypoint_names=(),
):
    """Find objects in photos; write NAME.png (the photo with what was found) and NAME.json for each NAME.jpg.

    model: has transform(pictures) -> Batch and detect(batch) -> Detections. class_names: name of label 1, 2, ...
    paths: photos, and folders whose photos are taken by name. out_dir: made if missing.
    score_threshold: what scores lower is left out.
    category_ids: COCO id of label 1, 2, ..., or dict label -> id; the label itself if not given.
    skeleton: pairs of keypoint numbers (from 0) to join by lines. keypoint_names: for the json.
    A photo whose name another one has already, in this call or an earlier one, gets its folder's name in front or a
    number behind. A photo that cannot be read is passed over, and named in an InputError once the others are done.
    Returns a list of (photo, picture, json) paths. Raises InputError at once for a path that does not exist, no
    photos at all, or results that cannot be written; whatever was not written anew is as it was.

    NAME.json: {"photo", "height", "width", "score_threshold", "detections": [{"name", "label", "category_id",
    "score", "bbox": [x, y, width, height], "box": [x1, y1, x2, y2], "segmentation": {"size", "counts"}}]}, best
    first, in pixels of the photo as a person sees it (turned as its EXIF says); "segmentation" is COCO's RLE. A model
    of keypoints adds "keypoint_names" to the whole and "keypoints" to each detection: COCO's list x, y, v for each, v
    being the score of the place: a logit, any number, the surer the higher.
    """
    photos = find_photos(paths)
    category_ids = category_list(category_ids) if category_ids else None
    out_dir = Path(out_dir)
    written, taken, failures = [], set(), []
    for photo in _bar(photos, progress):
        try:
            image = read_image(photo)
        except InputError as error:
            failures.append(str(error))
            continue
        detections, batch = _detect(model, image, score_threshold)
        found = _describe(detections, batch, class_names, category_ids)
        picture = _draw(image, detections, batch, class_names, score_threshold, skeleton)
        stem = _free_name(photo, out_dir, taken)
        taken.add(stem.casefold())  # some disks take A.png and a.png for one file
        record = {
            "photo": str(photo.resolve()),
            "height": image.shape[0],
            "width": image.shape[1],
            "score_threshold": score_threshold,
            **({"keypoint_names": list(keypoint_names)} if keypoint_names else {}),
            "detections": found,
        }
        picture_path, json_path = out_dir / f"{stem}.png", out_dir / f"{stem}.json"
        write_files({picture_path: picture_bytes(picture), json_path: json_bytes(record)})
        written.append((photo, picture_path, json_path))
    if failures:
        others = f" ({len(written)} other photos are done)" if written else ""
        raise InputError("; ".join(failures) + others)
    return written


def find_photos(paths):
    """The photos that paths name, as a list of Path: files as they are, of folders every photo in them, by name.

    Pictures that `predict_files` wrote into such a folder are left out. A photo named twice is taken once.
    Raises InputError for a path that does not exist and if there is no photo at all.
    """
    photos = {}  # keeps the order; keyed by the resolved path
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
    """Detections of one photo, those below the threshold made invalid, and the Batch they belong to."""
    with enough_memory("take a model that makes its pictures smaller (max_size)"):
        batch = model.transform([image])
        detections = model.detect(batch).to("cpu")
    keep = detections.valid & (detections.scores >= score_threshold)
    return replace(detections, valid=keep), batch


def _describe(detections, batch, class_names, category_ids):
    """The detections of one photo as dicts for json, best first."""
    height, width = batch.original_sizes[0]
    places = np.flatnonzero(detections.valid[0])
    scores = detections.scores[0]
    places = places[np.argsort(-scores[places], kind="stable")]
    at_once = max(1, MASK_BYTES // int(height * width))
    found = []
    for start in range(0, len(places), at_once):
        part = np.zeros_like(detections.valid)
        part[0, places[start : start + at_once]] = True
        prediction = restore(replace(detections, valid=part), batch)[0]
        order = np.argsort(-prediction.scores, kind="stable")
        found += [_entry(prediction, i, class_names, category_ids, detections.masks is not None) for i in order]
    return found


def _entry(prediction, i, class_names, category_ids, has_masks):
    label = int(prediction.labels[i])
    entry = {
        "name": class_name(class_names, label),
        "label": label,
        "category_id": category_ids[label - 1] if category_ids else label,
        "score": float(prediction.scores[i]),
        "bbox": xywh(prediction.boxes[i]),
        "box": [float(v) for v in prediction.boxes[i]],
    }
    if has_masks:
        entry["segmentation"] = encode_mask(prediction.masks[i])
    if prediction.keypoints is not None:
        entry["keypoints"] = [float(v) for v in prediction.keypoints[i].reshape(-1)]  # x, y, score; x, y, score; ...
    return entry


def _draw(image, detections, batch, class_names, score_threshold, skeleton):
    """The picture; a huge photo is reduced first, so that its masks fit into memory."""
    reduction = -(-max(image.shape[:2]) // LARGEST_SIDE)
    if reduction > 1:
        image = _reduced(image, reduction)
        batch = replace(batch, original_sizes=np.array([image.shape[:2]], dtype=np.int64))
    prediction = restore(detections, batch)[0]
    return draw_prediction(image, prediction, class_names, score_threshold, skeleton=skeleton)


def _reduced(image, factor):
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(factor))


def _free_name(photo, out_dir, taken):
    """The first of NAME, FOLDER-NAME, NAME-2, NAME-3, ... under which no other photo's results stand."""
    folder = photo.resolve().parent.name
    names = [photo.stem] + ([f"{folder}-{photo.stem}"] if folder else [])
    number = 2
    while True:
        for name in names:
            if name.casefold() not in taken and _is_free(photo, out_dir, name):
                return name
        names = [f"{photo.stem}-{number}"]
        number += 1


def _is_free(photo, out_dir, name):
    """True if neither NAME.png nor NAME.json is there, or both are this photo's own earlier results."""
    picture, record = out_dir / f"{name}.png", out_dir / f"{name}.json"
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
    """The photo that a NAME.json was written for; None if the file is missing or something else."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("photo") if isinstance(content, dict) and "detections" in content else None
