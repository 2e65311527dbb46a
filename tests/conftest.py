"""What all tests share: kernels are compiled before the first test, and test processes use few threads."""

import os

import pytest

# Tests run in several processes (pytest-xdist). Two threads per process are enough to find errors caused by threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")


def pytest_sessionstart(session):
    """Compile the kernels on all cores before the tests, and discard outdated ones: see machine/warmup.py."""
    if not hasattr(session.config, "workerinput"):  # once, before the workers of pytest-xdist start
        from minimask.machine import warmup

        warmup.ensure(progress=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile`, distribute the tests as scheduling.py says."""
    if config.getvalue("dist") == "loadfile":
        from tests.scheduling import ByFile

        config.option.loadscopereorder = False  # the order of collection instead of the number of tests
        return ByFile(config, log)


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        from tests.scheduling import rank

        items.sort(key=lambda item: rank(item.nodeid))


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """Restore the number of threads after each test, since some tests train with --threads 1."""
    from minimask.machine.threads import set_threads, threads

    before = threads()
    yield
    set_threads(before)


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests of a file."""
    from tests import browser

    with browser.start() as chromium:
        yield chromium
