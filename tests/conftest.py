"""What all tests share: kernels are compiled before the first test, and test processes use few threads."""

import os

import pytest

# Tests run in several processes (pytest-xdist). Two threads per process are enough to find errors caused by threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")

# The tests of these files take long and are independent of one another, so pytest-xdist may distribute them. The tests
# of any other file stay in one process, so that the file's fixtures are prepared only once.
SPREAD = ("test_notebooks.py", "test_planted_bugs.py", "test_distributed.py")


def pytest_sessionstart(session):
    """Compile the kernels on all cores before the tests, and discard outdated ones: see machine/warmup.py."""
    if not hasattr(session.config, "workerinput"):  # once, before the workers of pytest-xdist start
        from minimask.machine import warmup

        warmup.ensure(progress=False)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("xdist_group") is not None:
            continue
        if "lectures" in item.fixturenames:  # the slides, written once for all of these tests
            item.add_marker(pytest.mark.xdist_group("slides"))
        elif "pages" in item.fixturenames:  # the book, likewise
            item.add_marker(pytest.mark.xdist_group("book"))
        elif item.path.name not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: item.path.name not in SPREAD)  # the long ones first, so that the workers end together


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """Restore the number of threads after each test, since some tests train with --threads 1."""
    from minimask.machine.threads import set_threads, threads

    before = threads()
    yield
    set_threads(before)
