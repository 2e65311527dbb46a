"""What is in a file of weights: the model, its classes, how it was trained, how many parameters each part has."""

import math
import time
from pathlib import Path

from minimask import checkpoint, presets, weights
from minimask.datasets.coco_names import UNUSED, meanings
from minimask.errors import InputError
from minimask.run.best import BEST
from minimask.run.folder import check_complete
from minimask.run.inspection import Inspection, row, scores_text, time_text, wrapped_row
from minimask.run.log import LOG
from minimask.run.show import bytes_text
from minimask.systems import SYSTEMS
from minimask.weights import published

PARTS = {  # of a model: how the names of its arrays begin, in torchvision's layout
    "backbone": ("backbone.body.", "roi_heads.res5."),
    "pyramid": ("backbone.fpn.",),
    "RPN": ("rpn.",),
    "box head": ("roi_heads.box_",),
    "mask head": ("roi_heads.mask_",),
    "keypoint head": ("roi_heads.keypoint_",),
}
STATISTICS = ("running_mean", "running_var")  # of batch norm; they are no parameters
NECKS = {"fpn": "a feature pyramid", "c4": "RoIs from stage 4 (C4)", "c5": "RoIs from a dilated stage 5 (DC5)"}
CLASSES_SHOWN = 20


def inspect_weights(path):
    """The Inspection of a checkpoint, a published file, a folder with a graph.json, or "toy".

    A detector is opened as prediction opens it, so what is wrong with it shows here. Raises InputError in that case.
    """
    given = str(path)
    if given == "toy" and not Path(path).exists():
        path = weights.toy_weights()
    if weights.is_graph(path):
        return _inspect_graph(path)
    source = weights.read(path)
    facts = {"file": str(source.path), **_file(source.path)}
    if weights.is_checkpoint(path):
        settings = checkpoint.read(source.path)[1]
        facts |= {"kind": _kind_of_checkpoint(source.path, settings), "version": settings.get("version")}
        facts |= about_training(settings, source.path)
    else:
        facts |= {"kind": f"weights in {source.origin}'s layout", "published_as": _published_as(source.path)}

    facts |= {"finds": _finds(source.state), "parameters": count_parameters(source.state)}
    try:
        settings = weights.recognize(source)
    except InputError as error:  # such as anchors that the weights do not show
        facts["note"] = str(error).removeprefix(f"{source.path}: ")
        if not source.is_backbone():
            facts["classes"] = meanings(len(source.state[published.SCORES]))["class_names"]
        return Inspection(facts, _lines(facts, given))
    if source.is_backbone() and not weights.is_checkpoint(path):
        body = presets.complete({"backbone": settings.get("backbone", {})}, settings["preset"])["backbone"]
        facts["model"] = f"{body.name}, a backbone"
    else:
        opened = weights.open_file(path)
        if settings["preset"] in SYSTEMS:
            facts["finds"] = ["boxes", "masks"]  # whatever the names of its arrays are
        facts |= about_model(settings, opened.settings["class_names"], opened.settings.get("keypoint_names"))
        facts["parameters"] = count_parameters(dict(opened.model.named_parameters()))  # without frozen norms
    return Inspection(facts, _lines(facts, given))


def _inspect_graph(path):
    """The Inspection of a network that weights/maskrcnn2go.py reads."""
    from minimask.weights.maskrcnn2go import LONG_SIDE, SHORT_SIDE, WEIGHTS

    opened = weights.open_file(path)
    count = sum(math.prod(array.shape) for array in opened.model.weights.values())
    facts = {
        "file": str(path),
        **_file(Path(path) / WEIGHTS),
        "kind": "a network of the Caffe2 model zoo, which can predict and be evaluated, but not be trained",
        "model": "MaskRCNN2Go, a Mask R-CNN for phones",
        "finds": ["boxes", "masks"],
        "classes": opened.settings["class_names"],
        "image_size": [SHORT_SIDE, LONG_SIDE],
        "parameters": {"all": count},
    }
    return Inspection(facts, _lines(facts, str(path)))


# --------------------------------------------------------------------------------------------------------------- facts


def count_parameters(arrays):
    """Dict from part to its number of parameters, "all" last.

    arrays: dict from name, as torchvision has it, to array or Parameter. The statistics of batch norm do not count.
    """
    sizes = {name: math.prod(array.shape) for name, array in arrays.items() if not name.endswith(STATISTICS)}
    counts = {part: sum(sizes[name] for name in sizes if name.startswith(starts)) for part, starts in PARTS.items()}
    counts["other parts"] = sum(sizes.values()) - sum(counts.values())
    return {**{part: count for part, count in counts.items() if count}, "all": sum(sizes.values())}


def about_model(settings, class_names, keypoint_names=None):
    """The facts about a detector.

    settings: arguments of `build`. class_names, keypoint_names: what its labels and keypoints mean.
    """
    groups = {name: value for name, value in settings.items() if name not in ("preset", "num_classes", "seed")}
    preset = settings.get("preset", "toy")
    complete = presets.complete(groups, preset)
    backbone, transform = complete["backbone"], complete["transform"]
    changes = {
        f"{group}.{name}": value
        for group, chosen in complete.items()
        for name, value in vars(chosen).items()
        if value != getattr(presets.complete({}, preset)[group], name)
    }
    body = f"{backbone.name} with {backbone.norm} norm"
    return {
        "model": f"system {preset}: {body}"
        if preset in SYSTEMS
        else f"preset {preset}: {body} and {NECKS[backbone.neck]}",
        "preset": preset,
        "changed": presets.saved({"settings": changes}).get("settings", {}),
        "classes": list(class_names),
        "keypoints": list(keypoint_names or ()),
        "image_size": [transform.min_size, transform.max_size],
    }


def about_training(settings, path):
    """The facts about a training, from the settings of a checkpoint; {} if they say nothing."""
    if "training" not in settings:
        return {}
    check_complete(path, settings)
    training, options = _settings_of_the_run(path, settings)
    return {
        "step": settings["step"],
        "steps": training.steps,
        "minutes": training.minutes,
        "seconds": settings["seconds"],
        "seed": training.seed,
        "batch_size": options.batch_size if options else None,
        "learning_rate": training.learning_rate,
        "optimizer": training.optimizer,
        "data": _data_text(settings, options),
        "start": options.weights if options else None,
        "validation": _validation(settings, Path(path)),
    }


def _settings_of_the_run(path, settings):
    """(TrainSettings, TrainOptions or None) of a checkpoint. Raises InputError if they are damaged."""
    from minimask.run.options import TrainOptions
    from minimask.train import TrainSettings

    try:
        options = TrainOptions(**settings["options"]) if "options" in settings else None
        return TrainSettings(**settings["training"]), options
    except TypeError as error:
        raise InputError(f"{path}: its settings are damaged, or of another version of minimask ({error})") from error


def _data_text(settings, options):
    """What a run was trained on."""
    images = f" ({settings['images']} images)" if settings.get("images") else ""
    left_out = f"; {settings['left_out']} annotations or images were left out" if settings.get("left_out") else ""
    if settings.get("dataset"):
        return f"{settings['dataset']}{left_out}"
    if options is None:
        return "not known"
    if options.annotations:
        return f"{options.annotations}, photos in {options.images}{images}{left_out}"
    return f"drawn scenes of {options.toy_size} x {options.toy_size} pixels"


def _validation(settings, path):
    """{"step", "scores"} of the last validation up to a checkpoint's step, from the file or the log beside it."""
    found = [v for v in validations(path.parent / LOG) if v["step"] <= settings["step"]]
    return found[-1] if found else None


def validations(log):
    """The validations in a log: a list of {"step", "scores"}, in the order of the log; [] if it cannot be read."""
    from minimask.draw import read_log

    found = []
    try:
        records = read_log(log)
    except InputError:
        records = []
    for record in records:
        scores = {
            name.removeprefix("validation_"): value
            for name, value in record.items()
            if name.startswith("validation_") and name.endswith("_AP") and isinstance(value, (int, float))
        }
        if scores and isinstance(record.get("step"), int):
            found.append({"step": record["step"], "scores": scores})
    return found


def _finds(state):
    """What a model finds, from the names of its arrays; [] for a backbone."""
    if published.SCORES not in state:
        return []
    found = ["boxes"]
    if any(name.startswith("roi_heads.mask_") for name in state):
        found.append("masks")
    if published.KEYPOINT_LOGITS in state:
        found.append("keypoints")
    return found


def _kind_of_checkpoint(path, settings):
    if "training" not in settings:
        return "a checkpoint of minimask, without an optimizer"
    if path.name == BEST:
        return "the model of a training run that scored best in validation"
    return "a checkpoint of a training run"


def _published_as(path):
    """The name under which `download` knows a file, None if it does not."""
    from minimask.weights.download import WEIGHTS

    return next((name for name, known in WEIGHTS.items() if known.file == path.name), None)


def _file(path):
    """{"bytes", "date"} of a file; the date as "2026-11-29 03:12"."""
    stat = path.stat()
    return {"bytes": stat.st_size, "date": time.strftime("%Y-%m-%d %H:%M", time.localtime(stat.st_mtime))}


# -------------------------------------------------------------------------------------------------------------- report


def _lines(facts, given):
    version = f" (minimask {facts['version']})" if facts.get("version") else ""
    name = f", published as {facts['published_as']}" if facts.get("published_as") else ""
    lines = [
        row("file", f"{facts['file']} ({bytes_text(facts['bytes'])}, written {facts['date']})"),
        row("kind", facts["kind"] + name + version),
    ]
    if "model" in facts:
        lines.append(row("model", facts["model"]))
    if facts.get("changed"):
        lines.append(row("  changed", ", ".join(f"{name}={value}" for name, value in facts["changed"].items())))
    keypoints = facts.get("keypoints") or ()
    if facts["finds"]:
        lines.append(row("finds", ", ".join(facts["finds"]) + (f" ({', '.join(keypoints)})" if keypoints else "")))
    if "classes" in facts:
        lines += wrapped_row("classes", classes_text(facts["classes"]))
    if "image_size" in facts:
        short, long = facts["image_size"]
        lines.append(row("images", f"resized to a short side of {short} pixels; long side at most {long}"))
    lines += training_lines(facts)
    lines += _parameter_lines(facts["parameters"])
    if "note" in facts:
        lines += wrapped_row("note", facts["note"])
    elif facts["finds"]:
        lines.append(row("next", f"python -m minimask predict PHOTO.jpg --weights {given}"))
    else:
        lines.append(row("next", f"python -m minimask train --images DIR --annotations FILE.json --weights {given}"))
    return lines


def classes_text(names):
    """ "3: cat, dog, duck", shortened if there are many."""
    names = [name for name in names if name != UNUSED]
    shown = ", ".join(names[:CLASSES_SHOWN])
    more = f", and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    return f"{len(names)}: {shown}{more}"


def training_lines(facts):
    """The lines about how a model was trained; [] if that is not known."""
    if "step" not in facts:
        return []
    of = f" of {facts['steps']}" if facts["steps"] else ""
    minutes = f" of {facts['minutes']:g} minutes" if facts["minutes"] else ""
    images = f" of {facts['batch_size']} images" if facts["batch_size"] else ""
    lines = [
        row("trained", f"{facts['step']}{of} steps{images}, {time_text(facts['seconds'])}{minutes}"),
        row("", f"seed {facts['seed']}, {facts['optimizer']}, learning rate {facts['learning_rate']:g}"),
        row("data", facts["data"]),
    ]
    if facts["start"]:
        lines.append(row("started from", facts["start"]))
    if facts["validation"]:
        validation = facts["validation"]
        lines.append(row("validation", f"{scores_text(validation['scores'])} at step {validation['step']}"))
    return lines


def _parameter_lines(counts):
    lines = [row("parameters", f"{counts['all']:,}")]
    return lines + [f"  {part:<14}{count:>13,}" for part, count in counts.items() if part != "all"]
