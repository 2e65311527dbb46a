"""Weights from files into models and back. Names are torchvision's, and only this module transposes arrays.

    layer                   torchvision             minimask
    convolution             (out, in, kh, kw)       (kh, kw, in, out)
    transposed convolution  (in, out, kh, kw)       (kh, kw, in, out)
    fully connected         (out, in)               (in, out)
    first one after RoIs    (out, C * 7 * 7)        (7 * 7 * C, out)

The last one differs because a RoI's features are flattened, channel by channel there and pixel by pixel here.
weights/published.py says which files can be read, and which model is in them.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minimask import checkpoint
from minimask.datasets.coco_names import meanings
from minimask.errors import InputError
from minimask.run.files import write_files
from minimask.run.messages import say
from minimask.run.size import check_size
from minimask.weights import files, published
from minimask.weights.published import BODY, COUNTERS, FC6, MASK_LOGITS, SCORES, Published

TRANSPOSED_CONVOLUTIONS = ("conv5_mask.weight", "kps_score_lowres.weight")
CLASS_LAYERS = (  # their shape depends on the classes or the keypoints
    "roi_heads.box_predictor.",
    MASK_LOGITS.removesuffix("weight"),
    "roi_heads.mask_head.logits.",
    "roi_heads.keypoint_predictor.kps_score_lowres.",
)
BRANCHES = ("roi_heads.mask_", "roi_heads.keypoint_")  # a model may have them or not

# -------------------------------------------------------------------------------------------------------------- layouts


def from_torchvision(state):
    """A state dict of torchvision, name -> NumPy array, as a dict for `Module.load_state_dict`."""
    side = _roi_side(state, 1)
    return {
        name: np.ascontiguousarray(_to_ours(name, np.asarray(value), side))
        for name, value in state.items()
        if not name.endswith(COUNTERS)
    }


def to_torchvision(state):
    """`Module.state_dict()` in torchvision's layout: the inverse of `from_torchvision`."""
    side = _roi_side(state, 0)
    return {name: np.ascontiguousarray(_to_theirs(name, value, side)) for name, value in state.items()}


def _roi_side(state, axis):
    """Height and width of the RoI features that the first fully connected layer reads along `axis` of its weight."""
    after, rpn = state.get(FC6), state.get("rpn.head.conv.0.0.weight")
    if after is None or rpn is None:
        return 7
    channels = rpn.shape[0 if axis else -1]  # the RPN reads the same maps
    return max(1, round((after.shape[axis] / channels) ** 0.5))


def _to_ours(name, value, side):
    if name == FC6:
        out = value.shape[0]
        value = value.reshape(out, -1, side, side)  # (out, C, y, x)
        return value.transpose(2, 3, 1, 0).reshape(-1, out)  # (y * x * C, out)
    if value.ndim == 4:
        return value.transpose(2, 3, 0, 1) if name.endswith(TRANSPOSED_CONVOLUTIONS) else value.transpose(2, 3, 1, 0)
    return value.T  # a vector stays as it is


def _to_theirs(name, value, side):
    if name == FC6:
        out = value.shape[1]
        value = value.reshape(side, side, -1, out)  # (y, x, C, out)
        return value.transpose(3, 2, 0, 1).reshape(out, -1)  # (out, C * y * x)
    if value.ndim == 4:
        return value.transpose(2, 3, 0, 1) if name.endswith(TRANSPOSED_CONVOLUTIONS) else value.transpose(3, 2, 0, 1)
    return value.T


# ------------------------------------------------------------------------------------------------------- into the model


@dataclass
class Report:
    """What became of each array, by name."""

    loaded: list = field(default_factory=list)
    replaced: list = field(default_factory=list)  # newly initialized on purpose
    skipped: list = field(default_factory=list)  # in the file, but not in the model
    missing: list = field(default_factory=list)  # in the model, but not in the file
    misfit: list = field(default_factory=list)  # (name, shape in the file, shape in the model)

    def __str__(self):
        return "\n".join(self.lines())

    def lines(self):
        """One line for each list that is not empty."""
        kinds = (
            ("loaded", self.loaded, ""),
            ("new", self.replaced, " (not from the file, to be trained)"),
            ("skipped", self.skipped, " (in the file, not in the model)"),
            ("missing", self.missing, " (in the model, not in the file)"),
        )
        lines = [f"{kind} {len(names)}{note}: {_grouped(names)}" for kind, names, note in kinds if names]
        if self.misfit:
            shown = [f"{name} is {file} in the file, {model} in the model" for name, file, model in self.misfit[:4]]
            more = f", and {len(self.misfit) - 4} more" if len(self.misfit) > 4 else ""
            lines.append(f"misfit {len(self.misfit)}: {', '.join(shown)}{more}")
        return lines


def _grouped(names):
    """Up to four names in full; more of them as the parts of the model with their counts."""
    if len(names) <= 4:
        return ", ".join(names)
    groups = {}
    for name in names:
        part = ".".join(name.split(".")[:2])
        groups[part] = groups.get(part, 0) + 1
    shown = [f"{part} ({count})" for part, count in groups.items()]
    return ", ".join(shown[:8]) + (f", and {len(shown) - 8} more" if len(shown) > 8 else "")


def is_graph(path):
    """Whether `path` is a folder with a network that weights/maskrcnn2go.py reads."""
    return (Path(path) / "graph.json").is_file()


def is_checkpoint(path):
    """Whether checkpoint.py should read `path`: a checkpoint, a run's folder, or nothing at all."""
    path = Path(path)
    if not path.is_file():
        return not is_graph(path)
    return files.kind(path) == "checkpoint"


def read(path):
    """The content of a published file or of a checkpoint, as a Published. Raises InputError if it is neither."""
    if is_graph(path):
        raise InputError(f"{path}: this network can predict and be evaluated, but not be trained or converted")
    if not is_checkpoint(path):
        return published.read(path)
    path = checkpoint.find(path)
    arrays, settings = checkpoint.read(path)
    model = {
        name: value
        for name, value in checkpoint.model_settings(path, settings).items()
        if name not in ("num_classes", "seed")
    }
    try:
        state = to_torchvision(checkpoint.part(arrays, "model"))
    except published.FOREIGN as error:
        raise InputError(f"{path}: has shapes that fit no known model ({error})") from error
    return Published(path, state, model)


def recognize(source, **changes):
    """Arguments of `build` that fit a file, given as a path or as a Published: see published.recognize."""
    return published.recognize(source if isinstance(source, Published) else read(source), **changes)


def load_into(model, source, replace_heads=False):
    """Copy the weights of a file into a model.

    model: a MaskRCNN. source: the file, as a path or as a Published.
    replace_heads: keep the model's newly initialized weights in the layers that depend on the classes, and in branches
        that the file does not have. If the file is a plain ResNet, only the backbone is copied anyway.
    Returns a Report.
    Raises InputError, with the model unchanged, if the file lacks anything else, if a shape does not fit, or if a value
    is not finite.
    """
    source = source if isinstance(source, Published) else read(source)
    state, own = source.state, model.state_dict()
    if source.is_backbone() and model.neck == "c4":
        state = {name.replace(f"{BODY}layer4.", "roi_heads.res5."): value for name, value in state.items()}
    side, report = _roi_side(own, 0), Report()
    for name, array in own.items():
        shape = _to_theirs(name, array, side).shape
        if _stays_new(name, source, replace_heads):
            report.replaced.append(name)
        elif name not in state:
            report.missing.append(name)
        elif state[name].shape != shape:
            report.misfit.append((name, state[name].shape, shape))
        elif state[name].dtype.kind != "f" or not np.isfinite(state[name]).all():
            raise InputError(f"{source.path}: {name} must hold finite floating-point numbers")
        else:
            report.loaded.append(name)
    report.skipped = [name for name in state if name not in own]
    if report.missing or report.misfit:
        raise InputError(f"{source.path}: {_classes_differ(source, model)}{'; '.join(report.lines())}")
    for name in report.loaded:
        own[name][...] = _to_ours(name, state[name], side)
    return report


def _stays_new(name, source, replace_heads):
    if source.is_backbone() and not name.startswith((BODY, "roi_heads.res5.")):
        return True
    absent = [branch for branch in BRANCHES if not any(other.startswith(branch) for other in source.state)]
    return replace_heads and name.startswith((*CLASS_LAYERS, *absent))


def _classes_differ(source, model):
    """The beginning of a message: the number of classes is the reason, or the model is another one."""
    theirs = None if source.is_backbone() else len(source.state[SCORES])
    if theirs in (None, model.num_classes):
        return "these weights are not for the model: "
    return (
        f"holds weights for {checkpoint.count_classes(theirs)}, but the model here has "
        f"{checkpoint.count_classes(model.num_classes)}; train --new-heads (in Python new_heads=True) takes everything "
        "that does not depend on them: "
    )


# ------------------------------------------------------------------------------------------------------ from the model


@dataclass
class Opened:
    """A model that was read from a file, ready for prediction.

    settings: "class_names" of labels 1, 2, ..., their "category_ids"; "keypoint_names" and "skeleton" of a model that
        finds keypoints; "options" of the training run, if there was one.
    report: a Report, or None for a file that this program made.
    """

    model: object
    settings: dict
    report: Report | None = None


def open_file(path, classes=None, **changes):
    """The Opened content of anything that holds a model.

    path: a checkpoint, the folder of a run, a published file, a folder with a graph.json, or "toy" (see `load`).
    classes: names of labels 1, 2, ..., if the file does not have them.
    changes: groups of the model's settings that override what the file says.
    """
    if "://" in str(path):
        raise InputError(f"{path}: is an address; fetch the file first, then give its path")
    if str(path) == "toy" and not Path(path).exists():
        path = toy_weights()
    opened = _open(path, changes)
    if classes is not None:
        _name(path, opened, classes)
    known = {name: opened.settings.get(name) for name in ("class_names", "category_ids", "keypoint_names", "skeleton")}
    if known["class_names"]:
        try:
            opened.model.name_classes(**known)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: the names of its classes and keypoints are damaged ({error})") from error
    return opened


def _name(path, opened, classes):
    """Give the labels of an Opened file other names. Raises InputError unless there is one for each."""
    count = len(opened.settings["class_names"])
    names = [classes] if isinstance(classes, str) else list(classes)
    if len(names) != count or len(set(names)) != count:
        raise InputError(
            f"{path}: the model has {count} classes of objects; give {count} different names in the order of its "
            f"labels, without the background, got {len(names)}: {', '.join(map(str, names[:5]))}"
        )
    opened.settings = {**opened.settings, "class_names": names}


def _open(path, changes):
    from minimask.mask_rcnn import build

    if is_graph(path):
        from minimask.weights import maskrcnn2go

        if changes:
            raise InputError(f"{path}: this network has no settings, got {', '.join(changes)}")
        model, class_names, category_ids = maskrcnn2go.load(path)
        return Opened(model, {"class_names": class_names, "category_ids": category_ids})
    if is_checkpoint(path):
        return Opened(*checkpoint.load_with_settings(path, **changes))
    source = read(path)
    if source.is_backbone():
        other = any(name.startswith(("backbone.fpn.", "rpn.", "head.", "roi_heads.")) for name in source.state)
        what = "holds a backbone, without the box head of a Faster or Mask R-CNN" if other else "is a backbone"
        raise InputError(f"{path}: {what}, which finds nothing by itself; train with it: train --weights")
    found = recognize(source, **changes)
    check_size(path, found, source.state)
    model = build(**found).eval()
    return Opened(model, meanings(model.num_classes, model.heads.keypoints), load_into(model, source))


def load(source, classes=None, **groups):
    """Load a trained model, ready for prediction.

    source: the folder of a run ("runs/toy") or one of its checkpoints; a published file of torchvision (.pth) or
        Detectron2 (.pkl); or "toy", a small model trained on drawn scenes of cats, dogs and ducks.
    classes: names of the labels, without the background, for a model of your own classes from torchvision or
        Detectron2, whose files do not have them: load("mine.pth", classes=["cat", "dog"]).
    groups: settings of the model that override what the file says: load("toy", detection={"score_threshold": 0.3}).
    Returns the model in inference mode; it knows its class_names, category_ids, keypoint_names and skeleton.
    Raises InputError if there is no such file, or it holds no model.
    """
    opened = open_file(source, classes, **groups)
    if opened.report and opened.report.skipped:
        say(f"weights of {source}:\n{opened.report}")
    return opened.model


def toy_weights():
    """Path of the weights of the small model trained on drawn scenes: in the package, or in a checkout's data/."""
    import minimask

    for folder in minimask.__path__:
        path = Path(folder) / "data" / "toy_weights.npz"
        if path.exists():
            return path
    raise InputError(
        "toy_weights.npz is missing; make it with: python -m minimask train --keypoints --steps 4000 "
        "--learning-rate 0.0015 --output runs/toy, and load runs/toy"
    )


def save(path, model):
    """Write the weights of a MaskRCNN under torchvision's names in its layout, as .npz or .safetensors."""
    path = Path(path)
    state = to_torchvision(model.state_dict())
    if path.suffix.lower() == ".safetensors":
        data = files.safetensors_package().numpy.save(state)
    elif path.suffix.lower() == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **state)
        data = buffer.getvalue()
    else:
        raise InputError(f"{path}: weights are saved as .npz or .safetensors")
    write_files({path: data})
