"""Short runs of the fuzzers, as their commands make long ones: `python -m tests.fuzz_weights --count 5000`."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from minimask.errors import InputError
from tests import fuzz_coco, fuzz_images, fuzz_weights, fuzzing


@pytest.mark.parametrize("fuzzer, count", [("fuzz_weights", 120), ("fuzz_images", 250), ("fuzz_coco", 200)])
def test_damaged_files_end_in_one_message(fuzzer, count):
    command = [sys.executable, "-m", f"tests.{fuzzer}", "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=fuzzing.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} files" in done.stdout and "; 0 wrong" in done.stdout
    assert 0 < int(re.search(r"read (\d+)", done.stdout)[1]) < count / 2


@pytest.mark.parametrize(
    "place, fuzzer, uses",
    [
        ("weights.is_checkpoint", fuzz_weights, 2),
        ("read_image", fuzz_images, 1),
        ("CocoDataset", fuzz_coco, 2),
    ],
)
@pytest.mark.parametrize("error", [KeyError("conv1"), InputError("")])
def test_the_fuzzers_find_something(tmp_path, monkeypatch, place, fuzzer, uses, error):
    """A reader that lets another exception out is caught, and one that says nothing."""

    def reader(*args, **kwargs):
        raise error

    attempt = fuzzer.prepare(tmp_path, 0)
    monkeypatch.setattr(f"{fuzzer.__name__}.{place}", reader)
    for number in range(3):
        outcome, wrong = attempt(number)
        assert len(wrong) == uses
        assert outcome == ("failed" if isinstance(error, KeyError) else "InputError")


def _attempt_badly(number):
    """Files that a reader would treat as badly as can be, every second one."""
    if number == 1:
        os.abort()
    elif number == 3:
        time.sleep(600)
    elif number == 5:
        np.ones(2**29 // 8)
    elif number == 7:
        print("UserWarning: Corrupt EXIF data", file=sys.stderr)
    elif number == 8:
        print("minimask: said by the package itself", file=sys.stderr)
    return "read", []


def _prepare_badly(folder, seed):
    return _attempt_badly


def test_crashes_hangs_large_files_and_stray_messages_are_named(monkeypatch):
    """The process is started anew after each of them, and the files in between count."""
    monkeypatch.setattr(fuzzing, "SLOW", 3.0)
    monkeypatch.setattr(fuzzing, "MEMORY", 2**29)
    report = fuzzing.run(_prepare_badly, 10)
    assert report.outcomes == {"read": 8, "crashed": 1, "hung": 1}
    crash, hang, large, message = report.wrong
    assert crash == (1, "process", "ended with -6")
    assert hang == (3, "process", "not done after 3 s")
    assert large[:2] == (5, "process") and 512 < int(large[2].removesuffix(" MiB")) < 1000
    assert message == (7, "stderr", "UserWarning: Corrupt EXIF data")
    assert report.slowest == (3.0, 3) and report.peak > fuzzing.MEMORY
