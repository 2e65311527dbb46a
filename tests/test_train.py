"""The training loop, with a model so small that each promise is tested separately and quickly."""

import itertools
import json
import math
import os
import signal
import threading

import numpy as np
import pytest

from minimask import checkpoint, nn, optim
from minimask import functional as F
from minimask.errors import InputError
from minimask.run.finite import NotFiniteError
from minimask.run.log import Log
from minimask.run.validation import validation_loss
from minimask.structures import Batch
from minimask.tensor import Parameter, Tensor
from minimask.train import TrainSettings, fit, rate_factor
from tests.helpers import step_of


class Line(nn.Module):
    """y = w x, with two parts of a loss, random numbers drawn as a model draws them, and a buffer."""

    buffer_names = ("seen",)

    def __init__(self):
        self.settings = {"num_classes": 3}
        self.w = Parameter(np.array([[1.0, -2.0]], np.float32))
        self.seen = np.zeros(1, np.float32)

    def losses(self, batch, rng):
        self.seen += self.training
        noise = rng.standard_normal((1, 2)).astype(np.float32)
        x = Tensor(batch.images.reshape(1, -1)[:, :2] + noise)
        y = self.w * x - 3.0
        return {"loss_box": F.mean(y * y), "loss_mask": F.mean(self.w * self.w)}


class Loader:
    """Batches that depend on the step alone."""

    dataset = range(20)

    def __init__(self, bad_step=None, hook=None):
        self.bad_step, self.hook = bad_step, hook

    def iterate(self, start):
        for step in itertools.count(start):
            if self.hook:
                self.hook(step)
            images = np.random.default_rng(step).standard_normal((4, 1, 1, 3)).astype(np.float32)
            if step == self.bad_step:
                images[:] = np.nan
            names = [f"photo_{4 * step + i}.png" for i in range(4)]
            sizes = np.ones((4, 2), np.int64)
            yield Batch(images, sizes, sizes, names=names)


INFO = {"class_names": ["cat", "dog"], "category_ids": [1, 2]}


def run(
    folder,
    steps=10,
    model=None,
    loader=None,
    info=INFO,
    resume=False,
    overwrite=False,
    validate=None,
    progress=False,
    **settings,
):
    model = model or Line()
    settings = TrainSettings(**{"steps": steps, "schedule": "step", "save_every": 3, **settings})
    path = fit(model, loader or Loader(), settings, folder, info, validate, resume, overwrite, progress)
    return model, path


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_times(records):
    return [{k: v for k, v in r.items() if k not in ("time", "images_per_second")} for r in records]


def test_a_run_leaves_a_log_and_its_last_two_checkpoints(tmp_path):
    model, path = run(tmp_path)
    assert [step_of(p) for p in checkpoint.checkpoints(tmp_path)] == [9, 10]
    assert path == tmp_path / "checkpoint-00000010.npz"
    records = log_of(tmp_path)
    assert [r["step"] for r in records] == list(range(1, 11))
    for r in records:
        assert r["loss"] == pytest.approx(r["loss_box"] + r["loss_mask"], rel=1e-5)
        assert {"epoch", "time", "lr", "gradient_norm", "images_per_second"} <= r.keys()
    assert records[-1]["epoch"] == 2.0  # 10 steps of 4 images; 20 images per epoch
    arrays, settings = checkpoint.read(path)
    assert (arrays["model/w"] == model.w.data).all()
    assert settings["class_names"] == ["cat", "dog"] and settings["training"]["learning_rate"] == 1e-3
    assert settings["step"] == 10 and settings["seconds"] > 0


def test_the_loss_falls(tmp_path):
    run(tmp_path, steps=400, learning_rate=0.05, save_every=None, schedule="constant")
    losses = [r["loss"] for r in log_of(tmp_path)]
    assert np.mean(losses[-50:]) < 0.9 * np.mean(losses[:50])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(tmp_path, optimizer):
    a, b, c = (run(tmp_path / n, seed=s, optimizer=optimizer)[0] for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert a.w.data.tobytes() == b.w.data.tobytes() != c.w.data.tobytes()
    assert without_times(log_of(tmp_path / "a")) == without_times(log_of(tmp_path / "b"))


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [0, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_that_was_cut_off_ends_with_the_same_bits_and_log(tmp_path, kill_at, optimizer):
    whole, _ = run(tmp_path / "whole", optimizer=optimizer)

    def kill(step):
        if step == kill_at:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "cut", loader=Loader(hook=kill), optimizer=optimizer)
    with open(tmp_path / "cut" / "log.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # and half a line
    resumed, _ = run(tmp_path / "cut", resume=True, optimizer=optimizer)
    assert resumed.w.data.tobytes() == whole.w.data.tobytes()
    assert resumed.seen.tobytes() == whole.seen.tobytes()
    assert without_times(log_of(tmp_path / "cut")) == without_times(log_of(tmp_path / "whole"))
    first, second = (checkpoint.read(tmp_path / n / "checkpoint-00000010.npz")[0] for n in ("whole", "cut"))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_resume_of_a_finished_run_changes_nothing(tmp_path):
    _, path = run(tmp_path)
    before = path.read_bytes(), (tmp_path / "log.jsonl").read_bytes()
    run(tmp_path, resume=True)
    assert before == (path.read_bytes(), (tmp_path / "log.jsonl").read_bytes())


def test_resume_passes_over_a_damaged_checkpoint(tmp_path, capsys):
    whole, path = run(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    resumed, _ = run(tmp_path, resume=True)
    assert "checkpoint-00000010.npz: the checkpoint is cut off" in capsys.readouterr().err
    assert resumed.w.data.tobytes() == whole.w.data.tobytes()


def test_resume_with_other_settings_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError, match="started with learning_rate = 0.001; it cannot resume with 0.1"):
        run(tmp_path, resume=True, learning_rate=0.1)
    with pytest.raises(InputError, match="classes cat, dog, but the data set has duck"):
        run(tmp_path, resume=True, info={"class_names": ["duck"]})
    run(tmp_path, resume=True, save_every=7, validate_every=2)  # these options do not change the result


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path):
    _, path = run(tmp_path, steps=4)
    before = path.read_bytes()
    with pytest.raises(InputError, match="holds a run already .*--resume.*--overwrite.*--output"):
        run(tmp_path)
    assert path.read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path, steps=2, overwrite=True)
    assert [step_of(p) for p in checkpoint.checkpoints(tmp_path)] == [0, 2]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(log_of(tmp_path)) == 2


def test_nan_in_the_loss_names_step_images_and_part(tmp_path):
    with pytest.raises(NotFiniteError) as caught:
        run(tmp_path, loader=Loader(bad_step=7))
    message = str(caught.value)
    assert message.startswith("step 8: loss_box is not finite (loss_box nan, loss_mask ")
    assert "photo_28.png, photo_29.png, photo_30.png, photo_31.png" in message
    assert message.endswith(f"the last good checkpoint is {tmp_path / 'checkpoint-00000006.npz'}")
    assert [step_of(p) for p in checkpoint.checkpoints(tmp_path)] == [3, 6]
    assert [r["step"] for r in log_of(tmp_path)] == list(range(1, 8))
    checkpoint.read(tmp_path / "checkpoint-00000006.npz")


def test_a_gradient_that_is_not_finite_names_the_parameter_and_changes_nothing(tmp_path):
    class Steep(Line):
        def losses(self, batch, rng):
            return {"loss_box": F.mean(self.w * Tensor(np.array([[1e30, 1.0]], np.float32)) * 1e-30)}

        def named_parameters(self):
            self.w.grad = np.array([[np.inf, 0]], np.float32) if self.w.grad is not None else None
            return [("w", self.w)]

    model = Steep()
    before = model.w.data.copy()
    real = optim.gradient_norm
    optim.gradient_norm = lambda params: math.inf
    try:
        with pytest.raises(NotFiniteError, match="step 1: the gradient of w is not finite on the images photo_0"):
            run(tmp_path, model=model)
    finally:
        optim.gradient_norm = real
    assert (model.w.data == before).all()


def test_a_full_disk_keeps_the_earlier_checkpoints(tmp_path, monkeypatch):
    real = os.replace

    def replace(a, b):
        if "00000009" in str(b):
            raise OSError(28, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(InputError, match="checkpoint-00000009.npz: .*No space left on device.*earlier.*unchanged"):
        run(tmp_path)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-00000003.npz", "checkpoint-00000006.npz", "log.jsonl", "losses.png", "metrics.csv",
    ]  # fmt: skip
    resumed, _ = run(tmp_path, resume=True)
    whole, _ = run(tmp_path / "whole")
    assert resumed.w.data.tobytes() == whole.w.data.tobytes()


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, capsys):
    def press(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loader=Loader(hook=press))
    assert signal.getsignal(signal.SIGINT) is handler
    assert [step_of(p) for p in checkpoint.checkpoints(tmp_path)] == [3, 5]
    assert f"--output {tmp_path} --resume" in capsys.readouterr().err
    resumed, _ = run(tmp_path, resume=True)
    assert resumed.w.data.tobytes() == run(tmp_path / "whole")[0].w.data.tobytes()


def test_it_trains_in_another_thread_too(tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert step_of(checkpoint.find(tmp_path)) == 10


def test_a_run_by_minutes_ends_on_time_and_says_how_long_it_took(tmp_path):
    _, path = run(tmp_path, steps=None, minutes=0.5 / 60, warm_up=0)
    records = log_of(tmp_path)
    assert 0.5 <= checkpoint.read(path)[1]["seconds"] < 2
    assert records[0]["lr"] == 1e-3 and records[-1]["lr"] == pytest.approx(1e-5)  # the schedule followed the clock
    run(tmp_path, steps=None, minutes=0.5 / 60, warm_up=0, resume=True)  # the time is up, so it takes no more steps
    assert len(log_of(tmp_path)) == len(records)


def test_validation_goes_to_the_log_and_changes_nothing(tmp_path):
    def validate(model):
        batches = Loader()
        return {**validation_loss(model, batches, 3), "box_AP": 0.25}

    model, _ = run(tmp_path / "a", validate=validate, validate_every=4)
    assert model.training
    found = [r for r in log_of(tmp_path / "a") if "validation_loss" in r]
    assert [r["step"] for r in found] == [4, 8]
    assert found[0]["validation_box_AP"] == 0.25
    parts = found[0]["validation_loss_box"] + found[0]["validation_loss_mask"]
    assert found[0]["validation_loss"] == pytest.approx(parts, rel=1e-5)
    assert model.w.data.tobytes() == run(tmp_path / "b")[0].w.data.tobytes()


def scores_in_turn(*values, name="mask_AP"):
    """A validation function that reports these scores, one per call."""
    values = iter(values)
    return lambda model: {"box_AP": 0.9, name: next(values)}


def test_the_model_that_scored_best_in_validation_is_kept(tmp_path, capsys):
    weights = {}

    def remember(step):
        weights[step] = model.w.data.copy()

    model, validate = Line(), scores_in_turn(-1.0, 0.2, 0.7, 0.6, 0.7)
    run(tmp_path, model=model, loader=Loader(hook=remember), validate=validate, validate_every=2, progress=True)
    arrays, settings = checkpoint.read(tmp_path / "best.npz")
    assert settings["step"] == 6 and settings["best"] == ["mask_AP", 0.7] and settings["class_names"] == ["cat", "dog"]
    assert (arrays["model/w"] == weights[6]).all()  # the weights after 6 steps, with which the next one began
    assert not any(name.startswith("optimizer/") for name in arrays)
    said = capsys.readouterr().err
    assert f"best in validation: step 6, mask AP 0.700, kept as {tmp_path / 'best.npz'}" in said
    assert checkpoint.find(tmp_path).name == "checkpoint-00000010.npz"  # the folder stands for the newest


def test_without_masks_the_boxes_decide_and_without_validation_there_is_no_best(tmp_path):
    run(tmp_path / "boxes", validate=scores_in_turn(0.1, 0.5, 0.4, name="box_AP"), validate_every=3)
    assert checkpoint.read(tmp_path / "boxes" / "best.npz")[1]["best"] == ["box_AP", 0.5]
    run(tmp_path / "loss", validate=lambda model: {"loss": 1.0}, validate_every=3)
    run(tmp_path / "none")
    assert not list(tmp_path.glob("loss/best*")) and not list(tmp_path.glob("none/best*"))


def test_a_resumed_run_keeps_the_best_of_before(tmp_path):
    def kill(step):
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, loader=Loader(hook=kill), validate=scores_in_turn(0.3, 0.8, 0.1), validate_every=2)
    before = (tmp_path / "best.npz").read_bytes()
    run(tmp_path, resume=True, validate=scores_in_turn(0.4, 0.5), validate_every=2)  # steps 8 and 10
    assert (tmp_path / "best.npz").read_bytes() == before
    for path in checkpoint.checkpoints(tmp_path):
        path.unlink()
    with pytest.raises(InputError, match="holds best.npz of an earlier run, but no checkpoint to resume"):
        run(tmp_path, resume=True)
    run(tmp_path, steps=4, overwrite=True)
    assert not (tmp_path / "best.npz").exists()


def test_schedules():
    def rates(**settings):
        s = TrainSettings(steps=100, warm_up=0, **settings)
        return [rate_factor(s, step, step / 100) for step in (0, 50, 70, 95)]

    assert rates(schedule="constant") == [1, 1, 1, 1]
    assert rates(schedule="step") == pytest.approx([1, 1, 0.1, 0.01])
    assert rates(schedule="step", milestones=[0.4]) == pytest.approx([1, 0.1, 0.1, 0.1])
    assert rates(schedule="cosine")[:2] == pytest.approx([1, 0.5])
    warm = TrainSettings(steps=100, warm_up=10, schedule="constant")
    factors = [rate_factor(warm, step, 0) for step in range(12)]
    assert factors[0] < 0.01 and factors[5] == pytest.approx(0.5, abs=0.01) and factors[10:] == [1, 1]


def test_clipping_bounds_the_update(tmp_path):
    free, _ = run(tmp_path / "a", steps=1, optimizer="sgd", clip=None, warm_up=0, weight_decay=0.0)
    clipped, _ = run(tmp_path / "b", steps=1, optimizer="sgd", clip=0.5, warm_up=0, weight_decay=0.0)
    start = Line().w.data
    norm = log_of(tmp_path / "b")[0]["gradient_norm"]
    assert norm > 0.5
    assert np.linalg.norm(clipped.w.data - start) == pytest.approx(1e-3 * 0.5, rel=1e-3)
    assert np.linalg.norm(free.w.data - start) == pytest.approx(1e-3 * norm, rel=1e-3)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(), "give either the number of steps .* or the minutes"),
        (dict(steps=5, minutes=1.0), "give either"),
        (dict(steps=0), "steps must be an integer of at least 1, or none, got 0"),
        (dict(steps=1.5), "steps must be an integer"),
        (dict(minutes=-1), "minutes must be a number above 0, or none, got -1"),
        (dict(steps=5, learning_rate=math.nan), "learning_rate must be a number above 0, got nan"),
        (dict(steps=5, learning_rate="fast"), "learning_rate must be a number above 0, got 'fast'"),
        (dict(steps=5, momentum=1.0), "momentum must be a number of at least 0 and below 1, got 1.0"),
        (dict(steps=5, weight_decay=-1), "weight_decay must be a number of at least 0"),
        (dict(steps=5, clip=0), "clip must be a number above 0, or none, got 0"),
        (dict(steps=5, seed=-1), "seed must be an integer of at least 0"),
        (dict(steps=5, optimizer="adam"), "optimizer must be adamw or sgd, got 'adam'"),
        (dict(steps=5, schedule="linear"), "schedule must be step, cosine or constant, got 'linear'"),
        (dict(steps=5, milestones=(0.5, 2)), "milestones must be a list of numbers above 0 and below 1"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**settings)


def test_a_log_that_cannot_be_written(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        with pytest.raises(InputError, match="log.jsonl: the log cannot be written"):
            with Log(tmp_path / "log.jsonl") as log:
                log.write(step=1, loss=2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
