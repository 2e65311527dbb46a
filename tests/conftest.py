"""What all tests share: kernels compiled before the first test, from the source as it is now."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels():
    """Compile the kernels on all cores before the tests, and none from an older source: machine/warmup.py."""
    from minimask.machine import warmup

    warmup.ensure(progress=False)


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """A test that trains with --threads 1 leaves the number of threads as it was for the tests after it."""
    from minimask import device

    before = device.threads()
    yield
    device.set_threads(before)
