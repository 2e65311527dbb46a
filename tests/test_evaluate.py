"""Average precision against published numbers and numbers worked out by hand; files, good and bad."""

import copy
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from minimask.datasets.segmentation import rle_counts
from minimask.errors import InputError
from minimask.evaluate import coco_average_precision, evaluate
from minimask.image import ImageTransform, resize_keypoints
from minimask.run import files
from minimask.run.report import (
    category_list,
    encode_mask,
    format_table,
    predictions_to_coco,
    write_results,
    xywh,
)
from minimask.structures import Detections, Prediction, Sample

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
FIXTURES = DATA / "ap_fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason=f"no data at {FIXTURES}")
needs_nuclei = pytest.mark.skipif(not (DATA / "nuclei_dsb2018").exists(), reason="no nuclei data")


# -------------------------------------------------------------------------------- published and exact numbers


def _check_against(folder, truth, results, kind, part=None):
    expected = json.loads((FIXTURES / folder / "expected.json").read_text())[part or kind]
    found = coco_average_precision(truth, FIXTURES / folder / results, kind)
    assert len(found) == len(expected)
    for (name, value), (expected_name, expected_value) in zip(found.items(), expected.items()):
        assert abs(value - expected_value) <= 1e-9, f"{folder} {kind}: {name} {value}, {expected_name} {expected_value}"


@needs_fixtures
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_published_numbers_of_the_coco_api(kind):
    truth = FIXTURES / "coco_fake100" / "gt_instances_val2014_100.json"
    _check_against("coco_fake100", truth, f"dt_{kind}.json", kind)
    published = {"bbox": 0.505, "segm": 0.320}  # published_val2014_fake_eval_res.txt
    numbers = coco_average_precision(truth, FIXTURES / "coco_fake100" / f"dt_{kind}.json", kind)
    assert round(numbers["AP"], 3) == published[kind]
    assert list(numbers)[:6] == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert list(numbers)[6:] == ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


@needs_fixtures
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_small_exact_numbers(kind):
    _check_against("tiny3", FIXTURES / "tiny3" / "gt.json", "dt.json", kind)


@needs_fixtures
def test_keypoints_of_one_photo():
    _check_against("keypoints_1img", FIXTURES / "keypoints_1img" / "gt.json", "dt.json", "keypoints")


@needs_fixtures
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_keypoints_of_many_photos(split):
    truth = DATA / "coco_open" / f"person_keypoints_{split}.json"
    _check_against("keypoints_jittered", truth, f"dt_{split}.json", "keypoints", split)
    names = list(coco_average_precision(truth, FIXTURES / "keypoints_jittered" / f"dt_{split}.json", "keypoints"))
    assert names == ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


@needs_nuclei
def test_more_detections_than_a_hundred_count():
    """COCOeval.summarize reports no AP for other limits than 100 detections, although its tables contain it."""
    pycocotools = pytest.importorskip("pycocotools")
    assert pycocotools
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = DATA / "nuclei_dsb2018" / "instances.json"
    truth = json.loads(path.read_text())
    image_ids = [image["id"] for image in truth["images"][:10]]
    rng = np.random.default_rng(0)
    results = []
    for annotation in truth["annotations"]:
        if annotation["image_id"] in image_ids:
            for _ in range(4):
                x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 1.5, 4)
                box = [float(x), float(y), float(max(w, 1)), float(max(h, 1))]
                results.append(_result(annotation["image_id"], annotation["category_id"], rng.random(), bbox=box))
    coco = COCO(str(path))
    reference = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
    reference.params.imgIds, reference.params.maxDets = image_ids, [1, 10, 200]
    reference.evaluate()
    reference.accumulate()
    precision = reference.eval["precision"][:, :, :, 0, -1]
    numbers = coco_average_precision(path, results, "bbox", (1, 10, 200), image_ids)
    assert abs(numbers["AP"] - precision[precision > -1].mean()) < 1e-12
    assert abs(numbers["AP75"] - precision[5][precision[5] > -1].mean()) < 1e-12
    assert list(numbers)[6:9] == ["AR1", "AR10", "AR200"]
    fewer = coco_average_precision(path, results, "bbox", (1, 10, 20), image_ids)
    assert 0 < fewer["AP"] < numbers["AP"]


# -------------------------------------------------------------------------------- numbers worked by hand


def _result(image_id, category_id, score, **what):
    return {"image_id": image_id, "category_id": category_id, "score": float(score), **what}


def _truth(boxes=((10, 10, 40, 40), (60, 60, 20, 20)), category=3, size=(100, 100)):
    """One image with boxes x, y, w, h; the mask of each object fills its box."""
    annotations = []
    for i, box in enumerate(boxes):
        x, y, w, h = box
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            {
                "id": i,  # the first is 0, which pycocotools would take for "not matched"
                "image_id": 7,
                "category_id": category,
                "bbox": list(box),
                "area": w * h,
                "segmentation": [polygon],
                "iscrowd": 0,
            }
        )
    return {
        "images": [{"id": 7, "height": size[0], "width": size[1], "file_name": "seven.png"}],
        "annotations": annotations,
        "categories": [{"id": category, "name": "thing"}],
    }


def test_perfect_detections_have_ap_1_even_where_an_annotation_has_the_id_0():
    truth = _truth()
    results = [_result(7, 3, 0.9 - 0.1 * i, bbox=a["bbox"]) for i, a in enumerate(truth["annotations"])]
    numbers = coco_average_precision(truth, results, "bbox")
    assert numbers["AP"] == pytest.approx(1, abs=1e-12)
    assert numbers["AR1"] == 0.5  # one detection counts, but there are two objects
    assert numbers["APl"] == -1  # there is no large object


def test_half_found_and_one_false():
    """0.9 correct, 0.8 wrong, 0.7 correct: precision 1 up to recall 0.5 (51 of 101 points), then 2/3 (50 points)."""
    truth = _truth()
    results = [
        _result(7, 3, 0.9, bbox=[10, 10, 40, 40]),
        _result(7, 3, 0.8, bbox=[0, 80, 10, 10]),
        _result(7, 3, 0.7, bbox=[60, 60, 20, 20]),
    ]
    numbers = coco_average_precision(truth, results, "bbox")
    assert numbers["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)


def test_iou_of_0_72_counts_at_five_of_ten_thresholds():
    """A box of 40 x 40 found as 40 x 28.8: IoU 0.72 passes 0.50, 0.55, 0.60, 0.65, 0.70."""
    truth = _truth(boxes=((10, 10, 40, 40),))
    numbers = coco_average_precision(truth, [_result(7, 3, 0.9, bbox=[10, 10, 40, 28.8])], "bbox")
    assert numbers["AP"] == pytest.approx(0.5, abs=1e-12)
    assert numbers["AP50"] == pytest.approx(1, abs=1e-12)
    assert numbers["AP75"] == 0


def test_nothing_found_is_0_and_nothing_to_find_is_minus_1():
    numbers = coco_average_precision(_truth(), [], "bbox")
    assert numbers["AP"] == numbers["AP50"] == numbers["AR100"] == 0
    assert numbers["APl"] == -1
    empty = coco_average_precision(_truth(boxes=()), [], "segm")
    assert set(empty.values()) == {-1.0}


def test_image_ids_choose_what_counts():
    truth = _truth()
    truth["images"].append({"id": 8, "height": 100, "width": 100})
    found = [_result(7, 3, 0.9, bbox=a["bbox"]) for a in truth["annotations"]]
    found += [_result(8, 3, 0.99, bbox=[0, 0, 9, 9])]  # a false detection in the other image
    assert coco_average_precision(truth, found, "bbox")["AP"] < 0.9
    assert coco_average_precision(truth, found, "bbox", image_ids=[7])["AP"] == pytest.approx(1, abs=1e-12)
    with pytest.raises(InputError, match="no image with id 9"):
        coco_average_precision(truth, found, "bbox", image_ids=[7, 9])


def test_a_crowd_is_neither_hit_nor_miss():
    truth = _truth()
    truth["annotations"][1]["iscrowd"] = 1
    results = [_result(7, 3, 0.95, bbox=[62, 62, 10, 10]), _result(7, 3, 0.9, bbox=[10, 10, 40, 40])]
    assert coco_average_precision(truth, results, "bbox")["AP"] == pytest.approx(1, abs=1e-12)


def test_ground_truth_without_area_and_iscrowd():
    truth = _truth()
    for annotation in truth["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    before = copy.deepcopy(truth)
    mask = np.zeros((100, 100), bool)
    mask[10:50, 10:50] = True
    results = [_result(7, 3, 0.9, segmentation=encode_mask(mask))]
    numbers = coco_average_precision(truth, results, "segm")
    assert numbers["AP"] == pytest.approx(51 / 101, abs=1e-12)
    assert numbers["APm"] == pytest.approx(1, abs=1e-12)
    assert truth == before and list(results[0]) == ["image_id", "category_id", "score", "segmentation"]


def test_every_way_to_write_a_mask_counts_the_same():
    truth = _truth(boxes=((10, 10, 40, 40),))
    mask = np.zeros((100, 100), bool)
    mask[10:50, 10:50] = True
    columns = [10 * 100 + 10] + [40, 60] * 39 + [40, 50 * 100 - 40 + 30]
    columns[-1] = 100 * 100 - sum(columns[:-1])
    for segmentation in (
        encode_mask(mask),
        {"size": [100, 100], "counts": columns},
        [[10, 10, 50, 10, 50, 50, 10, 50]],
    ):
        numbers = coco_average_precision(truth, [_result(7, 3, 0.9, segmentation=segmentation)], "segm")
        assert numbers["AP"] == pytest.approx(1, abs=1e-12)


def test_keypoints_of_another_kind_of_object_need_sigmas():
    truth = _truth(boxes=((10, 10, 40, 40),))
    truth["annotations"][0]["keypoints"] = [20, 20, 2, 40, 30, 1, 0, 0, 0]
    truth["annotations"][0]["num_keypoints"] = 2
    results = [_result(7, 3, 0.9, keypoints=[20, 20, 1, 40, 30, 1, 5, 5, 1])]
    with pytest.raises(InputError, match="objects of 3 keypoints, but there are sigmas for 17"):
        coco_average_precision(truth, results, "keypoints")
    numbers = coco_average_precision(truth, results, "keypoints", keypoint_sigmas=[0.05] * 3)
    assert numbers["AP"] == pytest.approx(1, abs=1e-12)
    with pytest.raises(InputError, match=r"result 0 must have 9 keypoint numbers \(x, y, score\), has 3"):
        coco_average_precision(truth, [_result(7, 3, 0.9, keypoints=[1, 2, 1])], "keypoints", keypoint_sigmas=[0.1] * 3)


# -------------------------------------------------------------------------------- run-length codes


def test_run_lengths_are_those_pycocotools_wrote():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 5), (40, 33), (200, 301)):
        for share in (0, 0.02, 0.5, 1):
            mask = rng.random(shape) < share
            runs = rle_counts(encode_mask(mask)["counts"])
            assert runs.sum() == mask.size and runs.min() >= 0
            assert runs[1::2].sum() == mask.sum()
            decoded = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape[::-1]).T  # column by column
            assert (decoded == mask).all()


@pytest.mark.parametrize("counts", ["", "zzzz", "\x00", "é", 7, None, [1.5, 2], "oooooooooooooooo0"])
def test_invalid_run_length_codes_are_recognized(counts):
    assert rle_counts(counts) is None


# -------------------------------------------------------------------------------- bad files


BAD_RESULTS = [
    ({"image_id": 99}, "result 1 has image_id 99, which is not among the images of the ground truth"),
    ({"category_id": 5}, "result 1 has category_id 5, which is not among the categories of the ground truth"),
    ({"image_id": [7]}, r"result 1 has image_id \[7\], which is not among the images"),
    ({"score": None}, "result 1 must have a number as score, has None"),
    ({"score": float("nan")}, "result 1 must have a number as score, has nan"),
    ({"bbox": [1, 2, 3]}, r"result 1 must have a bbox \[x, y, width, height\], has \[1, 2, 3\]"),
    ({"bbox": [1, 2, 3, "4"]}, r"result 1 must have a bbox \[x, y, width, height\]"),
    ({"bbox": [1, 2, 3, float("inf")]}, r"result 1 must have a bbox \[x, y, width, height\]"),
    ({"bbox": None}, r"result 1 must have a bbox \[x, y, width, height\], has None"),
]


@pytest.mark.parametrize("change, message", BAD_RESULTS)
def test_bad_results_are_named(change, message, tmp_path):
    good = _result(7, 3, 0.9, bbox=[10, 10, 40, 40])
    with pytest.raises(InputError, match=message):
        coco_average_precision(_truth(), [good, {**good, **change}], "bbox")


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox"])
def test_missing_keys_of_results_are_named(key, tmp_path):
    result = _result(7, 3, 0.9, bbox=[10, 10, 40, 40])
    del result[key]
    path = tmp_path / "found.json"
    path.write_text(json.dumps([result]))
    with pytest.raises(InputError, match=f'found.json: result 0 has no "{key}"'):
        coco_average_precision(_truth(), path, "bbox")


BAD_MASKS = [
    ({"size": [100, 99], "counts": "0"}, r"has an RLE of size 100 x 99 \(height x width\), but its image is 100 x 100"),
    ({"size": [100, 100], "counts": "1"}, "counts add up to 1 pixels; 100 x 100 are 10000"),
    ({"size": [100, 100], "counts": [5, 6]}, "counts add up to 11 pixels; 100 x 100 are 10000"),
    ({"size": [100, 100], "counts": []}, "counts must be a list or a string, but are a list"),
    ({"size": [100, 100]}, "counts must be a list or a string, but are null"),
    ([[1, 2, 3, 4]], "a polygon of 2 points; it takes at least 3"),
    ([], "has no segmentation"),
    ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers; x and y must come in pairs"),
    ("abc", "must have a list of polygons or an RLE object as segmentation, has text"),
]


@pytest.mark.parametrize("segmentation, message", BAD_MASKS)
def test_bad_masks_are_named(segmentation, message):
    with pytest.raises(InputError, match=f"result 0.*{message}"):
        coco_average_precision(_truth(), [_result(7, 3, 0.9, segmentation=segmentation)], "segm")
    truth = _truth()
    truth["annotations"][1]["segmentation"] = segmentation
    with pytest.raises(InputError, match=f"annotation 1.*{message}"):
        coco_average_precision(truth, [], "segm")


def _without(truth, key):
    del truth[key]
    return truth


def _with(truth, key, **change):
    truth[key][0].update(change)
    return truth


BAD_TRUTH = [
    ([1, 2], "must hold an object, not a list"),
    (_without(_truth(), "annotations"), '"annotations" is missing'),
    (_without(_truth(), "categories"), '"categories" is missing'),
    ({**_truth(), "images": {}}, '"images" must be a list, not an object'),
    ({**_truth(), "images": [{}]}, r'images\[0\] has no "id"'),
    (_with(_truth(), "images", id=[1]), r'images\[0\]: "id" must be an integer or text, is \[1\]'),
    (_with(_truth(), "annotations", image_id=1), "annotation 0 belongs to image 1, which is not among the images"),
    (_with(_truth(), "annotations", category_id=1), "annotation 0 has category 1, which is not among the categories"),
    (
        _with(_truth(), "annotations", bbox=None, segmentation=None),
        "annotation 0 has neither a bbox nor a seg",
    ),
]


@pytest.mark.parametrize("truth, message", BAD_TRUTH)
def test_bad_ground_truth_is_named(truth, message, tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(InputError, match=f"truth.json: .*{message}"):
        coco_average_precision(path, [], "bbox")


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.json: no such file of annotations"):
        coco_average_precision(tmp_path / "nowhere.json", [], "bbox")
    (tmp_path / "half.json").write_text('[{"image_id": 1')
    with pytest.raises(InputError, match="half.json: is not json .* line 1"):
        coco_average_precision(_truth(), tmp_path / "half.json", "bbox")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.json: is not json .it is not UTF-8 text."):
        coco_average_precision(_truth(), tmp_path / "binary.json", "bbox")
    with pytest.raises(InputError, match="must be a json list of detections, not an object"):
        coco_average_precision(_truth(), {}, "bbox")


def test_programming_errors_are_value_errors():
    with pytest.raises(ValueError, match='kind must be one of bbox, segm, keypoints, got "box"'):
        coco_average_precision(_truth(), [], "box")
    with pytest.raises(ValueError, match="max_detections must be ascending integers from 1 on"):
        coco_average_precision(_truth(), [], "bbox", max_detections=(10, 1))


# -------------------------------------------------------------------------------- a model on a dataset


class Scenes:
    """A dataset of a few rectangles. Label 1 has COCO's id 3, label 2 has 17."""

    class_names = ("square", "bar")
    category_ids = {1: 3, 2: 17}

    def __init__(self, count=5):
        self.samples = [self._sample(i) for i in range(count)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]

    def _sample(self, i):
        rng = np.random.default_rng(i)
        height, width = 40 + 3 * i, 56
        count = i % 3  # the first image has no objects
        boxes = np.zeros((count, 4), np.float32)
        masks = np.zeros((count, height, width), np.uint8)
        for g in range(count):
            x, y, w, h = rng.integers(2, 8), rng.integers(2, 18), *rng.integers(12, 18, 2)
            x += 20 * g
            boxes[g] = x, y, x + w, y + h
            masks[g, y : y + h, x : x + w] = 1
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        labels = np.arange(count) % 2 + 1
        return Sample(image, boxes, labels, masks, np.zeros(count, bool), 100 + i, f"scene {i}")


class PosedScenes(Scenes):
    """The same with two keypoints: the upper left corner of each object, and its center, which is hidden."""

    keypoint_names = ("corner", "middle")
    keypoint_sigmas = None

    def _sample(self, i):
        sample = super()._sample(i)
        corner, middle = sample.boxes[:, :2], (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        points = np.stack([corner, middle], axis=1)  # (G, 2, 2)
        seen = np.broadcast_to(np.array([[2], [1]], np.float32), (*points.shape[:2], 1))
        sample.keypoints = np.concatenate([points, seen], axis=2)
        return sample


class Oracle:
    """A model that finds exactly the ground truth, or nothing if `blind`; keypoints are `off` pixels (x, y) away."""

    def __init__(self, dataset, blind=False, masks=True, off=None):
        self.truth = {sample.image_id: sample for sample in dataset}
        self.transform = ImageTransform(min_size=64, max_size=128)
        self.blind, self.masks, self.batches, self.off = blind, masks, 0, off
        self.points = None  # (G, K, 3): the keypoints that it finds in each image, in that image's pixels

    def detect(self, batch):
        self.batches += 1
        n, d, m = len(batch.images), 4, 28
        found = Detections(
            np.zeros((n, d, 4), np.float32),
            np.zeros((n, d), np.int64),
            np.linspace(1, 0.5, d, dtype=np.float32)[None].repeat(n, 0),
            np.zeros((n, d), bool),
            np.ones((n, d, m, m), np.float32) if self.masks else None,
        )
        for i in range(n):
            g = int(batch.valid[i].sum())
            found.boxes[i, :g], found.labels[i, :g] = batch.boxes[i, :g], batch.labels[i, :g]
            found.valid[i, :g] = not self.blind
            if self.off is not None:
                found.keypoints = np.full((n, d, 2, 3), -3, np.float32)  # a score may be any number
                scale = batch.sizes[i] / batch.original_sizes[i]
                found.keypoints[i, :g, :, :2] = batch.keypoints[i, :g, :, :2] + np.array(self.off) * scale[::-1]
            if self.points is not None:
                found.keypoints = np.zeros((n, d, *self.points.shape[1:]), np.float32)
                found.keypoints[i, :g] = resize_keypoints(self.points, batch.original_sizes[i], batch.sizes[i])[:g]
        return found


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_model_that_finds_everything_has_ap_1(batch_size, tmp_path):
    scenes = Scenes()
    model = Oracle(scenes)
    numbers = evaluate(model, scenes, batch_size=batch_size, progress=False, results_dir=tmp_path)
    assert set(numbers) == {"bbox", "segm"}
    assert numbers["bbox"]["AP"] == pytest.approx(1, abs=1e-12)
    assert numbers["segm"]["AP50"] == pytest.approx(1, abs=1e-12)
    boxes = json.loads((tmp_path / "bbox_results.json").read_text())
    masks = json.loads((tmp_path / "segm_results.json").read_text())
    assert len(boxes) == len(masks) == 4  # 0 + 1 + 2 + 0 + 1
    assert {result["category_id"] for result in boxes} == {3, 17}
    assert sorted(os.listdir(tmp_path)) == ["bbox_results.json", "segm_results.json"]
    first = scenes[1]
    assert boxes[0]["image_id"] == 101
    assert boxes[0]["bbox"] == pytest.approx(xywh(first.boxes[0]), abs=1e-4)
    assert masks[0]["segmentation"]["size"] == list(first.image.shape[:2])
    assert isinstance(masks[0]["segmentation"]["counts"], str)


def test_results_written_give_the_same_numbers_again(tmp_path):
    scenes = Scenes()
    numbers = evaluate(Oracle(scenes), scenes, _coco_of(scenes), progress=False, results_dir=tmp_path)
    for kind in ("bbox", "segm"):
        assert coco_average_precision(_coco_of(scenes), tmp_path / f"{kind}_results.json", kind) == numbers[kind]


def _coco_of(scenes):
    annotations = []
    for sample in scenes:
        for box, label, mask in zip(sample.boxes, sample.labels, sample.masks):
            annotations.append(
                {
                    "image_id": sample.image_id,
                    "category_id": scenes.category_ids[int(label)],
                    "bbox": xywh(box),
                    "area": int(mask.sum()),
                    "segmentation": encode_mask(mask),
                }
            )
    images = [{"id": s.image_id, "height": s.image.shape[0], "width": s.image.shape[1]} for s in scenes]
    return {"images": images, "annotations": annotations, "categories": [{"id": 3}, {"id": 17}]}


def test_a_model_that_finds_nothing_has_ap_0():
    scenes = Scenes()
    numbers = evaluate(Oracle(scenes, blind=True), scenes, progress=False)
    assert numbers["bbox"]["AP"] == numbers["segm"]["AP"] == 0


def test_a_model_without_masks_has_boxes_only(tmp_path):
    scenes = Scenes()
    numbers = evaluate(Oracle(scenes, masks=False), scenes, progress=False, results_dir=tmp_path)
    assert list(numbers) == ["bbox"]
    assert os.listdir(tmp_path) == ["bbox_results.json"]


def test_keypoints_of_a_model(tmp_path):
    scenes = PosedScenes()
    numbers = evaluate(Oracle(scenes, off=(0, 0)), scenes, progress=False, results_dir=tmp_path)
    assert list(numbers) == ["bbox", "segm", "keypoints"]
    assert numbers["keypoints"]["AP"] == pytest.approx(1) and numbers["keypoints"]["AR"] == pytest.approx(1)
    results = json.loads((tmp_path / "keypoints_results.json").read_text())
    assert len(results) == 4 and list(results[0]) == ["image_id", "category_id", "score", "keypoints"]
    (x1, y1), (x2, y2) = scenes[1].boxes[0].reshape(2, 2)
    expected = [x1, y1, -3, (x1 + x2) / 2, (y1 + y2) / 2, -3]
    assert results[0]["keypoints"] == pytest.approx(expected, abs=1e-4)


def test_how_exact_keypoints_must_be():
    # OKS = exp(-d^2 / (2 area (2 sigma)^2)): at d = 2 sigma sqrt(2 ln(1 / 0.72) area), the thresholds 0.5 to 0.7 are
    # reached and 0.75 to 0.95 are not, so AP is 0.5.
    scenes = PosedScenes(2)  # one object
    for sigmas, sigma in ((None, 0.067), ((0.03, 0.03), 0.03)):
        scenes.keypoint_sigmas = sigmas
        d = 2 * sigma * np.sqrt(2 * np.log(1 / 0.72) * scenes[1].masks.sum())
        numbers = evaluate(Oracle(scenes, off=(0, d)), scenes, progress=False)
        assert numbers["keypoints"]["AP"] == pytest.approx(0.5)


def test_seventeen_keypoints_are_taken_for_a_persons():
    scenes = PosedScenes(2)
    scenes.keypoint_names = tuple("abcdefghijklmnopq")
    scenes[1].keypoints = np.concatenate([scenes[1].keypoints[:, :1]] * 17, axis=1)
    nose, hip = scenes[1].keypoints.copy(), scenes[1].keypoints.copy()
    for points, k in ((nose, 0), (hip, 11)):  # all but one are unlabeled
        points[:, np.arange(17) != k] = 0
    oracle = Oracle(scenes)
    area = scenes[1].masks.sum()
    for points, sigma in ((nose, 0.026), (hip, 0.107)):
        scenes[1].keypoints = points
        found = points.copy()
        found[..., 1] += 2 * sigma * np.sqrt(2 * np.log(1 / 0.72) * area)  # OKS 0.72, as above
        oracle.points = found
        assert evaluate(oracle, scenes, progress=False)["keypoints"]["AP"] == pytest.approx(0.5)


def test_keypoints_are_compared_with_those_of_the_data():
    scenes = PosedScenes()
    scenes.keypoint_names = ("a", "b", "c")
    with pytest.raises(InputError, match="the model finds 2 keypoints per object, the data has 3"):
        evaluate(Oracle(scenes, off=(0, 0)), scenes, progress=False)
    scenes.keypoint_names = None  # a file without keypoints; boxes and masks can still be compared
    assert list(evaluate(Oracle(scenes, off=(0, 0)), scenes, progress=False)) == ["bbox", "segm"]


def test_objects_without_keypoints_among_others():
    truth = _truth()
    truth["categories"].append({"id": 8, "keypoints": ["a", "b"]})
    found = [{**truth["annotations"][0], "id": 77, "category_id": 8, "keypoints": [20, 20, 2, 40, 30, 1]}]
    truth["annotations"] += found
    results = [_result(7, 8, 0.9, keypoints=[20, 20, 1, 40, 30, 1]), _result(7, 3, 0.9, keypoints=[1, 1, 1, 1, 1, 1])]
    numbers = coco_average_precision(truth, results, "keypoints", keypoint_sigmas=[0.05] * 2)
    assert numbers["AP"] == pytest.approx(1)  # category 3 has no keypoints to find


def test_some_of_the_images():
    scenes = Scenes()
    truth = _coco_of(scenes)
    model = Oracle(scenes)
    numbers = evaluate(model, scenes, truth, progress=False, indices=[1, 2])
    assert model.batches == 2
    assert numbers["bbox"]["AP"] == pytest.approx(1, abs=1e-12)  # objects in other images do not count


def test_images_that_the_ground_truth_does_not_know():
    scenes = Scenes()
    truth = _coco_of(Scenes(2))
    with pytest.raises(InputError, match="the ground truth has no image with id 102"):
        evaluate(Oracle(scenes), scenes, truth, progress=False)
    with pytest.raises(InputError, match="no images to evaluate on"):
        evaluate(Oracle(scenes), scenes, truth, progress=False, indices=[])


def test_labels_without_a_category():
    prediction = Prediction(
        np.zeros((1, 4), np.float32), np.array([3]), np.array([0.5], np.float32), np.zeros((1, 9, 9), bool)
    )
    with pytest.raises(ValueError, match="label 3 has no category: there are 2"):
        predictions_to_coco([prediction], [1], {1: 3, 2: 17})
    assert category_list({2: 17, 1: 3}) == [3, 17]
    assert category_list(np.array([5, 9])) == [5, 9]


# -------------------------------------------------------------------------------- files


def _fill_disk(monkeypatch, after):
    """The disk is full after `after` files."""
    written = []
    write = files._write_through

    def limited(path, data):
        if len(written) == after:
            path.write_bytes(data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, data)

    monkeypatch.setattr(files, "_write_through", limited)


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_leaves_earlier_results(tmp_path, monkeypatch, after):
    write_results(tmp_path, {"bbox": [{"old": 1}], "segm": [{"old": 2}]})
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    _fill_disk(monkeypatch, after)
    with pytest.raises(InputError, match=r"_results.json: could not be written \(No space left on device\)"):
        write_results(tmp_path, {"bbox": [{"new": 1}], "segm": [{"new": 2}]})
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "segm_results.json").mkdir()
    with pytest.raises(InputError, match="segm_results.json: could not be written"):
        write_results(tmp_path, {"bbox": [], "segm": []})
    assert os.listdir(tmp_path) == ["segm_results.json"]


def test_the_folder_is_made(tmp_path):
    write_results(tmp_path / "a" / "b", {"bbox": []})
    assert json.loads((tmp_path / "a" / "b" / "bbox_results.json").read_text()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        write_results(tmp_path / "file", {"bbox": []})


def test_nan_never_reaches_a_json_file():
    with pytest.raises(ValueError):
        files.json_bytes({"score": float("nan")})


# -------------------------------------------------------------------------------- the table


def test_table():
    numbers = coco_average_precision(_truth(), [_result(7, 3, 0.9, bbox=[10, 10, 40, 40])], "bbox")
    lines = format_table({"bbox": numbers, "segm": {**numbers, "AP": 0.25}}).splitlines()
    assert lines[0].split() == ["boxes", "masks"]
    assert lines[1].split()[0] == "AP" and lines[1].split()[-2:] == ["0.505", "0.250"]
    assert [line.split()[0] for line in lines[1:]] == list(numbers)
    assert next(line for line in lines if line.startswith("APl")).split()[-2:] == ["-", "-"]
    assert max(map(len, lines)) <= 79


def test_table_with_keypoints():
    scenes = PosedScenes(2)
    for most, text in ((10, "recall, OKS 0.50"), (50, "recall, at most 50; OKS 0.50")):
        numbers = evaluate(Oracle(scenes, off=(0, 0)), scenes, progress=False, max_detections=(1, most))
        lines = format_table(numbers).splitlines()
        assert lines[0].split() == ["boxes", "masks", "keypoints"] and max(map(len, lines)) <= 79
        rows = {line.split()[0]: line for line in lines[1:-1]}
        assert text in rows["AR50"] and "recall, at most 1 per image" in rows["AR1"] and "OKS 0.75" in rows["AR75"]
        assert rows["AR75"].split()[-3:] == ["-", "-", "1.000"] and rows["AP50"].split()[-3:] == ["1.000"] * 3
        assert lines[-1].startswith("keypoints: OKS")


def test_nothing_is_printed(capsys):
    coco_average_precision(_truth(), [_result(7, 3, 0.9, bbox=[10, 10, 40, 40])], "bbox")
    assert capsys.readouterr() == ("", "")
