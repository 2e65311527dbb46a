"""The largest of many numbers, in order, on the CPU: radix select, then radix sort.

A number becomes a key of 32 bits that rises where the number falls. The key that parts the `count` smallest from the
rest is found eleven bits at a time: a histogram of the digits says in which of 2048 bins it lies. What is below it, and
of the equal ones the first, is collected in the order of the indices and sorted digit by digit, each time keeping the
order of equal ones. Up to three passes over the A numbers (4 A bytes each) and three over the `count` (16 count bytes).
"""

import numpy as np
from numba import njit, prange

BINS = 2048  # of a digit of eleven bits
SHIFTS = (0, 11, 22)  # where a key's digits begin


@njit(cache=True)
def _falling(scores, keys):
    """keys (A,) uint32 that rise where the scores fall, NaN as minus infinity."""
    clean = np.where(scores == scores, scores, np.float32(-np.inf)) + np.float32(0)  # + 0: -0 equals 0
    bits = clean.view(np.uint32)
    for i in range(bits.size):
        negative = bits[i] >> np.uint32(31) != 0
        keys[i] = bits[i] if negative else ~bits[i] & np.uint32(0x7FFFFFFF)


@njit(cache=True)
def _cut(keys, count):
    """(key, equal): the `count` smallest are those below the key and `equal` of those that equal it."""
    histogram = np.empty(BINS, np.int64)
    prefix = np.uint32(0)  # the digits found so far
    for digit in range(3):
        shift = np.uint32(SHIFTS[2 - digit])
        histogram[:] = 0
        for i in range(keys.size):
            if digit == 0 or (keys[i] ^ prefix) >> np.uint32(SHIFTS[3 - digit]) == 0:
                histogram[(keys[i] >> shift) & np.uint32(BINS - 1)] += 1
        here = 0
        while count > histogram[here]:
            count -= histogram[here]
            here += 1
        prefix |= np.uint32(here) << shift
    return prefix, count


@njit(cache=True)
def _sort(keys, indices):
    """Sort the keys, and the indices with them, equal ones in the order in which they are."""
    other_keys, other_indices = np.empty_like(keys), np.empty_like(indices)
    place = np.empty(BINS + 1, np.int64)
    for digit in range(3):
        shift = np.uint32(SHIFTS[digit])
        place[:] = 0
        for i in range(keys.size):
            place[((keys[i] >> shift) & np.uint32(BINS - 1)) + 1] += 1
        for b in range(BINS):
            place[b + 1] += place[b]
        for i in range(keys.size):
            b = (keys[i] >> shift) & np.uint32(BINS - 1)
            other_keys[place[b]] = keys[i]
            other_indices[place[b]] = indices[i]
            place[b] += 1
        keys, other_keys = other_keys, keys
        indices, other_indices = other_indices, indices
    return indices


@njit(cache=True)
def _top_k_image(scores, chosen):
    keys, count = np.empty(scores.size, np.uint32), chosen.size
    _falling(scores, keys)
    last, equal = _cut(keys, count)
    some_keys, some = np.empty(count, np.uint32), np.empty(count, np.int64)
    n = 0
    for i in range(keys.size):
        if keys[i] < last or (keys[i] == last and equal > 0):
            equal -= keys[i] == last
            some_keys[n], some[n] = keys[i], i
            n += 1
    chosen[:] = _sort(some_keys, some)


@njit(cache=True, parallel=True, nogil=True)
def _top_k(scores, chosen):
    for n in prange(len(scores)):
        _top_k_image(scores[n], chosen[n])


def top_k(scores, count):
    """Indices (N, count) int64 of the largest of `scores` (N, A) float32; see targets.top_k. count: 0 to A."""
    chosen = np.empty((len(scores), count), np.int64)
    if chosen.size:
        _top_k(np.ascontiguousarray(scores), chosen)
    return chosen


def warm_up():
    """Compile the kernel (or load it from the cache)."""
    top_k(np.zeros((1, 2), np.float32), 1)
