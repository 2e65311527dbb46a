"""What all tests share: kernels compiled before the first test, workers that do not fight over the cores."""

import os

import pytest

# Tests run in several processes (pytest-xdist). Two threads each are enough to test what threads can break.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")

# These files' tests are long and need nothing of one another; all other files stay together in one process, so that
# what a file prepares once is prepared once.
SPREAD = ("test_notebooks.py", "test_planted_bugs.py", "test_distributed.py")


def pytest_sessionstart(session):
    """Compile the kernels on all cores before the tests, and none from an older source: see machine/warmup.py."""
    if not hasattr(session.config, "workerinput"):  # once, before the workers of pytest-xdist start
        from minimask.machine import warmup

        warmup.ensure(progress=False)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("xdist_group") is not None:
            continue
        if {"lectures", "pages"} & set(item.fixturenames):  # the slides and the book, written once
            item.add_marker(pytest.mark.xdist_group("book"))
        elif item.path.name not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """A test that trains with --threads 1 leaves the number of threads as it was for the tests after it."""
    from minimask.machine.threads import set_threads, threads

    before = threads()
    yield
    set_threads(before)
