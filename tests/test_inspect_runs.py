"""inspect says what is in a file of weights and how a training run stands, in text and as facts."""

import json
import os
import re

import pytest

import minimask
from minimask import checkpoint, datasets, weights
from minimask.__main__ import main
from minimask.errors import InputError
from minimask.run.inspect_weights import count_parameters
from minimask.run.inspection import time_text
from minimask.run.lock import FolderLock, holder
from tests.helpers import SHORT_RUN, SMALL
from tests.weight_files import published, small_model, write

LOSSES = ["objectness", "rpn_box_reg", "classifier", "box_reg", "mask"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six small steps, validated after steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    model = minimask.build("toy", classes=["cat", "dog", "duck"], **SMALL)
    scenes = datasets.toy("train", 64)
    steps = dict(steps=6, save_every=2, validate_every=2, batch_size=2, threads=1, seed=3, learning_rate=0.002)
    minimask.train(model, scenes, folder, validation=datasets.toy("val", 64, count=2), quiet=True, **steps)
    return folder


def inspect(capsys, *words):
    """The output of `minimask inspect` as a dict from the name of a row to its text."""
    assert main(["inspect", *map(str, words)]) == 0
    out = capsys.readouterr().out
    return {name: text for name, text in re.findall(r"^(\w[\w ]*): +(.*)$", out, re.MULTILINE)}


# ------------------------------------------------------------------------------------------------------------- weights


def test_a_checkpoint_of_a_run(run, capsys):
    path = checkpoint.find(run)
    found = minimask.inspect(path)
    facts = found.facts
    model = weights.load(path)
    assert facts["parameters"]["all"] == sum(p.size for _, p in model.named_parameters())
    assert facts["parameters"]["all"] == sum(n for part, n in facts["parameters"].items() if part != "all")
    assert facts["parameters"]["backbone"] == sum(p.size for _, p in model.backbone.body.named_parameters())
    assert facts["parameters"]["RPN"] == sum(p.size for _, p in model.rpn.named_parameters())
    assert [facts[name] for name in ("step", "steps", "seed", "batch_size", "learning_rate")] == [6, 6, 3, 2, 0.002]
    assert facts["finds"] == ["boxes", "masks"] and facts["classes"] == ["cat", "dog", "duck"]
    assert facts["preset"] == "toy" and facts["image_size"] == [64, 96] and facts["version"] == minimask.__version__
    assert facts["changed"]["backbone.fpn_channels"] == 16 and len(facts["changed"]) == 7
    assert facts["validation"]["step"] == 6 and set(facts["validation"]["scores"]) == {"box_AP", "mask_AP"}
    assert json.loads(json.dumps(facts))["file"] == str(path)

    rows = inspect(capsys, path)
    assert rows["kind"] == f"a checkpoint of a training run (minimask {minimask.__version__})"
    assert rows["trained"].startswith("6 of 6 steps of 2 images, ")
    assert rows["data"] == "drawn scenes of 64 x 64 pixels" or "toy" in rows["data"].lower()
    assert rows["parameters"] == f"{facts['parameters']['all']:,}"
    assert str(found).splitlines()[0].startswith("file:")


def test_the_best_model_of_a_run_knows_its_step_and_time(run):
    facts = minimask.inspect(run / "best.npz").facts
    assert facts["kind"].startswith("the model of a training run that scored best")
    assert facts["step"] == facts["validation"]["step"] and facts["step"] in (2, 4, 6)
    assert 0 < facts["seconds"] <= minimask.inspect(checkpoint.find(run)).facts["seconds"]


def test_the_toy_weights(capsys):
    rows = inspect(capsys, "toy")
    assert rows["classes"] == "3: cat, dog, duck" and rows["parameters"] == "2,706,526"
    assert rows["finds"].startswith("boxes, masks, keypoints (nose, left_eye")
    assert rows["next"] == "python -m minimask predict PHOTO.jpg --weights toy"
    assert minimask.inspect("toy").facts["changed"] == {"heads.keypoints": 8}


def test_published_files(tmp_path):
    model = small_model(91)
    path = write(tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.npz", published(model))
    found = minimask.inspect(path)
    assert found.facts["kind"] == "weights in torchvision's layout" and found.facts["finds"] == ["boxes", "masks"]
    assert found.facts["parameters"]["all"] == sum(p.size for _, p in model.named_parameters())
    assert "classes:      80: person, bicycle" in str(found) and "N/A" not in str(found)
    assert found.facts["image_size"] == [800, 1333]

    path.rename(tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")  # the name of the published file
    found = minimask.inspect(tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    assert "layout, published as maskrcnn_resnet50_fpn\n" in str(found)


def test_a_backbone(tmp_path):
    body = weights.published.BODY
    state = {name.removeprefix(body): a for name, a in published(small_model()).items() if name.startswith(body)}
    found = minimask.inspect(write(tmp_path / "resnet.npz", state))
    assert found.facts["finds"] == [] and found.facts["model"] == "resnet18, a backbone"
    assert found.facts["parameters"] == {
        "backbone": count_parameters({body + name: array for name, array in state.items()})["all"],
        "all": found.facts["parameters"]["backbone"],
    }
    assert found.lines[-1].startswith("next:         python -m minimask train ")


def test_weights_of_a_preset_name_it(tmp_path):
    weights.save(tmp_path / "toy.npz", weights.load("toy"))
    found = minimask.inspect(tmp_path / "toy.npz")
    assert found.facts["parameters"]["all"] == 2706526 and found.facts["classes"] == ["class 1", "class 2", "class 3"]
    assert "note" not in found.facts and "preset toy: resnet18" in str(found)


def test_what_the_weights_do_not_show_is_a_note(tmp_path):
    model = minimask.build("toy", 4, backbone=dict(channels=(8, 8, 16, 16)))
    weights.save(tmp_path / "mine.npz", model)
    found = minimask.inspect(tmp_path / "mine.npz")
    assert found.facts["parameters"]["all"] == sum(parameter.size for parameter in model.parameters())
    assert found.facts["note"].startswith("its first layer is not the 7x7 convolution")
    assert "name a preset" in str(found)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the file is empty"),
        (b"# a note", "not a checkpoint of minimask, and no file of weights either"),
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"PK\x03\x04" + b"\0" * 40, "cut off"),
    ],
)
def test_a_foreign_file_is_one_sentence(tmp_path, capsys, content, message):
    (tmp_path / "file.npz").write_bytes(content)
    assert main(["inspect", str(tmp_path / "file.npz")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{tmp_path / 'file.npz'}: " in error and message in error


def test_a_damaged_checkpoint_is_one_sentence(run, tmp_path, capsys):
    data = bytearray(checkpoint.find(run).read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "file.npz").write_bytes(data)
    assert main(["inspect", str(tmp_path / "file.npz")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the checkpoint is damaged" in error

    arrays, settings = checkpoint.read(checkpoint.find(run))
    for wrong in ({"seconds": "a while"}, {"training": {"seeds": 3}}, {"options": {"batch_size": "four"}}):
        checkpoint.write(tmp_path / "wrong.npz", arrays, {**settings, **wrong})
        with pytest.raises(InputError, match="wrong.npz: its settings|batch_size must be"):
            minimask.inspect(tmp_path / "wrong.npz")


def test_what_is_no_weights_gets_the_right_command(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match="a.json: is no file of weights; a data set is inspected with: inspect --im"):
        minimask.inspect(tmp_path / "a.json")
    with pytest.raises(InputError, match="holds no checkpoint .*inspect --images"):
        minimask.inspect(tmp_path)
    with pytest.raises(InputError, match="nowhere: there is no such file or folder"):
        minimask.inspect(tmp_path / "nowhere")
    with pytest.raises(InputError, match="needs a file of weights or the folder of a run; for a data set, --images"):
        minimask.inspect(images=tmp_path)
    with pytest.raises(InputError, match="not both"):
        minimask.inspect("toy", images=tmp_path, annotations="a.json")


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_finished_run(run, capsys):
    rows = inspect(capsys, run)
    facts = minimask.inspect(run).facts
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in log if "loss" in record]
    assert rows["state"] == "finished after 6 steps" and facts["state"] == "finished" and facts["logged"] == 6
    assert facts["losses"]["first"] == losses[0] and facts["losses"]["last"] == losses[-1]
    assert facts["losses"]["lowest"] == min(losses) == losses[facts["losses"]["lowest_step"] - 1]
    assert list(facts["losses"]["parts"]) == LOSSES
    assert sum(facts["losses"]["parts"].values()) == pytest.approx(losses[-1], rel=1e-5)
    assert [one["step"] for one in facts["validations"]] == [2, 4, 6]
    assert facts["validations"][2]["scores"]["mask_AP"] == log[-1]["validation_mask_AP"]
    highest = max(one["scores"]["mask_AP"] for one in facts["validations"])  # rounded to 6 digits in the log
    assert facts["best"]["scores"]["mask_AP"] == pytest.approx(highest, rel=1e-5)
    assert rows["next"] == f"python -m minimask evaluate --weights {run}"
    assert rows["loss"] == f"{losses[0]:.3f} at first, {losses[-1]:.3f} at the end (single steps)"
    assert facts["evaluation"] is None


def test_the_average_of_several_steps(run, tmp_path):
    for path in run.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = [8, 6, 4, 2, 1, 0, 2, 4, 3, 3]  # windows of two steps
    lines = [json.dumps({"step": i, "loss": value}) for i, value in enumerate(values, 1)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    losses = minimask.inspect(tmp_path).facts["losses"]
    assert losses == {"window": 2, "first": 7.0, "last": 3.0, "lowest": 0.5, "lowest_step": 6, "parts": {}}


def test_an_interrupted_run_says_how_to_go_on(tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["train", "--quiet", "--output", str(output), *SHORT_RUN]) == 0
    checkpoint.find(output).unlink()  # the last two were those after steps 4 and 6
    rows = inspect(capsys, output)
    assert rows["state"] == "interrupted after step 4 of 6; 2 later steps are in the log and will be taken again"
    assert rows["next"] == f"python -m minimask train --output {output} --resume"
    assert rows["validation"].startswith("none") and minimask.inspect(output).facts["best"] is None
    assert rows["data"] == "drawn scenes of 64 x 64 pixels"
    assert main([*rows["next"].split()[3:], "--quiet"]) == 0
    assert inspect(capsys, output)["state"] == "finished after 6 steps"

    (output / "evaluation").mkdir()
    numbers = {"bbox": {"AP": 0.25}, "segm": {"AP": 0.125}}
    (output / "evaluation" / "average_precision.json").write_text(json.dumps(numbers))
    assert inspect(capsys, output)["evaluation"].startswith("box AP 0.250, mask AP 0.125; see ")
    numbers = {"bbox": {"AP": None}, "segm": {"AP": 0.125}, "pixels": {"mean IoU": 0.5}}
    (output / "evaluation" / "average_precision.json").write_text(json.dumps(numbers))
    assert inspect(capsys, output)["evaluation"].startswith("mask AP 0.125, mean IoU 0.500; see ")


def test_a_run_on_data_passed_in_python_is_resumed_in_python(run, tmp_path):
    for path in run.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    checkpoint.find(tmp_path).unlink()
    assert minimask.inspect(tmp_path).facts["next"].startswith("minimask.train(model, dataset, output=")


def test_a_running_run_is_left_alone(run):
    before = sorted(path.name for path in run.iterdir())
    assert holder(run) is None
    lock = FolderLock(run)
    try:
        found = minimask.inspect(run)
        assert found.facts["state"] == "running" and f"running (process {os.getpid()} on " in str(found)
        with pytest.raises(InputError, match="another training"):
            FolderLock(run)
    finally:
        lock.close()
    assert minimask.inspect(run).facts["state"] == "finished"
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_damaged_newest_checkpoint_is_told(run, tmp_path, capsys):
    for path in run.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    newest = checkpoint.find(tmp_path)
    newest.write_bytes(newest.read_bytes()[:1000])
    rows = inspect(capsys, tmp_path)
    assert (
        rows["state"].startswith("interrupted after step 4 of 6")
        and f"{newest}: the checkpoint is cut off" in rows["damaged"]
    )


def test_converted_weights_in_a_folder_are_weights(tmp_path, capsys):
    assert main(["convert", "toy", "--output", str(tmp_path / "toy")]) == 0
    capsys.readouterr()
    assert inspect(capsys, tmp_path / "toy")["kind"].startswith("a checkpoint of minimask, without an optimizer")


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (750, "12 min 30 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert time_text(seconds) == text


@pytest.mark.parametrize("system", ["fcn", "fcis"])
def test_a_system_is_named_with_what_it_finds(tmp_path, system):
    run = minimask.train(system=system, steps=1, batch_size=1, toy_size=64, output=tmp_path / "run", quiet=True)
    report = minimask.inspect(run.checkpoint)
    assert report.facts["model"] == f"system {system}: resnet18 with batch norm"
    assert report.facts["finds"] == ["boxes", "masks"]
    counts = report.facts["parameters"]
    assert sum(counts.values()) == 2 * counts["all"] and counts["other parts"] > 0
    assert f"predict PHOTO.jpg --weights {run.checkpoint}" in str(report)
