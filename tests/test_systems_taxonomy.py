"""The list of the decks' systems: every name on a slide is in it, and each can be built; its figure and its table."""

from pathlib import Path

import numpy as np
import pytest

import minimask
from minimask.__main__ import make_parsers
from minimask.errors import InputError
from minimask.run.options import TrainOptions, given
from minimask.systems import SYSTEMS, pictures, taxonomy
from minimask.systems.taxonomy import SYSTEMS_OF_THE_TALK, TalkSystem

ROOT = Path(__file__).resolve().parents[1]
ON_SLIDES = {  # what the decks print, slide by slide
    "T04": {"Fast R-CNN", "Faster R-CNN"},
    "T05": {"FCN"},
    "T07": {
        *("SDS", "Hypercolumns", "CFM", "MNC", "FCIS", "Arnab & Torr"),
        *("PFN", "InstanceCut", "Deep watershed"),
    },
    "T08": {"Mask R-CNN"},
    "T09": {"R-CNN", "Fast R-CNN", "Faster R-CNN", "Mask R-CNN"},
    "T14": {"MNC", "FCIS + OHEM", "FCIS+++", "Mask R-CNN, C4", "Mask R-CNN"},
    "T15": {"Mask R-CNN, ResNeXt"},
    "T16": {"Faster R-CNN+++", "Faster R-CNN, FPN", "G-RMI", "TDM", "Faster R-CNN, RoIAlign"},
    "T17": {"Mask R-CNN"},
    "T18": {"Mask R-CNN, ResNeXt"},
    "T19": {"COCO 2017, single model"},
    "L06": {"Faster R-CNN"},
}
HERE = [system for system in SYSTEMS_OF_THE_TALK if system.build]


@pytest.mark.parametrize("slide", ON_SLIDES)
def test_every_system_on_a_slide_is_in_the_list(slide):
    assert {system.title for system in SYSTEMS_OF_THE_TALK if slide in system.slides} == ON_SLIDES[slide]


def test_the_list_is_complete_and_says_why_something_is_not_run():
    titles = [system.title for system in SYSTEMS_OF_THE_TALK]
    assert len(set(titles)) == len(titles)
    assert {system.build for system in HERE} >= set(SYSTEMS)
    for system in SYSTEMS_OF_THE_TALK:
        assert system.family in taxonomy.FAMILIES and 2014 <= system.year <= 2017
        assert (system.build is None) == bool(system.why_not)
        assert (ROOT / "minimask" / system.file).exists()


@pytest.mark.parametrize("system", HERE, ids=lambda system: system.title)
def test_each_can_be_built(system):
    model = system.model(classes=["cat", "dog", "duck"])
    assert model.class_names == ["cat", "dog", "duck"]
    inner = getattr(model, "model", model)
    assert inner.settings["preset"] == system.build
    assert (inner is model) == (not system.at_test_time)
    assert getattr(model, "refine", 0) == system.at_test_time.get("refine", 0)
    for group, values in system.groups.items():
        assert {name: getattr(getattr(inner, group), name) for name in values} == values


@pytest.mark.parametrize("system", HERE, ids=lambda system: system.title)
def test_the_command_builds_the_same(system):
    parser, _ = make_parsers()
    options = TrainOptions(**given(parser.parse_args(system.command.split()), TrainOptions))
    assert (options.system or options.preset, options.set or {}) == (system.build, system.groups)


def test_the_figure_shows_the_systems_of_the_list(monkeypatch):
    written = []
    monkeypatch.setattr(taxonomy, "_name", lambda axes, x, y, system: written.append((x, y, system.title)))
    picture = taxonomy.draw_taxonomy()
    assert picture.dtype == np.uint8 and picture.shape == (924, 1540, 3)
    assert {title for _, _, title in written} == set.union(*(ON_SLIDES[s] for s in ("T05", "T07", "T08", "T09")))
    place = {title: (x, y) for x, y, title in written}
    assert len(set(place.values())) == len(written)
    assert place["SDS"][0] == 0 and place["CFM"][0] == 1 and place["MNC"][0] == 2 and place["FCIS"][0] == 3  # years
    assert place["R-CNN"][1] < place["SDS"][1] < place["PFN"][1] < place["FCN"][1]  # families from top to bottom


def test_the_guide_has_the_table():
    assert taxonomy.table() in (ROOT / "notebooks" / "guide" / "systems.md").read_text(encoding="utf-8")


def test_a_row_that_is_not_run_says_so(monkeypatch):
    told = TalkSystem("A", "B 2017", ("T19",), taxonomy.BOXES, None, why_not="it is too large")
    monkeypatch.setattr(taxonomy, "SYSTEMS_OF_THE_TALK", (told,))
    assert taxonomy.table().splitlines()[-1] == "| A | B 2017 | T19 | boxes alone |  | not run: it is too large |"


def test_mask_rcnn_draws_masks_into_the_true_boxes():
    model, overlaps = minimask.load("toy"), []
    for sample in pictures.scenes():
        found, true = pictures.masks_in_true_boxes(model, sample), sample.masks.astype(bool)
        assert found.shape == true.shape
        overlaps += ((found & true).sum(axis=(1, 2)) / (found | true).sum(axis=(1, 2))).tolist()
    assert len(overlaps) == 19 and np.median(overlaps) > 0.8


def test_fcis_draws_masks_into_the_true_boxes_from_its_maps():
    model = minimask.build("fcis", classes=["cat", "dog", "duck"], system={"parts": 1})
    maps = model.roi_heads.maps
    maps.weight.data[...] = 0
    maps.bias.data[:8] = [0, 3, -3, -3, 0, -3, 3, 3]  # inside of background, cat, dog, duck; then outside
    for sample in pictures.scenes():
        found = pictures.masks_in_true_boxes(model, sample)
        for mask, label, (x1, y1, x2, y2) in zip(found, sample.labels, sample.boxes.astype(int)):
            assert mask[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all() == (label == 1)
            assert label == 1 or not mask.any()


def test_a_system_that_draws_no_masks_into_given_boxes_says_so():
    with pytest.raises(InputError, match="FCN draws no masks into given boxes: leave out --true-boxes"):
        pictures.page({"fcn": minimask.build("fcn")}, true_boxes=True)


def test_the_page_of_pictures(tmp_path, capsys):
    model = minimask.load("toy")
    samples = pictures.scenes()
    assert [len(sample.boxes) for sample in samples[:2]] == [5, 6]
    one, two = (pictures.page(models) for models in ({"toy": model}, {"toy": model, "again": model}))
    assert one.shape[1] == two.shape[1] and two.shape[0] > one.shape[0]

    with pytest.raises(InputError, match="unknown system toy_c6; did you mean toy_c5"):
        pictures.main(["toy_c6", "--output", str(tmp_path)])
    assert not any(tmp_path.iterdir())

    options = ["toy_faster_rcnn", "--minutes", "0.02", "--output", str(tmp_path)]
    pictures.main(options)
    run = tmp_path / "toy_faster_rcnn"
    first = sorted(run.iterdir())
    assert (tmp_path / "pictures.png").exists() and "pictures.png" in capsys.readouterr().out
    pictures.main(options)
    assert sorted(run.iterdir()) == first  # the model was loaded, not trained again
