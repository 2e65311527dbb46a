"""Checks of notebook 16: right answers pass, and typical wrong ones are named."""

import numpy as np

from minimask.kernels import simd
from tests import answers


def winograd_1d(d, u):
    m = (d[0] - d[2]) * u[0], (d[1] + d[2]) * u[1], (d[2] - d[1]) * u[2], (d[1] - d[3]) * u[3]
    return np.array([m[0] + m[1] + m[2], m[1] - m[2] - m[3]])


def bytes_moved(size, passes, fused):
    return 8 * size if fused else 8 * size * passes


RIGHT = dict(
    thread_share=lambda size, t, parts: np.array([size * t // parts, size * (t + 1) // parts]),
    bytes_moved=bytes_moved,
    block_rows=lambda registers, vectors: (registers - 1) // vectors - 1,
    winograd_1d=winograd_1d,
    roofline=lambda intensity, peak, bandwidth: peak if intensity > peak / bandwidth else intensity * bandwidth,
)

WRONG = [  # check, wrong answer, case that shows it, what the message says
    (
        "thread_share",
        lambda n, t, parts: np.array([t, t + 1]) * (n // parts),
        "10 rows",
        "the same size for each thread, rounded down",
    ),
    (
        "thread_share",
        lambda n, t, parts: np.array([n * t // parts, n * (t + 1) // parts - 1]),
        "10 rows",
        "the last row instead of the one after it",
    ),
    ("bytes_moved", lambda n, passes, fused: 8 * n * passes, "the same, fused", "keep the numbers in registers"),
    ("bytes_moved", lambda n, passes, fused: bytes_moved(n, passes, fused) // 2, "a million", "each pass writes as"),
    ("bytes_moved", lambda n, passes, fused: bytes_moved(n, passes, fused) // 4, "a million", "a float32 has four"),
    ("block_rows", lambda registers, vectors: registers // vectors, "AVX-512", "none is left for a and b"),
    ("block_rows", lambda registers, vectors: (registers - vectors) // vectors, "AVX-512", "for the number of a"),
    ("winograd_1d", lambda d, u: winograd_1d(d, u)[::-1], "d = 1, 2, 3, 4", "y0 and y1 swapped"),
    ("winograd_1d", lambda d, u: winograd_1d(d, u * [1, 1, 1, -1]), "d = 1, 2, 3, 4", "a plus before m4"),
    (
        "roofline",
        lambda i, peak, bandwidth: max(peak, i * bandwidth),
        "0.25 operations",
        "the larger of the two limits instead of the smaller",
    ),
    ("roofline", lambda i, peak, bandwidth: i * bandwidth, "50 operations", "no machine is faster than its peak"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_library_has_the_rows_of_the_exercise():
    registers = {16: 32, 8: 16, 4: 32}[simd.LANES]
    if (simd.LANES, simd.ROWS) != (4, 4):  # processors of which nothing is known get a smaller block
        assert simd.ROWS == RIGHT["block_rows"](registers, simd.VECTORS)
