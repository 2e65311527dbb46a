"""Training from Python and from the command line: a model, data and options become a run. Its loop is in train.py."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

from minimask.errors import InputError
from minimask.machine import distributed
from minimask.run.folder import checkpoints, newest_settings, refuse_earlier_run
from minimask.run.lock import refuse_locked
from minimask.run.log import LOG
from minimask.run.messages import say
from minimask.run.options import TrainOptions, in_words
from minimask.run.settings import check_name, may_change
from minimask.run.tensorboard import writer_class

# What `model` and `dataset` stand for:
FOR_MODEL = ("preset", "system", "weights", "new_heads", "keypoints", "min_size", "max_size", "set")
FOR_DATA = ("images", "annotations", "toy_size", "toy_case")


@dataclass(repr=False)
class TrainingRun:
    """A run that has ended.

    folder: where its checkpoints and its log are.
    checkpoint: the last checkpoint.
    model: the trained model.
    """

    folder: Path
    checkpoint: Path
    model: object = field(repr=False)

    def __repr__(self):
        return f"TrainingRun({str(self.folder)!r}: {self.checkpoint.name if self.checkpoint else 'no checkpoint'})"

    @property
    def log(self):
        """What was logged: one dict per step, with "step", "loss" and its parts."""
        from minimask.draw import read_log

        return read_log(self.folder / LOG)

    def picture(self):
        """The loss curves, (H, W, 3) uint8."""
        from minimask.draw import plot_losses

        return plot_losses(self.folder / LOG)

    def show(self):
        """Show the loss curves: in a notebook below the cell, otherwise in a window or, without a screen, as a file."""
        from minimask.run.show import show_picture

        show_picture(self.picture())


def train(
    model=None,
    dataset=None,
    output="runs/train",
    resume=False,
    overwrite=False,
    validation=None,
    quiet=False,
    **options,
):
    """Train a model on a data set, with checkpoints and a log in a folder.

    model: a MaskRCNN, which is trained in place; by default one is built from the options (preset, weights, ...).
    dataset: the data; by default the photos that the options name (images, annotations), or drawn scenes.
    output: the run's folder. It must not hold a run, unless `resume` or `overwrite` is given.
    resume: go on from the newest checkpoint there, with its options. Those that do not change the steps may differ.
    overwrite: delete an earlier run there.
    validation: data set for `validate_every`; by default val_images and val_annotations, or drawn scenes.
    quiet: no progress bar and no messages.
    options: those of `python -m minimask train`, listed below.
    Returns a TrainingRun: its folder, its last checkpoint, its log, its loss curves.
    Raises InputError, in one message, for whatever cannot be used. Ctrl-C saves the last step, then raises
    KeyboardInterrupt.
    """
    for name in options:
        check_name("option of train:", name, [f.name for f in dataclasses.fields(TrainOptions)])
    _check_given(model, dataset, options)
    if distributed.is_first():
        refuse_locked(output)
    saved = distributed.from_first(_saved(output, quiet) if resume and distributed.is_first() else None)
    if saved:
        chosen = _resumed(output, saved, options, dataset)
    else:
        chosen = _started(model, options)
        if not (resume or overwrite) and distributed.is_first():
            refuse_earlier_run(output)
    return _run(chosen, model, dataset, validation, Path(output), bool(saved), overwrite, quiet)


train.__doc__ += "\n    Options:\n" + "".join(
    f"    {f.name}: {in_words(f)}.\n" for f in dataclasses.fields(TrainOptions) if not f.metadata.get("hidden")
)


# ------------------------------------------------------------------------------------------------------------- options


def _check_given(model, dataset, options):
    for value, name, replaced in ((model, "model", FOR_MODEL), (dataset, "dataset", FOR_DATA)):
        for option in replaced:
            if value is not None and options.get(option) is not None:
                raise InputError(f"train: {option} does not go with a {name} that is given; leave one of them out")
    if model is not None and not hasattr(model, "losses"):
        raise InputError(f"train: model must be a MaskRCNN, got {type(model).__name__}")


def _saved(output, quiet):
    """The settings of the newest checkpoint in the folder of a run, None if there is none."""
    if checkpoints(output):
        return newest_settings(output)
    if not quiet:
        say(f"{output} holds no checkpoint yet; starting at step 0")
    return None


def _started(model, options):
    """TrainOptions of a new run: presets are chosen, the architecture of given weights is looked up."""
    chosen = TrainOptions(**options)
    if model is not None:
        architecture = {name: value for name, value in model.settings.items() if name != "num_classes"}
        keypoints = getattr(getattr(model, "heads", None), "keypoints", 0) > 0  # a system may have no heads
        return dataclasses.replace(
            chosen, preset=architecture["preset"], architecture=architecture, keypoints=keypoints
        )
    if chosen.system:
        return dataclasses.replace(chosen, preset=chosen.system)
    if chosen.weights and "preset" not in options:
        from minimask import weights

        architecture = weights.recognize(chosen.weights, **(chosen.set or {}))
        architecture = {name: value for name, value in architecture.items() if name != "num_classes"}
        return dataclasses.replace(chosen, preset=architecture["preset"], architecture=architecture)
    preset = chosen.preset or ("small" if chosen.annotations else "toy")
    return dataclasses.replace(chosen, preset=preset)


def _resumed(folder, saved, given, dataset):
    """TrainOptions of a run that is resumed: its own, changed where that does not change the steps."""
    if "options" not in saved:
        raise InputError(f"{folder}: holds converted weights, not a run to go on with; give them as weights")
    if saved.get("dataset") and dataset is None:
        raise InputError(
            f"{folder}: this run was started in Python on a data set that was passed to it ({saved['dataset']}); "
            "resume it there: minimask.train(model, dataset, output=..., resume=True)"
        )
    try:
        theirs = TrainOptions(**saved["options"])
    except TypeError as error:
        raise InputError(f"{folder}: its checkpoint holds options that this version does not know ({error})") from error
    ours = dataclasses.replace(theirs, **given)
    for name in given:
        before, now = getattr(theirs, name), getattr(ours, name)
        if name not in may_change(TrainOptions) and before != now:
            raise InputError(
                f"{folder}: this run was started with {name} = {before}, not {now}; "
                "leave that out to go on with it, or start another run (output)"
            )
    return ours


# ------------------------------------------------------------------------------------------------------------- the run


def _run(options, model, dataset, validation, output, resume, overwrite, quiet):
    from minimask import device
    from minimask.datasets.coco import CocoDataset
    from minimask.datasets.loader import InMemory, Loader
    from minimask.datasets.toy import ToyScenes
    from minimask.machine import warmup
    from minimask.train import fit

    where = options.device or (None if model is None else model.device)
    where = device.resolve(distributed.own_device(where))  # before anything slow is done
    if options.tensorboard:
        writer_class()
    set_up_machine(options)
    passed = None if dataset is None else repr(dataset)
    if dataset is None:
        dataset = open_dataset("train", options, quiet=quiet)
    if isinstance(dataset, CocoDataset):
        dataset.check_learnable()
    if isinstance(dataset, ToyScenes):
        options = dataclasses.replace(options, toy_size=dataset.size, toy_case=dataset.case)
    settings = options.step_settings(len(dataset))
    keypoint_names = _keypoint_names(dataset, options)
    if model is None:
        model = _build(options, dataset, keypoint_names, resume, quiet)
    name_model(model, dataset, keypoint_names)
    model.to(where)
    model.transform.padded_size = options.padded_size
    loader = Loader(
        InMemory(dataset),
        model.transform,
        options.batch_size,
        options.seed,
        workers=loader_workers(options),
        flip=options.flip,
        turns=options.turns,
        scale_jitter=options.scale_jitter,
        share=(distributed.rank(), distributed.size()),
    )
    drawn = isinstance(dataset, ToyScenes)
    validate = _validation(options, validation, drawn, model, quiet) if settings.validate_every else None
    info = {"class_names": model.class_names, "category_ids": model.category_ids}
    info |= {"options": dataclasses.asdict(options), "dataset": passed}
    info |= {"images": len(dataset), "left_out": left_out(dataset)}
    if keypoint_names:
        info |= {"keypoint_names": model.keypoint_names, "skeleton": model.skeleton}
    if where == "cpu":
        with distributed.first_alone():  # so that the others find its compiled kernels
            warmup.ensure(not quiet)
    path = fit(model, loader, settings, output, info, validate, resume, overwrite, not quiet, options.cuda_graph)
    return TrainingRun(output, path, model)


def set_up_machine(options):
    """Apply the threads and the precision of MachineOptions."""
    from minimask import device
    from minimask.machine.threads import set_threads

    device.set_matmul_precision(options.precision)
    if options.threads is not None:
        try:
            set_threads(options.threads)
        except ValueError as error:
            raise InputError(str(error)) from error


def open_dataset(split, options, class_names=None, quiet=False):
    """The data that the options name: photos with a COCO json, or drawn scenes if no photos are given.

    split: "train", "val" or "test"; for photos, "val" means val_images and val_annotations.
    class_names: names of the classes of an existing model, which the labels then follow.
    quiet: do not print what was left out of the photos' objects and what is probably wrong in them.
    """
    from minimask import datasets

    quiet = quiet or not distributed.is_first()
    images, annotations = options.images, options.annotations
    if split == "val":
        images, annotations = options.val_images or images, options.val_annotations
    if annotations:
        return datasets.coco(images, annotations, class_names, options.keypoints, options.skip_bad, quiet)
    return datasets.toy(split, options.toy_size, case=options.toy_case)


def left_out(dataset):
    """How many annotations and images of a data set were left out because they cannot be used."""
    problems = getattr(dataset, "problems", None)
    return problems.left_out if problems else 0


def _build(options, dataset, keypoint_names, resume, quiet):
    """The model that the options describe, for the classes of a data set."""
    from minimask import weights
    from minimask.mask_rcnn import build
    from minimask.presets import kinds_of, merge

    sizes = {name: getattr(options, name) for name in ("min_size", "max_size") if getattr(options, name) is not None}
    changes = {"transform": sizes}
    if "heads" in kinds_of(options.preset):
        changes["heads"] = {"keypoints": len(keypoint_names)}  # 0: a keypoint branch of the weights is left out
    changes = merge(changes, options.set or {})
    architecture = merge(options.architecture or {"preset": options.preset}, changes)
    model = build(**{"seed": options.seed, **architecture}, num_classes=len(dataset.class_names) + 1)
    if options.weights and not resume:
        report = weights.load_into(model, options.weights, options.new_heads)
        if distributed.is_first() and not quiet:
            say(f"weights of {options.weights}:\n{report}")
    return model


def name_model(model, dataset, keypoint_names):
    """Give the model the names of the data set's classes. Raises InputError if it has others."""
    names = list(getattr(dataset, "class_names", model.class_names))
    if model.class_names and list(model.class_names) != names:
        raise InputError(
            f"the model has the classes {', '.join(model.class_names)}; the data set has {', '.join(names)} "
            "(their order counts: datasets.coco(..., classes=model.class_names) gives it the model's)"
        )
    if len(names) != model.num_classes - 1:
        raise InputError(f"the model has {model.num_classes - 1} classes of objects; the data set has {len(names)}")
    learned, there = getattr(getattr(model, "heads", None), "keypoints", 0), getattr(dataset, "keypoint_names", None)
    if learned and there is not None and learned != len(there):
        raise InputError(
            f"the model learns {learned} keypoints per object (heads.keypoints), the data has {len(there)}"
        )
    ids, skeleton = getattr(dataset, "category_ids", None), getattr(dataset, "skeleton", None)
    model.name_classes(names, ids, keypoint_names, skeleton if keypoint_names else None)


def loader_workers(options):
    """Number of threads that prepare batches: two if the kernels leave cores free, otherwise none.

    Measured on two cores: a step with its data takes 155 ms without such threads, 175 ms with one.
    """
    if options.workers is not None:
        return options.workers
    return max(0, min(2, (os.cpu_count() or 1) - 2))


def _keypoint_names(dataset, options):
    """The names of the keypoints to be learned, [] if there are none to learn. InputError if the data has none."""
    names = list(getattr(dataset, "keypoint_names", None) or ())
    if options.keypoints and not names:
        where = options.annotations or "the data set"
        raise InputError(f'train: keypoints: no category in {where} has a list "keypoints" with their names')
    return names if options.keypoints else []


def _validation(options, dataset, drawn, model, quiet):
    """A function of the model: losses and average precision on validation data, name -> number for the log."""
    from minimask.datasets.loader import Loader
    from minimask.evaluate import evaluate
    from minimask.run.validation import validation_loss

    if dataset is None and not drawn and not options.val_annotations:
        raise InputError(
            "train: validate_every needs val_annotations (and val_images, if the photos are elsewhere), "
            "or in Python validation=dataset"
        )
    if dataset is None:
        dataset = open_dataset("val", options, list(model.class_names), quiet)
    names = list(getattr(dataset, "keypoint_names", None) or ())
    if model.keypoint_names and names != model.keypoint_names:
        where = options.val_annotations or "the validation data"
        raise InputError(f"{where}: must have the keypoints {', '.join(model.keypoint_names)}")
    size = options.batch_size

    def validate(model):
        workers = loader_workers(options)
        loader = Loader(dataset, model.transform, size, seed=0, workers=workers, shuffle=False, flip=False)
        losses = validation_loss(model, loader, -(-len(dataset) // size))
        return {**losses, **flat_scores(evaluate(model, dataset, progress=False))}

    return validate


def flat_scores(scores):
    """AP and AP50 of each kind in one dict: {"box_AP": ..., "mask_AP50": ...}."""
    names = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
    return {f"{names[kind]}_{name}": numbers[name] for kind, numbers in scores.items() for name in ("AP", "AP50")}
