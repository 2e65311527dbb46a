"""What the fuzzers share: a process that tries one file after another, watched from outside, and the command line.

A fuzzer has a function `prepare(folder, seed)`, which returns a function `attempt(number)`. That one writes file
`number`, a function of the seed and the number alone, reads it, and returns how reading ended and a list of what went
wrong, each (way, what).
"""

import argparse
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SLOW = 5.0  # seconds per file
MEMORY = 1 << 30  # bytes that the process may occupy at its largest, Python and the packages included
START = 300.0  # seconds until a process has imported the packages and written its examples
# What may be printed: our own messages, and those of libtiff, which Pillow cannot turn off.
MAY_BE_SAID = re.compile(r"(minimask|tempfile\.tif|\w+Decode|TIFF\w+|MissingRequired): ")


@dataclass
class Report:
    """What a run has found.

    outcomes: how many files were read, refused with InputError, ...
    wrong: (number, way, what) of everything that must not happen.
    slowest: (seconds, number) of the file that took longest.
    peak: the most bytes that a process has occupied.
    """

    outcomes: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    slowest: tuple = (0.0, None)
    peak: int = 0

    def __str__(self):
        counts = ", ".join(f"{name} {number}" for name, number in sorted(self.outcomes.items()))
        return (
            f"{self.outcomes.total()} files: {counts}; slowest {self.slowest[0]:.2f} s (number {self.slowest[1]}); "
            f"at most {self.peak / 2**20:.0f} MiB; {len(self.wrong)} wrong"
        )


def run(prepare, count, seed=0, first=0):
    """Try `count` files in another process, and in a new one after a file that crashed, hung or filled the memory.

    Returns a Report.
    """
    report, number = Report(), first
    with tempfile.TemporaryDirectory() as folder:
        while number < first + count:
            number = _until_a_process_ends(prepare, folder, seed, number, first + count, report)
    return report


def _until_a_process_ends(prepare, folder, seed, number, end, report):
    """Try files from `number` on in one process, as long as it lives. Returns the number of the next file."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_try_files, args=(prepare, folder, seed, number, end, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(START):
            raise TimeoutError(f"the process that tries files has not started within {START:.0f} s")
        receiver.recv()
        while number < end:
            if not _add(report, number, receiver, process):
                return number + 1
            number += 1
        return number
    finally:
        process.kill()
        process.join()


def _add(report, number, receiver, process):
    """Wait for what becomes of one file and add it to the report. Returns whether the process can go on."""
    try:
        message = receiver.recv() if receiver.poll(SLOW) else None
    except EOFError:
        process.join()
        report.outcomes["crashed"] += 1
        report.wrong.append((number, "process", f"ended with {process.exitcode}"))
        return False
    if message is None:
        report.outcomes["hung"] += 1
        report.slowest = max(report.slowest, (SLOW, number))
        report.wrong.append((number, "process", f"not done after {SLOW:g} s"))
        return False

    outcome, wrong, seconds, peak = message
    report.outcomes[outcome] += 1
    report.wrong += [(number, *failure) for failure in wrong]
    report.slowest = max(report.slowest, (seconds, number))
    report.peak = max(report.peak, peak)
    if peak > MEMORY:
        report.wrong.append((number, "process", f"{peak / 2**20:.0f} MiB"))
    return peak <= MEMORY


def _try_files(prepare, folder, seed, first, end, sender):
    """The other process: sends None when it is ready, then the outcome of each file."""
    attempt = prepare(folder, seed)
    log = Path(folder, "stderr")
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(output, 2)
    sender.send(None)
    for number in range(first, end):
        start = time.perf_counter()
        outcome, wrong = attempt(number)
        seconds = time.perf_counter() - start
        sys.stderr.flush()
        said = log.read_text(errors="replace").splitlines()
        wrong += [("stderr", line) for line in said if not MAY_BE_SAID.match(line)]
        os.truncate(output, 0)
        sender.send((outcome, wrong, seconds, peak_memory()))


def peak_memory():
    """The most bytes that this process has occupied so far.

    On Linux ru_maxrss begins with the peak of the process that started this one, so /proc is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(prepare, subject):
    """The command line of a fuzzer. Returns its exit status: 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=f"Try damaged and crafted {subject}.")
    parser.add_argument("--count", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first file (default: 0)")
    args = parser.parse_args()
    report = run(prepare, args.count, args.seed, args.first)
    for failure in report.wrong:
        print(*map(ascii, failure))
    print(report)
    return 1 if report.wrong else 0
