"""Training: the settings, the schedule of the learning rate, one step, and the loop over steps.

One step depends only on (weights, optimizer state, seed, step): its batch is `loader.batch(step)` and its random
numbers come from `sampling_generator(seed, step)`. A run that resumes from a checkpoint therefore takes the very steps
that it would have taken without the pause, to the last bit.

`fit` is the loop and `training_step` the step. `minimask.train(...)` builds a model and a loader from its options and
calls `fit`; see run/training.py. What surrounds the loop (log, progress bar, validation, checkpoints, Ctrl-C) is in
run/loop.py; how the step runs on a GPU and in several workers is in machine/gpu_steps.py and machine/distributed.py.
"""

import math
from dataclasses import dataclass

from minimask import optim
from minimask.errors import InputError
from minimask.machine import distributed
from minimask.machine.cpu_steps import steps_for
from minimask.machine.process import tuned_process
from minimask.mask_rcnn import sampling_generator
from minimask.run.finite import check_gradient, check_losses
from minimask.run.loop import training_run
from minimask.run.settings import Settings, setting


@dataclass(frozen=True, repr=False)
class TrainSettings(Settings):
    """How to train. Give either `steps` or `minutes`. Raises InputError if a value makes no sense.

    A run of so many steps repeats bit for bit. A run of so many minutes does not, because its schedule follows the
    clock.
    """

    owner = "training: "
    steps: int | None = setting(
        None, "how many steps; a run of so many steps repeats bit for bit", least=1, group="the run", shown="1000"
    )
    minutes: float | None = setting(
        None, "how long to train; the schedule then follows the clock", above=0, group="the run"
    )
    seed: int = setting(0, "seed of weights, shuffling and sampling", least=0, group="the run")
    save_every: int | None = setting(
        None,
        "steps between checkpoints",
        least=1,
        group="the run",
        metavar="STEPS",
        shown="one checkpoint per minute",
        resume=True,
    )
    validate_every: int | None = setting(
        None,
        "steps between validations, whose loss and AP go into the log",
        least=1,
        group="the run",
        metavar="STEPS",
        shown="no validation",
        resume=True,
    )
    optimizer: str = setting("adamw", "the optimizer", choices=("adamw", "sgd"), group="optimizer")
    learning_rate: float = setting(1e-3, "learning rate after the warm-up", above=0, group="optimizer")
    momentum: float = setting(0.9, "momentum of sgd", least=0, below=1, group="optimizer")
    weight_decay: float = setting(
        1e-4, "decoupled weight decay of adamw, or the L2 term of sgd", least=0, group="optimizer"
    )
    warm_up: int = setting(
        20, "steps over which the learning rate grows from nearly 0", least=0, group="optimizer", metavar="STEPS"
    )
    schedule: str = setting(
        "cosine", "how the learning rate falls", choices=("step", "cosine", "constant"), group="optimizer"
    )
    milestones: tuple[float, ...] = setting(
        (0.67, 0.89),
        "fractions of the run at which the schedule step divides by 10",
        above=0,
        below=1,
        group="optimizer",
    )
    clip: float | None = setting(
        5.0, "a longer gradient is scaled down to this length; none: never", above=0, group="optimizer"
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.steps is None) == (self.minutes is None):
            raise InputError("training: give either the number of steps (or epochs) or the minutes")


@tuned_process()
def fit(
    model,
    loader,
    settings,
    folder,
    info=None,
    validate=None,
    resume=False,
    overwrite=False,
    progress=True,
    cuda_graph=False,
):
    """Train `model` on the batches of `loader`, with a log and checkpoints in `folder`.

    model: MaskRCNN, on the device where it will be trained.
    loader: datasets.loader.Loader.
    settings: TrainSettings.
    folder: path of the run's folder; it is made if it does not exist.
    info: dict for JSON that the checkpoints keep: "class_names" and "category_ids", which prediction and evaluation
        need, and whatever the caller needs to build model and loader again.
    validate: function validate(model) -> dict from name to number for the log, called every `settings.validate_every`
        steps. The model with the highest "mask_AP" (without masks: "box_AP") is kept as best.npz.
    resume: go on from the newest checkpoint in `folder`; start at step 0 if there is none.
    overwrite: delete an earlier run in `folder`: its checkpoints, best.npz and its log, nothing else.
    progress: show a bar with the parts of the loss, images per second and the time that remains; at the end, say which
        model was best in validation.
    cuda_graph: on a GPU, launch each step as one CUDA graph.

    Returns the path of the last checkpoint.
    Raises InputError if `folder` holds a run and neither `resume` nor `overwrite` is given, if its checkpoint does not
    fit, or if the disk or the card's memory is full; NotFiniteError, naming step, images and the part of the loss, if
    a loss or a gradient is not finite. Earlier checkpoints are then unchanged. Ctrl-C finishes the step, saves a
    checkpoint and raises KeyboardInterrupt.

    Within distributed.session every worker calls this with its own share of the batches. Only the first one reads and
    writes `folder`, validates and prints.
    """
    optimizer = make_optimizer(model, settings)
    steps = steps_for(training_step, model, optimizer, settings, cuda_graph)
    with training_run(model, optimizer, settings, steps, folder, info, validate, resume, overwrite, progress) as run:
        for step, batch in run.batches(loader):
            optimizer.lr = settings.learning_rate * rate_factor(settings, step, run.progress())
            reports = steps.run(batch, step)  # calls training_step, or does the same on a GPU
            run.report(reports)  # into the log; then validates and saves if it is time
    return run.checkpoint


@tuned_process()
def training_step(model, batch, optimizer, settings, step):
    """One step on `batch`: the losses, their gradient, the update of the weights.

    Returns (losses, norm): a dict from the name of each part of the loss to its value, and the length of the gradient.
    Raises NotFiniteError, with the weights unchanged, if a loss or the gradient is not finite.
    """
    rng = sampling_generator(settings.seed, step)
    losses = model.losses(batch, distributed.own_rows(rng))
    values = distributed.loss_values(losses)
    check_losses(step, values, batch.names)

    optimizer.zero_grad()
    sum_of(losses).backward()
    distributed.sum_gradients(optimizer.params)

    norm = optim.gradient_norm(optimizer.params)
    check_gradient(step, norm, model, batch.names)
    clip = math.inf if settings.clip is None else settings.clip
    optimizer.step(min(1.0, clip / (norm + 1e-6)))  # multiplies the gradient
    return values, norm


def sum_of(losses):
    """The loss: the sum of its parts (dict of scalar Tensors), in their order."""
    first, *others = losses.values()
    total = first
    for part in others:
        total = total + part
    return total


def make_optimizer(model, settings):
    """The optimizer that `settings` name, over the trainable parameters of `model`."""
    common = dict(lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if settings.optimizer == "sgd":
        return optim.SGD(model.parameters(), momentum=settings.momentum, **common)
    return optim.AdamW(model.parameters(), **common)


def rate_factor(settings, step, progress):
    """What the learning rate is multiplied by.

    step: index of the step, from 0; the warm-up follows it.
    progress: fraction of the run, from 0 to 1; the schedule follows it.
    """
    warm_up = optim.warm_up_factor(step, settings.warm_up) if settings.warm_up else 1.0
    if settings.schedule == "step":
        return warm_up * optim.step_factor(progress, settings.milestones)
    if settings.schedule == "cosine":
        return warm_up * optim.cosine_factor(progress)
    return warm_up
