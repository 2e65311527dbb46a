"""The options of training, evaluation and prediction, declared once for Python and for the command line.

A field `batch_size: int = setting(4, "images per step", least=1)` is the argument `batch_size=4` in Python and
`--batch-size 4` on the command line. What a field holds beside its documentation:

    group      the heading under which the help lists it
    metavar    the word for its value in the help
    shown      what the help says about the default, where the value itself (None) does not say it
    resume     True if it may change when a run is resumed: it does not change the steps
    hidden     True if it is not for the command line
"""

import argparse
import contextlib
import dataclasses
import json
import textwrap
import types
import typing
from dataclasses import dataclass

from minimask.errors import InputError
from minimask.presets import PRESETS, check_groups
from minimask.run.model_settings import GROUPS as GROUPS_OF_THE_MODEL
from minimask.run.settings import Settings, one_of, setting
from minimask.systems import SYSTEMS
from minimask.train import TrainSettings

DEFAULT_STEPS = 1000
GROUPS = ("the run", "data", "model", "optimizer", "the machine")  # headings of the help
CASES = ("crowded", "disconnected", "small")  # of drawn scenes


@dataclass(frozen=True, repr=False)
class MachineOptions(Settings):
    """Where and how to compute."""

    device: str | None = setting(
        None, "where to compute; cuda:1 is the second GPU", metavar="cpu|cuda", shown="cpu", resume=True
    )
    precision: str = setting(
        "highest", "with device cuda, numbers are multiplied as float32, TF32 or BF16", ("highest", "high", "medium")
    )
    threads: int | None = setting(None, "CPU threads that compute", least=1, shown="one per core", resume=True)


@dataclass(frozen=True, repr=False)
class EvaluateOptions(MachineOptions):
    """How to evaluate a model."""

    owner = "evaluate: "
    max_detections: int = setting(100, "detections per image that count", least=1)
    batch_size: int = setting(1, "images at once", least=1)


@dataclass(frozen=True, repr=False)
class PredictOptions(MachineOptions):
    """How to find objects in photos."""

    owner = "predict: "
    score: float = setting(0.5, "objects with a lower score are left out", least=0, most=1)
    recursive: bool = setting(False, "also take the photos in sub-folders")
    coco: str | None = setting(None, "also write all results into one file in COCO's format", metavar="FILE.json")


@dataclass(frozen=True, repr=False)
class DataOptions(Settings):
    """How to read annotations."""

    skip_bad: bool = setting(
        False, "leave out annotations and images that cannot be used; their number is printed and logged", group="data"
    )


@dataclass(frozen=True, repr=False)
class TrainOptions(MachineOptions, DataOptions, TrainSettings):
    """Everything that a training run is made from; its checkpoints keep it, so resuming it needs none of it again."""

    owner = "train: "
    epochs: float | None = setting(None, "how long to train, in passes over the data", above=0, group="the run")
    workers: int | None = setting(
        None,
        "threads that prepare batches in the background",
        least=0,
        group="the run",
        shown="2; 0 on two cores",
        resume=True,
    )
    tensorboard: bool = setting(
        False,
        "also write the log as TensorBoard's event files, with tensorboardX or PyTorch",
        group="the run",
        resume=True,
    )
    cuda_graph: bool = setting(
        False,
        "with device cuda: launch each step as one graph, which needs a padded size",
        group="the run",
        resume=True,
    )

    images: str | None = setting(None, "folder of the photos", group="data", metavar="DIR", resume=True)
    annotations: str | None = setting(
        None, "their objects, in COCO's format", group="data", metavar="FILE.json", resume=True
    )
    val_images: str | None = setting(
        None, "folder of the photos for validation", group="data", metavar="DIR", shown="images", resume=True
    )
    val_annotations: str | None = setting(
        None, "their objects, in COCO's format", group="data", metavar="FILE.json", resume=True
    )
    toy_size: int = setting(128, "side of the drawn scenes in pixels", least=32, group="data")
    toy_case: str | None = setting(
        None, "one of the talk's special cases instead of ordinary scenes", CASES, group="data", metavar="CASE"
    )
    batch_size: int = setting(4, "images per step", least=1, group="data")
    flip: bool = setting(True, "mirror half of the images", group="data")
    turns: bool = setting(False, "also rotate images by quarter turns (if they have no up and down)", group="data")
    scale_jitter: tuple[float, float] | None = setting(
        None, "range of a random factor of the image size", above=0, group="data", metavar=("LOW", "HIGH")
    )

    preset: str | None = setting(
        None,
        "the model's settings",
        choices=(*PRESETS, *SYSTEMS),
        group="model",
        shown="that of the weights, or toy for scenes and small for photos",
    )
    system: str | None = setting(
        None,
        "another system of the decks instead of Mask R-CNN, at the size for drawn scenes",
        choices=tuple(SYSTEMS),
        group="model",
        shown="Mask R-CNN",
    )
    weights: str | None = setting(
        None,
        "checkpoint, run or published weights to start from",
        group="model",
        metavar="FILE",
        shown="random weights",
        resume=True,
    )
    new_heads: bool = setting(
        False, "initialize anew what depends on the classes; take the rest from the weights", group="model"
    )
    keypoints: bool = setting(False, "learn the objects' keypoints too", group="model")
    min_size: int | None = setting(
        None, "short side of the resized image", least=1, group="model", shown="the preset's"
    )
    max_size: int | None = setting(None, "limit of its long side", least=1, group="model", shown="the preset's")
    padded_size: tuple[int, int] | None = setting(
        None,
        "size of every batch",
        least=1,
        group="model",
        metavar=("HEIGHT", "WIDTH"),
        shown="as large as the batch's largest image",
    )
    set: dict | None = setting(
        None,
        "settings of the model, such as rpn.samples=64; in Python {'rpn': {'samples': 64}}",
        group="model",
        metavar="GROUP.NAME=VALUE",
    )
    architecture: dict | None = setting(None, "the model's settings if it is not a preset", hidden=True)

    def __post_init__(self):
        Settings.__post_init__(self)
        ends = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(ends) > 1:
            raise InputError(f"train: give one of steps, epochs and minutes, not {' and '.join(ends)}")
        if (self.images is None) != (self.annotations is None):
            raise InputError("train: images and annotations belong together; give both, or neither for drawn scenes")
        if self.val_annotations and not self.annotations:
            raise InputError("train: val_annotations needs images and annotations (drawn scenes have their own)")
        if self.new_heads and not self.weights:
            raise InputError("train: new_heads needs weights, because it says what not to take from them")
        if self.cuda_graph and self.device in (None, "cpu"):
            raise InputError("train: cuda_graph needs device cuda")
        if self.system and self.preset not in (None, self.system):
            raise InputError("train: give system or preset; a system is built from settings of its own")
        check_groups(self.set or {}, self.system or self.preset)
        if self.scale_jitter and self.scale_jitter[0] > self.scale_jitter[1]:
            raise InputError(f"train: scale_jitter must be LOW <= HIGH, got {self.scale_jitter}")

    def step_settings(self, images):
        """TrainSettings for a data set of so many images: epochs become steps."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainSettings)}
        if self.epochs is not None:
            values["steps"] = -int(-self.epochs * images // self.batch_size)  # rounded up
        elif self.steps is None and self.minutes is None:
            values["steps"] = DEFAULT_STEPS
        return TrainSettings(**values)


# ------------------------------------------------------------------------------------------------- the command line


def add_options(parser, options, names=None):
    """Add the fields of an options class to a parser. Options that are not given are not set.

    names: only these fields; by default all that are not hidden.
    """
    used = {field.metadata.get("group", "the machine") for field in dataclasses.fields(options)}
    single = len(used) == 1 or names is not None  # no headings
    groups = {title: parser if single else parser.add_argument_group(title) for title in GROUPS if title in used}
    for field in dataclasses.fields(options):
        hidden = field.metadata.get("hidden") if names is None else field.name not in names
        if hidden:
            continue
        _add(groups[field.metadata.get("group", "the machine")], field)


def given(args, options):
    """The options that were given on the command line: name -> value."""
    names = [field.name for field in dataclasses.fields(options)]
    return {name: value for name, value in vars(args).items() if name in names}


def in_words(field):
    """What an option is, what it may be, and its default, in one line for the help."""
    metadata = field.metadata
    default = metadata.get("shown")
    if default is None and field.default is not None and field.type is not bool:
        default = _shown(field.default)
    words = [one_of(metadata["choices"])] if metadata.get("choices") else []
    words += [f"default: {default}"] if default is not None else []
    return metadata["text"] + (f" ({'; '.join(words)})" if words else "")


def _add(parser, field):
    flag, metadata = "--" + field.name.replace("_", "-"), field.metadata
    common = dict(dest=field.name, default=argparse.SUPPRESS, help=in_words(field))
    if field.name == "set":
        parser.add_argument(flag, type=model_setting, action=Collect, metavar=metadata["metavar"], **common)
    elif field.type is bool and field.default:
        common["help"] = "do not " + metadata["text"]
        parser.add_argument("--no" + flag[1:], action="store_false", **common)
    elif field.type is bool:
        parser.add_argument(flag, action="store_true", **common)
    else:
        kind, count = _kind_of(field)
        metavar = metadata.get("metavar") or (field.name.upper() if kind is str else "N" if kind is int else "X")
        parser.add_argument(flag, type=_Reader(kind, field), nargs=count, metavar=metavar, **common)


def _shown(value):
    return (
        " ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    )


def _kind_of(field):
    """(type of one value, nargs) of a field."""
    kinds = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        return parts[0], "+" if parts[-1] is Ellipsis else len(parts)
    return kind, None


class _Reader:
    """Reads one value from text; "none" is allowed where the option can be None."""

    def __init__(self, kind, field):
        self.kind, self.__name__ = kind, {int: "integer", float: "number"}.get(kind, "text")
        self.optional = field.default is not None and types.NoneType in typing.get_args(field.type)

    def __call__(self, text):
        return None if self.optional and text.lower() == "none" else self.kind(text)


def model_setting(text):
    """GROUP.NAME=VALUE as {group: {name: value}}, or GROUP=VALUE; the value as json if it is, else as text.

    Python's None, True and False, which settings are described with, are understood in any case.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"must be GROUP.NAME=VALUE, such as rpn.samples=64, got {text!r}")
    with contextlib.suppress(ValueError):
        value = json.loads({"none": "null", "true": "true", "false": "false"}.get(value.lower(), value))
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def model_settings_text():
    """All settings of the model by group, for the help of --set."""
    lines = ["settings of the model, for --set (minimask/run/model_settings.py explains them):"]
    for name, group in GROUPS_OF_THE_MODEL.items():
        names = ", ".join(field.name for field in dataclasses.fields(group))
        lines += textwrap.wrap(f"{name}: {names}", width=100, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


class Collect(argparse.Action):
    """Collect settings of the model in one dict of groups."""

    def __call__(self, parser, namespace, value, option_string=None):
        from minimask.presets import merge

        setattr(namespace, self.dest, merge(getattr(namespace, self.dest, None) or {}, value))
