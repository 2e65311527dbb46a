"""The log of a training run: read it, and draw its loss curves."""

import json
from pathlib import Path

import numpy as np

from minimask.draw.colors import COLORS, unit
from minimask.errors import InputError

TEXT = 15  # points: to be read from the last row


def plot_losses(log, parts=None, smoothing=0.95, title=None):
    """Draw the loss curves of one run: the total and its parts against the step. Faint lines are the logged values.

    log: path of a JSON-lines file, or a list of records (dicts). A record has "step" and losses, "loss" and
        "loss_...", next to the step or in a dict "losses". "validation_loss" is drawn as points.
    parts: names of the losses to draw; by default all except the parts of the validation loss.
    smoothing: weight of the past in the running mean, from 0 to below 1.
    title: text above, of one or two lines.
    Returns (H, W, 3) uint8.
    Raises InputError, naming file and line, if it is not such a log or contains no losses.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"plot_losses: smoothing must be at least 0 and below 1, got {smoothing}")

    name = str(log) if isinstance(log, (str, Path)) else "plot_losses: the log"
    curves = loss_curves(read_log(log) if isinstance(log, (str, Path)) else log)
    if parts is None:
        parts = [name for name in curves if not name.startswith("validation_loss_")]
    curves = {part: curves[part] for part in parts if part in curves}
    if not curves:
        raise InputError(f"{name}: contains no record with a step and a loss")

    figure, axes = new_figure(9, 5.4)
    dashes = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2))]
    inks = [(0.1, 0.1, 0.1), *(unit(COLORS[i]) for i in (2, 4, 6, 0, 5, 8, 9))]  # dark enough on white
    for i, (part, (steps, values)) in enumerate(curves.items()):
        ink = inks[i % len(inks)]
        if part.startswith("validation"):
            axes.plot(steps, values, "D--", color=ink, markersize=6, markeredgecolor="white", label=_loss_name(part))
            continue
        axes.plot(steps, values, color=ink, alpha=0.18, linewidth=0.8)
        smooth = smoothed(values, smoothing)
        axes.plot(steps, smooth, color=ink, linestyle=dashes[i % 4], linewidth=2, label=_loss_name(part))

    axes.set_xlabel("step", fontsize=TEXT)
    axes.set_ylabel("loss", fontsize=TEXT)
    highest = max(float(np.nanpercentile(values, 99)) for _, values in curves.values())
    axes.set_ylim(0, 1.05 * highest if np.isfinite(highest) and highest > 0 else None)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", framealpha=0.9, fontsize=TEXT - 1)
    axes.set_title(title or "training loss and its parts", fontsize=TEXT)
    return render(figure)


def _loss_name(part):
    return {"loss": "total"}.get(part, part.removeprefix("loss_").replace("_", " "))


def read_log(path):
    """The records of a JSON-lines file, as a list of dicts. A last line that a killed run left unfinished is ignored.

    Raises InputError, naming file and line, if the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a log ({getattr(error, 'strerror', None) or error})") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}: line {number} is not JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {number} must be a JSON object, but is a {type(record).__name__}")
        records.append(record)
    return records


def loss_curves(records):
    """The losses in a log.

    If a step was logged twice, because a run was killed and resumed, its last record counts.

    records: list of dicts, as `read_log` returns them.
    Returns a dict from the name of a loss to (steps, values), two arrays; "loss", the total, comes first.
    """
    found = {}
    for record in records:
        losses = {**record, **record.get("losses", {})} if isinstance(record.get("losses"), dict) else record
        if "step" not in record:
            continue
        for name, value in losses.items():
            is_loss = name == "loss" or name.startswith(("loss_", "validation_loss"))
            if is_loss and isinstance(value, (int, float)):
                found.setdefault(name, {})[record["step"]] = float(value)
    names = sorted(found, key=lambda name: name != "loss")
    order = {name: sorted(found[name]) for name in names}
    return {name: (np.array(order[name]), np.array([found[name][step] for step in order[name]])) for name in names}


def smoothed(values, weight):
    """The running mean m_t = w m_{t-1} + (1 - w) v_t, divided by the sum of its weights so that it does not start at 0.

    values: (n,); NaN is skipped. weight: w, from 0 to below 1. Returns (n,) float64.
    """
    mean, norm, result = 0.0, 0.0, []
    for value in np.asarray(values, dtype=np.float64):
        if np.isfinite(value):
            mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        result.append(mean / norm if norm else np.nan)
    return np.array(result)


def new_figure(width, height):
    """A matplotlib figure that draws into memory, whichever backend the user's own figures have."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(labelsize=TEXT - 1)
    return figure, axes


def render(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
