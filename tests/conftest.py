"""What all tests share: kernels compiled before the first test, from the source as it is now."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels():
    """Compile the kernels on all cores before the tests, and none from an older source: see minimask/warmup.py."""
    from minimask import warmup

    warmup.ensure(progress=False)
