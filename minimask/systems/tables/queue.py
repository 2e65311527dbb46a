"""All runs of the tables, several at once. Each ends as one json file, so an interrupted table goes on where it was."""

import concurrent.futures
import json
import multiprocessing
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minimask.errors import InputError
from minimask.run.files import check_writable, json_bytes, write_files
from minimask.systems.tables import training
from minimask.systems.tables.rows import BY_NAME
from minimask.systems.tables.training import Plan

SEARCHED = (0.5, 1.0, 2.0, 4.0)  # times RATE: the learning rates that are tried for each row
SEARCH_SEED = 1000
RATES = "rates.json"


@dataclass(frozen=True)
class Task:
    """One run to come, and the file of its record."""

    path: Path
    name: str
    seed: int
    plan: Plan
    rate: float


def tasks_of(folder, plan, rows, seeds, rates):
    """The tasks of a table.

    rows: list of Row. seeds: list of int.
    rates: dict from a row's name to its learning rate; RATE for those that are not in it.
    """
    trunk = f"-{plan.trunk}" if plan.way == "quick" else ""
    return [
        Task(
            Path(folder) / f"{plan.way}{trunk}-{row.name}-{seed}.json",
            row.name,
            seed,
            plan,
            rates.get(row.rate_of or row.name, training.RATE),
        )
        for row in sorted(rows, key=lambda row: str(training.trunk_key(row)))  # rows with the same trunk together
        for seed in seeds
        if not row.trained_as
    ]


def run_all(tasks, workers=None, quiet=False):
    """Run the tasks that have no record yet. Returns the records of all of them.

    workers: processes at once, by default one per core; each computes with one thread.
    quiet: no bar with the time that remains.
    Raises InputError if a file cannot be read or written, or if a record is of a run by another plan.
    """
    from tqdm.auto import tqdm

    for folder in {task.path.parent for task in tasks}:
        check_writable(folder)
    missing = [task for task in tasks if read(task.path, task) is None]
    for folder in {task.path.parent for task in missing if task.plan.trunk == "pixels"}:
        training.trunk_weights("pixels", folder)  # once, before the processes need it
    workers = min(workers or os.cpu_count() or 1, len(missing)) or 1
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_one_thread) as pool:
        jobs = {pool.submit(_run, task): task for task in missing}
        with tqdm(total=len(missing), desc="tables", unit="run", disable=quiet, dynamic_ncols=True) as bar:
            for job in concurrent.futures.as_completed(jobs):
                task = jobs[job]
                write_files({task.path: json.dumps(job.result(), indent=1, allow_nan=False).encode() + b"\n"})
                bar.set_postfix_str(f"{task.name}, seed {task.seed}")
                bar.update()
    return [read(task.path, task) for task in tasks]


def read(path, task=None):
    """The record in a file, None if there is no file.

    Raises InputError if it is damaged, or not that of the task: of another plan or learning rate.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        theirs = record["plan"], record["rate"]
        record["row"], record["seed"], record["numbers"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not the record of a run ({error}); delete it to run it again") from error
    if task is not None and theirs != (asdict(task.plan), task.rate):
        raise InputError(
            f"{path}: is the record of another plan or learning rate ({theirs[0]}, {theirs[1]}); choose another folder "
            "with --output, or delete it"
        )
    return record


def read_all(folder):
    """The records of all runs in a folder."""
    return [read(path) for path in sorted(Path(folder).glob("*-*.json"))]


# ------------------------------------------------------------------------------------------------------ learning rates


def search_rates(folder, plan, rows, workers=None, quiet=False):
    """Try a few learning rates for each row that has its own, on validation scenes; keep the best in rates.json.

    Best is the highest mask AP, or box AP of a system without masks. The records go to the folder "search".
    Returns dict from a row's name to its learning rate.
    """
    rows, plan = [row for row in rows if not row.rate_of], replace(plan, split="val")
    folder, tasks = Path(folder), []
    for factor in SEARCHED:
        rate = training.RATE * factor
        tasks += tasks_of(folder / "search" / f"{rate:g}", plan, rows, [SEARCH_SEED], {row.name: rate for row in rows})
    tasks.sort(key=lambda task: str(training.trunk_key(BY_NAME[task.name])))
    best = {}
    for record in run_all(tasks, workers, quiet):
        numbers = record["numbers"]
        found = numbers.get("mask AP", numbers.get("box AP"))
        best[record["row"]] = max(best.get(record["row"], (-1.0, 0.0)), (found, record["rate"]))
    rates = {**read_rates(folder).get(plan.way, {}), **{name: rate for name, (_, rate) in best.items()}}
    write_files({folder / RATES: json_bytes({**read_rates(folder), plan.way: rates})})
    return rates


def read_rates(folder):
    """{way: {row: learning rate}} of a folder's rates.json; {} without one. Raises InputError if it is damaged."""
    path = Path(folder) / RATES
    try:
        rates = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(rates, dict) or not all(isinstance(value, dict) for value in rates.values()):
        raise InputError(f"{path}: must hold learning rates by row, for each way, got {rates!r:.80}")
    return rates


def _run(task):
    return training.run(task.name, task.seed, task.plan, task.rate, task.path.parent)


def _one_thread():
    from minimask.machine.threads import set_threads

    set_threads(1)
