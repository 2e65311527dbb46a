"""The largest of many numbers, in order, and random samples, on the CPU: radix select, then radix sort.

Each number becomes a 32-bit key; the larger the number, the smaller its key. The key that separates the `count`
smallest from the rest is found eleven bits at a time: a histogram of that digit shows which of 2048 bins it falls into.
The keys below it, and as many of those equal to it as are still needed, are collected in the order of their indices and
sorted digit by digit; each pass keeps the order of equal digits. That makes up to three passes over the A numbers
(4 A bytes each) and three over the chosen ones (16 bytes each). One thread per image.
"""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import flat, run

BINS = 2048  # of a digit of eleven bits
SHIFTS = (0, 11, 22)  # where the digits of a key begin


@njit(cache=True)
def _falling(scores, keys):
    """Fill keys (A,) uint32: the larger the score, the smaller its key. NaN counts as minus infinity."""
    bits = scores.view(np.uint32)
    for i in range(bits.size):
        b = bits[i] if scores[i] == scores[i] else np.uint32(0xFF800000)  # of minus infinity
        b = np.uint32(0) if b == np.uint32(0x80000000) else b  # -0 equals 0
        keys[i] = b if b >> np.uint32(31) != 0 else ~b & np.uint32(0x7FFFFFFF)


@njit(cache=True)
def _cut(keys, count):
    """(key, equal): the `count` smallest keys are those below `key`, and `equal` of those that are equal to it."""
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
    """The indices sorted by their keys; equal keys keep their order."""
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
    """Fill chosen (count,) with the indices of the smallest keys, in ascending order of key. count: 0 to all."""
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
    """Every parts-th image, starting with image t. arrays: scores, chosen (int64, viewed as pairs of float32)."""
    scores, chosen = arrays[0], arrays[1].view(np.int64)
    images, total, count = numbers[:3]
    keys = np.empty(total, np.uint32)
    for n in range(t, images, parts):
        _falling(scores[n * total : (n + 1) * total], keys)
        _smallest(keys, chosen[n * count : (n + 1) * count])


@njit(cache=True)
def sample_part(t, parts, arrays, numbers):
    """Every parts-th image, starting with image t.

    arrays: labels, priority, counts (positives and background of each image), indices (int64, viewed as pairs of
    float32). The indices of places that are not valid are the same as in the array code, too.
    """
    labels, priority, counts, indices = arrays[0], arrays[1], arrays[2], arrays[3].view(np.int64)
    images, total, count, max_positives = numbers[:4]
    keys, chosen = np.empty(total, np.uint32), np.empty(count, np.int64)
    for n in range(t, images, parts):
        bits = priority[n * total : (n + 1) * total].view(np.uint32)  # in the order of the numbers, which are >= 0
        own, positives, background = n * count, int(counts[2 * n]), int(counts[2 * n + 1])
        for label in range(1, -1, -1):
            wanted = max_positives if label == 1 else count
            for i in range(total):
                keys[i] = bits[i] if labels[n * total + i] == label else np.uint32(0x40000000)  # of 2
            _smallest(keys, chosen[:wanted])
            for i in range(wanted):
                if label == 1:
                    place = i if i < positives else background + i
                else:
                    place = positives + i if i < background else max_positives + i
                if place < count:
                    indices[own + place] = chosen[i]


@takes(lambda scores, count: scores.dtype == np.float32)
def top_k(scores, count):
    """See `minimask.targets.top_k`."""
    count = min(count, scores.shape[1])
    chosen = np.empty((len(scores), count), np.int64)
    if chosen.size:
        run(top_k_part, (flat(scores), chosen.reshape(-1).view(np.float32)), (*scores.shape, count))
    return chosen


@takes(lambda *_, **__: True)
def sample(labels, count, fraction, rng):
    """See `minimask.targets.sample`."""
    count = min(count, labels.shape[1])
    max_positives = min(int(count * fraction), count)
    priority = rng.random(labels.shape, dtype=np.float32)
    indices = np.empty((len(labels), count), np.int64)
    positives = np.minimum((labels == 1).sum(1), max_positives)
    background = np.minimum((labels == 0).sum(1), count - positives)
    if indices.size:
        counts = np.stack([positives, background], axis=1)
        arrays = flat(labels), flat(priority), flat(counts), indices.reshape(-1).view(np.float32)
        run(sample_part, arrays, (*labels.shape, count, max_positives))
    place = np.arange(count)
    return indices, place < positives[:, None], place < (positives + background)[:, None]


def warm_up():
    """Compile (or load from the disk cache) what training and inference use."""
    top_k(np.zeros((1, 2), np.float32), 1)
    sample(np.zeros((1, 2), np.int8), 1, 1.0, np.random.default_rng(0))
