"""train --tensorboard writes the numbers of the log as events, if a library is installed that does it."""

import json
import sys
import types

import pytest

from minimask.__main__ import main
from minimask.run import tensorboard
from tests.helpers import SHORT_RUN


@pytest.fixture
def writers(monkeypatch):
    """A stand-in for tensorboardX that records what it is given; returns its writers, one per run."""
    made = []

    class SummaryWriter:
        def __init__(self, logdir, purge_step):
            self.logdir, self.purge_step, self.scalars, self.closed = logdir, purge_step, [], False
            made.append(self)

        def add_scalar(self, tag, value, step):
            self.scalars.append((tag, value, step))

        def close(self):
            self.closed = True

    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    return made


def train(output, *more):
    return main(["train", "--quiet", "--output", str(output), *SHORT_RUN, *more])


def test_every_number_of_the_log_is_an_event(tmp_path, writers):
    assert train(tmp_path / "run", "--tensorboard") == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (writer,) = writers
    assert writer.logdir == str(tmp_path / "run" / "tensorboard") and writer.purge_step == 1 and writer.closed
    assert [entry for entry in writer.scalars if entry[0] == "loss/total"] == [
        ("loss/total", record["loss"], record["step"]) for record in log
    ]
    assert len(writer.scalars) == sum(len(record) - 1 for record in log)
    assert {tag.split("/")[0] for tag, _, _ in writer.scalars} == {"loss", "run"}
    assert ("loss/mask", log[5]["loss_mask"], 6) in writer.scalars and ("run/lr", log[0]["lr"], 1) in writer.scalars


def test_a_resumed_run_hides_what_it_takes_again(tmp_path, writers):
    output = tmp_path / "run"
    assert train(output, "--tensorboard") == 0
    (output / "checkpoint-00000006.npz").unlink()
    assert main(["train", "--quiet", "--output", str(output), "--resume"]) == 0
    assert [writer.purge_step for writer in writers] == [1, 5]
    assert {step for _, _, step in writers[1].scalars} == {5, 6}


def test_without_being_asked_nothing_is_written(tmp_path, writers):
    assert train(tmp_path / "run") == 0
    assert not writers


def test_overwrite_deletes_the_events_of_the_earlier_run(tmp_path, writers):
    output = tmp_path / "run"
    (output / "tensorboard").mkdir(parents=True)
    for name in ("events.out.tfevents.1.host", "notes.txt"):
        (output / "tensorboard" / name).write_text("")
    assert train(output, "--overwrite") == 0
    assert [path.name for path in (output / "tensorboard").iterdir()] == ["notes.txt"]


def test_names_of_validation():
    assert tensorboard._tag("validation_box_AP") == "validation/box_AP"
    assert tensorboard._tag("validation_loss") == "validation/loss"


def test_without_a_library_one_message_names_the_package(tmp_path, monkeypatch, capsys):
    for name in tensorboard.WRITERS:
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    assert train(tmp_path / "run", "--tensorboard") == 2
    error = capsys.readouterr().err
    assert error == "minimask: error: train: tensorboard needs the package tensorboardX: pip install tensorboardX\n"
    assert not (tmp_path / "run").exists()
