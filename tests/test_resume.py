"""A run that is killed (`kill -9`) at any moment and then resumed ends with the same bits as an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minimask import checkpoint
from minimask.__main__ import main
from tests.helpers import SHORT_RUN, step_of

ROOT = Path(__file__).resolve().parents[1]
STEPS = 6

# Runs the command line in a process that kills itself just before the COUNT-th call of FUNCTION.
KILL_ITSELF = """
import importlib, itertools, os, signal, sys
module, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
module = importlib.import_module(module)
owner, name = (getattr(module, name.split(".")[0]), name.split(".")[1]) if "." in name else (module, name)
function, calls = getattr(owner, name), itertools.count(1)

def killing(*args, **kwargs):
    if next(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **kwargs)

setattr(owner, name, killing)
from minimask.__main__ import main
sys.exit(main(sys.argv[4:]))
"""

MOMENTS = {
    "before the first checkpoint is there": ("os", "replace", 1),
    "in the middle of a step": ("minimask.train", "training_step", 4),
    "while the second checkpoint is written": ("numpy.lib.format", "write_array", 100),
    "before a checkpoint gets its name": ("os", "replace", 3),
    "before old checkpoints are deleted": ("minimask.checkpoint", "remove_old", 3),
    "between the log and the checkpoint": ("minimask.run.log", "Log.flush", 3),
}


def train(folder, *more, code=0):
    assert main(["train", "--output", str(folder), *SHORT_RUN, *more]) == code


def arrays_of(folder):
    path = checkpoint.find(folder)
    assert step_of(path) == STEPS
    return checkpoint.read(path)[0]


def losses_of(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [(record["step"], record["loss"], record["gradient_norm"]) for record in map(json.loads, lines)]


def assert_same_run(folder, other):
    ours, theirs = arrays_of(folder), arrays_of(other)
    assert ours.keys() == theirs.keys() and len(ours) > 100
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different
    assert losses_of(folder) == losses_of(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(whole, tmp_path, moment):
    module, name, count = MOMENTS[moment]
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        KILL_ITSELF,
        module,
        name,
        str(count),
        "train",
        "--output",
        str(folder),
        *SHORT_RUN,
    ]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == -signal.SIGKILL, process.stderr
    left = checkpoint.checkpoints(folder)
    assert not left or step_of(left[-1]) < STEPS
    for path in left:
        checkpoint.read(path)  # a file named like a checkpoint is complete
    train(folder, "--resume")
    assert not list(folder.glob("*.partial"))
    assert_same_run(folder, whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_again_and_again_from_outside(whole, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "minimask", "train", "--output", str(folder), *SHORT_RUN, "--resume"]
    for lines in (1, 3):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        log = folder / "log.jsonl"
        while process.poll() is None and not (log.exists() and len(log.read_bytes().splitlines()) >= lines):
            pass
        process.kill()
        process.wait()
    process = subprocess.run(
        [*command[:6], "--resume"], cwd=ROOT, capture_output=True, text=True
    )  # no other options are needed
    assert process.returncode == 0, process.stderr
    assert_same_run(folder, whole)


def test_the_same_seed_gives_the_same_bits_with_any_number_of_workers(whole, tmp_path):
    train(tmp_path / "without", "--workers", "0")
    assert_same_run(tmp_path / "without", whole)  # which used the default number
    train(tmp_path / "three", "--workers", "3")
    assert_same_run(tmp_path / "three", whole)


def test_another_seed_gives_others(whole, tmp_path):
    train(tmp_path / "other", "--seed", "4")
    assert losses_of(tmp_path / "other") != losses_of(whole)


def test_resume_refuses_other_settings(whole, capsys):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert main(["train", "--output", str(whole), "--resume", "--batch-size", "4"]) == 2
    assert "this run was started with batch_size = 2, not 4" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in whole.iterdir()}


def test_environment_of_the_killed_process_is_ours():
    """The subprocesses above test this checkout, not another copy that is installed."""
    process = subprocess.run(
        [sys.executable, "-c", "import minimask; print(minimask.__file__)"], cwd=ROOT, capture_output=True, text=True
    )
    assert os.path.samefile(process.stdout.strip(), ROOT / "minimask" / "__init__.py")
