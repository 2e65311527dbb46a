"""The largest of many numbers, in order, and random samples, on the GPU; see top_k.cu."""

from functools import cache
from itertools import accumulate

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import NULL, blocks_for, float32_arrays, launch

LARGEST_SORT = 4096  # how many keys one block sorts; larger results are sorted by many blocks
SHARED = 8 * LARGEST_SORT  # bytes of shared memory for these keys; the histogram needs as many
THREADS = 1024


@takes(lambda scores, count: float32_arrays(scores))
def top_k(scores, count):
    """See `minimask.targets.top_k`."""
    count = min(count, scores.shape[1])
    if count > LARGEST_SORT:
        return sort(scores)[:, :count].astype(np.int64)
    return top_k_of_levels(scores, (scores.shape[1],), (count,))[0]


@takes(lambda scores, sizes, counts: float32_arrays(scores) and max(counts) <= LARGEST_SORT)
def top_k_of_levels(scores, sizes, counts):
    """See `minimask.targets.top_k_of_levels`."""
    xp = array_module(scores)
    indices = xp.empty((len(scores), sum(counts)), np.int64)
    level_of = xp.empty(indices.shape, np.int32)
    if indices.size:
        table = _level_table(xp, xp.cuda.Device().id, tuple(sizes), tuple(counts))
        grid, totals = (len(sizes), len(scores)), (scores.shape[1], indices.shape[1])
        scores = xp.ascontiguousarray(scores)
        launch("top_k", "top_k", grid, THREADS, scores, table, *totals, indices, level_of, shared=SHARED)
    return indices, level_of


@takes(lambda labels, count, *_, **__: labels.dtype == np.int8 and min(count, labels.shape[1]) <= LARGEST_SORT)
def sample(labels, count, fraction, rng):
    """See `minimask.targets.sample`."""
    xp = array_module(labels)
    count = min(count, labels.shape[1])
    max_positives = min(int(count * fraction), count)
    priority = xp.asarray(rng.random(labels.shape, dtype=np.float32))
    shape = len(labels), count
    indices, positive, valid = xp.empty(shape, np.int64), xp.empty(shape, bool), xp.empty(shape, bool)
    if indices.size:
        inputs, sizes = (xp.ascontiguousarray(labels), xp.ascontiguousarray(priority)), (labels.shape[1], count)
        results = indices, positive, valid
        launch("top_k", "sample", len(labels), THREADS, *inputs, *sizes, max_positives, *results, shared=SHARED)
    return indices, positive, valid


def sort(scores, valid=None):
    """Indices (N, A) int32 in descending order of score, equal scores by index; -1 after the last of `valid` (N, A)."""
    xp = array_module(scores)
    images, total = scores.shape
    order = xp.full(scores.shape, -1, np.int32)
    if order.size:
        size = min(LARGEST_SORT, 1 << (total - 1).bit_length())
        chunks = -(-total // size)
        keys = xp.empty((images, chunks, size), np.uint64)
        flags = NULL if valid is None else xp.ascontiguousarray(valid)
        scores = xp.ascontiguousarray(scores)
        launch("top_k", "sort_chunks", (chunks, images), THREADS, scores, flags, total, size, keys, shared=8 * size)
        launch("top_k", "merge_ranks", blocks_for(keys.size, 256), 256, keys, images, chunks, size, total, order)
    return order


@cache  # a CUDA graph may hold the address of a table, so none is ever released
def _level_table(xp, card, sizes, counts):
    """(L, 4) int32: for each level its first score, how many scores, its first place in the result, how many places.

    It stays on the card, because a copy from the host in every step would make the host wait.
    """
    firsts, places = ([end - own for end, own in zip(accumulate(x), x)] for x in (sizes, counts))
    return xp.asarray(np.array([firsts, sizes, places, counts], np.int32).T.copy())
