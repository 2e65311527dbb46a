"""Compiling ahead: what needs compiling, discarding old code, helpers that fail, and where code is kept."""

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimask.machine import warmup

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = "\n\ndef warm_up():\n    pass\n"


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Three kernel files, two of which import from `shared`, and an empty cache. Nothing is really compiled.

    Returns the source folder, the cache folder, and the list of names passed to the compiler.
    """
    source, cache = tmp_path / "kernels", tmp_path / "cache"
    source.mkdir()
    cache.mkdir()
    (source / "__init__.py").write_text("")
    (source / "shared.py").write_text("ONE = 1\n")
    (source / "a.py").write_text("from minimask.kernels.shared import ONE\n" + WARM_UP)
    (source / "b.py").write_text("from minimask.kernels import (\n    shared,\n)\n" + WARM_UP)
    (source / "c.py").write_text("# a longer file\n" * 20 + WARM_UP)
    called = []

    def compile_one(name):
        called.append(name)
        (cache / f"{name}.function-1.py311.nbi").write_text("")
        (cache / f"{name}.function-1.py311.1.nbc").write_text("")

    monkeypatch.setattr(warmup, "kernels_folder", lambda: source)
    monkeypatch.setattr(warmup, "_cache_folder", lambda: cache)
    monkeypatch.setattr(warmup, "_helper_count", lambda names: 0)
    monkeypatch.setattr(warmup, "warm_up", compile_one)
    return source, cache, called


def test_compiles_once_the_largest_first(kernels):
    _, _, called = kernels
    assert warmup.ensure(progress=False) == ["c", "b", "a"] == called
    assert warmup.ensure(progress=False) == [] and len(called) == 3


def test_a_change_is_noticed_through_imports_and_the_old_code_deleted(kernels):
    source, cache, called = kernels
    warmup.ensure(progress=False)
    called.clear()
    for name in "abc":
        (cache / f"{name}.old-7.py311.nbi").write_text("")
    (source / "shared.py").write_text("ONE = 2\n")
    assert warmup.ensure(progress=False) == ["b", "a"] == called
    assert [path.name for path in cache.glob("*.old-7.*")] == ["c.old-7.py311.nbi"]


def test_a_cache_that_was_emptied_and_a_damaged_stamp_are_noticed(kernels):
    _, cache, _ = kernels
    warmup.ensure(progress=False)
    (cache / "a.function-1.py311.nbi").unlink()
    assert warmup.ensure(progress=False) == ["a"]
    (stamp,) = cache.glob("minimask-*.json")
    stamp.write_text("[1, 2")
    assert warmup.ensure(progress=False) == ["c", "b", "a"]


def test_the_kernel_files_that_are_compiled_ahead():
    names = warmup.source_hashes()
    assert {"conv_direct", "roi_align", "nms", "optimizer"} <= names.keys()
    assert len(set(names.values())) == len(names)
    for name in names:
        assert callable(importlib.import_module(f"minimask.kernels.{name}").warm_up), name


def test_a_helper_process_answers():
    process = subprocess.run(
        [sys.executable, "-m", "minimask", "compile", "--serve"],
        cwd=ROOT, input="optimizer\nmatch\n", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.stdout.split() == ["optimizer", "match"], process.stderr


def test_helpers_share_the_work(tmp_path, monkeypatch):
    """While the main process compiles one kernel, the helper compiles the two others."""
    helped, here, start = tmp_path / "helped", [], subprocess.Popen
    helped.write_text("")
    answer = f"import sys\nfor n in sys.stdin:\n  open({str(helped)!r}, 'a').write(n)\n  print(n.strip(), flush=True)"

    def compile_slowly(name):
        here.append(name)
        end = time.monotonic() + 60
        while len(helped.read_text().split()) < 2 and time.monotonic() < end:
            time.sleep(0.01)

    monkeypatch.setattr(warmup, "_helper_count", lambda names: 1)
    monkeypatch.setattr(warmup, "warm_up", compile_slowly)
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **settings: start([sys.executable, "-c", answer], **settings)
    )
    warmup.compile_kernels(["optimizer", "match", "nms"], progress=False)
    assert len(here) == 1
    assert sorted(here + helped.read_text().split()) == ["match", "nms", "optimizer"]


def test_a_helper_that_dies_leaves_its_work_to_the_main_process(monkeypatch):
    called, start = [], subprocess.Popen
    monkeypatch.setattr(warmup, "_helper_count", lambda names: 2)
    monkeypatch.setattr(warmup, "warm_up", called.append)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **settings: start([sys.executable, "-c", ""], **settings))
    warmup.compile_kernels(list("abcdef"), progress=False)
    assert sorted(called) == list("abcdef")


@pytest.mark.parametrize("named", [None, "a file/sub"])
def test_kernels_find_a_folder_if_the_usual_ones_are_not_writable(tmp_path, named):
    """If neither the package nor the home folder is writable, compiled code is kept among the temporary files."""
    for name in ("minimask", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kernels" / "__pycache__").write_text("a file, not a folder")
    (tmp_path / "home").write_text("a file, not a folder")
    (tmp_path / "temporary").mkdir()
    home = {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME", "USERPROFILE", "LOCALAPPDATA")}
    environment = {**os.environ, **home, "TMPDIR": str(tmp_path / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    if named:  # a folder that cannot be used
        (tmp_path / "a file").write_text("")
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / named)
    program = """
import numpy as np
import minimask.__main__
from minimask.machine import warmup
from minimask.kernels import optimizer
optimizer.warm_up()
print(warmup._cache_folder())
"""
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("minimask: compiled kernels are kept in") == 1
    folder = Path(process.stdout.strip())
    assert tmp_path / "temporary" in folder.parents and folder.parent.name.startswith("minimask-kernels")
    assert list(folder.glob("optimizer.*.nbi"))
