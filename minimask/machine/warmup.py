"""Compiling the kernels before they are needed: once per machine, by several processes, with a progress line.

Numba keeps compiled code on disk (`cache=True`; cache_folders.py says where). Beside it we keep a stamp: a hash of each
kernel file's source when it was compiled. If the hash has not changed there is nothing to do, and finding that out
takes a few milliseconds.

The hash also covers the kernel files that a file imports from. Numba looks at the file alone, and would go on using the
old code of a function that was compiled into another file's kernel. Kernels that few models use (RoIPool, keypoints,
depthwise convolution) are in no `warm_up`; they are compiled at their first call.
"""

import collections
import contextlib
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from minimask.errors import InputError
from minimask.run.files import json_bytes, write_files

_IMPORT = re.compile(r"\bminimask\.kernels(?:\.(\w+)|\s+import\s+\(?([\w,\s]+))")


def ensure(progress=True):
    """Compile every kernel that is not in the cache on disk, on all cores.

    progress: show one line while it compiles.

    Returns the names of the kernel files that were compiled.
    """
    hashes = source_hashes()
    stamp = _cache_folder() / _stamp_name()
    stored = _read_stamp(stamp)
    cold = [name for name in hashes if stored.get(name) != hashes[name] or not any(stamp.parent.glob(f"{name}.*.nbi"))]
    if not cold:
        return []
    for name in cold:
        if name in stored:  # compiled from an older source, which Numba may not notice
            for old in stamp.parent.glob(f"{name}.*.nb[ic]"):
                old.unlink(missing_ok=True)
    compile_kernels(cold, progress)
    _write_stamp(stamp, hashes)
    return cold


def warm_up(name):
    """Call every kernel of kernels/NAME.py once, which compiles it or loads it from the cache."""
    importlib.import_module(f"minimask.kernels.{name}").warm_up()


def compile_kernels(names, progress=True):
    """Call `warm_up` for each of `names`. Helper processes take the next name whenever they are free."""
    from tqdm.auto import tqdm

    todo = collections.deque(names)
    bar = tqdm(
        total=len(names),
        disable=not progress,
        desc="compiling kernels (once)",
        bar_format="{desc} |{bar:20}| {n_fmt} of {total_fmt} [{elapsed}]",
    )
    with bar:
        helpers = [threading.Thread(target=_helper, args=(todo, bar), daemon=True) for _ in range(_helper_count(names))]
        for helper in helpers:
            helper.start()
        while todo or any(helper.is_alive() for helper in helpers):
            try:
                name = todo.popleft()
            except IndexError:
                for helper in helpers:  # one that dies gives its name back, so look again afterwards
                    helper.join()
                continue
            warm_up(name)
            bar.update()


def _helper_count(names):
    import numba

    return max(0, min(3, numba.config.NUMBA_NUM_THREADS - 1, len(names) - 1))


def _helper(todo, bar):
    """Start a helper process (see `serve`) and send it one name after the other; runs in a thread of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "minimask", "compile", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_helper_environment(),
    )
    with process:
        while True:
            try:
                name = todo.popleft()
            except IndexError:
                break
            try:
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:
                answer = ""
            if answer.strip() != name:  # the helper died: the main process compiles it, and shows what is wrong
                todo.append(name)
                break
            bar.update()
        try:
            process.stdin.close()
        except OSError:
            pass


def _helper_environment():
    """The environment of a helper process: it imports this minimask and keeps compiled code in the same folder."""
    import numba

    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    cache = {"NUMBA_CACHE_DIR": numba.config.CACHE_DIR} if numba.config.CACHE_DIR else {}
    return {**os.environ, "PYTHONPATH": path, **cache}


def serve():
    """What a helper process does: read names, one per line, compile those kernels, answer with the name."""
    for line in sys.stdin:
        name = line.strip()
        warm_up(name)
        print(name, flush=True)


# --------------------------------------------------------------------------------------------------- stamp and hashes


def kernels_folder():
    """The folder of the kernels' source."""
    import minimask.kernels

    return Path(minimask.kernels.__file__).parent


def source_hashes():
    """Dict from the name of each kernel file that has a `warm_up` to its hash.

    The largest files come first, because they take longest to compile.
    """
    sources = {path.stem: path.read_text(encoding="utf-8") for path in kernels_folder().glob("*.py")}
    names = [name for name, text in sources.items() if "def warm_up(" in text]
    names.sort(key=lambda name: (-len(sources[name]), name))
    return {name: _hash(name, sources) for name in names}


def _hash(name, sources):
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current in sources and current not in seen:
            seen.add(current)
            for module, imported in _IMPORT.findall(sources[current]):
                todo += [module] if module else re.findall(r"\w+", imported)
    text = "\0".join(f"{n}\0{sources[n]}" for n in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cache_folder():
    """Where Numba keeps the compiled kernels."""
    from minimask.kernels import parallel

    return Path(parallel._run.stats.cache_path)


def _stamp_name():
    """The file name of the stamp, a different one per version of Python, Numba and NumPy and per processor."""
    import llvmlite.binding
    import numba
    import numpy

    machine = (llvmlite.binding.get_host_cpu_name(), sorted(llvmlite.binding.get_host_cpu_features().items()))
    key = (sys.version, numba.__version__, numpy.__version__, os.environ.get("NUMBA_CPU_NAME"), machine)
    return f"minimask-{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}.json"


def _read_stamp(path):
    try:
        stored = json.loads(path.read_text())
        return stored if isinstance(stored, dict) else {}
    except (OSError, ValueError):
        return {}


def _write_stamp(path, hashes):
    with contextlib.suppress(InputError):  # a full disk: the next start compiles again
        write_files({path: json_bytes(hashes)})
