"""The training loop: steps, learning rate, log, checkpoints; a run that was killed goes on with the same bits.

What a step does is a function of (weights, optimizer state, seed, step): the batch is `loader.batch(step)` and the
random numbers are those of `sampling_generator(seed, step)`. So a run that is taken up at a checkpoint makes the steps
that the run without a pause would have made. A folder of a run holds

    checkpoint-00000400.npz, checkpoint-00000500.npz     the last two checkpoints, see checkpoint.py
    log.jsonl                                            one json object a line: {"step": 1, "loss": 3.2, ...}
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minimask import checkpoint, device, optim, tensor
from minimask.errors import InputError
from minimask.machine import distributed
from minimask.mask_rcnn import sampling_generator

LOG = "log.jsonl"


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Either `steps` or `minutes` must be given; InputError where a number makes no sense.

    steps: how many steps; such a run repeats bit for bit.
    minutes: how long to train; the schedule follows the clock, so no two runs are equal.
    warm_up: steps over which the learning rate grows from nearly 0.
    schedule: "step" (divided by 10 at each of `milestones`, parts of the whole), "cosine", or "constant".
    clip: the gradient, as one vector, is scaled to at most this length (None: it is not).
    save_every: steps between checkpoints (None: one a minute).  validate_every: steps between validations (None: none).
    """

    steps: int | None = None
    minutes: float | None = None
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9  # sgd only
    weight_decay: float = 1e-4
    warm_up: int = 20
    schedule: str = "step"
    milestones: tuple = (0.67, 0.89)
    clip: float | None = 5.0
    seed: int = 0
    save_every: int | None = None
    validate_every: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if (self.steps is None) == (self.minutes is None):
            raise InputError("training: give the number of steps (or epochs) or the minutes, one of them")
        for name in ("steps", "save_every", "validate_every"):
            _check(name, getattr(self, name), lambda x: x is None or (x == int(x) and x >= 1), "a whole number >= 1")
        _check("minutes", self.minutes, lambda x: x is None or 0 < x < math.inf, "a number > 0")
        _check("learning_rate", self.learning_rate, lambda x: 0 < x < math.inf, "a number > 0")
        _check("momentum", self.momentum, lambda x: 0 <= x < 1, "at least 0 and below 1")
        _check("weight_decay", self.weight_decay, lambda x: 0 <= x < math.inf, "a number >= 0")
        _check("warm_up", self.warm_up, lambda x: x == int(x) and x >= 0, "a whole number >= 0")
        _check("milestones", self.milestones, lambda m: all(0 < x < 1 for x in m), "parts of the run between 0 and 1")
        _check("clip", self.clip, lambda x: x is None or 0 < x < math.inf, "a number > 0")
        _check("seed", self.seed, lambda x: x == int(x) and x >= 0, "a whole number >= 0")
        _check("optimizer", self.optimizer, ("adamw", "sgd").__contains__, "adamw or sgd")
        _check("schedule", self.schedule, ("step", "cosine", "constant").__contains__, "step, cosine or constant")


def _check(name, value, allowed, description):
    try:
        good = allowed(value)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise InputError(f"training: {name} must be {description}, got {value}")


class NotFiniteError(InputError):
    """The loss or a gradient became NaN or infinite."""


@dataclass
class Finished:
    """What is to be told of a step (counted from 0): its images, its losses by name, the length of its gradient."""

    step: int
    images: int
    learning_rate: float
    losses: dict
    norm: float


def train(
    model, loader, settings, folder, info=None, validate=None, resume=False, overwrite=False, progress=True,
    cuda_graph=False,
):  # fmt: skip
    """Train `model` on batches of `loader` and return the path of the last checkpoint in `folder`.

    model: MaskRCNN.  loader: datasets.loader.Loader.  settings: TrainSettings.
    info: dict for json kept in the checkpoints: "class_names" and "category_ids" (what prediction and evaluation need)
    and whatever the caller needs to build model and loader again.
    validate: called as validate(model) every `settings.validate_every` steps; returns name -> number for the log.
    resume: go on from the newest checkpoint in `folder` (from step 0 if there is none).
    overwrite: delete an earlier run in `folder` (only its checkpoints and its log).
    progress: show a bar with the parts of the loss, images a second and the remaining time.
    cuda_graph: on a GPU (where the model is, see `Module.to`), launch each step as one CUDA graph.

    Raises InputError if `folder` holds a run and neither `resume` nor `overwrite` is given, if the checkpoint does not
    fit, if the disk or a card's memory is full; NotFiniteError naming step, images and part of the loss. The
    checkpoints before stay. Ctrl-C finishes the step, saves a checkpoint and raises KeyboardInterrupt.
    Within distributed.session each worker calls this with its own share of the batches; the first one alone reads and
    writes `folder`, validates and talks.
    """
    folder = Path(folder)
    optimizer = make_optimizer(model, settings)
    info = {"class_names": [], "category_ids": [], **(info or {}), "training": dataclasses.asdict(settings)}
    first = distributed.is_first()
    start, seconds = _prepare(folder, model, optimizer, settings, info, resume, overwrite) if first else (0, 0.0)
    start, seconds = distributed.from_first((start, seconds))
    distributed.same_state(model, optimizer)

    clock = Clock(settings, seconds)
    log = Log(folder / LOG, start) if first else NoLog()
    enough_memory = device.enough_memory("use fewer images a step (--batch-size) or smaller ones (--max-size)")
    steps = _steps(model, optimizer, settings, cuda_graph)
    with log, Bar(settings, clock, start, progress and first) as bar, StopRequest() as stop, enough_memory, steps:

        def save(step):
            info["seconds"] = round(clock.seconds(), 3)
            return checkpoint.save(folder, step, model, optimizer, info) if first else None

        path = checkpoint.checkpoints(folder)[-1] if first and start > 0 else save(start)
        saved, saved_at = start, time.monotonic()
        step = start

        def tell(run, *arguments):
            """Log the steps that `run` finishes: of a GPU the last but one, of the CPU the last."""
            try:
                finished = run(*arguments)
            except NotFiniteError as error:
                raise NotFiniteError(f"{error}; the last good checkpoint is {path}") from None
            for done in finished:
                images = done.images * distributed.size()
                bar.update(done.step + 1, done.losses, images)
                log.write(
                    step=done.step + 1, epoch=round((done.step + 1) * images / len(loader.dataset), 4),
                    time=clock.seconds(), loss=sum(done.losses.values()), **done.losses, lr=done.learning_rate,
                    gradient_norm=done.norm, images_per_second=bar.images_per_second,
                )  # fmt: skip

        batches = None
        try:
            batches = steps.batches(loader.iterate(start))
            while not (distributed.any_worker(clock.done(step)) or distributed.any_worker(stop.requested)):
                progress = distributed.from_first(clock.progress(step))
                optimizer.lr = settings.learning_rate * rate_factor(settings, step, progress)
                tell(steps.run, next(batches), step)
                step += 1
                if validate and settings.validate_every and step % settings.validate_every == 0:
                    tell(steps.rest)
                    if first:
                        with distributed.alone():
                            log.write(step=step, **{f"validation_{k}": v for k, v in validate(model).items()})
                        model.train()
                if distributed.from_first(_due(settings, step, saved_at)):
                    tell(steps.rest)
                    log.flush()
                    path = save(step)
                    saved, saved_at = step, time.monotonic()
            tell(steps.rest)
        finally:
            if batches is not None:
                batches.close()
        if step != saved or settings.minutes:  # the time that is up belongs to the last checkpoint
            log.flush()
            path = save(step)
    if distributed.any_worker(stop.requested) and not distributed.any_worker(clock.done(step)):
        if first:
            _say(f"stopped after step {step} and saved {path}")
            _say(f"go on with: python -m minimask train --output {folder} --resume")
        raise distributed.Stopped
    return path


def _due(settings, step, saved_at):
    """Whether it is time for a checkpoint. The results do not depend on when they are made."""
    if settings.save_every:
        return step % settings.save_every == 0
    return time.monotonic() - saved_at > 60


def _prepare(folder, model, optimizer, settings, info, resume, overwrite):
    """Make the folder ready and return (step, seconds) to start from: of the newest checkpoint, or 0."""
    earlier = checkpoint.checkpoints(folder)
    if earlier and not (resume or overwrite):
        raise InputError(
            f"{folder}: holds a run already (its last checkpoint is {earlier[-1].name}); go on with it (--resume), "
            "delete it (--overwrite) or choose another folder (--output)"
        )
    start, seconds = 0, 0.0
    if earlier and resume:
        path, arrays, saved = checkpoint.load_newest(folder)
        if path != earlier[-1]:
            _say(f"{earlier[-1]} cannot be read; going on from {path}")
            for damaged in earlier[earlier.index(path) + 1 :]:
                damaged.unlink()
        _check_same_run(path, settings, info, saved)
        checkpoint.copy_weights(model, path, arrays, saved)
        try:
            optimizer.load_state_dict(checkpoint.part(arrays, "optimizer"))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        start, seconds = saved["step"], saved["seconds"]
    elif overwrite:
        for path in [*earlier, folder / LOG]:
            path.unlink(missing_ok=True)
    checkpoint.remove_partial(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be made ({error.strerror or error})") from error
    return start, seconds


# What may change when a run goes on: none of it changes the steps.
_FREE = ("save_every", "validate_every")


def _check_same_run(path, settings, info, saved):
    theirs, ours = dict(saved["training"]), dataclasses.asdict(settings)
    for name in ours:
        a, b = theirs.get(name), ours[name]
        a, b = (tuple(x) if isinstance(x, list) else x for x in (a, b))
        if a != b and name not in _FREE:
            raise InputError(f"{path}: this run was started with {name} = {a}, and cannot go on with {b}")
    if saved["class_names"] != list(info["class_names"]):
        raise InputError(
            f"{path}: this run was started on the classes {', '.join(saved['class_names'])}, "
            f"the data set has {', '.join(info['class_names'])}"
        )


# ------------------------------------------------------------------------------------------------------------- one step


def training_step(model, batch, optimizer, settings, step):
    """One step on `batch`: losses, gradients, update. Returns (name -> float of each part of the loss, gradient norm).

    Raises NotFiniteError, with the weights as they were before, if a part of the loss or the gradient is not finite.
    """
    losses = model.losses(batch, distributed.own_rows(sampling_generator(settings.seed, step)))
    shares = np.array([loss.item() for loss in losses.values()])
    parts = dict(zip(losses, distributed.total(shares).tolist()))
    check_losses(step, parts, batch.names)
    optimizer.zero_grad()
    sum_of(losses).backward()
    distributed.sum_gradients(optimizer.params)
    norm = optim.gradient_norm(optimizer.params)
    if not math.isfinite(norm):
        names = [n for n, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
        raise bad_gradient(step, names[0] if names else None, batch.names)
    optimizer.step(1.0 if settings.clip is None else min(1.0, settings.clip / (norm + 1e-6)))
    return parts, norm


def check_losses(step, parts, images):
    """Raises NotFiniteError if a part of the loss is not finite. images: names of this worker's."""
    bad = [name for name, value in parts.items() if not math.isfinite(value)]
    if bad:
        others = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
        raise NotFiniteError(
            f"step {step + 1}: {' and '.join(bad)} is not finite ({others}) on the images {_all_names(images)}"
        )


def bad_gradient(step, name, images):
    """The NotFiniteError for the gradient of the parameter `name`, or of all together (None)."""
    name = name or "all parameters together (its square is too large)"
    return NotFiniteError(f"step {step + 1}: the gradient of {name} is not finite on the images {_all_names(images)}")


def _all_names(images):
    return ", ".join(distributed.all_of(images))


class StepsOnCpu(contextlib.nullcontext):
    """Makes one training step after the other; on a GPU train_gpu.StepsOnGpu stands in its place."""

    def __init__(self, model, optimizer, settings):
        super().__init__()
        self.model, self.optimizer, self.settings = model, optimizer, settings

    def batches(self, batches):
        """The batches of an iterator, where the model is."""
        return batches

    def run(self, batch, step):
        """Make a step; returns what there is to tell, a list of Finished. Raises NotFiniteError."""
        batch = distributed.same_size(batch)
        losses, norm = training_step(self.model, batch, self.optimizer, self.settings, step)
        return [Finished(step, len(batch.images), self.optimizer.lr, losses, norm)]

    def rest(self):
        """What there is to tell of steps that no `run` returned: nothing."""
        return []


def _steps(model, optimizer, settings, cuda_graph):
    if device.on_cpu(optimizer.params[0].data):
        if cuda_graph:
            raise InputError("training: CUDA graphs need a GPU (device cuda)")
        return StepsOnCpu(model, optimizer, settings)
    if optimizer.flat is None:
        raise InputError(f"training: on a GPU parameters must be float32, got {optimizer.params[0].dtype}")
    from minimask.machine.gpu_steps import StepsOnGpu

    return StepsOnGpu(model, optimizer, settings, cuda_graph)


def sum_of(losses):
    """The loss: the sum of its parts (dict of scalar Tensors), in their order."""
    first, *others = losses.values()
    total = first
    for part in others:
        total = total + part
    return total


def _finite(array):
    return bool(device.array_module(array).isfinite(array).all())


def make_optimizer(model, settings):
    """The optimizer that `settings` name, over the parameters of `model` that are trained."""
    common = dict(lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if settings.optimizer == "sgd":
        return optim.SGD(model.parameters(), momentum=settings.momentum, **common)
    return optim.AdamW(model.parameters(), **common)


def rate_factor(settings, step, progress):
    """What the learning rate is multiplied by: warm-up by the step, schedule by the progress in [0, 1]."""
    warm_up = optim.warm_up_factor(step, settings.warm_up) if settings.warm_up else 1.0
    if settings.schedule == "step":
        return warm_up * optim.step_factor(progress, settings.milestones)
    if settings.schedule == "cosine":
        return warm_up * optim.cosine_factor(progress)
    return warm_up


def validation_loss(model, loader, steps, seed=0):
    """Mean of each part of the loss over `steps` batches of `loader`, without gradients: name -> float."""
    sums = collections.Counter()
    training = model.training
    model.eval()
    batches = loader.iterate(0)
    try:
        with tensor.no_grad():
            for step in range(steps):
                losses = model.losses(next(batches), sampling_generator(seed, step))
                sums.update({name: loss.item() for name, loss in losses.items()})
    finally:
        batches.close()
        model.train(training)
    means = {name: value / steps for name, value in sums.items()}
    return {"loss": sum(means.values()), **means}


# ------------------------------------------------------------------------------------- clock, log, progress bar, Ctrl-C


class Clock:
    """How far a run is: by its steps, or by the time that passed (with that of the parts before a pause)."""

    def __init__(self, settings, seconds=0.0):
        self.steps = settings.steps
        self.limit = None if settings.minutes is None else 60 * settings.minutes
        self.begin = time.monotonic() - seconds

    def seconds(self):
        """Seconds of training so far."""
        return time.monotonic() - self.begin

    def progress(self, step):
        """In [0, 1]: how much of the run is done when `step` steps are."""
        return step / self.steps if self.limit is None else min(1.0, self.seconds() / self.limit)

    def done(self, step):
        """Whether the run is at its end."""
        return step >= self.steps if self.limit is None else self.seconds() >= self.limit


class Log:
    """A file of json lines. Opened at `step`, it keeps the lines up to that step and drops what came after."""

    def __init__(self, path, step=0):
        self.path = Path(path)
        with self._naming():
            keep = _length_until(self.path, step) if step and self.path.exists() else 0
            self.file = open(self.path, "ab")
            self.file.truncate(keep)

    def write(self, **values):
        """Append one line; floats are rounded to 6 significant digits."""
        values = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        with self._naming():
            self.file.write((json.dumps(values) + "\n").encode())
            self.file.flush()

    def flush(self):
        """Make sure that the lines are on the disk (before a checkpoint that comes after them)."""
        with self._naming():
            os.fsync(self.file.fileno())

    @contextlib.contextmanager
    def _naming(self):
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: the log cannot be written ({error.strerror or error})") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.file.close()


class NoLog(contextlib.nullcontext):
    """The log of those workers that write none."""

    def write(self, **values):
        """Nothing."""

    def flush(self):
        """Nothing."""


def _length_until(path, step):
    """How many bytes at the start of a log are whole lines of steps up to `step`."""
    length = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            length += len(line)
    return length


class Bar:
    """The progress bar: on a terminal, in a notebook, and as now and then a line in a file."""

    def __init__(self, settings, clock, start, show):
        from tqdm.auto import tqdm

        self.clock = clock
        self.minutes = settings.minutes is not None
        self.times = collections.deque(maxlen=30)  # (when, images) of the last steps
        self.times.append((time.monotonic(), 0))
        self.images_per_second = 0.0
        live = sys.stderr.isatty() or "ipykernel" in sys.modules
        # Steps are counted by the bar itself; a run by minutes fills the bar with seconds.
        self.bar = tqdm(
            total=round(60 * settings.minutes) if self.minutes else settings.steps,
            initial=round(clock.seconds()) if self.minutes else start,
            disable=not show, mininterval=0.2 if live else 10, dynamic_ncols=True, smoothing=0.05,
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}[{elapsed} < {remaining}]{postfix}",
        )  # fmt: skip

    def update(self, step, losses, images):
        """Tell of step `step` (counted from 1), its losses and how many images it had."""
        self.times.append((time.monotonic(), images))
        passed = self.times[-1][0] - self.times[0][0]
        self.images_per_second = sum(n for _, n in list(self.times)[1:]) / max(passed, 1e-9)
        parts = " ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items())
        self.bar.set_description_str(f"step {step}", refresh=False)
        total = f"{self.images_per_second:.1f} images/s, loss {sum(losses.values()):.3f}"
        self.bar.set_postfix_str(f"{total}: {parts}", refresh=False)
        self.bar.update(min(self.clock.seconds(), self.bar.total or 0) - self.bar.n if self.minutes else 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()


class StopRequest:
    """Inside, Ctrl-C or a polite kill sets `requested`, so that the step can be finished; the second stops at once."""

    def __init__(self):
        self.requested = False
        self.before = {}

    def _handle(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _say(text):
    print(f"minimask: {text}", file=sys.stderr, flush=True)
