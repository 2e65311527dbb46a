"""Runs the kernels' tests on a GPU under NVIDIA's compute-sanitizer: python -m tests.cuda_on_cpu.sanitize [TOOL ...]

    memcheck    finds reads and writes outside an array, and misaligned ones
    racecheck   finds threads of a block that access the same shared memory without a barrier in between
    synccheck   finds barriers that some threads of a block do not reach
    initcheck   finds reads of GPU memory that was never written

CuPy normally cuts arrays out of large blocks of memory, so that beyond the end of one array there is usually another,
and no tool would notice the mistake. For these runs, each array therefore gets its own memory. `make sanitize`
installs everything that is needed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from minimask import device
from minimask.errors import InputError

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
HERE = Path(__file__).resolve().parent
NOT_KERNELS = {
    "test_benchmark",
    "test_heads",
    "test_model",
    "test_planted_bugs",
    "test_sanitize",
    "test_stand_in",
    "test_workers",
}
WHEEL = "nvidia-cuda-sanitizer-api-cu12"


def main(arguments=None):
    """Run the chosen tools. Returns the exit status: 0, 1 if a tool found something, 2 if none can run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"{', '.join(TOOLS)} (default: all)")
    parser.add_argument("-k", default="", help="run only tests whose names contain this, as in pytest")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.tools) - set(TOOLS)
    if unknown:
        parser.error(f"there is no tool {unknown.pop()}")
    try:
        device.resolve("cuda")
        start = compute_sanitizer()
    except InputError as error:
        print(f"sanitize: {error}", file=sys.stderr)
        return 2
    results = {}
    for tool in chosen.tools or TOOLS:
        print(f"== {tool}", flush=True)
        command = [*start, "--tool", tool, "--error-exitcode", "1", "--print-limit", "20", *tests(chosen.k)]
        results[tool] = subprocess.run(command, cwd=HERE.parents[1]).returncode
    for tool, status in results.items():
        print(f"{tool:10} {'nothing found' if status == 0 else f'found something (status {status})'}")
    return int(any(results.values()))


def compute_sanitizer():
    """The start of the command, from the CUDA toolkit or from the wheel. Raises InputError if neither is installed."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program:
        return [program]
    folder = Path(sysconfig.get_path("purelib")) / "nvidia" / "cuda_sanitizer_api"
    program = folder / "bin" / "compute-sanitizer"
    if not program.exists():
        raise InputError(f"compute-sanitizer is not installed: pip install {WHEEL}")
    program.chmod(0o755)  # files of a wheel may not be executable
    return [str(program), "--injection-path", str(folder / "lib")]


def tests(names=""):
    """The command that runs the tests of single kernels with separate memory for each array."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cuda_on_cpu.sanitize"]
    return [*command, *(["-k", names] if names else []), *map(str, test_files())]


def test_files():
    """The files that test single kernels on a GPU. Tests of whole models are left out: they would take hours."""
    files = [path for path in sorted(HERE.glob("test_*.py")) if path.stem not in NOT_KERNELS]
    return [path for path in files if re.search(r"\bgpu\b", path.read_text(encoding="utf-8"))]


def pytest_configure(config):
    """As a pytest plugin: turn off CuPy's memory pool."""
    import cupy

    cupy.cuda.set_allocator(None)


if __name__ == "__main__":
    sys.exit(main())
