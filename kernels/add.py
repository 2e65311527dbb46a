"""The sum of two arrays on all threads: what the walk back does wherever a tensor was used more than once."""

import numpy as np
from numba import njit

from minimask.kernels.parallel import flat, run

FEWEST = 65536  # numbers; below, starting the threads costs more than it saves


@njit(cache=True)
def add_part(t, parts, arrays, numbers):
    """total = a + b for the numbers of thread t; total empty: a += b."""
    a, b, total = arrays[:3]
    first, last = t * a.size // parts, (t + 1) * a.size // parts
    a, b, total = a[first:last], b[first:last], total[first:last]
    if total.size == 0:  # a loop of its own: where the result may lie over an input, nothing is vectorised
        for i in range(a.size):
            a[i] += b[i]
    else:
        for i in range(a.size):
            total[i] = a[i] + b[i]


def fits(a, b):
    """Whether `add` can do it and is faster: large float32 arrays on the CPU, contiguous, of one shape."""
    arrays = all(isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous for x in (a, b))
    return arrays and a.shape == b.shape and a.size >= FEWEST


def add(a, b, total):
    """total = a + b; total may be a."""
    run(add_part, (flat(a), flat(b), flat(None if total is a else total)), ())


def warm_up():
    """Compile the kernel (or load it from the cache)."""
    a = np.zeros(2, np.float32)
    add(a, a, a)
