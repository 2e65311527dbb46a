"""Short runs of the fuzzers; `python -m tests.fuzz_weights --count 5000` and fuzz_images make long ones."""

import pytest

from tests import fuzz_images, fuzz_weights


@pytest.mark.parametrize("fuzzer, count", [(fuzz_weights, 120), (fuzz_images, 250)])
def test_damaged_files_end_in_one_message(tmp_path, fuzzer, count):
    outcomes, wrong = fuzzer.run(tmp_path, count)
    assert not wrong, "\n".join(map(str, wrong))
    assert outcomes.total() == count and outcomes["read"] < count / 2


def test_the_fuzzers_find_something(tmp_path, monkeypatch):
    """A reader that lets another exception out is caught."""

    def is_checkpoint(path):
        raise KeyError("conv1")

    monkeypatch.setattr(fuzz_weights.weights, "is_checkpoint", is_checkpoint)
    assert len(fuzz_weights.run(tmp_path, 3)[1]) == 6
