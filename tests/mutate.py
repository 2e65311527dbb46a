"""Mutation testing: change one place of a module at a time, and see whether the module's own tests notice.

    python -m tests.mutate boxes                     every mutant of minimask/boxes.py, with tests/test_boxes.py
    python -m tests.mutate datasets/coco kernels/nms --limit 40 --seed 1

A mutant has a comparison flipped, an operator swapped, a number, a boolean or a default changed, a `not` or a sign
dropped, a statement dropped (`raise` among them), or a minimum turned into a maximum. If all tests pass it has
survived: a test is missing, or the change makes no difference. Mutants of the second kind are in
tests/equivalent_mutants.py, each with its reason. Exits with 1 if any other mutant survives.

The tests run in a copy of the project, in one process per mutant, which is forked after NumPy, Numba and pytest have
been imported and before minimask is. Needs Linux or macOS.
"""

import argparse
import difflib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.equivalent_mutants import EQUIVALENT
from tests.mutants import mutants

ROOT = Path(__file__).resolve().parents[1]
NEWLINE = b"\n"
MEMORY = 16 << 30  # bytes of address space for the tests of one mutant
TESTS = {  # of modules whose tests are in files of another name, or in several; of all others: test_NAME.py
    "datasets/coco": ("test_coco", "test_coco_cases"),
    "datasets/coco_file": ("test_coco", "test_coco_cases"),
    "datasets/coco_kind": ("test_coco", "test_coco_cases"),
    "datasets/coco_names": ("test_coco", "test_coco_cases"),
    "datasets/coco_objects": ("test_coco", "test_coco_cases"),
    "datasets/coco_results": ("test_evaluate", "test_coco_cases"),
    "kernels/add": ("test_functional",),
    "kernels/keypoints": ("test_keypoint_head",),
    "kernels/match": ("test_targets",),
    "kernels/max_pool": ("test_functional",),
    "kernels/nms": ("test_boxes",),
    "kernels/optimizer": ("test_optim",),
    "kernels/paste_mask": ("test_mask_head",),
    "kernels/resize": ("test_image",),
    "kernels/top_k": ("test_targets",),
}


def files_of(module):
    """The file of a module ("boxes", "datasets/coco", "kernels/nms") within the project, and those of its tests."""
    path = Path(f"{module}.py") if module.startswith("kernels/") else Path("minimask", f"{module}.py")
    tests = TESTS.get(module, (f"test_{module.rsplit('/')[-1]}",))
    return path, [f"tests/{name}.py" for name in tests]


class Runner:
    """Runs tests of a copy of the project, each time in a process of its own."""

    def __init__(self, folder):
        self.copy, self.log = Path(folder) / "project", Path(folder) / "log"
        ignore = shutil.ignore_patterns(".git", ".venv", "runs", "*.ipynb", ".pytest_cache", ".hypothesis")
        shutil.copytree(ROOT, self.copy, ignore=ignore)  # with times of files, so that compiled kernels stay valid
        os.chdir(self.copy)
        sys.path[0] = str(self.copy)  # instead of the project itself, from which `python -m` took this module
        del sys.modules["tests"]
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins that happen to be installed take time to load
        for name in ("numpy", "pycocotools.mask", "matplotlib", "PIL.Image", "hypothesis", "pytest"):
            importlib.import_module(name)
        import numba

        numba.njit(_nothing)()  # the first compilation prepares what all others need; it starts no threads

    def run(self, tests, seconds, timeout):
        """Run test files, the fastest test first, up to the first failure.

        seconds: dict from a test's name to the time it takes; names that are missing are added.

        Returns how it ended: "passed", or else the name of the test that failed, or "timeout" and the like.
        """
        notes = self.log.with_suffix(".json")
        notes.unlink(missing_ok=True)
        process = os.fork()
        if process == 0:
            self._run_here(tests, seconds, notes)
        end = time.monotonic() + timeout
        ended, status = os.waitpid(process, os.WNOHANG)
        while not ended and time.monotonic() < end:
            time.sleep(0.02)
            ended, status = os.waitpid(process, os.WNOHANG)
        try:
            os.killpg(process, signal.SIGKILL)  # the process, or what it leaves behind
        except ProcessLookupError:
            pass
        if not ended:
            os.waitpid(process, 0)
            return "timeout"
        if not notes.exists():
            return f"process ended with status {status}"
        found = json.loads(notes.read_text())
        for name, duration in found["seconds"].items():
            seconds.setdefault(name, duration)
        return "passed" if status == 0 else found["failed"] or "collection"

    def _run_here(self, tests, seconds, notes):
        """The child process: pytest, then the end."""
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            import pytest

            plugin = FastestFirst(seconds)
            code = int(pytest.main(["-x", "--tb=short", "-p", "no:cacheprovider", *tests], plugins=[plugin]))
            notes.write_text(json.dumps({"seconds": plugin.found, "failed": plugin.failed}))
        finally:
            os._exit(code)


def _nothing():
    return None


class FastestFirst:
    """A pytest plugin: sorts the tests by the time they took before, notes the time they take and what fails."""

    def __init__(self, seconds):
        self.seconds, self.found, self.failed = seconds, Counter(), None

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0))

    def pytest_runtest_logreport(self, report):
        self.found[report.nodeid] += report.duration
        if report.failed:
            self.failed = report.nodeid


def try_module(runner, module, tests, limit, seed):
    """Try mutants of one module, and print the survivors. Returns how many were killed, survived and are equivalent."""
    path, own_tests = files_of(module)
    tests = tests or own_tests
    source = (ROOT / path).read_text(encoding="utf-8")
    found = mutants(source)
    if limit is not None and limit < len(found):
        found = sorted(random.Random(seed).sample(found, limit))

    seconds = {}
    outcome = runner.run(tests, seconds, timeout=1800)
    if outcome != "passed":
        raise SystemExit(f"{module}: its tests fail without any change ({outcome}):\n{runner.log.read_text()[-3000:]}")
    timeout = 10 + 3 * sum(seconds.values())

    counts = Counter()
    equivalent = {(old, new) for old, new, _ in EQUIVALENT.get(module, [])}
    for start, end, text in found:
        changed = source.encode()[:start] + text.encode() + source.encode()[end:]
        diff = difference(source, changed.decode())
        if (diff[0][1:].strip(), diff[-1][1:].strip()) in equivalent:
            counts["equivalent"] += 1
            continue
        (runner.copy / path).write_bytes(changed)
        outcome = runner.run(tests, seconds, timeout)
        counts["survived" if outcome == "passed" else "killed"] += 1
        if outcome == "passed":
            print(f"survived {path}:{source.encode().count(NEWLINE, 0, start) + 1}", *diff, sep="\n", flush=True)
    shutil.copy2(ROOT / path, runner.copy / path)
    return counts


def difference(old, new):
    """The lines that differ: those of the old text, with a minus, then those of the new one, with a plus."""
    rows = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[3:]
    return sorted(rows, key=lambda row: row[0] == "+")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="boxes, datasets/coco, kernels/nms, ...")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="instead of the module's own tests")
    parser.add_argument("--limit", type=int, metavar="N", help="try only N mutants per module, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="of that choice (default: 0)")
    args = parser.parse_args()

    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(folder)
        for module in args.modules:
            start = time.monotonic()
            counts = try_module(runner, module, args.tests, args.limit, args.seed)
            numbers = ", ".join(f"{counts[kind]} {kind}" for kind in ("killed", "survived", "equivalent"))
            print(f"{module}: {numbers} ({time.monotonic() - start:.0f} s)", flush=True)
            survived += counts["survived"]
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
