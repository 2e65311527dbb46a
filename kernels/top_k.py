"""The largest of many numbers, in order, and random samples, on the CPU: radix select, then radix sort.

A number becomes a key of 32 bits that rises where the number falls. The key that parts the `count` smallest from the
rest is found eleven bits at a time: a histogram of the digits says in which of 2048 bins it lies. What is below it, and
of the equal ones the first, is collected in the order of the indices and sorted digit by digit, each time keeping the
order of equal ones. Up to three passes over the A numbers (4 A bytes each) and three over the `count` (16 count bytes).
"""

import numpy as np
from numba import njit

from minimask.kernels.parallel import flat, run

BINS = 2048  # of a digit of eleven bits
SHIFTS = (0, 11, 22)  # where a key's digits begin


@njit(cache=True)
def _falling(scores, keys):
    """keys (A,) uint32 that rise where the scores fall, NaN as minus infinity."""
    bits = scores.view(np.uint32)
    for i in range(bits.size):
        b = bits[i] if scores[i] == scores[i] else np.uint32(0xFF800000)  # of minus infinity
        b = np.uint32(0) if b == np.uint32(0x80000000) else b  # -0 equals 0
        keys[i] = b if b >> np.uint32(31) != 0 else ~b & np.uint32(0x7FFFFFFF)


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
def _smallest(keys, chosen):
    """chosen (count,) = where the smallest of the keys are, in the order of the keys. count: 0 to all."""
    count = chosen.size
    if count == 0:
        return
    last, equal = _cut(keys, count)
    some_keys, some = np.empty(count, np.uint32), np.empty(count, np.int64)
    n = 0
    for i in range(keys.size):
        if keys[i] < last or (keys[i] == last and equal > 0):
            equal -= keys[i] == last
            some_keys[n], some[n] = keys[i], i
            n += 1
    some = _sort(some_keys, some)
    for i in range(count):
        chosen[i] = some[i]


@njit(cache=True)
def top_k_part(t, parts, arrays, numbers):
    """Every parts-th image, from image t on. chosen: int64, seen as pairs of float32."""
    scores, chosen = arrays[0], arrays[1].view(np.int64)
    images, total, count = numbers[:3]
    keys = np.empty(total, np.uint32)
    for n in range(t, images, parts):
        _falling(scores[n * total : (n + 1) * total], keys)
        _smallest(keys, chosen[n * count : (n + 1) * count])


@njit(cache=True)
def sample_part(t, parts, arrays, numbers):
    """Every parts-th image, from image t on. indices: int64, seen as pairs of float32; counts: positives, background.

    Where `valid` is False, the indices are those of the specification too.
    """
    labels, priority, counts, indices = arrays[0], arrays[1], arrays[2], arrays[3].view(np.int64)
    images, total, count, most_positives = numbers[:4]
    keys, chosen = np.empty(total, np.uint32), np.empty(count, np.int64)
    for n in range(t, images, parts):
        bits = priority[n * total : (n + 1) * total].view(np.uint32)  # the bits of numbers >= 0 rise with them
        own, positives, background = n * count, int(counts[2 * n]), int(counts[2 * n + 1])
        for label in range(1, -1, -1):
            wanted = most_positives if label == 1 else count
            for i in range(total):
                keys[i] = bits[i] if labels[n * total + i] == label else np.uint32(0x40000000)  # of 2
            _smallest(keys, chosen[:wanted])
            for i in range(wanted):
                if label == 1:
                    place = i if i < positives else background + i
                else:
                    place = positives + i if i < background else most_positives + i
                if place < count:
                    indices[own + place] = chosen[i]


def top_k(scores, count):
    """Indices (N, count) int64 of the largest of `scores` (N, A) float32; see targets.top_k. count: 0 to A."""
    chosen = np.empty((len(scores), count), np.int64)
    if chosen.size:
        run(top_k_part, (flat(scores), chosen.reshape(-1).view(np.float32)), (*scores.shape, count))
    return chosen


def sample(labels, priority, count, most_positives):
    """Indices (N, count) int64, positive and valid (N, count) bool; see targets.sample_specification."""
    indices = np.empty((len(labels), count), np.int64)
    positives = np.minimum((labels == 1).sum(1), most_positives)
    background = np.minimum((labels == 0).sum(1), count - positives)
    if indices.size:
        counts = np.stack([positives, background], axis=1)
        arrays = flat(labels), flat(priority), flat(counts), indices.reshape(-1).view(np.float32)
        run(sample_part, arrays, (*labels.shape, count, most_positives))
    place = np.arange(count)
    return indices, place < positives[:, None], place < (positives + background)[:, None]


def warm_up():
    """Compile the kernels (or load them from the cache)."""
    scores = np.zeros((1, 2), np.float32)
    top_k(scores, 1)
    sample(np.zeros((1, 2), np.int8), scores, 1, 1)
