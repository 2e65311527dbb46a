"""Average precision of generated data: our numbers equal those of pycocotools, both stored and computed now."""

import json

import pytest

from minimask.evaluate import coco_average_precision
from tests.references import average_precision as made


@pytest.fixture(scope="module")
def cases():
    return made.cases()


@pytest.mark.parametrize("kind", list(made.NAMES))
def test_numbers_are_pycocotools(kind, cases):
    truth, results = cases
    numbers = coco_average_precision(truth, results[kind], kind)
    assert list(numbers) == made.NAMES[kind]
    stored = json.loads(made.EXPECTED.read_text())[kind]
    live = made.scored_by_pycocotools(truth, results, kind)
    for (name, value), now in zip(numbers.items(), live):
        assert abs(value - stored[name]) <= 1e-9, f"{kind} {name}: {value}, stored {stored[name]}"
        assert abs(value - now) <= 1e-12, f"{kind} {name}: {value}, pycocotools {now}"


@pytest.mark.parametrize("kind", list(made.NAMES))
def test_the_generated_data_distinguishes_the_numbers(kind):
    """No two numbers are equal, and none is 0 or 1, so a mixed-up table would be noticed."""
    stored = json.loads(made.EXPECTED.read_text())[kind]
    assert all(0.05 < value < 0.98 for value in stored.values()), stored
    assert len({round(value, 6) for value in stored.values()}) == len(stored), stored
