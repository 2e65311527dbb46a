"""COCO files that are changed at random (fuzz_coco.py): a short run; the long one is python -m tests.fuzz_coco."""

import pytest

from tests.fuzz_coco import attempt, photos

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_changed_files_end_in_a_message(tmp_path, start):
    photos(tmp_path)
    for seed in range(start, start + 50):
        attempt(tmp_path, seed)
