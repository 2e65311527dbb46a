"""Evaluation from Python and from the command line: average precision in COCO's table. evaluate.py computes it."""

from pathlib import Path

from minimask.errors import InputError
from minimask.run.options import EvaluateOptions
from minimask.run.training import set_up_machine


def evaluate(model, dataset, output=None, quiet=False, **options):
    """Average precision of a model on a data set, as COCO computes it.

    model: a model that finds objects. dataset: its classes must be the model's, in the same order.
    output: folder for the results in COCO's format and the numbers as json; by default nothing is written.
    quiet: no progress bar, and no table.
    options: max_detections (per image, default 100), batch_size (default 1), device, precision, threads.
    Prints COCO's table and returns its numbers: {"bbox": {"AP": ..., "AP50": ..., ...}, "segm": {...}, ...}.
    Raises InputError for data that does not fit the model.
    """
    from minimask.evaluate import evaluate as average_precision
    from minimask.machine import warmup
    from minimask.run.files import json_bytes, write_files
    from minimask.run.report import format_table

    chosen = EvaluateOptions.of(options)
    set_up_machine(chosen)
    check_classes(model, dataset)
    if chosen.device:
        model.to(chosen.device)
    if getattr(model, "device", "cpu") == "cpu":
        warmup.ensure(not quiet)
    numbers = average_precision(
        model,
        dataset,
        batch_size=chosen.batch_size,
        progress=not quiet,
        max_detections=(1, min(10, chosen.max_detections), chosen.max_detections),
        results_dir=output,
    )
    if output is not None:
        write_files({Path(output) / "average_precision.json": json_bytes(numbers)})
    if not quiet:
        print(f"{len(dataset)} images")
        print(format_table(numbers))
    return numbers


def check_classes(model, dataset):
    """Raises InputError if the data set's classes are known not to be those of the model."""
    ours, theirs = list(getattr(model, "class_names", ())), list(getattr(dataset, "class_names", ()))
    if ours and theirs and ours != theirs:
        raise InputError(
            f"evaluate: the model has {len(ours)} classes of objects ({some(ours)}), the data has {len(theirs)} "
            f"({some(theirs)}); their order counts: datasets.coco(..., classes=model.class_names) gives it the model's"
        )


def some(names, count=4):
    """The first few names, for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
