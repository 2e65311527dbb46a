"""Taking rows by index on the GPU: elements of every size, and no rows at all."""

import numpy as np
import pytest

from minimask import targets
from tests.cases import no_sync


@pytest.mark.parametrize(
    "shape, dtype",
    [
        ((2, 9), bool),
        ((2, 9), np.float32),
        ((3, 5), np.int64),
        ((2, 70, 4), np.float32),
        ((1, 6, 17, 3), np.float32),
        ((2, 4, 3), np.int64),
        ((2, 5, 3), np.uint8),
        ((2, 300, 4), np.float64),
        ((1, 1), np.int32),
    ],
)
@pytest.mark.parametrize("taken", [1, 40, 0])
def test_take(gpu, shape, dtype, taken):
    rng = np.random.default_rng(0)
    array = (rng.normal(size=shape) * 50).astype(dtype)
    indices = rng.integers(0, shape[1], (shape[0], taken))
    expected = targets.take(array, indices)
    on_card = gpu.asarray(array), gpu.asarray(indices)
    with no_sync(gpu):
        found = targets.take(*on_card)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found.get(), expected)


def test_take_of_rows_that_begin_between_words(gpu):
    array = gpu.arange(41, dtype=np.float32)[1:].reshape(1, 10, 4)
    found = targets.take(array, gpu.asarray([[9, 0]]))
    np.testing.assert_array_equal(found.get(), [[[37, 38, 39, 40], [1, 2, 3, 4]]])


def test_take_of_a_view(gpu):
    array = np.arange(2 * 5 * 6).reshape(2, 5, 6)
    indices = np.array([[4, 4, 0], [1, 2, 3]])
    found = targets.take(gpu.asarray(array)[:, :, 1:3], gpu.asarray(indices.astype(np.int32)))
    np.testing.assert_array_equal(found.get(), [[[25, 26], [25, 26], [1, 2]], [[37, 38], [43, 44], [49, 50]]])
