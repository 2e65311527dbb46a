"""Top k, sorting and sampling on the GPU, against NumPy and the CPU."""

import numpy as np
import pytest

from minimask import targets
from minimask.device import generator
from tests.cases import HostNumbers, no_sync


def few_values(rng, *shape):
    """Scores of which many are equal, with both zeros, both infinities and NaN."""
    values = np.array([-np.inf, -2.5, -0.0, 0.0, 1e-30, 1, 1 + 2**-23, 3e38, np.inf, np.nan], np.float32)
    return rng.choice(values, shape)


def expected_order(scores):
    scores = np.where(np.isnan(scores), -np.inf, scores)
    return np.argsort(-scores, axis=1, kind="stable")


@pytest.mark.parametrize(
    "images, total, count",
    [(1, 1, 1), (2, 5, 5), (3, 33, 2), (2, 1500, 300), (1, 5000, 4096), (2, 700, 699), (1, 9, 0)],
)
@pytest.mark.parametrize("draw", [few_values, lambda rng, *shape: rng.normal(size=shape).astype(np.float32)])
def test_top_k(gpu, images, total, count, draw):
    scores = draw(np.random.default_rng(total), images, total)
    with no_sync(gpu):
        found = targets.top_k(gpu.asarray(scores), count)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found.get(), expected_order(scores)[:, :count])
    np.testing.assert_array_equal(found.get(), targets.top_k(scores, count))


def test_top_k_orders_equal_scores_by_index(gpu):
    """The last kept score equals the first dropped one, so all three bytes of the index matter."""
    scores = np.zeros((1, 70000), np.float32)
    scores[0, 69999], scores[0, :66000] = 1, -1
    found = targets.top_k(gpu.asarray(scores), 1000).get()
    np.testing.assert_array_equal(found[0], [69999, *range(66000, 66999)])


@pytest.mark.parametrize("count", [5000, 9001])
def test_top_k_of_more_than_one_block_can_sort(gpu, count):
    scores = few_values(np.random.default_rng(0), 2, 9001)
    found = targets.top_k(gpu.asarray(scores), count)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found.get(), expected_order(scores)[:, :count])


@pytest.mark.parametrize(
    "sizes, counts", [((700, 300, 40, 1), (100, 100, 40, 1)), ((9000, 5000), (50, 4500)), ((5,), (0,))]
)
def test_top_k_of_levels(gpu, sizes, counts):
    scores = few_values(np.random.default_rng(1), 2, sum(sizes))
    expected = targets.top_k_of_levels(scores, sizes, counts)
    found = targets.top_k_of_levels(gpu.asarray(scores), sizes, counts)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.get(), b)


@pytest.mark.parametrize("images, total", [(1, 1), (3, 37), (2, 4096), (1, 4097), (2, 9000), (0, 5), (2, 0)])
def test_sort_of_the_valid(gpu, images, total):
    from minimask.kernels import top_k_cuda

    rng = np.random.default_rng(total)
    scores, valid = few_values(rng, images, total), rng.random((images, total)) < 0.6
    found = top_k_cuda.sort(gpu.asarray(scores), gpu.asarray(valid)).get()
    for image in range(images):
        order = expected_order(scores[image : image + 1])[0]
        order = order[valid[image][order]]
        np.testing.assert_array_equal(found[image, : len(order)], order)
        assert (found[image, len(order) :] == -1).all()


@pytest.mark.parametrize("count, fraction", [(8, 0.5), (64, 0.25), (2000, 0.5), (3, 0), (4, 1.0), (0, 0.5)])
@pytest.mark.parametrize("share", [(0.1, 0.8), (0.9, 0.05), (0, 0.01), (0, 0), (0.001, 0.5)])
def test_sample_equals_the_cpu(gpu, count, fraction, share):
    rng = np.random.default_rng(5)
    ones, zeros = share
    labels = rng.choice(np.array([1, 0, -1], np.int8), (2, 1100), p=[ones, zeros, 1 - ones - zeros])
    expected = targets.sample(labels, count, fraction, generator(3, 4))
    with no_sync(gpu):
        found = targets.sample(gpu.asarray(labels), count, fraction, HostNumbers(gpu, 3, 4))
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.get(), b)
