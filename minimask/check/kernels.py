"""Checks of notebook 16: a thread's share, bytes moved, the register block, Winograd in one dimension, the roofline."""

import numpy as np

from minimask.check.engine import Check


def _share(size, t, parts):
    return np.array([t * size // parts, (t + 1) * size // parts])


def _bytes_moved(size, passes, fused):
    return 4 * size * 2 * (1 if fused else passes)


def _block_rows(registers, vectors):
    return (registers - vectors - 1) // vectors


def _winograd(d, u):
    m = np.array([d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]) * u
    return np.array([m[0] + m[1] + m[2], m[1] - m[2] - m[3]])


thread_share = Check(
    reference=_share,
    cases={
        "10 rows, thread 2 of 4: a size that 4 does not divide": dict(size=10, t=2, parts=4),
        "the last thread goes up to the end": dict(size=10, t=3, parts=4),
        "fewer rows than threads: some get nothing": dict(size=2, t=0, parts=4),
        "one thread does everything": dict(size=7, t=0, parts=1),
    },
    random=lambda rng: dict(size=int(rng.integers(0, 50)), t=int(rng.integers(0, 4)), parts=4),
    covers="sizes that can and cannot be divided, more threads than rows",
    mistakes={
        "the same size for each thread, rounded down: nobody gets the last rows": lambda size, t, parts: np.array(
            [t * (size // parts), (t + 1) * (size // parts)]
        ),
        "the last row instead of the one after it": lambda size, t, parts: _share(size, t, parts) - [0, 1],
    },
)

bytes_moved = Check(
    reference=_bytes_moved,
    cases={
        "a million numbers, 3 passes, not fused": dict(size=10**6, passes=3, fused=False),
        "the same, fused": dict(size=10**6, passes=3, fused=True),
        "one pass, which has nothing to fuse": dict(size=100, passes=1, fused=False),
    },
    random=lambda rng: dict(size=int(rng.integers(1, 99)), passes=int(rng.integers(1, 6)), fused=bool(rng.integers(2))),
    covers="fused and not, one pass and several",
    mistakes={
        "only the bytes that are read: each pass writes as many": lambda n, passes, fused: (
            _bytes_moved(n, passes, fused) // 2
        ),
        "numbers instead of bytes: a float32 has four bytes": lambda n, passes, fused: (
            _bytes_moved(n, passes, fused) // 4
        ),
        "all passes counted, although fused ones keep the numbers in registers": lambda n, p, fused: _bytes_moved(
            n, p, False
        ),
    },
)

block_rows = Check(
    reference=_block_rows,
    cases={
        "AVX-512: 32 registers, 2 vectors wide": dict(registers=32, vectors=2),
        "AVX2: 16 registers, 2 vectors wide": dict(registers=16, vectors=2),
        "NEON: 32 registers, 4 vectors wide": dict(registers=32, vectors=4),
    },
    random=lambda rng: dict(registers=int(rng.choice([16, 32, 64])), vectors=int(rng.integers(1, 5))),
    covers="three kinds of processor",
    mistakes={
        "all registers used for results: none is left for a and b": lambda registers, vectors: registers // vectors,
        "no register left for the number of a": lambda registers, vectors: (registers - vectors) // vectors,
    },
)

winograd_1d = Check(
    reference=_winograd,
    cases={
        "d = 1, 2, 3, 4, and u for the kernel 1, 1, 1": dict(
            d=np.array([1.0, 2, 3, 4]), u=np.array([1.0, 1.5, 0.5, 1.0])
        ),
        "only the first product": dict(d=np.array([1.0, 0, 0, 0]), u=np.array([2.0, 0, 0, 0])),
    },
    random=lambda rng: dict(d=rng.standard_normal(4), u=rng.standard_normal(4)),
    covers="integers and random numbers",
    mistakes={
        "y1 with a plus before m4": lambda d, u: _winograd(d, u * [1, 1, 1, -1]),
        "m3 computed from d1 - d2 instead of d2 - d1": lambda d, u: _winograd(d, u * [1, 1, -1, 1]),
        "y0 and y1 swapped": lambda d, u: _winograd(d, u)[::-1],
    },
)

roofline = Check(
    reference=lambda intensity, peak, bandwidth: min(peak, intensity * bandwidth),
    cases={
        "0.25 operations per byte, 100 GFLOP/s, 10 GB/s": dict(intensity=0.25, peak=100.0, bandwidth=10.0),
        "50 operations per byte": dict(intensity=50.0, peak=100.0, bandwidth=10.0),
        "at the corner": dict(intensity=10.0, peak=100.0, bandwidth=10.0),
    },
    random=lambda rng: dict(zip(("intensity", "peak", "bandwidth"), map(float, rng.uniform(1, 99, 3)))),
    covers="to the left, to the right and at the corner",
    mistakes={
        "only the slope: no machine is faster than its peak": lambda i, peak, bandwidth: i * bandwidth,
        "the larger of the two limits instead of the smaller one": lambda i, peak, bandwidth: max(peak, i * bandwidth),
        "the bandwidth divided by the operations per byte": lambda i, peak, bandwidth: min(peak, bandwidth / i),
    },
)
