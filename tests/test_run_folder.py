"""What a run keeps when things go wrong: two trainings in one folder, signals, pipes, damaged files, changed data."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from minimask import checkpoint
from minimask.__main__ import main
from minimask.errors import InputError
from minimask.run import archive, folder, metrics
from minimask.run.lock import FolderLock, refuse_locked
from tests.helpers import square_photos, step_of

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [
    *("--batch-size", "2", "--seed", "3", "--min-size", "64", "--threads", "1", "--preset", "toy"),
    *("--set", "backbone.channels=[8, 8, 16, 16]", "--set", "backbone.fpn_channels=16", "--set", "heads.box_width=32"),
    *("--set", "heads.mask_channels=[16]", "--set", "heads.mask_width=16"),
]
SCENES = ["--toy-size", "64"]
on_unix = pytest.mark.skipif(os.name == "nt", reason="signals and pipes as on Unix")


def command(output, *more):
    return [sys.executable, "-m", "minimask", "train", "--output", str(output), *OPTIONS, *more]


def train(output, *more):
    return main(["train", "--output", str(output), "--quiet", *OPTIONS, *more])


def start(output, *more, **settings):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    return subprocess.Popen(command(output, *SCENES, *more), cwd=ROOT, **pipes)


def wait_for_steps(output, count):
    """Wait until the log of a run has so many lines."""
    log, end = output / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and len(log.read_bytes().splitlines()) >= count):
        assert time.monotonic() < end
        time.sleep(0.02)


def records(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------ the lock


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--resume",)])
def test_a_second_training_is_refused_and_the_first_is_unharmed(tmp_path, more):
    output = tmp_path / "run"
    first = start(output, "--steps", "100000", "--save-every", "1000000")
    try:
        wait_for_steps(output, 3)
        second = subprocess.run(command(output, *SCENES, *more), cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1 and "another training is writing into this folder" in second.stderr
        assert f"process {first.pid}" in second.stderr
        before = len(records(output))
        wait_for_steps(output, before + 3)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    finally:
        first.kill()
    assert [record["step"] for record in records(output)] == list(range(1, len(records(output)) + 1))
    assert step_of(checkpoint.find(output)) == len(records(output))
    assert not (output / ".lock").exists()


@on_unix
def test_the_lock_ends_with_a_killed_process(tmp_path):
    output = tmp_path / "run"
    process = start(output, "--steps", "100000")
    wait_for_steps(output, 1)
    with pytest.raises(InputError, match="another training"):
        refuse_locked(output)
    process.kill()
    process.communicate()
    refuse_locked(output)
    FolderLock(output).close()
    assert not (output / ".lock").exists()


# --------------------------------------------------------------------------------------------------- signals and pipes


@on_unix
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGTERM"])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, name):
    output, number = tmp_path / "run", getattr(signal, name)
    heard = dict(preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # also where these tests run under nohup
    process = start(output, "--steps", "100000", "--save-every", "1000000", **heard)
    wait_for_steps(output, 3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with: python -m minimask train --output {output} --resume\n" in errors
    assert step_of(checkpoint.find(output)) == len(records(output)) >= 3


@on_unix
def test_a_hang_up_that_is_ignored_stays_ignored(tmp_path):
    output = tmp_path / "run"
    process = start(output, "--steps", "40", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for_steps(output, 1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=100)
    assert process.returncode == 0 and step_of(checkpoint.find(output)) == 40


@on_unix
def test_a_reader_that_goes_away_costs_nothing(tmp_path):
    output = tmp_path / "run"
    line = " ".join(f"'{word}'" for word in command(output, *SCENES, "--steps", "4"))
    process = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} | true"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0 and "roken pipe" not in process.stderr, process.stderr
    assert step_of(checkpoint.find(output)) == 4


@on_unix
def test_without_a_reader_of_the_progress_it_saves_and_ends(tmp_path):
    output = tmp_path / "run"
    process = start(output, "--steps", "100000", "--save-every", "1000000", stderr=subprocess.STDOUT)
    wait_for_steps(output, 3)
    process.stdout.close()
    process.wait(timeout=100)
    assert process.returncode in (0, 130)
    assert step_of(checkpoint.find(output)) == len(records(output)) >= 3


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_with_few_characters(tmp_path, encoding):
    Image.new("RGB", (40, 30)).save(tmp_path / "Größe 北京.png")
    program = [sys.executable, "-m", "minimask", "predict", str(tmp_path), "--weights", "toy"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    process = subprocess.run(
        [*program, "--output", str(tmp_path / "out")], cwd=ROOT, env=environment, capture_output=True, timeout=100
    )
    assert process.returncode == 0 and b"Traceback" not in process.stderr, process.stderr
    assert b"0 objects" in process.stdout


# ------------------------------------------------------------------------------------------------ damaged files, resume


@pytest.fixture
def run(tmp_path):
    """A run of 4 steps with the checkpoints 2 and 4."""
    output = tmp_path / "run"
    assert train(output, *SCENES, "--steps", "4", "--save-every", "2") == 0
    return output


def test_resuming_says_where_it_goes_on(run, capsys):
    options = ["train", "--output", str(run), "--resume"]
    assert main(options) == 0
    assert f"minimask: {run / 'checkpoint-00000004.npz'}: the run is finished\n" in capsys.readouterr().err
    (run / "checkpoint-00000004.npz").unlink()
    assert main(options) == 0
    assert f"minimask: {run / 'checkpoint-00000002.npz'}: going on after step 2\n" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_set_aside_with_the_reason(run, capsys):
    newest = run / "checkpoint-00000004.npz"
    newest.write_bytes(newest.read_bytes()[:500])
    assert train(run, "--resume") == 0
    errors = capsys.readouterr().err
    assert "checkpoint-00000004.npz: the checkpoint is cut off" in errors
    assert "set aside as checkpoint-00000004.npz.damaged; resuming from" in errors
    assert (run / "checkpoint-00000004.npz.damaged").stat().st_size == 500
    assert step_of(checkpoint.find(run)) == 4


def test_a_folder_with_the_name_of_a_checkpoint_is_set_aside(run, capsys):
    (run / "checkpoint-00000009.npz").mkdir()
    assert train(run, "--resume") == 0
    assert "checkpoint-00000009.npz: is a folder" in capsys.readouterr().err
    assert (run / "checkpoint-00000009.npz.damaged").is_dir()


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(13, "Permission denied")])
def test_a_checkpoint_that_cannot_be_read_now_is_never_deleted(run, capsys, monkeypatch, error):
    before = (run / "checkpoint-00000004.npz").read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(archive, "_read_archive", fail)
    assert train(run, "--resume") == 2
    message = capsys.readouterr().err
    assert "checkpoint-00000004.npz" in message and ("memory" in message or "Permission denied" in message)
    assert (run / "checkpoint-00000004.npz").read_bytes() == before
    assert [step_of(path) for path in checkpoint.checkpoints(run)] == [2, 4]


@pytest.mark.parametrize("name", ["training", "seconds", "step", "model", "class_names"])
def test_settings_that_lack_something_give_one_message(run, name, capsys):
    path = run / "checkpoint-00000004.npz"
    arrays, settings = archive.read(path)
    del settings[name]
    archive.write(path, arrays, settings)
    assert train(run, "--resume") == 2
    assert f"checkpoint-00000004.npz: its settings lack {name}" in capsys.readouterr().err


def test_settings_without_num_classes_give_one_message(run):
    path = run / "checkpoint-00000004.npz"
    arrays, settings = archive.read(path)
    del settings["model"]["num_classes"]
    archive.write(path, arrays, settings)
    with pytest.raises(InputError, match="does not say how to build the model"):
        checkpoint.load_model(run)
    assert train(run, "--resume") == 2


def test_what_can_be_read_of_a_damaged_log_is_kept(run, capsys):
    log = run / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b"\x00\xff{broken\n" + b"".join(lines[2:]))
    assert train(run, "--resume") == 0
    assert "log.jsonl: left out 1 damaged line; 3 lines could be read" in capsys.readouterr().err
    assert [record["step"] for record in records(run)] == [1, 3, 4]


# --------------------------------------------------------------------------------------------------------------- data


def test_a_truncated_photo_loses_no_step(tmp_path, capsys):
    data, output = square_photos(tmp_path / "photos", 8), tmp_path / "run"
    bad = tmp_path / "photos" / "3.png"
    bad.write_bytes(bad.read_bytes()[:3000])
    more = ["--steps", "100", "--save-every", "1000", "--workers", "0"]
    assert main(["train", "--output", str(output), *OPTIONS, *data, *more]) == 2
    errors = capsys.readouterr().err
    assert "3.png: not a readable image" in errors and "--resume" in errors
    assert step_of(checkpoint.find(output)) == len(records(output))


def test_a_bad_photo_in_the_validation_loses_no_step(tmp_path, capsys):
    data, output = square_photos(tmp_path / "photos", 4), tmp_path / "run"
    _, bad_images, _, bad_annotations = square_photos(tmp_path / "validation", 2)
    bad = tmp_path / "validation" / "2.png"
    bad.write_bytes(bad.read_bytes()[:3000])
    more = ["--val-images", bad_images, "--val-annotations", bad_annotations, "--validate-every", "3"]
    assert main(["train", "--output", str(output), *OPTIONS, *data, *more, "--steps", "9", "--save-every", "1000"]) == 2
    errors = capsys.readouterr().err
    assert "2.png: not a readable image" in errors and "--resume" in errors
    assert step_of(checkpoint.find(output)) == len(records(output)) == 3


def test_resume_names_data_that_grew(tmp_path, capsys):
    data, output = square_photos(tmp_path / "photos", 4), tmp_path / "run"
    assert train(output, *data, "--epochs", "1") == 0
    square_photos(tmp_path / "photos", 8)
    assert train(output, "--resume") == 2
    assert "this run was started on 4 images, but the data set has 8 now" in capsys.readouterr().err


def test_nan_suggests_what_to_change_and_numpy_does_not_warn(tmp_path):
    process = subprocess.run(
        command(tmp_path / "run", *SCENES, "--steps", "60", "--learning-rate", "1e18", "--optimizer", "sgd", "--quiet"),
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert process.returncode == 2
    assert "not finite" in process.stderr and "try a lower learning rate (it was 1e+18)" in process.stderr
    assert "Warning" not in process.stderr and process.stderr.count("\n") == 1


def test_the_newest_of_three(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        folder.load_newest(tmp_path)


# ------------------------------------------------------------------------------------------------- curves and metrics


def test_curves_and_metrics_stand_beside_the_log(run):
    with Image.open(run / "losses.png") as picture:
        assert picture.size[0] >= 900
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in records(run)]
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]


def test_validation_stands_in_the_row_of_its_step():
    text = metrics.table([{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}, {"step": 2, "validation_mask_AP": 0.25}])
    assert text.decode().splitlines() == ["step,loss,validation_mask_AP", "1,2.5,", "2,2.0,0.25"]


def test_a_picture_that_cannot_be_drawn_stops_nothing(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("minimask.draw.plot_losses", fail)
    assert train(tmp_path / "run", *SCENES, "--steps", "4", "--save-every", "1") == 0
    assert capsys.readouterr().err.count("losses.png could not be drawn (no fonts); training goes on") == 1
    assert step_of(checkpoint.find(tmp_path / "run")) == 4
