"""The sum of two gradients on all threads: `backward` adds them wherever a tensor was used more than once."""

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import flat, run

FEWEST = 65536  # numbers; for fewer, starting the threads costs more than it saves


@njit(cache=True)
def add_part(t, parts, arrays, numbers):
    """total = a + b for the numbers of thread t."""
    a, b, total = arrays[:3]
    first, last = t * a.size // parts, (t + 1) * a.size // parts
    a, b, total = a[first:last], b[first:last], total[first:last]
    for i in range(a.size):
        total[i] = a[i] + b[i]


@njit(cache=True)
def add_to_part(t, parts, arrays, numbers):
    """a += b for the numbers of thread t. (`add_part` is not vectorized if its result overlaps an input.)"""
    a, b = arrays[:2]
    first, last = t * a.size // parts, (t + 1) * a.size // parts
    a, b = a[first:last], b[first:last]
    for i in range(a.size):
        a[i] += b[i]


def fits(a, b, in_place=False):
    """Whether the kernel can take a and b, and is faster: large contiguous float32 arrays of one shape."""
    arrays = all(isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous for x in (a, b))
    return arrays and a.shape == b.shape and a.size >= FEWEST


@takes(fits)
def add_gradients(a, b, in_place=False):
    """See `minimask.machine.gradients.add_gradients`."""
    if in_place:
        run(add_to_part, (flat(a), flat(b)), ())
        return a
    total = np.empty(a.shape, np.float32)
    run(add_part, (flat(a), flat(b), flat(total)), ())
    return total


def warm_up():
    """Compile the kernels, or load them from the cache."""
    a = np.zeros((2, 2), np.float32)
    add_gradients(a, a)
    add_gradients(a, a.copy(), in_place=True)
