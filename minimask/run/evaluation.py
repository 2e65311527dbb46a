"""Evaluation from Python and from the command line: average precision in COCO's table. evaluate.py computes it."""

from pathlib import Path

from minimask.errors import InputError
from minimask.run.options import EvaluateOptions
from minimask.run.report import category_list
from minimask.run.training import set_up_machine


def evaluate(model, dataset, output=None, quiet=False, note="", **options):
    """Average precision of a model on a data set, as COCO computes it.

    model: a model that finds objects. dataset: its classes must be the model's, in the same order.
    output: folder for a report (report.html) and what it is made of: the results in COCO's format, the numbers as
        json, the table per class, curves of precision and recall. By default nothing is written.
    quiet: no progress bar, and no table.
    note: a line for the head of the report, such as which weights these are.
    options: max_detections (per image, default 100), batch_size (default 1), device, precision, threads.
    Prints COCO's table and AP per class. Returns the numbers: {"bbox": {"AP": ..., "AP50": ..., ...}, "segm": ...}. A
    model that gives each pixel a class adds "pixels": {"mean IoU": ...}.
    Raises InputError for data that does not fit the model, and before the work begins if nothing can be written.
    """
    from minimask.evaluate import evaluate as average_precision
    from minimask.machine import warmup
    from minimask.run.files import check_writable
    from minimask.run.report import format_table
    from minimask.run.report_classes import class_table, per_class

    chosen = EvaluateOptions.of(options)
    set_up_machine(chosen)
    check_classes(model, dataset)
    if output is not None:
        check_writable(output)
    if chosen.device:
        model.to(chosen.device)
    if getattr(model, "device", "cpu") == "cpu":
        warmup.ensure(not quiet)
    found = average_precision(
        model,
        dataset,
        batch_size=chosen.batch_size,
        progress=not quiet,
        max_detections=(1, min(10, chosen.max_detections), chosen.max_detections),
        details=True,
    )
    names = dict(zip(category_list(dataset.category_ids), getattr(dataset, "class_names", ())))
    table, rows = format_table(found.numbers), per_class(found.scoring, names)
    if hasattr(model, "segment"):
        found.numbers["pixels"] = pixel_numbers(model, dataset, chosen.batch_size)
        table += f"\nmean IoU of the pixels' classes: {found.numbers['pixels']['mean IoU']:.3f}"
    if not quiet:
        print(f"{len(dataset)} images")
        print(table)
        print(f"\n{class_table(rows)}")
    if output is not None:
        write_report(Path(output), found, dataset, names, table, rows, note)
    return found.numbers


def pixel_numbers(model, dataset, batch_size=1):
    """{"mean IoU": ...} of a model that gives each pixel a class: over the classes that occur, with the background."""
    from minimask.device import to_cpu
    from minimask.systems.pixels import confusion, mean_iou, semantic_map

    counts = 0
    for start in range(0, len(dataset), batch_size):
        batch = model.transform([dataset[i] for i in range(start, min(start + batch_size, len(dataset)))])
        counts = counts + confusion(to_cpu(model.segment(batch)), semantic_map(batch), model.num_classes)
    return {"mean IoU": mean_iou(counts)[0]}


def write_report(output, found, dataset, names, table, rows, note):
    """Write report.html, precision_recall.png, per_class.csv, average_precision.json and the results: all or none.

    output: the folder. found: an evaluate.Evaluation. names: dict from category id to name.
    table: COCO's table as text. rows: see `report_classes.per_class`. note: see `evaluate`.
    """
    from minimask.draw import picture_bytes
    from minimask.draw.precision import plot_precision_recall
    from minimask.run.files import json_bytes, write_files
    from minimask.run.report_classes import class_csv, precision_curves
    from minimask.run.report_mistakes import find_mistakes
    from minimask.run.report_page import mistake_pictures, report_page

    files = {f"{kind}_results.json": json_bytes(entries) for kind, entries in found.results.items()}
    files["average_precision.json"] = json_bytes(found.numbers)
    files["per_class.csv"] = class_csv(rows)

    curves = precision_curves(found.scoring)
    picture = plot_precision_recall(curves) if curves else None
    if curves:
        files["precision_recall.png"] = picture_bytes(picture)

    mistakes = find_mistakes(found.scoring, names)
    ids, class_names = list(names), list(names.values())
    pictures = mistake_pictures(mistakes, dataset, found.image_ids, found.scoring, ids, class_names)
    title = f"Evaluation on {len(dataset)} images"
    files["report.html"] = report_page(title, note, table, rows, picture, mistakes, pictures).encode()
    write_files({output / name: content for name, content in files.items()})


def check_classes(model, dataset):
    """Raises InputError if the data set's classes are known not to be those of the model."""
    ours, theirs = list(getattr(model, "class_names", ())), list(getattr(dataset, "class_names", ()))
    if ours and theirs and ours != theirs:
        if len(ours) == len(theirs) and ours == [f"class {i + 1}" for i in range(len(ours))]:
            raise InputError(
                f"evaluate: the weights have no names for their {len(ours)} classes; if they are those of the data, in "
                f"this order, say so: --classes {' '.join(theirs[:20])} (in Python load(path, classes=[...]))"
            )
        raise InputError(
            f"evaluate: the model has {len(ours)} classes of objects ({some(ours)}), the data has {len(theirs)} "
            f"({some(theirs)}); their order counts: datasets.coco(..., classes=model.class_names) gives it the model's"
        )


def some(names, count=4):
    """The first few names, for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
