"""How good a model is: average precision (AP) as COCO defines it, computed by pycocotools.

A detection is correct if its IoU with a ground truth object that is not taken yet reaches a threshold. Going through
the detections in descending order of score gives precision as a function of recall. AP is its mean over 101 values of
recall, over the classes, and over the thresholds 0.50, 0.55, ..., 0.95. AP50 and AP75 use one threshold; APs, APm and
APl count only objects below 32 x 32 pixels, up to 96 x 96, and above. AR1, AR10, ... are the mean over thresholds of
the recall that so many detections per image reach.

A number is -1 if there is no ground truth of its kind (no small objects, say), and 0 if there is but none was found.
"""

import contextlib
import io
from dataclasses import dataclass

import numpy as np

from minimask.datasets.coco_results import KINDS, detections, ground_truth, some
from minimask.errors import InputError
from minimask.machine.card import enough_memory
from minimask.machine.process import tuned_process
from minimask.mask_head import restore
from minimask.run.report import add_sample, category_list, predictions_to_coco, write_results

SIGMA = 0.067  # mean of COCO's 17: how exactly a keypoint can be placed, in square roots of the object's area


# ------------------------------------------------------------------------------------------------ a model on a dataset


@dataclass
class Evaluation:
    """All that `evaluate` finds out.

    numbers: what it returns. scoring: dict from kind to COCOeval. results: dict from kind to the entries of a results
    file. image_ids: of the samples, in their order.
    """

    numbers: dict
    scoring: dict
    results: dict
    image_ids: list


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
    details=False,
):
    """Run the model on a dataset and compute its AP for boxes and, if it predicts them, for masks and keypoints.

    model: has transform(samples) -> Batch and detect(batch) -> Detections, which runs in inference mode.
    dataset: dataset[i] -> Sample, len(dataset).
    coco_ground_truth: COCO's dict or the path of its JSON file; by default dataset.coco_dict or, without one, the
        samples themselves. Only the images that are evaluated count.
    category_ids: COCO's id of label 1, of label 2, ..., or a dict from label to id; by default dataset.category_ids.
    batch_size: images per batch.
    progress: show a progress bar.
    max_detections: numbers of detections per image for AR, ascending; AP uses the last.
    results_dir: folder for bbox_results.json, segm_results.json and keypoints_results.json; None: they are not written.
    indices: which samples to evaluate; None: all.
    details: return an Evaluation, from which a report can be made, instead of the numbers alone.

    Returns {"bbox": {"AP": ..., ...}, "segm": {...}, "keypoints": {...}}, see `coco_average_precision`. Keypoints are
    compared if the dataset has keypoint_names, with its keypoint_sigmas (K,) or, without them, with COCO's for 17
    keypoints and SIGMA for any other number.
    Raises InputError if a file cannot be used or written.
    """
    if batch_size < 1:
        raise ValueError(f"evaluate: batch_size must be at least 1, got {batch_size}")
    indices = range(len(dataset)) if indices is None else list(indices)
    if len(indices) == 0:
        raise InputError("there are no images to evaluate on")

    category_ids = category_list(dataset.category_ids if category_ids is None else category_ids)
    truth = getattr(dataset, "coco_dict", None) if coco_ground_truth is None else coco_ground_truth
    known = None if truth is None else ground_truth(truth, "bbox")  # a bad file is reported before the work begins
    batches = predict_samples(model, dataset, indices, batch_size, progress)
    truth, results, image_ids = _collect(batches, truth, known, category_ids, dataset)

    scoring = {}
    for kind, entries in results.items():
        keypoints = kind == "keypoints"
        settings = {"keypoint_sigmas": _sigmas(dataset)} if keypoints else {"max_detections": max_detections}
        scoring[kind] = _scored(truth, entries, kind, image_ids=image_ids, **settings)
    if results_dir is not None:
        write_results(results_dir, results)
    numbers = {kind: _numbers(scored, kind) for kind, scored in scoring.items()}
    return Evaluation(numbers, scoring, results, image_ids) if details else numbers


def predict_samples(model, dataset, indices, batch_size=1, progress=False):
    """Run the model on samples of a dataset: yields (list of Sample, list of Prediction), batch by batch."""
    from tqdm.auto import tqdm

    bar = tqdm(total=len(indices), desc="evaluate", unit="image", disable=not progress, dynamic_ncols=True, leave=False)
    with bar, enough_memory("evaluate fewer images at once (--batch-size)"):
        for start in range(0, len(indices), batch_size):
            samples = [dataset[i] for i in indices[start : start + batch_size]]
            batch = model.transform(samples)
            yield samples, restore(model.detect(batch), batch)
            bar.update(len(samples))


def _collect(batches, truth, known, category_ids, dataset):
    """Go through the batches: (COCO's dict of the ground truth, results by kind, image ids).

    truth: the ground truth as it was given; None: made from the samples. known: the same, completed.
    """
    from_samples = truth is None
    if from_samples:
        truth = {"images": [], "annotations": [], "categories": [{"id": i} for i in category_ids]}
    results, image_ids = {}, []
    for samples, predictions in batches:
        ids = [sample.image_id for sample in samples]
        if from_samples:
            for sample in samples:
                add_sample(truth, sample, category_ids)
        else:
            _check_image_ids(ids, known)

        found = predictions_to_coco(predictions, ids, category_ids)
        if "keypoints" in found and not _compares_keypoints(predictions[0], dataset):
            del found["keypoints"]
        for kind, entries in found.items():
            results.setdefault(kind, []).extend(entries)
        image_ids += ids
    return truth, results, image_ids


def _compares_keypoints(prediction, dataset):
    """Whether the dataset has keypoints. Raises InputError if their number is not the model's."""
    names = getattr(dataset, "keypoint_names", None) or ()
    found = prediction.keypoints.shape[1]
    if names and len(names) != found:
        raise InputError(f"the model finds {found} keypoints per object, the data has {len(names)}")
    return len(names) > 0


def _sigmas(dataset):
    """The dataset's keypoint_sigmas. Without them: None, which stands for COCO's, for 17 keypoints, else SIGMA each."""
    own, count = getattr(dataset, "keypoint_sigmas", None), len(dataset.keypoint_names)
    return [SIGMA] * count if own is None and count != 17 else own


# --------------------------------------------------------------------------------------------------- average precision


def coco_average_precision(truth, results, kind, max_detections=None, image_ids=None, keypoint_sigmas=None):
    """COCO's numbers for results against ground truth, matched and accumulated by pycocotools.

    truth: COCO's dict of the ground truth, or the path of its JSON file.
    results: list of the entries of a results file, or the path of the file.
    kind: "bbox", "segm" or "keypoints".
    max_detections: numbers of detections that count per image, ascending; None: (1, 10, 100), or (20,) for keypoints.
    image_ids: the images that count; None: all.
    keypoint_sigmas: (K,) how exactly each keypoint can be placed; None: COCO's own, which are for 17 keypoints.

    Returns a dict of floats in the order of COCOeval.stats: AP, AP50, AP75, APs, APm, APl, then AR for each of
    max_detections (AR1, AR10, AR100), ARs, ARm, ARl; for keypoints AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl.
    All but AR1, AR10, ... use the last of max_detections (COCOeval.summarize insists on 100 in places). A number is -1
    if there is no such ground truth, 0 if nothing was found.
    Raises InputError that names what is wrong with either file.
    """
    return _numbers(_scored(truth, results, kind, max_detections, image_ids, keypoint_sigmas), kind)


def _scored(truth, results, kind, max_detections=None, image_ids=None, keypoint_sigmas=None):
    """The COCOeval object of `coco_average_precision`, which has the same arguments."""
    if kind not in KINDS:
        raise ValueError(f'coco_average_precision: kind must be one of {", ".join(KINDS)}, got "{kind}"')
    max_detections = max_detections or ((20,) if kind == "keypoints" else (1, 10, 100))
    if sorted(max_detections) != list(max_detections) or max_detections[0] < 1:
        raise ValueError(
            f"coco_average_precision: max_detections must be ascending integers from 1 on, got {max_detections}"
        )
    truth = ground_truth(truth, kind)
    found = detections(results, truth, kind)
    return _run_cocoeval(truth, found, kind, max_detections, image_ids, keypoint_sigmas)


def _run_cocoeval(truth, found, kind, max_detections, image_ids, keypoint_sigmas):
    """Match and accumulate with pycocotools, without its printing. Returns the COCOeval object."""
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
        chosen = {image["id"] for image in truth["images"]} if image_ids is None else set(image_ids)
        scoring.params.imgIds = np.array(sorted(chosen), dtype=object)  # as numbers, ids above 2^63 would be rounded
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
    """Give pycocotools these sigmas; None leaves COCO's own, for the 17 keypoints of a person."""
    points = {len(a["keypoints"]) // 3 for a in truth["annotations"]} or {len(params.kpt_oks_sigmas)}
    if sigmas is not None:
        params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
    if points != {len(params.kpt_oks_sigmas)}:
        raise InputError(
            f"the ground truth has objects of {some(points)} keypoints, "
            f"but there are sigmas for {len(params.kpt_oks_sigmas)}"
        )


def _numbers(scoring, kind):
    """Name the numbers of COCOeval's tables: precision (T, R, K, A, M) and recall (T, K, A, M).

    T thresholds of IoU, R values of recall, K classes, A ranges of area, M numbers of detections per image.
    """
    precision, recall = scoring.eval["precision"], scoring.eval["recall"]
    areas = scoring.params.areaRngLbl  # ["all", "small", "medium", "large"]; keypoints have no "small"

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
