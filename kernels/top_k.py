"""The largest of many numbers, in order, and random samples, on the CPU: radix select, then radix sort.

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
def _smallest(keys, indices, chosen):
    """chosen (count,) = of the indices those with the smallest keys, in the order of the keys. count: 0 to all."""
    count = chosen.size
    if count == 0:
        return
    last, equal = _cut(keys, count)
    some_keys, some = np.empty(count, np.uint32), np.empty(count, np.int64)
    n = 0
    for i in range(keys.size):
        if keys[i] < last or (keys[i] == last and equal > 0):
            equal -= keys[i] == last
            some_keys[n], some[n] = keys[i], indices[i]
            n += 1
    chosen[:] = _sort(some_keys, some)


@njit(cache=True)
def _top_k_image(scores, chosen):
    keys = np.empty(scores.size, np.uint32)
    _falling(scores, keys)
    _smallest(keys, np.arange(scores.size), chosen)


@njit(cache=True, parallel=True, nogil=True)
def _top_k(scores, chosen):
    for n in prange(len(scores)):
        _top_k_image(scores[n], chosen[n])


@njit(cache=True)
def _sample_image(labels, priority, most_positives, indices, positive, valid):
    """One image: see targets.sample_specification; also the indices that mean nothing are the same."""
    count, every = indices.size, np.arange(labels.size)
    positives = min(np.sum(labels == 1), most_positives)
    background = min(np.sum(labels == 0), count - positives)
    positive[:positives] = True
    valid[: positives + background] = True
    for label, wanted in ((1, most_positives), (0, count)):
        keys = np.where(labels == label, priority, np.float32(2)).view(np.uint32)  # bits of numbers >= 0 rise with them
        chosen = np.empty(wanted, np.int64)
        _smallest(keys, every, chosen)
        for i in range(wanted):
            if label == 1:
                place = i if i < positives else background + i
            else:
                place = positives + i if i < background else most_positives + i
            if place < count:
                indices[place] = chosen[i]


@njit(cache=True, parallel=True, nogil=True)
def _sample(labels, priority, most_positives, indices, positive, valid):
    for n in prange(len(labels)):
        _sample_image(labels[n], priority[n], most_positives, indices[n], positive[n], valid[n])


def top_k(scores, count):
    """Indices (N, count) int64 of the largest of `scores` (N, A) float32; see targets.top_k. count: 0 to A."""
    chosen = np.empty((len(scores), count), np.int64)
    if chosen.size:
        _top_k(np.ascontiguousarray(scores), chosen)
    return chosen


def sample(labels, priority, count, most_positives):
    """Indices (N, count) int64, positive and valid (N, count) bool; see targets.sample_specification."""
    shape = len(labels), count
    indices, positive, valid = np.empty(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, bool)
    if indices.size:
        _sample(np.ascontiguousarray(labels), priority, most_positives, indices, positive, valid)
    return indices, positive, valid


def warm_up():
    """Compile the kernels (or load them from the cache)."""
    scores = np.zeros((1, 2), np.float32)
    top_k(scores, 1)
    sample(np.zeros((1, 2), np.int8), scores, 1, 1)
