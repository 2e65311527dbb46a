"""The command that runs the kernels' tests under compute-sanitizer (which itself needs a GPU)."""

import subprocess
import types

import pytest

from minimask import device
from minimask.errors import InputError
from tests.cuda_on_cpu import sanitize
from tests.cuda_on_cpu.small_model import one_schedule


@pytest.fixture
def commands(monkeypatch):
    """Records the commands instead of running them; racecheck pretends to find something."""
    run = []

    def fake(command, cwd):
        run.append(command)
        return types.SimpleNamespace(returncode=int("racecheck" in command))

    monkeypatch.setattr(device, "resolve", lambda name: name)
    monkeypatch.setattr(sanitize.shutil, "which", lambda name, path=None: None if path else "/cuda/compute-sanitizer")
    monkeypatch.setattr(subprocess, "run", fake)
    return run


def test_every_tool_checks_every_kernel(commands, capsys):
    assert sanitize.main([]) == 1
    assert [command[command.index("--tool") + 1] for command in commands] == list(sanitize.TOOLS)
    printed = capsys.readouterr().out
    assert "racecheck  found something (status 1)" in printed and "memcheck   nothing found" in printed
    for command in commands:
        assert command[0] == "/cuda/compute-sanitizer" and command[command.index("--error-exitcode") + 1] == "1"
        assert command[command.index("-p") + 1] == "tests.cuda_on_cpu.sanitize"
    names = {path.stem for path in sanitize.test_files()}
    assert {"test_convolution", "test_roi_align", "test_nms", "test_losses", "test_optimizer"} <= names
    assert names.isdisjoint({"test_model", "test_nvrtc", "test_stand_in"})


def test_one_tool_and_some_tests(commands):
    assert sanitize.main(["memcheck", "-k", "roi_align"]) == 0
    (command,) = commands
    assert command[command.index("-k") + 1] == "roi_align"


def test_the_sanitizer_of_the_wheel(monkeypatch, tmp_path):
    monkeypatch.setattr(sanitize.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(sanitize.sysconfig, "get_path", lambda name: tmp_path)
    with pytest.raises(InputError, match="pip install nvidia-cuda-sanitizer-api-cu12"):
        sanitize.compute_sanitizer()
    folder = tmp_path / "nvidia" / "cuda_sanitizer_api"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "compute-sanitizer").touch()
    start = sanitize.compute_sanitizer()
    assert start == [str(folder / "bin" / "compute-sanitizer"), "--injection-path", str(folder / "lib")]


def test_messages_about_what_is_missing(monkeypatch, capsys):
    def nothing(name):
        raise InputError("device cuda: this machine has no card")

    monkeypatch.setattr(device, "resolve", nothing)
    assert sanitize.main(["memcheck"]) == 2
    assert "sanitize: device cuda: this machine has no card" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sanitize.main(["fastcheck"])


@one_schedule
def test_each_array_has_its_own_memory(gpu):
    if hasattr(gpu, "no_sync"):
        pytest.skip("the stand-in allocates each array separately")
    before = gpu.cuda.get_allocator()
    try:
        sanitize.pytest_configure(None)
        held = gpu.get_default_memory_pool().total_bytes()
        array = gpu.zeros(10_000_000)
        assert gpu.get_default_memory_pool().total_bytes() == held and array.nbytes == 80_000_000
    finally:
        gpu.cuda.set_allocator(before)
