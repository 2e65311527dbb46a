"""python -m minimask tables: run what is missing, then print and draw all that is there."""

import os
from pathlib import Path

from minimask.errors import InputError
from minimask.run.files import json_bytes, write_files
from minimask.run.messages import say

SECOND_TRUNK = ("L08", "T14", "table 2b", "table 2c", "table 2d", "table 2e")  # what is run on the trunk of pixels too
EXAMPLES = """  python -m minimask tables --quick              heads on frozen trunks: about 25 minutes on two cores
  python -m minimask tables --resume             end to end: hours; go on after an interruption
  python -m minimask tables --quick --rows L08 --seeds 5 --output runs/roi_align
  python -m minimask tables --show data/tables   print the tables of earlier runs
"""


def add_arguments(parser):
    """Declare the options."""
    from minimask.systems.tables.rows import CLAIMS, ROWS

    sources = sorted({claim.source for claim in CLAIMS})
    parser.add_argument("--quick", action="store_true", help="train heads alone, on frozen trunks, instead of all")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"only these rows ({', '.join(row.name for row in ROWS)}) or claims ({', '.join(sources)})",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs per row (default: 3)")
    parser.add_argument("--output", default="runs/tables", metavar="DIR", help="for the results (default: runs/tables)")
    parser.add_argument("--resume", action="store_true", help="go on in --output: only what is missing is run")
    parser.add_argument("--search", action="store_true", help="first choose each row's learning rate, by validation")
    parser.add_argument("--workers", type=int, metavar="N", help="processes at once (default: one per core)")
    parser.add_argument("--show", metavar="DIR", help="run nothing; print the tables of the results in this folder")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def tables(args):
    """The command."""
    from minimask.systems.tables import report
    from minimask.systems.tables.queue import read_all

    if args.show is not None:
        records = read_all(args.show)
        if not records:
            raise InputError(f"{args.show}: holds no results of tables")
        print(report.as_text(report.titled(records, read_costs(args.show))))
        return
    for name in ("seeds", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"tables: --{name} must be at least 1, got {value}")
    run(args)
    records, costs = read_all(args.output), read_costs(args.output)
    found = report.titled(records, costs)
    files = write(args.output, found, records)
    print(report.as_text(found))
    say(f"written: {', '.join(map(str, files))}")


def run(args):
    """Run what is missing in args.output."""
    from minimask.systems.tables import cost
    from minimask.systems.tables.queue import read_all, run_all, search_rates
    from minimask.systems.tables.rows import chosen

    folder, way = Path(args.output), "quick" if args.quick else "full"
    rows, _ = chosen(args.rows, way)
    if not args.resume and folder.is_dir() and read_all(folder):
        raise InputError(f"{folder}: holds results already; go on with --resume, or choose another --output")
    tasks = []
    for plan in plans(way):
        subset = rows if plan.trunk == "masks" else _of_second_trunk(rows)
        if args.search and plan.trunk == "masks":
            search_rates(folder, plan, rows, args.workers, args.quiet)
        tasks += tasks_for(folder, plan, subset, args.seeds)
    run_all(tasks, args.workers, args.quiet)
    if "slow_rcnn" in {row.name for row in rows}:
        write_files({folder / "cost.json": json_bytes(cost.costs())})


def plans(way):
    """The plans of one way: quick tables have two trunks."""
    from dataclasses import replace

    from minimask.systems.tables.training import PLANS

    return [PLANS[way], replace(PLANS[way], trunk="pixels")] if way == "quick" else [PLANS[way]]


def tasks_for(folder, plan, rows, seeds):
    """The tasks of a table, with the learning rates that were chosen in this folder, or else the shipped ones."""
    from minimask.systems.tables.queue import read_rates, tasks_of

    rates = {**shipped_rates().get(plan.way, {}), **read_rates(folder).get(plan.way, {})}
    return tasks_of(folder, plan, rows, range(seeds), rates)


def shipped_rates():
    """The learning rates that come with the project."""
    from minimask.systems.tables.queue import read_rates

    package = Path(__file__).parents[2]  # in a checkout data/ lies beside it, installed inside it
    found = [rates for folder in (package.parent, package) if (rates := read_rates(folder / "data" / "tables"))]
    return found[0] if found else {}


def _of_second_trunk(rows):
    from minimask.systems.tables.rows import chosen

    wanted = {row.name for row in chosen(SECOND_TRUNK, "quick")[0]}
    return [row for row in rows if row.name in wanted]


def read_costs(folder):
    """The content of a folder's cost.json, None without one. Raises InputError if it is damaged."""
    import json

    path = Path(folder) / "cost.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def write(folder, found, records):
    """Write tables.md and a figure for each group of runs. Returns their paths."""
    from minimask.draw import picture_bytes
    from minimask.systems.tables import report
    from minimask.systems.tables.figure import plot_tables

    folder = Path(folder)
    files = {folder / "tables.md": report.as_markdown(found).encode()}
    for (way, trunk), group in report.by_group(records).items():
        title = "End to end" if way == "full" else f"Heads on a frozen trunk, trained on {trunk}"
        name = "-".join(filter(None, ("tables", way, trunk)))
        files[folder / f"{name}.png"] = picture_bytes(plot_tables(group, way, title))
    write_files(files)
    return [os.path.relpath(path) for path in files]
