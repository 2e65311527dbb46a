"""Importing minimask changes nothing in the rest of the process; training changes settings and restores them."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from threadpoolctl import ThreadpoolController

from minimask.machine.process import tuned_process

ROOT = Path(__file__).resolve().parents[1]

# Prints the number of BLAS threads and new environment variables: before and after importing minimask, in the middle of
# a training step, in a prediction, and after them.
PROGRAM = """
import os
import numpy as np
from threadpoolctl import ThreadpoolController

blas = ThreadpoolController().select(user_api="blas")  # looked up here: the module sets a variable of its own
blas.limit(limits=2)
before = dict(os.environ)

def tell(when):
    changed = {name for name, value in os.environ.items() if before.get(name) != value} | (before.keys() - os.environ)
    print(when, *sorted({pool["num_threads"] for pool in blas.info()}), *changed, sep=",")

tell("before")
import minimask
from minimask import mask_rcnn
from minimask.datasets.toy import ToyScenes
from minimask.train import TrainSettings, make_optimizer, training_step
import minimask.__main__
tell("imported")

model = mask_rcnn.build("toy", 4, seed=0)
scene = ToyScenes("train", 64, 1)[0]
losses, detect = model.losses, model.detect
model.losses = lambda *arguments: (tell("step"), losses(*arguments))[1]
model.detect = lambda *arguments: (tell("prediction"), detect(*arguments))[1]
settings = TrainSettings(steps=1)
training_step(model, model.transform([scene]), make_optimizer(model, settings), settings, 0)
tell("after the step")
model.predict([scene.image])
tell("after the prediction")
"""


def test_numpy_keeps_its_threads_and_the_environment_stays_as_it_is():
    process = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split("\n")[:-1] == [
        "before,2", "imported,2", "step,1", "after the step,2", "prediction,1", "after the prediction,2",
    ]  # fmt: skip


def blas_threads():
    """The numbers of threads of NumPy's BLAS. SciPy brings another one, which may have been loaded in between."""
    pools = ThreadpoolController().select(user_api="blas").info()
    return {pool["num_threads"] for pool in pools if "scipy.libs" not in pool["filepath"]}


@pytest.fixture
def two_threads():
    """BLAS has two threads while the test runs."""
    controller = ThreadpoolController().select(user_api="blas")
    if not controller.info():
        pytest.skip("threadpoolctl does not know the BLAS of this NumPy")
    with controller.limit(limits=2):
        yield


def test_nested_and_overlapping_blocks_restore_the_threads(two_threads):
    """Also if another Python thread enters a block later and leaves it later."""
    with tuned_process():
        with tuned_process():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}

    inside, leave = threading.Event(), threading.Event()

    def other():
        with tuned_process():
            inside.set()
            leave.wait(60)

    with tuned_process():
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(60)
        assert blas_threads() == {1}
    leave.set()
    thread.join()
    assert blas_threads() == {2}
    with tuned_process():
        assert blas_threads() == {1}


def test_an_error_inside_restores_the_threads(two_threads):
    with pytest.raises(ZeroDivisionError):
        with tuned_process():
            raise ZeroDivisionError
    assert blas_threads() == {2}


def settings_of_malloc(**variables):
    """The settings that `keep_freed_memory` makes in a process with these environment variables."""
    program = """
import ctypes
from types import SimpleNamespace
from minimask.machine import memory
calls = []
memory.ctypes = SimpleNamespace(CDLL=lambda name: SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments)))
memory.keep_freed_memory()
memory.keep_freed_memory()
print(calls)
"""
    settings = dict(cwd=ROOT, env={"PATH": "", **variables}, capture_output=True, text=True)
    return subprocess.run([sys.executable, "-c", program], **settings).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    assert settings_of_malloc() == "[(-4, 0), (-1, -1)]"
    assert settings_of_malloc(MINIMASK_MALLOC="0") == "[]"
