"""The best of many numbers, in order, and random samples, on the GPU; see top_k.cu."""

from functools import cache
from itertools import accumulate

import numpy as np

from minimask.device import array_module
from minimask.kernels.cuda import NULL, blocks_for, launch
from minimask.targets import LARGEST_SORT

SHARED = 8 * LARGEST_SORT  # bytes of keys that a block sorts in its shared memory; as many as the histogram's
THREADS = 1024


def top_k(scores, count):
    """Indices (N, count) int64 of the largest of `scores` (N, A) float32; see targets.top_k."""
    if count > LARGEST_SORT:
        return sort(scores)[:, :count].astype(np.int64)
    return top_k_of_levels(scores, (scores.shape[1],), (count,))[0]


def top_k_of_levels(scores, sizes, counts):
    """Indices (N, K) int64 and levels (N, K) int32; see targets.top_k_of_levels. counts: none above LARGEST_SORT."""
    xp = array_module(scores)
    indices = xp.empty((len(scores), sum(counts)), np.int64)
    level_of = xp.empty(indices.shape, np.int32)
    if indices.size:
        table = _level_table(xp, xp.cuda.Device().id, tuple(sizes), tuple(counts))
        launch(
            "top_k", "top_k", (len(sizes), len(scores)), THREADS, xp.ascontiguousarray(scores), table, scores.shape[1],
            indices.shape[1], indices, level_of, shared=SHARED,
        )  # fmt: skip
    return indices, level_of


def sample(labels, priority, count, most_positives):
    """Indices (N, count) int64, positive and valid (N, count) bool; see targets.sample. count: up to LARGEST_SORT."""
    xp = array_module(labels)
    shape = len(labels), count
    indices, positive, valid = xp.empty(shape, np.int64), xp.empty(shape, bool), xp.empty(shape, bool)
    if indices.size:
        launch(
            "top_k", "sample", len(labels), THREADS, xp.ascontiguousarray(labels), xp.ascontiguousarray(priority),
            labels.shape[1], count, most_positives, indices, positive, valid, shared=SHARED,
        )  # fmt: skip
    return indices, positive, valid


def sort(scores, valid=None):
    """Indices (N, A) int32 by falling score, equal ones by index; -1 after the last of `valid` (N, A)."""
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


@cache  # a CUDA graph may know a table's address, so none is ever given up
def _level_table(xp, card, sizes, counts):
    """(L, 4) int32: a level's first score, how many scores, its first place in the result, how many places.

    Kept on the card, for a copy from the host in each step would hold the host up.
    """
    firsts, places = ([end - own for end, own in zip(accumulate(x), x)] for x in (sizes, counts))
    return xp.asarray(np.array([firsts, sizes, places, counts], np.int32).T.copy())
