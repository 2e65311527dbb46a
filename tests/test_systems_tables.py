"""The decks' tables: verdicts by hand, rows that build, runs that can be interrupted, costs that are counted."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from minimask import convolution, functional
from minimask.__main__ import main
from minimask.errors import InputError
from minimask.mask_rcnn import build
from minimask.systems.tables import cost, measure, queue, report, rows, training
from minimask.systems.tables.figure import plot_tables
from minimask.systems.tables.trunk import attach, copy_body
from minimask.systems.tables.verdicts import judge
from minimask.tensor import Tensor

ROOT = Path(__file__).parents[1]
TINY = dataclasses.replace(training.PLANS["quick"], steps=2, train=8, test=4)


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    "differences, text, error, needed",
    [
        ((1, 2, 3), "shown", 0.5774, None),  # mean 2, spread 1, error 1 / sqrt(3)
        ((-1, -2, -3), "opposite", 0.5774, None),
        ((0, 1, 4), "not shown", 1.2019, 7),  # mean 5/3, variance 13/3: 4 * (13/3) / (5/3)^2 = 6.24, so 7 seeds
        ((2, 2), "too few seeds", 0.0, None),
        ((2,), "too few seeds", None, None),
        ((-1, 0, 1), "not shown", 0.5774, None),  # no number of seeds shows a difference of 0
    ],
)
def test_a_verdict_by_hand(differences, text, error, needed):
    worse = {seed: 10.0 * seed for seed in range(len(differences))}
    better = {seed: worse[seed] + d for seed, d in enumerate(differences)} | {99: 0.0}  # 99 has no partner
    found = judge(worse, better)
    assert found.text == text and found.seeds == len(differences)
    assert found.difference == pytest.approx(np.mean(differences))
    assert found.error == (None if error is None else pytest.approx(error, abs=1e-4))
    assert found.needed == needed


def test_the_number_of_seeds_that_are_needed_would_show_the_difference():
    found = judge({s: 0.0 for s in range(4)}, {0: 0.0, 1: 1.0, 2: 5.0, 3: 1.0})
    spread = found.error * np.sqrt(4)
    assert abs(found.difference) > 2 * spread / np.sqrt(found.needed)
    assert abs(found.difference) <= 2 * spread / np.sqrt(found.needed - 1)


def test_how_often_chance_alone_shows_a_difference():
    """The percentages that verdicts.py and the guide tell."""
    stats = pytest.importorskip("scipy.stats")
    shares = [round(200 * stats.t.sf(2, seeds - 1)) for seeds in (3, 5, 10)]
    assert shares == [18, 12, 8]
    rng = np.random.default_rng(0)
    draws = (judge(dict.fromkeys(range(3), 0.0), dict(enumerate(rng.normal(size=3)))) for _ in range(2000))
    assert np.mean([found.text in ("shown", "opposite") for found in draws]) == pytest.approx(0.18, abs=0.03)


def test_pairs_without_a_common_seed_are_refused():
    with pytest.raises(ValueError, match=r"no seed in common: \[0\] and \[1\]"):
        judge({0: 1.0}, {1: 2.0})


# ---------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_every_row_builds(row):
    assert build(row.build, classes=training.CLASSES, **row.groups).num_classes == 4
    assert row.trained_as in ("", *rows.BY_NAME) and row.rate_of in ("", *rows.BY_NAME)


def test_claims_name_rows_that_some_way_runs_together():
    for claim in rows.CLAIMS:
        ways = [set(rows.BY_NAME[name].ways) for name in (claim.worse, claim.better)]
        assert ways[0] & ways[1], claim


def test_rows_are_chosen_by_name_and_by_slide():
    found, claims = rows.chosen(["table 2b"], "quick")
    assert [row.name for row in found] == ["c4", "c4_softmax"] and [c.number for c in claims] == ["mask AP"]
    assert [row.name for row in rows.chosen(["fcn"], "quick")[0]] == ["fpn", "fcn"]
    with pytest.raises(InputError, match="unknown row c4_softmaxx; did you mean c4_softmax"):
        rows.chosen(["c4_softmaxx"], "quick")
    with pytest.raises(InputError, match="unknown row g_rmi"):  # it has a body of its own
        rows.chosen(["g_rmi"], "quick")


# ---------------------------------------------------------------------------------------------------------------- runs


def test_heads_that_read_kept_features_see_what_the_body_computes():
    row = rows.BY_NAME["c4"]
    model = build(row.build, classes=training.CLASSES, seed=0, **row.groups)
    weights = training.trunk_weights("masks")
    assert copy_body(model, weights) > 50
    name = "backbone.body.layer3.0.conv1.weight"
    assert (model.state_dict()[name] == weights[name]).all()
    stage5 = "roi_heads.res5.0.conv1.weight"
    assert (model.state_dict()[stage5] == weights["backbone.body.layer4.0.conv1.weight"]).all()

    scenes = training.scenes_of("test", TINY)
    batch = model.eval().transform([scenes[2], scenes[0]])
    with model.inference():
        seen = model.features(Tensor(batch.images))[0].data
    current = attach(model, training.trunk_of(model, row, TINY), "test")
    current.use("test", batch.image_ids)
    kept = model.features()[0].data
    assert np.abs(kept - seen).max() < 2e-3 * np.abs(seen).max()  # float16
    assert not [p for p in model.backbone.parameters() if p.requires_grad]


def test_pixels_are_classified_from_the_kept_features_of_their_own_image():
    row = rows.BY_NAME["crf"]
    model = build(row.build, classes=training.CLASSES, seed=0, **row.groups).eval()
    model.classify[1].weight.data[...] = np.random.default_rng(0).normal(size=model.classify[1].weight.shape)
    scenes = training.scenes_of("test", TINY)
    first, second = (model.transform([scenes[i]]) for i in (0, 1))
    expected = model.segment(first)
    attach(model, training.trunk_of(model, row, TINY), "test")
    model.detect(second)
    assert (model.segment(first) == expected).mean() > 0.99  # float16
    assert (model.segment(second) == expected).mean() < 0.9


def test_claims_that_a_way_cannot_show_are_not_judged():
    assert "T17" not in {claim.source for claim in rows.chosen(["fpn"], "quick")[1] if claim.better == "fpn"}
    assert "T17" in {claim.source for claim in rows.chosen(["fpn"], "full")[1] if claim.better == "fpn"}


def test_masks_in_true_boxes_of_a_perfect_model_overlap_fully(monkeypatch):
    scenes = training.scenes_of("test", TINY)
    model = build("toy", classes=training.CLASSES, seed=0).eval()
    monkeypatch.setattr(
        measure, "masks_in", lambda m, batch, boxes, labels, i: np.ones((len(boxes), 28, 28), np.float32)
    )
    expected = [
        sample.masks[g].sum() / np.prod(np.ceil(sample.boxes[g][2:]) - np.floor(sample.boxes[g][:2]))
        for sample in (scenes[i] for i in range(len(scenes)))
        for g in range(len(sample.boxes))
    ]  # a mask that fills the tight box overlaps the object by its share of the box
    assert measure.mask_iou_in_true_boxes(model, scenes) == pytest.approx(np.mean(expected), abs=1e-6)


def test_runs_are_kept_repeat_and_are_refused_under_another_plan(tmp_path):
    tasks = queue.tasks_of(tmp_path, TINY, [rows.BY_NAME["fpn"]], [0], {"fpn": 1e-3})
    record = training.run("fpn", 0, TINY, 1e-3)
    tasks[0].path.write_text(json.dumps(record))
    [again] = queue.run_all(tasks, workers=1, quiet=True)  # nothing is run
    assert again == json.loads(json.dumps(record))
    assert training.run("fpn", 0, TINY, 1e-3)["numbers"] == record["numbers"]
    assert training.run("fpn", 1, TINY, 1e-3)["numbers"] != record["numbers"]

    other = dataclasses.replace(TINY, steps=3)
    with pytest.raises(InputError, match="quick-masks-fpn-0.json: is the record of another plan or learning rate"):
        queue.run_all(queue.tasks_of(tmp_path, other, [rows.BY_NAME["fpn"]], [0], {"fpn": 1e-3}), quiet=True)
    tasks[0].path.write_text('{"half')
    with pytest.raises(InputError, match="quick-masks-fpn-0.json: is not the record of a run"):
        queue.run_all(tasks, quiet=True)


def test_the_best_rate_of_the_search_is_kept(tmp_path, monkeypatch):
    def run_all(tasks, *_):
        assert {task.plan.split for task in tasks} == {"val"} and {task.seed for task in tasks} == {queue.SEARCH_SEED}
        found = {
            "fpn": {0.75e-3: 0.2, 1.5e-3: 0.4, 3e-3: 0.3, 6e-3: 0.0},
            "c4": {0.75e-3: 0.5, 1.5e-3: 0.4, 3e-3: 0.3, 6e-3: 0.2},
        }
        return [
            {"row": t.name, "rate": t.rate, "numbers": {"mask AP": found[t.name][t.rate], "box AP": -t.rate}}
            for t in tasks
        ]

    monkeypatch.setattr(queue, "run_all", run_all)
    found = queue.search_rates(tmp_path, TINY, [rows.BY_NAME["fpn"], rows.BY_NAME["c4"]])
    assert found == {"fpn": 1.5e-3, "c4": 0.75e-3} and queue.read_rates(tmp_path) == {"quick": found}


# --------------------------------------------------------------------------------------------------------------- costs


def test_multiplications_by_hand():
    x, w = np.zeros((1, 8, 8, 4), np.float32), np.zeros((3, 3, 4, 16), np.float32)
    with cost.counting() as count:
        convolution.conv2d(Tensor(x), Tensor(w), padding=1)  # 8 x 8 x 16 sums of 3 x 3 x 4 products
        linear = np.zeros((5, 10), np.float32), np.zeros((10, 3), np.float32), np.zeros(3, np.float32)
        functional.linear(*map(Tensor, linear))
    assert count["multiplications"] == 8 * 8 * 16 * 3 * 3 * 4 + 5 * 10 * 3


def test_cropping_first_costs_more_than_ten_times_as_much():
    """Slide T09."""
    pytest.importorskip("skimage"), pytest.importorskip("sklearn")
    slow, fast = (cost.cost(name, images=2, repeats=1) for name in ("slow_rcnn", "fast_rcnn"))
    assert fast["forward passes"] == 1 and slow["forward passes"] > 100
    assert slow["multiplications"] > 10 * fast["multiplications"]


# -------------------------------------------------------------------------------------------------------------- report


def records():
    plan = dataclasses.asdict(TINY)
    return [
        {"row": name, "seed": seed, "plan": plan, "numbers": {"mask AP": ap + noise, "box AP": 2 * ap}, "rate": 1e-3}
        for name, ap in (("c4", 0.2), ("c4_softmax", 0.05), ("fpn", 0.3))
        for seed, noise in enumerate((0.0, 0.01, 0.02))
    ]


def test_the_tables_as_text_and_as_markdown():
    tables = report.titled(records(), {"Fast R-CNN": {"forward passes": 1, "multiplications": 5e8, "seconds": 0.02}})
    text = " ".join(report.as_text(tables).split())
    assert "Mask R-CNN C4 3 40.0 ± 0.0 21.0 ± 0.6 mask AP 33.1" in text
    assert "table 2b C4, masks by softmax < Mask R-CNN C4 mask AP +15.0 0.0 +250% +5.5 shown, 3 seeds" in text
    assert "Fast R-CNN 1 500 20.0" in text
    assert (
        "| table 2b | C4, masks by softmax < Mask R-CNN C4 | mask AP | +15.0 | 0.0 | +250% | +5.5 |"
        in report.as_markdown(tables)
    )


def test_the_figure_shows_every_system_and_every_claim():
    [group] = report.by_group(records()).values()
    picture = plot_tables(group, "quick", "Heads on a frozen trunk")
    assert picture.dtype == np.uint8 and picture.shape[1] == 2300 and 50 < picture.mean() < 255


def test_the_command_shows_results_and_refuses_to_mix_them(tmp_path, capsys):
    for record in records():
        (tmp_path / f"quick-masks-{record['row']}-{record['seed']}.json").write_text(json.dumps(record))
    assert main(["tables", "--show", tmp_path]) == 0
    assert "shown, 3 seeds" in capsys.readouterr().out
    assert main(["tables", "--quick", "--output", tmp_path]) == 2
    assert "holds results already; go on with --resume" in capsys.readouterr().err
    assert main(["tables", "--quick", "--rows", "c5x", "--output", tmp_path, "--resume"]) == 2
    assert "unknown row c5x; did you mean c5" in capsys.readouterr().err
    assert main(["tables", "--seeds", "0", "--output", tmp_path / "new"]) == 2
    assert "--seeds must be at least 1, got 0" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the results at hand


def test_the_shipped_results_show_what_the_guide_says():
    folder = ROOT / "data" / "tables"
    groups = report.by_group(queue.read_all(folder))
    for trunk in ("masks", "pixels"):
        verdicts = {(c.worse, c.better, c.number): v.text for c, v in report.judged(groups["quick", trunk], "quick")}
        for worse, better in (
            ("mnc", "c4"),
            ("fcis", "c4"),
            ("c4", "fpn"),
            ("c4_roi_pool", "c4_roi_warp"),
            ("c4_roi_warp", "c4"),
            ("c4_softmax", "c4"),
            ("fpn_mlp", "fpn"),
        ):
            assert verdicts[worse, better, "mask AP"] == "shown", (trunk, worse, better)
        assert verdicts["fcis", "fcis_ohem", "mask AP"] == "opposite"
        assert verdicts["mnc", "fcis", "mask AP"] == ("not shown" if trunk == "masks" else "shown")
        assert verdicts["fcis_ohem", "c4", "mask AP"] == "shown" != verdicts["mnc", "fcis_ohem", "mask AP"]
    on_masks = report.judged(groups["quick", "masks"], "quick")
    texts = {(c.worse, c.better): v.text for c, v in on_masks}
    assert texts["slow_rcnn", "fast_rcnn"] == "opposite"
    assert texts["c4_one_sample", "c4"] == texts["c4", "c4_four_samples"] == "not shown"
    gains = {c.number: round(100 * v.relative) for c, v in on_masks if (c.source, c.worse) == ("L08", "c4_roi_pool")}
    assert gains == {"mask IoU": 7, "mask AP50": 41, "box AP": 42}

    costs = json.loads((folder / "cost.json").read_text())
    assert round(costs["R-CNN"]["forward passes"]) == 182
    assert round(costs["R-CNN"]["multiplications"] / costs["Fast R-CNN"]["multiplications"]) == 16
    text = report.as_markdown(report.titled(queue.read_all(folder), costs))
    assert (folder / "tables.md").read_text(encoding="utf-8") == text
