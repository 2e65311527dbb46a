"""The sum of two arrays on all threads: what the walk back does wherever a tensor was used more than once."""

import numpy as np
from numba import njit

from minimask.kernels.parallel import flat, run

FEWEST = 65536  # numbers; below, starting the threads costs more than it saves


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
    """a += b for the numbers of thread t: `add_part` is not vectorized where its result lies over an input."""
    a, b = arrays[:2]
    first, last = t * a.size // parts, (t + 1) * a.size // parts
    a, b = a[first:last], b[first:last]
    for i in range(a.size):
        a[i] += b[i]


def fits(a, b):
    """Whether `add` can do it and is faster: large float32 arrays on the CPU, contiguous, of one shape."""
    arrays = all(isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous for x in (a, b))
    return arrays and a.shape == b.shape and a.size >= FEWEST


def add(a, b, total):
    """total = a + b; total may be a."""
    if total is a:
        run(add_to_part, (flat(a), flat(b)), ())
    else:
        run(add_part, (flat(a), flat(b), flat(total)), ())


def warm_up():
    """Compile the kernels (or load them from the cache)."""
    a, total = np.zeros((2, 2), np.float32)
    add(a, a, a)
    add(a, a, total)
