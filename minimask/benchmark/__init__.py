"""Time and peak memory of the model and its kernels on this machine, alone or against torch and torchvision.

    python -m minimask benchmark --reference PYTHON --threads 1 2
    python -m minimask benchmark --reference PYTHON --device cuda
    python -m minimask benchmark --growth growth.png

Each side works in its own process, because their thread pools would disturb each other. Only one works at a time: they
take turns round by round, so that a machine that slows down slows both. A ratio is our median time divided by theirs.
Before the timing, both sides do the work once and must come to the same result. On a card, the table shows arithmetic
(TFLOP/s) or the bytes that must be moved (GB/s), and how much of the card's memory a fresh process holds.
`--growth` asks another question, about our side alone: how does the cost grow with the work (see `growth`)?
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minimask import device
from minimask.benchmark import growth
from minimask.benchmark.cases import all_cases
from minimask.errors import InputError
from minimask.run.files import check_writable_file, write_files

HERE = Path(__file__).resolve().parent


def add_arguments(parser):
    """Add the options of `python -m minimask benchmark` to its parser."""
    option = parser.add_argument
    option("--reference", metavar="PYTHON", help="interpreter that has torch and torchvision, to compare with")
    option(
        "--threads",
        type=int,
        nargs="+",
        default=[2],
        metavar="N",
        help="threads per side (default 2); with several numbers, everything is measured with each",
    )
    option("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides compute (default cpu)")
    option(
        "--precision",
        choices=device.MATMUL_PRECISIONS,
        default="highest",
        help="on a card, how both multiply: float32, TensorFloat32 or (ours only) bfloat16 (default highest)",
    )
    option("--rounds", type=int, default=5, help="turns per side for each piece of work (default 5)")
    option("--only", metavar="NAME", help="only pieces whose name contains NAME, e.g. whole or 'conv R50'")
    option("--no-memory", action="store_true", help="leave out peak memory, which takes a fresh process per piece")
    option(
        "--growth",
        metavar="PNG",
        help="measure instead how the cost grows with batch, side, objects and RoIs; "
        "print the fitted exponents and draw this picture",
    )
    option("--output", metavar="FILE", help="also write the numbers to this json file")


def main(args):
    """Run the benchmark with the parsed options and print its table. Returns the exit status."""
    if min(args.threads) < 1 or args.rounds < 1:
        threads = " ".join(map(str, args.threads))
        raise InputError(f"benchmark: --threads and --rounds must be at least 1, got {threads} and {args.rounds}")
    for file in filter(None, (args.growth, args.output)):
        check_writable_file(file)
    if args.device != "cpu":
        device.resolve(args.device)  # raises and says what is missing
        if args.growth:
            raise InputError("benchmark: --growth measures the CPU; leave out --device")
    run = run_growth if args.growth else run_cases
    report = {"machine": {}, "results": []}
    for threads in dict.fromkeys(args.threads):
        machine, rows = run(args, threads)
        report["machine"].update(machine)
        report["results"] += [{**row, "threads": threads} for row in rows]
    if args.growth:
        growth.plot([row for row in report["results"] if row["threads"] == args.threads[0]], args.growth)
        print(f"\ndrawn into {args.growth}")
    if args.output:
        write_files({args.output: json.dumps(report, indent=1).encode()})
        print(f"\nwritten to {args.output}")
    return 0


def run_cases(args, threads):
    """Measure every chosen case with this many threads, and print the table. Returns (machine, rows)."""
    with tempfile.TemporaryDirectory(prefix="minimask_benchmark_") as folder:
        cases = choose(all_cases(folder, args.device), args.only)
        sides = start_sides(args.reference, threads, args.device, args.precision)
        try:
            machine = describe_machine(threads, sides)
            print("\n".join(machine.values()), flush=True)
            table = Table(compared=len(sides) == 2, memory=not args.no_memory, device=args.device)
            rows = []
            for case in cases:
                rows.append(measure(case, sides, args.rounds, memory=not args.no_memory))
                table.print_row(rows[-1], case.group)
            print()
        finally:
            for side in sides:
                side.close()
    return machine, rows


def run_growth(args, threads):
    """Measure every chosen series of `growth` with this many threads, and print it. Returns (machine, rows)."""
    chosen = choose(growth.all_series(), args.only)
    (side,) = start_sides(None, threads)
    try:
        machine = describe_machine(threads, [side])
        print("\n".join(machine.values()), growth.heading(), sep="\n", flush=True)
        rows = []
        for series in chosen:
            rows.append(growth.measure(series, side, args.rounds))
            print(growth.show_row(rows[-1]), flush=True)
        print()
    finally:
        side.close()
    return machine, rows


def choose(cases, only):
    """The cases (or series) whose title contains `only`, or all of them if it is None."""
    chosen = [case for case in cases if only is None or only.lower() in case.title.lower()]
    if not chosen:
        groups = ", ".join(dict.fromkeys(getattr(case, "group", case.title) for case in cases))
        raise InputError(f"benchmark: no piece of work has {only!r} in its name; there are: {groups}")
    return chosen


# ----------------------------------------------------------------------------------------------------------- the sides


class Side:
    """The worker process of a library. `ask` sends one request and waits for the answer (see `common.serve`)."""

    PAUSE = 0.03  # seconds before a request: an idle thread pool spins for a few milliseconds before it sleeps

    def __init__(self, name, command, environment):
        self.name, self.command, self.environment = name, command, environment
        self.process = None
        self.start()

    def start(self):
        try:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise InputError(f"benchmark: cannot run {self.command[0]}: {error.strerror or error}") from None

    def send(self, request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:  # the process has ended; `receive` reports it
            pass

    def receive(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise InputError(
                f"benchmark: the {self.name} side ({self.command[0]}) ended with status {self.process.returncode}; "
                "its own message is above"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(f"benchmark: the {self.name} side failed: {answer['error']}")
        return answer

    def ask(self, **request):
        time.sleep(self.PAUSE)
        self.send(request)
        return self.receive()

    def fresh(self):
        """Another process of this side."""
        return Side(self.name, self.command, self.environment)

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # the process has ended, so the pipe cannot be flushed
                pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_sides(reference, threads, device="cpu", precision="highest"):
    """Start the worker processes. Returns [ours], or [ours, torch's] if there is a reference interpreter."""
    settings = [device, precision]
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    environment = {**os.environ, **counts, "KMP_BLOCKTIME": "10"}  # Intel's OpenMP would spin for 200 ms
    theirs = {key: value for key, value in environment.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent.parent)] + [path for path in [os.environ.get("PYTHONPATH")] if path]
    )
    sides = [Side("minimask", [sys.executable, "-m", "minimask.benchmark.ours", *settings], environment)]
    if reference:
        try:
            sides.append(Side("torch", [reference, str(HERE / "reference.py"), *settings], theirs))
            sides[1].ask(about=True)  # if it cannot run, it says so now
        except InputError:
            for side in sides:
                side.close()
            raise
    return sides


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(case, sides, rounds, memory=True):
    """Measure one case. Returns a row: the case's name, seconds of every run, medians, ratios, peak memory in bytes."""
    variants = {"minimask": (sides[0], case.settings)}
    if len(sides) == 2:
        variants["torch"] = (sides[1], case.settings)
        if case.tuned:
            variants["torch tuned"] = (sides[1], {**case.settings, "tuned": True})
    if case.inputs:
        piece, settings = case.inputs
        sides[0].ask(piece=piece, settings=settings, fingerprint=True)
        sides[0].ask(forget=True)

    prints = {
        name: side.ask(piece=case.piece, settings=settings, fingerprint=True)["fingerprint"]
        for name, (side, settings) in variants.items()
    }
    for name in variants:
        check_same_result(case, prints["minimask"], prints[name], name)

    runs = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (side, settings) in variants.items():
            answer = side.ask(piece=case.piece, settings=settings, seconds=case.seconds)
            runs[name].append(statistics.median(answer["seconds"]))
    for side in sides:
        side.ask(forget=True)

    medians = {name: statistics.median(seconds) for name, seconds in runs.items()}
    row = {"name": case.title, "flops": case.flops, "bytes": case.bytes, "seconds": medians, "rounds": runs}
    row["ratio"] = {name: medians["minimask"] / medians[name] for name in medians if name != "minimask"}
    if memory:
        row["peak_memory"] = measure_memory(case, sides)
    return row


def measure_memory(case, sides):
    """Peak memory in bytes of a fresh process of each side that does only this work, or None if unknown.

    The two sides work at the same time here, because nothing is timed.
    """
    workers = [side.fresh() for side in sides]
    try:
        for worker in workers:
            worker.send({"piece": case.piece, "settings": case.settings, "memory": True})
        return {worker.name: worker.receive()["peak"] for worker in workers}
    finally:
        for worker in workers:
            worker.close()


def check_same_result(case, ours, theirs, name):
    """Raise InputError if the results differ in size or by more than the case's tolerance: not the same work."""
    same = len(ours) == len(theirs) and all(
        size == other_size and abs(mean - other) <= case.tolerance * max(abs(mean), abs(other))
        for (size, mean), (other_size, other) in zip(ours, theirs)
    )
    if not same:
        raise InputError(
            f"benchmark: {case.title}: minimask and {name} come to different results "
            f"(size and mean magnitude of each: {ours} and {theirs})"
        )


# -------------------------------------------------------------------------------------------------------------- showing


def cpu_name():
    """The name of the processor, as it reports it."""
    try:
        if sys.platform == "linux":
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
        if sys.platform == "darwin":
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or platform.machine()


def describe_machine(threads, sides):
    """A dict from name to a line of text: the machine, the versions on our side, those of the reference."""
    about = [side.ask(about=True)["versions"] for side in sides]
    cores = f"{os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)} used"
    machine = {
        f"machine, {threads} threads": f"{cpu_name()}, {cores}, {platform.system()} {platform.machine()}",
        "minimask": about[0],
    }
    if len(sides) == 2:
        machine["torch"] = about[1]
    return machine


def show_seconds(seconds):
    """Seconds as text: `1.234 s`, `12.34 ms`, `0.012 ms`."""
    if seconds >= 1:
        return f"{seconds:.3f} s "
    milliseconds = seconds * 1e3
    return f"{milliseconds:.{3 if milliseconds < 10 else 2 if milliseconds < 100 else 1}f} ms"


def show_speed(row, device):
    """The speed of our side, in the units of the heading: arithmetic, or (on a card) bytes that must be moved."""
    seconds = row["seconds"]["minimask"]
    if device == "cpu":
        return f"{row['flops'] / seconds / 1e9:.0f}" if row["flops"] else ""
    if row["flops"]:
        return f"{row['flops'] / seconds / 1e12:.2f} TFLOP/s"
    return f"{row['bytes'] / seconds / 1e9:.0f} GB/s" if row["bytes"] else ""


def show_memory(peaks, name):
    """Memory as text: `368 MB`, or n/a on a system that does not report it."""
    return "n/a" if peaks[name] is None else f"{peaks[name] / 2**20:.0f} MB"


class Table:
    """Prints aligned rows as they come, with a heading for each new group."""

    NAME_WIDTH = 40

    def __init__(self, compared, memory, device="cpu"):
        self.compared, self.memory, self.device, self.group = compared, memory, device, None
        titles = [("minimask", 10), ("GFLOP/s", 7) if device == "cpu" else ("speed", 13)]
        if compared:
            titles += [("torch", 10), ("ratio", 5), ("tuned", 10), ("ratio", 5)]
        if memory:
            titles += [("memory", 8)] + [("torch's", 8)] * compared
        self.widths = [width for _, width in titles]
        print(f"\n{'':{self.NAME_WIDTH}}" + self.join([title for title, _ in titles]))

    def join(self, cells):
        return "".join(f"  {cell:>{width}}" for cell, width in zip(cells, self.widths))

    def cells(self, row):
        seconds, ratio, peaks = row["seconds"], row["ratio"], row.get("peak_memory")
        cells = [show_seconds(seconds["minimask"]), show_speed(row, self.device)]
        if self.compared:
            for name in ("torch", "torch tuned"):
                known = name in seconds
                cells += [show_seconds(seconds[name]), f"{ratio[name]:.2f}"] if known else ["", ""]
        if self.memory:
            cells += [show_memory(peaks, name) for name in ("minimask", "torch")[: 1 + self.compared]]
        return cells

    def print_row(self, row, group):
        if group != self.group:
            print(group)
            self.group = group
        name = row["name"].split(": ", 1)[1]
        print(f"  {name:{self.NAME_WIDTH - 2}}" + self.join(self.cells(row)), flush=True)
