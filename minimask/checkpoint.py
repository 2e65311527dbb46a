"""Checkpoints: saving a model and its optimizer, loading a model, copying weights.

A checkpoint is one .npz file, which `numpy.load` opens without pickle:

    model/NAME         every parameter and buffer, under its name in `model.state_dict()`
    optimizer/NAME     every array of `optimizer.state_dict()`
    settings           one JSON text: how to build the model, class names, training settings, step, ...

There is no random state in it, because the random numbers of a step depend only on (seed, step). A file with a
checkpoint's name is always complete, whatever happens while it is written: a kill, a full disk, a power cut.
"""

import numpy as np

from minimask.device import to_cpu
from minimask.errors import InputError
from minimask.mask_rcnn import build
from minimask.presets import complete, merge
from minimask.run.archive import read, reduced, write
from minimask.run.folder import checkpoint_path, checkpoints, find, remove_old
from minimask.run.size import check_size

__all__ = [
    "checkpoints",
    "copy_weights",
    "count_classes",
    "find",
    "load_model",
    "load_with_settings",
    "part",
    "read",
    "save",
    "write_model",
]


def save(folder, step, model, optimizer, settings):
    """Write the state after `step` steps to FOLDER/checkpoint-STEP.npz and delete all checkpoints but the last two.

    settings: dict for JSON with what must be known besides the weights (see train.py).

    Returns the path. Raises InputError if a weight is not finite or the file cannot be written; earlier checkpoints
    are then unchanged.
    """
    state = model.state_dict()
    for name, array in state.items():
        if not np.isfinite(to_cpu(array)).all():
            raise InputError(f"step {step}: the weight {name} is not finite; earlier checkpoints are unchanged")
    arrays = {f"model/{name}": array for name, array in state.items()}
    arrays.update({f"optimizer/{name}": array for name, array in optimizer.state_dict().items()})

    path = checkpoint_path(folder, step)
    write(path, arrays, {**settings, "step": step, "model": model.settings})
    remove_old(folder)
    return path


def write_model(path, model, settings, small=False):
    """Write a checkpoint without an optimizer: a model and what its labels mean.

    settings: dict for JSON with class_names, category_ids, ...
    small: write it in a quarter of the size. A weight is then off by at most 1/254 of the largest weight of its output
        channel.
    """
    arrays = {f"model/{name}": to_cpu(array) for name, array in model.state_dict().items()}
    write(path, reduced(arrays) if small else arrays, {"step": 0, **settings, "model": model.settings})


def part(arrays, prefix):
    """The arrays whose names begin with `prefix/`, under their names without it."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + "/")}


def copy_weights(model, path, arrays, settings):
    """Copy the weights that `read` returned for `path` into `model`.

    Raises InputError, with the model unchanged, if they are for another number of classes or another model.
    """
    theirs, ours = model_settings(path, settings)["num_classes"], model.settings.get("num_classes")
    if theirs != ours:
        raise InputError(
            f"{path}: holds weights for {count_classes(theirs)}, but the model here has {count_classes(ours)}"
        )
    try:
        model.load_state_dict(part(arrays, "model"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def count_classes(num_classes):
    """For messages: the number of classes, and how many of them are objects."""
    objects = num_classes - 1
    return f"{num_classes} classes (the background and {objects} kind{'s' * (objects != 1)} of object)"


def model_settings(path, settings):
    """The arguments of `build` in the settings of a checkpoint. Raises InputError if there are none."""
    model = settings.get("model")
    classes = model.get("num_classes") if isinstance(model, dict) else None
    if not isinstance(classes, int) or classes < 2:
        raise InputError(f"{path}: the checkpoint is damaged (it does not say how to build the model)")
    return model


def load_model(path):
    """Load a model for prediction and evaluation from a checkpoint or the folder of a run.

    Returns (model, class_names, category_ids): class_names[i] is the name of label i + 1, category_ids[i] its id in
    the dataset's COCO file.
    """
    model, settings = load_with_settings(path)
    return model, settings.get("class_names", []), settings.get("category_ids", [])


def load_with_settings(path, **changes):
    """(model, settings of the checkpoint) from a checkpoint or the folder of a run.

    changes: settings of `mask_rcnn.build` that replace the model's own.
    """
    complete({name: value for name, value in changes.items() if name not in ("preset", "seed")})  # a user's mistake
    path = find(path)
    arrays, settings = read(path)
    try:
        merged = merge(model_settings(path, settings), changes)
        check_size(path, merged, arrays)
        model = build(**merged)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        if isinstance(error, InputError) and str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: holds a model that this version cannot build ({error})") from error
    copy_weights(model, path, arrays, settings)
    model.eval()
    return model, settings
