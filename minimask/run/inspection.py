"""Look before you use: what is in a data set, a file of weights, or the folder of a run.

    python -m minimask inspect runs/mine
    python -m minimask inspect model.pth
    python -m minimask inspect --images photos --annotations instances.json

In Python, `minimask.inspect` takes the same and returns an Inspection.
"""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from minimask.errors import InputError

WIDTH = 14  # of the names on the left
LONGEST = 90  # of the text beside them, where it is wrapped


@dataclass(repr=False)
class Inspection:
    """What was found; printing it shows the report.

    facts: the numbers and names in the report, as a dict that JSON can hold.
    lines: the report, one text per line.
    refusal: why training would refuse a data set; "" otherwise.
    pictures: dict from file name to a function without arguments that draws it, (H, W, 3) uint8.
    """

    facts: dict
    lines: list
    refusal: str = ""
    pictures: dict = field(default_factory=dict)

    def __repr__(self):
        return "\n".join(self.lines)


def inspect(source=None, images=None, annotations=None):
    """What is in a file of weights, the folder of a run, or a data set.

    source: the folder of a run ("runs/mine"), a checkpoint, a published file (.pth, .pkl, .safetensors), a folder with
        a graph.json, or "toy".
    images, annotations: instead, the folder of the photos and the COCO file of a data set.
    Returns an Inspection: print it, or read its `facts`.
    Raises InputError if there is nothing that can be inspected.
    """
    if source is not None and (images is not None or annotations is not None):
        raise InputError("inspect: takes weights or a run's folder, or images and annotations, not both")
    if source is None and (images is None or annotations is None):
        raise InputError(
            "inspect: needs a file of weights or the folder of a run; for a data set, --images DIR and "
            "--annotations FILE.json (in Python images=..., annotations=...)"
        )
    if source is None:
        from minimask.run.inspect_data import inspect_data

        return inspect_data(images, annotations)
    from minimask.run.inspect_run import inspect_run, is_run
    from minimask.run.inspect_weights import inspect_weights

    _refuse_data(Path(source))
    return inspect_run(source) if is_run(source) else inspect_weights(source)


def _refuse_data(path):
    """Raises InputError, with the right command, for annotations and for a folder without anything of ours."""
    from minimask.run.folder import checkpoints
    from minimask.weights import is_graph

    if path.is_file() and path.suffix.lower() == ".json":
        raise InputError(
            f"{path}: is no file of weights; a data set is inspected with: inspect --images DIR --annotations {path}"
        )
    if path.is_dir() and not (checkpoints(path) or is_graph(path)):
        raise InputError(
            f"{path}: this folder holds no checkpoint (checkpoint-00000100.npz, ...), so it is no run; a data set is "
            f"inspected with: inspect --images {path} --annotations FILE.json"
        )


def row(name, text):
    """One line of a report: a name, and what to say about it. Without a name it goes on with the line before."""
    return f"{name + ':' if name else '':<{WIDTH}}{text}"


def wrapped_row(name, text):
    """The lines of a report with a long text."""
    first, *more = textwrap.wrap(text, LONGEST) or [""]
    return [row(name, first), *(row("", line) for line in more)]


def time_text(seconds):
    """A duration: "45 s", "12 min 30 s", "2 h 5 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min" + (f" {seconds % 60} s" if seconds % 60 else "")
    return f"{seconds // 3600} h" + (f" {seconds % 3600 // 60} min" if seconds % 3600 // 60 else "")


def scores_text(scores):
    """Average precision by kind: {"box_AP": 0.41, "mask_AP": 0.38} -> "box AP 0.410, mask AP 0.380"."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())
