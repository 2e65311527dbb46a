"""How good is a model: average precision (AP) as COCO counts it, through pycocotools, and results in COCO's format.

A detection counts as right if its IoU with a ground truth object not yet found reaches a threshold; going through the
detections by falling score gives precision over recall; its mean over 101 recalls, the classes, and the thresholds
0.50, 0.55 .. 0.95 is AP. AP50 and AP75 use one threshold; APs, APm and APl look at objects below 32 x 32 pixels,
up to 96 x 96, and above. AR1, AR10 .. is the mean over thresholds of the recall with so many detections an image.

A number is -1 where there is no ground truth of its kind to be found (no small objects, say), and 0 where there is but
nothing was found.
"""

import contextlib
import io
from pathlib import Path

import numpy as np

from minimask.datasets.coco_results import KINDS, detections, ground_truth, some
from minimask.errors import InputError
from minimask.machine.card import enough_memory
from minimask.machine.process import tuned_process
from minimask.mask_head import restore
from minimask.run.files import json_bytes, write_files

TITLES = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
SIGMA = 0.067  # the mean of COCO's 17: how exact a keypoint can be placed, in square roots of the object's area


# -------------------------------------------------------------------------------- a model on a dataset


@tuned_process()
def evaluate(
    model,
    dataset,
    coco_ground_truth=None,
    category_ids=None,
    batch_size=1,
    progress=True,
    max_detections=(1, 10, 100),
    results_dir=None,
    indices=None,
):
    """Run the model on a dataset and compute its AP for boxes and, if it finds them, for masks and keypoints.

    model: has transform(samples) -> Batch and detect(batch) -> Detections. dataset: dataset[i] -> Sample, len().
    coco_ground_truth: COCO's dict, or the path of its json; by default dataset.coco_dict, or where there is none the
    samples themselves. Only the images that are evaluated count.
    category_ids: COCO id of label 1, of label 2, ..., or dict label -> id; by default dataset.category_ids.
    indices: which samples (all by default). results_dir: where bbox_results.json, segm_results.json and
    keypoints_results.json go (all or, if that fails, none); None: nowhere.
    Returns {"bbox": {"AP": .., ...}, "segm": {...}, "keypoints": {...}}, see `coco_average_precision`. Keypoints are
    compared if the dataset has keypoint_names; how exactly is said by its keypoint_sigmas (K,), or where there are
    none by COCO's for 17 keypoints and SIGMA for each of another number.
    Raises InputError for a file that cannot be used or written.
    """
    if batch_size < 1:
        raise ValueError(f"evaluate: batch_size must be at least 1, got {batch_size}")
    indices = range(len(dataset)) if indices is None else list(indices)
    if len(indices) == 0:
        raise InputError("there are no images to evaluate on")
    category_ids = category_list(dataset.category_ids if category_ids is None else category_ids)
    truth = getattr(dataset, "coco_dict", None) if coco_ground_truth is None else coco_ground_truth
    from_samples = truth is None
    if from_samples:
        truth = {"images": [], "annotations": [], "categories": [{"id": i} for i in category_ids]}
    known = None if from_samples else ground_truth(truth, "bbox")  # a bad file is reported before the work begins
    results, image_ids = {kind: [] for kind in KINDS}, []
    for samples, predictions in predict_samples(model, dataset, indices, batch_size, progress):
        ids = [sample.image_id for sample in samples]
        if from_samples:
            for sample in samples:
                _add_sample(truth, sample, category_ids)
        else:
            _check_image_ids(ids, known)
        found = predictions_to_coco(predictions, ids, category_ids)
        if "keypoints" in found and not _compares_keypoints(predictions[0], dataset):
            del found["keypoints"]
        for kind, entries in found.items():
            results[kind] += entries
        image_ids += ids
    results = {kind: results[kind] for kind in found}  # of the kinds that this model finds
    numbers = {}
    for kind, entries in results.items():
        if kind == "keypoints":
            settings = {"keypoint_sigmas": _keypoint_sigmas(dataset)}
        else:
            settings = {"max_detections": max_detections}
        numbers[kind] = coco_average_precision(truth, entries, kind, image_ids=image_ids, **settings)
    if results_dir is not None:
        write_results(results_dir, results)
    return numbers


def predict_samples(model, dataset, indices, batch_size=1, progress=False):
    """Go through samples of a dataset: yields (list of Sample, list of Prediction), a batch at a time."""
    less = enough_memory("evaluate fewer images at once (--batch-size)")
    with inference(model), _bar(len(indices), progress) as bar, less:
        for start in range(0, len(indices), batch_size):
            samples = [dataset[i] for i in indices[start : start + batch_size]]
            batch = model.transform(samples)
            yield samples, restore(model.detect(batch), batch)
            bar.update(len(samples))


def _compares_keypoints(prediction, dataset):
    """Whether the data has keypoints. InputError if they are not those of the model."""
    names = getattr(dataset, "keypoint_names", None) or ()
    found = prediction.keypoints.shape[1]
    if names and len(names) != found:
        raise InputError(f"the model finds {found} keypoints an object, the data has {len(names)}")
    return len(names) > 0


def _keypoint_sigmas(dataset):
    """The data set's own, or None for COCO's if there are as many keypoints as in COCO, or SIGMA for each."""
    own, count = getattr(dataset, "keypoint_sigmas", None), len(dataset.keypoint_names)
    return [SIGMA] * count if own is None and count != 17 else own


def _add_sample(truth, sample, category_ids):
    """Add a sample's image and objects to a COCO dict."""
    height, width = sample.image.shape[:2]
    truth["images"].append({"id": sample.image_id, "file_name": sample.name, "height": height, "width": width})
    for i, (box, label, mask, crowd) in enumerate(zip(sample.boxes, sample.labels, sample.masks, sample.crowd)):
        annotation = {
            "image_id": sample.image_id,
            "category_id": category_ids[int(label) - 1],
            "bbox": xywh(box),
            "area": float(mask.sum()),
            "segmentation": encode_mask(mask),
            "iscrowd": int(crowd),
        }
        if sample.keypoints is not None:
            annotation["keypoints"] = sample.keypoints[i].ravel().tolist()
        truth["annotations"].append(annotation)


@contextlib.contextmanager
def inference(model):
    """Inside, the model is in inference mode (batch norm uses its running statistics); after it, as it was."""
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _bar(total, progress):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="evaluate", unit="image", disable=not progress, dynamic_ncols=True, leave=False)


def category_list(category_ids):
    """COCO ids of label 1, of label 2, ... as a list of ints, from such a list or from a dict label -> id."""
    if isinstance(category_ids, dict):
        category_ids = [category_ids[label] for label in range(1, len(category_ids) + 1)]
    return [int(i) for i in category_ids]


def predictions_to_coco(predictions, image_ids, category_ids):
    """Predictions as entries of COCO's results files.

    predictions: list of Prediction, at least one. image_ids: COCO id of each.
    category_ids: COCO id of label 1, of label 2, ..., or dict label -> id.
    Returns {"bbox": entries with "bbox": x, y, width, height; "segm": entries with "segmentation": compressed RLE;
    "keypoints": entries with "keypoints": x, y, score, x, y, score, ...}, one of each for every detection; the last two
    only if there are masks or keypoints. Raises ValueError for a label without a category.
    """
    category_ids = category_list(category_ids)
    has = {"bbox": True, "segm": predictions[0].masks is not None, "keypoints": predictions[0].keypoints is not None}
    found = {kind: [] for kind in KINDS if has[kind]}
    for prediction, image_id in zip(predictions, image_ids):
        for i, label in enumerate(prediction.labels):
            if not 1 <= label <= len(category_ids):
                raise ValueError(f"predictions_to_coco: label {label} has no category: there are {len(category_ids)}")
            entry = {
                "image_id": image_id,
                "category_id": category_ids[int(label) - 1],
                "score": float(prediction.scores[i]),
            }
            found["bbox"].append({**entry, "bbox": xywh(prediction.boxes[i])})
            if has["segm"]:
                found["segm"].append({**entry, "segmentation": encode_mask(prediction.masks[i])})
            if has["keypoints"]:
                found["keypoints"].append({**entry, "keypoints": prediction.keypoints[i].ravel().tolist()})
    return found


def xywh(box):
    """A box x1, y1, x2, y2 as COCO writes it: a list of floats x, y, width, height."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def encode_mask(mask):
    """A mask (H, W) as COCO's compressed RLE: {"size": [H, W], "counts": text}."""
    from pycocotools import mask as rle

    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def write_results(folder, results):
    """Write KIND_results.json for each kind in `results` (dict kind -> entries): all of them or, on failure, none."""
    write_files({Path(folder) / f"{kind}_results.json": json_bytes(found) for kind, found in results.items()})


# -------------------------------------------------------------------------------- average precision


def coco_average_precision(truth, results, kind, max_detections=None, image_ids=None, keypoint_sigmas=None):
    """COCO's numbers for results against ground truth, from pycocotools' own matching.

    truth: COCO's dict of the ground truth, or the path of its json.
    results: list of entries of a results file, or its path.
    kind: "bbox", "segm" or "keypoints". image_ids: the images that count (all by default).
    max_detections: how many detections an image may count, rising; (1, 10, 100) by default, (20,) for keypoints.
    keypoint_sigmas: (K,) how exact each keypoint can be placed; COCO's own by default, which are for 17.
    Returns a dict of floats in the order of COCOeval.stats: AP, AP50, AP75, APs, APm, APl, then AR for each of
    max_detections (AR1, AR10, AR100), ARs, ARm, ARl; for keypoints AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl.
    All but the AR1, AR10, ... are with the last of max_detections (COCOeval.summarize insists on 100 in places).
    -1 where there is no such ground truth; 0 where nothing was found.
    Raises InputError that names what is wrong with either file.
    """
    if kind not in KINDS:
        raise ValueError(f'coco_average_precision: kind must be one of {", ".join(KINDS)}, got "{kind}"')
    max_detections = max_detections or ((20,) if kind == "keypoints" else (1, 10, 100))
    if sorted(max_detections) != list(max_detections) or max_detections[0] < 1:
        raise ValueError(f"coco_average_precision: max_detections must be 1 or more and rise, got {max_detections}")
    truth = ground_truth(truth, kind)
    found = detections(results, truth, kind)
    return _numbers(_run_cocoeval(truth, found, kind, max_detections, image_ids, keypoint_sigmas), kind)


def _run_cocoeval(truth, found, kind, max_detections, image_ids, keypoint_sigmas):
    """Match and accumulate with pycocotools, without its printing; the COCOeval object."""
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        coco = [COCO(), COCO()]
        for index, annotations in zip(coco, (truth["annotations"], found)):
            index.dataset = {**truth, "annotations": annotations}
            index.createIndex()
        scoring = COCOeval(*coco, kind)
        scoring.params.maxDets = list(max_detections)
        if image_ids is not None:
            _check_image_ids(image_ids, truth)
            scoring.params.imgIds = sorted(set(image_ids))
        if kind == "keypoints":
            _set_sigmas(scoring.params, truth, keypoint_sigmas)
        scoring.evaluate()
        scoring.accumulate()
    return scoring


def _check_image_ids(image_ids, truth):
    unknown = set(image_ids) - {image["id"] for image in truth["images"]}
    if unknown:
        raise InputError(f"the ground truth has no image with id {some(unknown)}")


def _set_sigmas(params, truth, sigmas):
    """COCO's constants of the 17 keypoints of a person, or those given."""
    points = {len(a["keypoints"]) // 3 for a in truth["annotations"]} or {len(params.kpt_oks_sigmas)}
    if sigmas is not None:
        params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
    if points != {len(params.kpt_oks_sigmas)}:
        raise InputError(
            f"the ground truth has objects of {some(points)} keypoints, "
            f"but there are sigmas for {len(params.kpt_oks_sigmas)}"
        )


def _numbers(scoring, kind):
    """The named numbers of COCOeval's tables: precision (T, R, K, A, M) and recall (T, K, A, M)."""
    precision, recall = scoring.eval["precision"], scoring.eval["recall"]
    areas = scoring.params.areaRngLbl  # ["all", "small", "medium", "large"]; keypoints have no small ones

    def mean(table, threshold=slice(None), area="all", most=-1):
        part = table[threshold][..., areas.index(area), most]
        part = part[part > -1]
        return float(part.mean()) if part.size else -1.0

    strict = {"50": [0], "75": [5]}
    numbers = {"AP": mean(precision)}
    numbers.update({f"AP{t}": mean(precision, threshold) for t, threshold in strict.items()})
    numbers.update({f"AP{area[0]}": mean(precision, area=area) for area in areas[1:]})
    if kind == "keypoints":
        numbers["AR"] = mean(recall)
        numbers.update({f"AR{t}": mean(recall, threshold) for t, threshold in strict.items()})
    else:
        for m, most in enumerate(scoring.params.maxDets):
            numbers[f"AR{most}"] = mean(recall, most=m)
    numbers.update({f"AR{area[0]}": mean(recall, area=area) for area in areas[1:]})
    return numbers


def format_table(numbers):
    """Text for the terminal: a row for each number of `evaluate`'s result, a column for boxes, masks, keypoints."""
    explained = {
        "AP": "mean over IoU 0.50 to 0.95",
        "AP50": "IoU 0.50",
        "AP75": "IoU 0.75",
        "APs": "objects under 32 x 32 pixels",
        "APm": "objects up to 96 x 96",
        "APl": "larger objects",
    }
    rows = list(dict.fromkeys(name for column in numbers.values() for name in column))
    lines = [" " * 38 + "".join(f"{TITLES.get(kind, kind):>10}" for kind in numbers)]
    for name in rows:
        text = explained.get(name) or _explain_recall(name, [kind for kind in numbers if name in numbers[kind]])
        cells = "".join(f"{_cell(column.get(name, -1)):>10}" for column in numbers.values())
        lines.append(f"{name:<7}{text:<31}{cells}")
    if "keypoints" in numbers:
        lines.append("keypoints: OKS (likeness by distance) in place of IoU; at most 20 an image")
    return "\n".join(lines)


def _explain_recall(name, kinds):
    sizes = {"s": "recall, small objects", "m": "recall, medium objects", "l": "recall, large objects", "": "recall"}
    rest = name.removeprefix("AR")
    if rest in sizes:
        return sizes[rest]
    if "keypoints" not in kinds:
        return f"recall, at most {rest} an image"
    # There AR50 is a threshold, not a number of detections; in a table with others it may be both.
    return f"recall, OKS 0.{rest}" if len(kinds) == 1 else f"recall, at most {rest}; OKS 0.{rest}"


def _cell(value):
    return "-" if value == -1 else f"{value:.3f}"
