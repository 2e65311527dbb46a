"""The kernels' tests on a card under NVIDIA's compute-sanitizer: python -m tests.cuda_on_cpu.sanitize [TOOL ...]

    memcheck    reads and writes outside an array, misaligned ones
    racecheck   threads of a block that touch one place of shared memory without a barrier between
    synccheck   barriers that some threads of a block do not reach
    initcheck   reads of a card's memory that nobody wrote

CuPy cuts arrays out of large blocks of memory that it keeps; what lies beyond an array is then mostly another one, and
no tool could tell. So here each array is given memory of its own. `make sanitize` installs what this needs.
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
NOT_KERNELS = {"test_benchmark", "test_heads", "test_model", "test_planted_bugs", "test_sanitize", "test_stand_in",
               "test_workers"}  # fmt: skip
WHEEL = "nvidia-cuda-sanitizer-api-cu12"


def main(arguments=None):
    """Run every tool that is asked for; the exit status: 0, 1 if one of them found something, 2 if none can run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"{', '.join(TOOLS)} (default: all)")
    parser.add_argument("-k", default="", help="only tests whose names contain this, as for pytest")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.tools) - set(TOOLS)
    if unknown:
        parser.error(f"no tool is called {unknown.pop()}")
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
    """The beginning of the command: that of CUDA's toolkit, or of its wheel. InputError if there is none."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program:
        return [program]
    folder = Path(sysconfig.get_path("purelib")) / "nvidia" / "cuda_sanitizer_api"
    program = folder / "bin" / "compute-sanitizer"
    if not program.exists():
        raise InputError(f"compute-sanitizer is not installed: pip install {WHEEL}")
    program.chmod(0o755)  # a wheel's files need not be executable
    return [str(program), "--injection-path", str(folder / "lib")]


def tests(names=""):
    """The command that runs the tests of single kernels, each array in memory of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cuda_on_cpu.sanitize"]
    return [*command, *(["-k", names] if names else []), *map(str, test_files())]


def test_files():
    """The files with tests of single kernels: those that use a card, but for whole models, which would take hours."""
    files = [path for path in sorted(HERE.glob("test_*.py")) if path.stem not in NOT_KERNELS]
    return [path for path in files if re.search(r"\bgpu\b", path.read_text(encoding="utf-8"))]


def pytest_configure(config):
    """As a plugin of pytest: no pool."""
    import cupy

    cupy.cuda.set_allocator(None)


if __name__ == "__main__":
    sys.exit(main())
