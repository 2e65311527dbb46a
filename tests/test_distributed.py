"""Several MPI workers that share each batch take the same steps as one process with the whole batch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from minimask import checkpoint, datasets
from minimask.__main__ import main
from minimask.datasets.loader import Loader
from minimask.datasets.toy import ToyScenes
from minimask.errors import InputError
from minimask.image import ImageTransform
from minimask.machine import distributed
from minimask.structures import Batch
from tests import workers
from tests.helpers import SHORT_RUN, SMALL_RUN, square_photos, step_of

ROOT = Path(__file__).resolve().parents[1]


def mpiexec(count, *command, **settings):
    """The command line that starts `count` workers, with the mpiexec of this Python environment if it has one."""
    pytest.importorskip("mpi4py", reason="several workers need mpi4py (pip install mpi4py mpich)")
    program = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if program is None:
        pytest.skip("several workers need mpiexec (pip install mpich)")
    return [program, "-n", str(count), sys.executable, *map(str, command)]


def run(count, *command, code=0):
    """Run `count` workers until they end. Returns what they wrote to stdout and to stderr."""
    process = subprocess.run(mpiexec(count, *command), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == code, process.stderr
    return process.stdout, process.stderr


# ------------------------------------------------------------------------------------------------------ the same steps


@pytest.mark.parametrize(
    ("count", "model", "optimizer", "rate"),
    [(2, "batch_norm", "sgd", 0.01), (2, "batch_norm", "adamw", 0.001), (4, "keypoints", "adamw", 0.001)],
)
def test_workers_equal_one_process_with_the_whole_batch(tmp_path, count, model, optimizer, rate):
    """Compared in float64, where ten steps do not amplify rounding.

    In float32 a single box that is just suppressed, or just not, changes the third digit of the losses; so does another
    number of threads.
    """
    run(count, "-m", "tests.workers", "steps", tmp_path / "result.npz", model, optimizer, rate)
    together = np.load(tmp_path / "result.npz")
    alone = workers.steps(model, optimizer, rate)
    assert alone["losses"][0].sum() > 1.05 * alone["losses"][-1].sum()  # it learned
    assert set(alone) == set(together) and len(alone) > 50
    for name, array in alone.items():
        assert abs(array - together[name]).max() <= 1e-8 * max(1e-3, abs(array).max()), name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("count", [2, 3])
def test_batch_norm_of_uneven_shares(tmp_path, count, dtype, tolerance):
    run(count, "-m", "tests.workers", "batch_norm", tmp_path / "result.npz", dtype)
    together = np.load(tmp_path / "result.npz")
    whole = workers.batch_norm(*workers.batch_norm_inputs(dtype, count))
    for name, array in zip(("y", "gx", "ggamma", "gbeta"), whole):
        assert abs(together[name] - array).max() <= tolerance * abs(array).max(), name
    for name, array in zip(("mean", "var"), whole[4:]):
        assert together[name].shape == (count, 6)
        assert abs(together[name] - array).max() <= tolerance * abs(array).max(), name


def test_each_worker_has_its_share_of_the_cores(tmp_path):
    run(2, "-m", "tests.workers", "threads", tmp_path / "result.npz")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert np.load(tmp_path / "result.npz")["threads"].tolist() == [max(1, cores // 2)] * 2


# ------------------------------------------------------------------------------------------------------ whole runs

# So small a learning rate that the weights hardly change: otherwise two float32 runs soon drift apart.
SLOW = [*SHORT_RUN, "--optimizer", "sgd", "--learning-rate", "1e-5", "--batch-size", "4"]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_run(folder, other):
    ours, theirs = lines_of(folder), lines_of(other)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(1, 7))
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys() and (a["epoch"], a["lr"]) == (b["epoch"], b["lr"])
        for name in (name for name in a if "loss" in name):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    ours, theirs = (checkpoint.read(checkpoint.find(path))[0] for path in (folder, other))
    assert ours.keys() == theirs.keys()
    for name in ours:  # the velocities are sums of gradients
        assert abs(ours[name].astype(float) - theirs[name]).max() <= 5e-3 * max(1e-2, abs(theirs[name]).max()), name


def test_the_command_line(tmp_path, capsys):
    assert main(["train", "--output", str(tmp_path / "alone"), *SLOW]) == 0
    alone = capsys.readouterr().out
    printed, _ = run(2, "-m", "minimask", "train", "--distributed", "--output", tmp_path / "two", *SLOW)
    assert printed == alone.replace("alone", "two")  # once, not twice
    assert_same_run(tmp_path / "two", tmp_path / "alone")

    # Another number of workers may resume: here a single one, from the checkpoint of step 4.
    (tmp_path / "two" / "checkpoint-00000006.npz").unlink()
    assert main(["train", "--output", str(tmp_path / "two"), "--resume"]) == 0
    assert_same_run(tmp_path / "two", tmp_path / "alone")
    # ... and the other way round.
    (tmp_path / "alone" / "checkpoint-00000006.npz").unlink()
    run(2, "-m", "minimask", "train", "--distributed", "--output", tmp_path / "alone", "--resume")
    assert_same_run(tmp_path / "alone", tmp_path / "two")


def test_all_begin_with_the_state_of_the_first(tmp_path):
    run(2, "-m", "tests.workers", "same_state", tmp_path / "none")


def test_the_first_worker_validates_alone(tmp_path):
    run(2, "-m", "tests.workers", "validate", tmp_path / "none", tmp_path / "run")
    lines = lines_of(tmp_path / "run")
    assert [(r["step"], "validation_loss" in r) for r in lines] == [(1, False), (2, False), (2, True), (3, False)]
    assert 1 < lines[2]["validation_loss"] < 10


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_ctrl_c_stops_all_and_the_run_goes_on(tmp_path):
    options = [*SLOW, "--steps", "100000", "--save-every", "100000"]
    command = mpiexec(2, "-m", "minimask", "train", "--distributed", "--output", tmp_path, *options)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    log = tmp_path / "log.jsonl"
    limit = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < limit, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode != 0
    assert complaints.count("stopped after step") == 1 and "failed; all workers" not in complaints
    step = step_of(checkpoint.find(tmp_path))
    assert step == lines_of(tmp_path)[-1]["step"] >= 3


# ------------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("kind", "message", "code"),
    [
        ("input", "minimask: error: photos/7.png: not a readable image", 2),
        ("program", "ZeroDivisionError: a mistake in the program", 1),
    ],
)
def test_one_worker_that_fails_ends_all_with_its_message(tmp_path, kind, message, code):
    _, complaints = run(2, "-m", "tests.workers", "fail", tmp_path / "none", kind, code=code)
    assert complaints.count(message) == 1
    assert "minimask: worker 1 of 2 failed; all workers are stopped" in complaints


@pytest.mark.parametrize("worker", [0, 1])
def test_a_photo_that_one_worker_cannot_read_loses_no_step(tmp_path, worker):
    """It is the `worker`-th photo of the third batch: both workers stop after two steps, and these are saved."""
    data = square_photos(tmp_path / "photos", 8)
    order = Loader(datasets.coco(data[1], data[3]), ImageTransform(64, 96), batch_size=2, seed=3)._order(0)
    bad = tmp_path / "photos" / f"{order[4 + worker] + 1}.png"
    bad.write_bytes(bad.read_bytes()[:3000])
    options = [
        *SMALL_RUN,
        *data,
        "--preset",
        "toy",
        "--seed",
        "3",
        "--batch-size",
        "2",
        "--steps",
        "100",
        "--save-every",
        "1000",
    ]
    output = tmp_path / "run"
    _, complaints = run(2, "-m", "minimask", "train", "--distributed", "--output", output, *options, code=2)
    assert complaints.count(f"{bad.name}: not a readable image") == 1
    assert f"minimask: worker {worker} of 2 failed" in complaints
    assert complaints.count(f"go on with: python -m minimask train --output {output} --resume") == 1
    assert step_of(checkpoint.find(output)) == len(lines_of(output)) == 2


def test_a_mistake_of_all_workers_is_reported_once(tmp_path):
    options = [*SHORT_RUN, "--batch-size", "3"]
    _, complaints = run(2, "-m", "minimask", "train", "--distributed", "--output", tmp_path, *options, code=2)
    message = "loader: 2 workers share each batch equally, so the batch size must be a multiple of 2, got 3"
    assert complaints.count(message) == 1
    assert "worker 0 of 2 failed" in complaints


def test_a_loss_that_is_not_finite_names_the_images_of_all_workers(tmp_path):
    options = [*SHORT_RUN, "--learning-rate", "1e30", "--batch-size", "4"]
    _, complaints = run(2, "-m", "minimask", "train", "--distributed", "--output", tmp_path, *options, code=2)
    message = next(line for line in complaints.splitlines() if "not finite" in line)
    names = message.split("on the images ")[1].split(";")[0].split(", ")
    assert len(set(names)) == 4 and complaints.count("on the images") == 1


def train_distributed(capsys, tmp_path, *more):
    assert main(["train", "--output", str(tmp_path), "--steps", "1", *more]) == 2
    return capsys.readouterr().err


def test_one_worker_alone(capsys, tmp_path):
    pytest.importorskip("mpi4py", reason="workers need mpi4py (pip install mpi4py mpich)")
    assert main(["train", "--distributed", "--output", str(tmp_path), *SHORT_RUN, "--steps", "1"]) == 0
    assert "this is a single worker; start several with: mpiexec -n 4" in capsys.readouterr().err
    assert distributed.size() == 1 and len(lines_of(tmp_path)) == 1


def test_without_mpi4py(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    complaint = train_distributed(capsys, tmp_path, "--distributed")
    assert "--distributed needs mpi4py and an MPI" in complaint and "pip install mpi4py mpich" in complaint


def test_without_an_mpi_library(monkeypatch, capsys, tmp_path):
    class Module(types.ModuleType):
        rc = types.SimpleNamespace()

        def __getattr__(self, name):
            raise RuntimeError("cannot load MPI library\nlibmpi.so: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "mpi4py", Module("mpi4py"))
    complaint = train_distributed(capsys, tmp_path, "--distributed")
    assert "mpi4py finds no MPI (cannot load MPI library): pip install mpi4py mpich" in complaint


@pytest.mark.parametrize(
    ("library", "variable", "message"),
    [
        ("MPICH Version: 5.0", "OMPI_COMM_WORLD_SIZE", "mpiexec belongs to Open MPI, but mpi4py uses MPICH"),
        ("Open MPI v5.0", "PMI_SIZE", "mpiexec belongs to MPICH, but mpi4py uses Open MPI"),
    ],
)
def test_mpiexec_of_another_mpi(monkeypatch, capsys, tmp_path, library, variable, message):
    mpi = types.SimpleNamespace(Get_library_version=lambda: library)
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=mpi, rc=types.SimpleNamespace()))
    monkeypatch.setenv(variable, "4")
    assert message in train_distributed(capsys, tmp_path, "--distributed")


def test_mpiexec_without_distributed_would_write_one_folder_twice(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PMI_SIZE", "2")
    assert "share one run only with --distributed" in train_distributed(capsys, tmp_path)


# ------------------------------------------------------------------------------------------------------ parts, alone


class TwoWorkers:
    """A fake mpi4py communicator: this is worker `rank` of two, and the other one contributes `theirs`."""

    def __init__(self, rank=0, theirs=None):
        self.rank, self.theirs = rank, theirs

    def Get_size(self):
        return 2

    def Get_rank(self):
        return self.rank

    def allgather(self, mine):
        return [mine, self.theirs] if self.rank == 0 else [self.theirs, mine]


@pytest.fixture
def worker(monkeypatch):
    """worker(rank, theirs) makes this process worker `rank` of two."""
    return lambda *arguments: monkeypatch.setattr(distributed, "_group", distributed.Group(TwoWorkers(*arguments)))


def test_shares_of_a_batch_are_its_rows():
    scenes, transform = ToyScenes(split="train", size=64, count=20), ImageTransform(64, 96)
    settings = dict(batch_size=6, seed=3, scale_jitter=(0.5, 1.5), turns=True)
    whole = Loader(scenes, transform, **settings)
    for step in (0, 7):
        batch = whole.batch(step)
        parts = [Loader(scenes, transform, share=(i, 3), **settings).batch(step) for i in range(3)]
        assert sum((part.names for part in parts), []) == batch.names
        assert np.concatenate([part.images for part in parts]).tobytes() == batch.images.tobytes()


def test_a_batch_grows_to_the_largest_one(worker):
    scenes, transform = ToyScenes(split="train", size=64, count=4), ImageTransform(64, 96)
    batch = transform([scenes[0], scenes[1]])
    n, g = batch.labels.shape
    worker(1, (96, 32, g + 3))  # the other's height, width and objects: one is smaller, two are larger
    grown = distributed.same_size(batch)
    k = batch.keypoints.shape[2]
    shapes = dict(
        images=(n, 96, 64, 3), masks=(n, g + 3, 96, 64), boxes=(n, g + 3, 4), labels=(n, g + 3), crowd=(n, g + 3),
        valid=(n, g + 3), keypoints=(n, g + 3, k, 3),
    )  # fmt: skip
    for name, shape in shapes.items():
        before, after = getattr(batch, name), getattr(grown, name)
        assert after.shape == shape and after.dtype == before.dtype, name
        inside = tuple(slice(0, side) for side in before.shape)
        assert (after[inside] == before).all() and abs(after).sum(dtype=float) == abs(before).sum(dtype=float), name
    assert grown.names == batch.names and (grown.sizes == batch.sizes).all()


def test_each_worker_draws_its_rows_of_the_random_numbers(worker):
    whole = np.random.default_rng(4).random((6, 5), dtype=np.float32)
    for rank in (0, 1):
        worker(rank)
        rows = distributed.own_rows(np.random.default_rng(4)).random((3, 5), dtype=np.float32)
        assert rows.dtype == np.float32 and (rows == whole[3 * rank : 3 * rank + 3]).all()


def test_a_process_alone_gets_back_what_it_gives():
    rng, batch, x = np.random.default_rng(0), Batch(np.zeros((1, 4, 4, 3)), None, None), np.ones(3)
    assert distributed.own_rows(rng) is rng and distributed.same_size(batch) is batch
    assert distributed.total(x) is x and distributed.totals(x, x)[1] is x
    assert distributed.moments_of_all(5, x, x) == (5, x, x)
    assert distributed.rank() == 0 and distributed.size() == 1 and distributed.is_first()
    assert distributed.any_worker(1) is True and distributed.from_first(x) is x and distributed.all_of([1]) == [1]


def test_loader_refuses_what_cannot_be_shared():
    with pytest.raises(InputError, match="multiple of 3, got 8"):
        Loader(ToyScenes(split="train", size=64, count=4), ImageTransform(64, 96), batch_size=8, share=(0, 3))
