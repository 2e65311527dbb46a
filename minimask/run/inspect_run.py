"""How a training run stands: finished, interrupted or running; its losses, its validation, how to go on."""

import json
from pathlib import Path

import numpy as np

from minimask.errors import InputError
from minimask.run.best import BEST, Best
from minimask.run.folder import checkpoints, load_newest
from minimask.run.inspect_weights import about_model, about_training, training_lines, validations
from minimask.run.inspection import Inspection, row, scores_text
from minimask.run.lock import holder
from minimask.run.log import LOG
from minimask.run.metrics import PICTURE
from minimask.run.report_classes import KINDS

WINDOW = 20  # steps over which losses are averaged, in a long run
VALIDATIONS_SHOWN = 8
REPORT = Path("evaluation") / "report.html"


def is_run(path):
    """Whether `path` is the folder of a training run, and not of converted weights."""
    return Path(path).is_dir() and (Path(path) / LOG).exists() and bool(checkpoints(path))


def inspect_run(folder):
    """The Inspection of the folder of a run; nothing in it is changed. Raises InputError if nothing can be read."""
    folder = Path(folder)
    path, _, settings, damaged = load_newest(folder)
    facts = {"folder": str(folder), "checkpoint": path.name, "damaged": list(map(str, damaged.values()))}
    facts |= about_training(settings, path)
    if "step" not in facts:
        raise InputError(f"{path}: its settings do not say how it was trained")
    facts |= about_model(settings["model"], settings["class_names"], settings.get("keypoint_names"))

    facts["writer"] = holder(folder)
    facts["state"] = _state(facts)
    facts["logged"], facts["losses"] = _losses(folder / LOG)
    facts["validations"] = validations(folder / LOG)
    best = Best(folder)
    facts["best"] = {"step": best.step, "scores": {best.name: best.score}} if best.step is not None else None
    facts["evaluation"] = _evaluation(folder)
    facts["next"] = _next(folder, facts, settings)
    return Inspection(facts, _lines(folder, facts))


def _state(facts):
    """ "running", "finished" or "interrupted"."""
    if facts["writer"] is not None:
        return "running"
    if facts["minutes"]:
        over = facts["seconds"] >= 60 * facts["minutes"]
    else:
        over = facts["step"] >= facts["steps"]
    return "finished" if over else "interrupted"


def _losses(log):
    """(last step in the log, what became of the losses); (0, None) if it holds none.

    Single steps vary with their images, so each number is the average of a few steps.
    """
    from minimask.draw import read_log
    from minimask.draw.curves import loss_curves

    curves = loss_curves(read_log(log))
    if "loss" not in curves:
        return 0, None
    steps, values = curves["loss"]
    window = max(1, min(WINDOW, len(values) // 5))
    means = np.convolve(values, np.full(window, 1 / window), "valid")
    lowest = int(np.nanargmin(means)) if np.isfinite(means).any() else 0
    parts = {name: part for name, (_, part) in curves.items() if name.startswith("loss_")}
    return int(steps[-1]), {
        "window": window,
        "first": float(means[0]),
        "last": float(means[-1]),
        "lowest": float(means[lowest]),
        "lowest_step": int(steps[lowest + window - 1]),
        "parts": {name.removeprefix("loss_"): float(part[-window:].mean()) for name, part in parts.items()},
    }


def _evaluation(folder):
    """What `evaluate` has written into the folder of a run: average precision by kind, mean IoU; None if it has not."""
    try:
        numbers = json.loads((folder / REPORT.parent / "average_precision.json").read_text(encoding="utf-8"))
        scores = {f"{KINDS[kind]}_AP": numbers[kind]["AP"] for kind in KINDS if kind in numbers}
        scores |= {"mean_IoU": numbers["pixels"]["mean IoU"]} if "pixels" in numbers else {}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return {name: float(score) for name, score in scores.items() if isinstance(score, (int, float))} or None


def _next(folder, facts, settings):
    """What to do now, in one line."""
    options = settings.get("options") or {}
    if facts["state"] == "running":
        return f"look at {folder / PICTURE}, or inspect again later"
    if facts["state"] == "interrupted" and settings.get("dataset"):
        return f"minimask.train(model, dataset, output={str(folder)!r}, resume=True) in Python"
    if facts["state"] == "interrupted":
        return f"python -m minimask train --output {folder} --resume"
    data = ""
    if options.get("annotations"):
        images = options.get("val_images") or options["images"]
        data = f" --images {images} --annotations {options.get('val_annotations') or 'FILE.json'}"
    return f"python -m minimask evaluate --weights {folder}{data}"


# -------------------------------------------------------------------------------------------------------------- report


def _lines(folder, facts):
    lines = [row("folder", folder), row("state", _state_text(facts)), *training_lines({**facts, "validation": None})]
    lines += _loss_lines(facts["losses"])
    lines += _validation_lines(facts["validations"])
    if facts["best"]:
        best = facts["best"]
        lines.append(row("best", f"{scores_text(best['scores'])} at step {best['step']}, kept as {folder / BEST}"))
    if facts["evaluation"]:
        lines.append(row("evaluation", f"{scores_text(facts['evaluation'])}; see {folder / REPORT}"))
    count = len(facts["classes"])
    lines.append(row("model", f"{facts['model']}; {count} class{'es' * (count != 1)}"))
    lines.append(row("", f"more: python -m minimask inspect {folder / facts['checkpoint']}"))
    lines += [row("damaged", text) for text in facts["damaged"]]
    lines.append(row("next", facts["next"]))
    return lines


def _state_text(facts):
    of = f" of {facts['steps']}" if facts["steps"] else ""
    if facts["state"] == "running":
        who = f" ({facts['writer']})" if facts["writer"] else ""
        return f"running{who}, at step {max(facts['step'], facts['logged'])}{of}; saved up to step {facts['step']}"
    if facts["state"] == "finished":
        return f"finished after {facts['step']} steps"
    lost = facts["logged"] - facts["step"]
    again = f"; {lost} later steps are in the log and will be taken again" if lost > 0 else ""
    return f"interrupted after step {facts['step']}{of}{again}"


def _loss_lines(losses):
    if not losses:
        return []
    averages = f"averages of {losses['window']} steps" if losses["window"] > 1 else "single steps"
    lines = [
        row("loss", f"{losses['first']:.3f} at first, {losses['last']:.3f} at the end ({averages})"),
        row("", f"lowest {losses['lowest']:.3f} at step {losses['lowest_step']}"),
    ]
    parts = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses["parts"].items())
    return lines + ([row("", f"at the end: {parts}")] if parts else [])


def _validation_lines(found):
    if not found:
        return [row("validation", "none (--validate-every STEPS validates during training)")]
    shown = [f"step {one['step']}: {scores_text(one['scores'])}" for one in found[-VALIDATIONS_SHOWN:]]
    earlier = len(found) - len(shown)
    texts = ([f"{earlier} earlier ones are in {LOG}"] if earlier else []) + shown
    return [row("validation" if i == 0 else "", text) for i, text in enumerate(texts)]
