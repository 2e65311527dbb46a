"""The report of an evaluation: AP per class, curves, the worst mistakes, a page without a network."""

import csv
import importlib

import numpy as np
import pytest

import minimask
from minimask.datasets.coco_results import KINDS
from minimask.draw.precision import plot_precision_recall
from minimask.errors import InputError
from minimask.run.report import encode_mask
from minimask.run.report_classes import class_csv, class_table, per_class, precision_curves
from minimask.run.report_mistakes import KINDS as MISTAKES
from minimask.run.report_mistakes import MARK, SIDE, draw_mistake, find_mistakes
from minimask.structures import Sample
from tests.browser import broken_images, open_browser

NAMES = {3: "cat", 7: "dog"}


def mask(x, y, w, h):
    filled = np.zeros((100, 100), np.uint8)
    filled[y : y + h, x : x + w] = 1
    return encode_mask(filled)


def objects(*rows):
    """(category, box, mask's box, score or None) as annotations of COCO; a score makes it a detection."""
    found = []
    for number, (category, box, outline, score) in enumerate(rows, 1):
        entry = {"image_id": 1, "category_id": category, "bbox": list(box), "segmentation": mask(*outline)}
        more = {"score": score} if score else {"id": number, "area": box[2] * box[3], "iscrowd": 0}
        found.append(entry | more)
    return found


def score(truth, results):
    """Dict from kind to COCOeval, for annotations and detections that `objects` made."""
    content = {
        "images": [{"id": 1, "width": 100, "height": 100, "file_name": "a.png"}],
        "categories": [{"id": i, "name": name} for i, name in NAMES.items()],
        "annotations": truth,
    }
    scored = importlib.import_module("minimask.evaluate")._scored
    return {kind: scored(content, results, kind) for kind in list(KINDS)[:2]}


@pytest.fixture
def scoring():
    """A found cat and one of each mistake, except for a bad box."""
    boxes = [(0, 0, 20, 20), (30, 0, 20, 20), (60, 0, 20, 20), (0, 50, 20, 20)]
    results = objects(
        (3, boxes[0], boxes[0], 0.9),
        (3, (1, 0, 20, 20), (1, 0, 20, 20), 0.8),  # doubled
        (7, boxes[1], boxes[1], 0.7),  # a cat that is called dog
        (7, boxes[2], (60, 0, 20, 5), 0.95),  # a bad mask; the last dog is missed
        (3, (70, 70, 20, 20), (70, 70, 20, 20), 0.6),  # nothing there
        (3, (40, 70, 20, 20), (40, 70, 20, 20), 0.4),  # not sure enough to count
    )
    return score(objects(*((c, b, b, None) for c, b in zip((3, 3, 7, 7), boxes))), results)


def texts(scoring):
    return {kind: [m.text for m in found] for kind, found in find_mistakes(scoring, NAMES).items()}


def test_each_kind_of_mistake_is_found_once(scoring):
    assert texts(scoring) == {
        "missed": ["dog, 20 x 20 pixels"],
        "doubled": ["cat 0.80, already found with 0.90"],
        "wrong class": ["cat, taken for dog 0.70"],
        "bad box": [],
        "bad mask": ["dog, IoU of the masks 0.25"],
        "nothing there": ["cat 0.60"],
    }
    assert find_mistakes(scoring, NAMES)["missed"][0].box.tolist() == [0, 50, 20, 70]


@pytest.mark.parametrize(
    "category, x, kind, text",
    [
        (3, 10, "bad box", "cat 0.90, IoU of the boxes 0.33"),  # 10 of 30 pixels in common
        (3, 16, "bad box", "cat 0.90, IoU of the boxes 0.11"),  # 4 of 36
        (3, 17, "nothing there", "cat 0.90"),  # 3 of 37
        (7, 10, "nothing there", "dog 0.90"),  # a cat is no badly boxed dog
    ],
)
def test_a_box_that_fits_badly_is_no_box_in_the_void(category, x, kind, text):
    box = (0, 0, 20, 20)
    found = texts(score(objects((3, box, box, None)), objects((category, (x, 0, 20, 20), (x, 0, 20, 20), 0.9))))
    missed = ["cat, 20 x 20 pixels"] if kind == "nothing there" else []  # an object has one mistake, not two
    assert {name: said for name, said in found.items() if said} == {
        kind: [text],
        **({"missed": missed} if missed else {}),
    }


def test_a_bad_box_on_an_object_that_is_found_does_not_make_it_missed():
    box = (0, 0, 20, 20)
    results = objects((3, (10, 0, 20, 20), (10, 0, 20, 20), 0.9), (3, box, box, 0.8))
    found = texts(score(objects((3, box, box, None)), results))
    assert {name: said for name, said in found.items() if said} == {"bad box": ["cat 0.90, IoU of the boxes 0.33"]}


@pytest.mark.parametrize("category, kind", [(3, None), (7, "nothing there")])
def test_a_crowd_excuses_detections_of_its_class(category, kind):
    crowd, box = (0, 0, 60, 60), (20, 20, 20, 20)
    truth = objects((3, crowd, crowd, None))
    truth[0]["iscrowd"] = 1
    found = texts(score(truth, objects((category, box, box, 0.9))))
    assert [name for name, said in found.items() if said] == ([kind] if kind else [])


def picture_of(kind, scoring):
    """Both pictures of the first mistake of a kind, on a black image of 100 x 100 pixels."""
    mistake = find_mistakes(scoring, NAMES)[kind][0]
    annotations = scoring["bbox"].cocoGt.dataset["annotations"]
    x, y, w, h = np.array([a["bbox"] for a in annotations], np.float32).T
    masks = np.stack([scoring["segm"].cocoGt.annToMask(a) for a in scoring["segm"].cocoGt.dataset["annotations"]])
    sample = Sample(
        np.zeros((100, 100, 3), np.uint8), np.stack([x, y, x + w, y + h], 1), np.array([1, 1, 2, 2]), masks,
        np.zeros(4, bool), 1, "a.png",
    )  # fmt: skip
    return draw_mistake(mistake, sample, scoring, list(NAMES), list(NAMES.values()))


def test_corners_mark_a_mistake_and_only_what_touches_it_is_drawn(scoring):
    there, found = picture_of("missed", scoring)  # a dog at (0, 50), in a window of 48 pixels from (0, 36) on
    assert there.shape == found.shape == (SIDE, SIDE, 3)
    scale = SIDE / 48
    red = (there == MARK).all(axis=2)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert rows[0] == pytest.approx((50 - 36) * scale - 8, abs=4)
    assert rows[-1] == pytest.approx((70 - 36) * scale + 8, abs=4)
    assert columns[0] <= 6 and columns[-1] == pytest.approx(20 * scale + 8, abs=4)
    center = (slice(int(18 * scale), int(30 * scale)), slice(int(4 * scale), int(16 * scale)))
    assert there[center].any() and not found[center].any()  # nothing was found there
    assert there[center].max() < 100  # a translucent mask on black

    there, found = picture_of("doubled", scoring)
    assert (found[:, :, :].sum(axis=2) > 0).mean() > (there.sum(axis=2) > 0).mean() > 0.02


def test_the_table_per_class(scoring):
    rows = per_class(scoring, NAMES)
    assert [(row["class"], row["objects"]) for row in rows] == [("cat", 2), ("dog", 2)]
    assert rows[0]["box_AP50"] == pytest.approx(51 / 101)  # one of two cats, before any mistake
    assert rows[1]["box_AP50"] == pytest.approx(51 / 101) and rows[1]["mask_AP50"] == 0
    assert class_table(rows).splitlines()[1].split()[:3] == ["cat", "2", "0.505"]
    assert class_table([*rows, {**rows[0], "class": "duck", "objects": 0}]).splitlines()[3:] == [
        "no objects of 1 class: duck"
    ]
    written = list(csv.DictReader(class_csv(rows).decode().splitlines()))
    assert [row["class"] for row in written] == ["cat", "dog"] and float(written[0]["box_AP50"]) == rows[0]["box_AP50"]


def test_curves_of_precision(scoring):
    curves = precision_curves(scoring)
    assert list(curves) == ["box", "mask"]
    assert curves["box"]["IoU 0.50"] == pytest.approx((np.arange(101) < 51).astype(float))
    picture = plot_precision_recall(curves)
    assert picture.dtype == np.uint8 and picture.shape[1] > 1200
    with pytest.raises(ValueError, match="no curves"):
        plot_precision_recall({})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of the report about a few scenes."""
    folder = tmp_path_factory.mktemp("evaluation")
    minimask.evaluate(minimask.load("toy"), minimask.datasets.toy("test", count=12), folder, quiet=True)
    return folder


def test_what_is_written(report):
    assert {path.name for path in report.iterdir()} == {
        "average_precision.json", "bbox_results.json", "segm_results.json", "keypoints_results.json",
        "per_class.csv", "precision_recall.png", "report.html",
    }  # fmt: skip


def test_the_page_needs_no_network(report):
    with open_browser() as opened:
        page = opened.go((report / "report.html").as_uri())
        assert page.title() == "Evaluation on 12 images"
        assert not broken_images(page)
        headings = page.evaluate("[...document.querySelectorAll('h3')].map(h => h.innerText.split(':')[0])")
        assert headings[-1] == "None of these" and len(headings) >= 3
        none = page.evaluate("[...document.querySelectorAll('h3')].at(-1).nextElementSibling.innerText").split(", ")
        assert sorted([*(heading.lower() for heading in headings[:-1]), *none]) == sorted(MISTAKES)
        assert page.evaluate("document.querySelectorAll('table tr').length") == 4
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_place_is_checked_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")

    def fail(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr(importlib.import_module("minimask.evaluate"), "evaluate", fail)
    with pytest.raises(InputError, match="a file.results: cannot be written to"):
        minimask.evaluate(minimask.load("toy"), minimask.datasets.toy("test", count=1), tmp_path / "a file" / "results")


def test_the_table_is_printed_before_anything_is_written(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise InputError("the disk is full")

    monkeypatch.setattr("minimask.run.files.write_files", fail)
    with pytest.raises(InputError, match="the disk is full"):
        minimask.evaluate(minimask.load("toy"), minimask.datasets.toy("test", count=2), tmp_path / "results")
    assert "AP50" in capsys.readouterr().out


def test_no_objects_and_nothing_found(tmp_path):
    class Blind:
        """A model that finds nothing."""

        def __init__(self):
            self.model = minimask.load("toy")
            self.class_names, self.device = self.model.class_names, "cpu"

        def transform(self, samples):
            return self.model.transform(samples)

        def detect(self, batch):
            found = self.model.detect(batch)
            found.valid[:] = False
            return found

    numbers = minimask.evaluate(Blind(), minimask.datasets.toy("test", count=2), tmp_path, quiet=True)
    assert numbers["bbox"]["AP"] == 0
    assert "Missed: " in (tmp_path / "report.html").read_text()
