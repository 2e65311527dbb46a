"""Shapes, arrays and error bounds that the tests of convolution share."""

import numpy as np

# Bounds for `error` of float32 kernels.
DIRECT, WINOGRAD = 1e-5, 2e-4

# name: N, H, W, Cin, Cout, kernel, stride, padding, dilation, groups
CONVOLUTIONS = {
    "plain 3x3": (2, 5, 6, 3, 4, (3, 3), 1, 1, 1, 1),
    "no padding": (1, 5, 4, 2, 3, (3, 3), 1, 0, 1, 1),
    "1x1": (2, 3, 4, 5, 2, (1, 1), 1, 0, 1, 1),
    "1x1 stride 2": (2, 5, 4, 3, 2, (1, 1), 2, 0, 1, 1),
    "1x1 padded": (1, 2, 3, 2, 2, (1, 1), 1, 1, 1, 1),
    "stem 7x7 stride 2": (1, 9, 8, 3, 2, (7, 7), 2, 3, 1, 1),
    "stride 2": (2, 6, 7, 2, 3, (3, 3), 2, 1, 1, 1),
    "stride 3 of kernel 2": (1, 8, 9, 2, 2, (2, 2), 3, 0, 1, 1),
    "stride > map": (1, 4, 4, 2, 2, (3, 3), 7, 1, 1, 1),
    "dilated": (1, 7, 8, 2, 3, (3, 3), 1, 2, 2, 1),
    "dilated, stride 2": (1, 9, 8, 2, 2, (3, 3), 2, 2, 2, 1),
    "dilation 3, stride 2": (1, 10, 9, 2, 2, (3, 2), 2, 3, 3, 1),
    "oblong": (2, 5, 9, 2, 2, (1, 5), (2, 1), (0, 2), (1, 2), 1),
    "even kernel": (1, 6, 5, 2, 2, (4, 2), 2, 1, 1, 1),
    "groups": (2, 4, 5, 6, 4, (3, 3), 1, 1, 1, 2),
    "groups, stride 2": (1, 5, 5, 4, 8, (3, 3), 2, 1, 1, 4),
    "depthwise": (1, 5, 4, 5, 5, (3, 3), 1, 1, 1, 5),
    "depthwise, two each": (1, 4, 4, 3, 6, (3, 3), 2, 1, 1, 3),
    "one pixel": (2, 1, 1, 3, 2, (3, 3), 1, 1, 1, 1),
    "one pixel, stride 2": (1, 1, 1, 2, 2, (3, 3), 2, 1, 1, 1),
    "kernel larger than map": (1, 2, 3, 2, 2, (5, 5), 1, 2, 1, 1),
    "padding larger than kernel": (1, 2, 2, 2, 2, (2, 2), 1, 4, 1, 1),
}

# name: N, H, W, Cin, Cout, kernel, stride, padding, output_padding, dilation, groups
TRANSPOSED = {
    "mask head 2x2": (2, 3, 4, 3, 2, (2, 2), 2, 0, 0, 1, 1),
    "keypoint head 4x4": (1, 3, 3, 2, 2, (4, 4), 2, 1, 0, 1, 1),
    "output padding": (2, 3, 2, 2, 3, (3, 3), 2, 1, 1, 1, 1),
    "stride 1": (1, 3, 4, 2, 2, (3, 3), 1, 0, 0, 1, 1),
    "stride > kernel": (1, 2, 3, 2, 2, (2, 2), 3, 0, 2, 1, 1),
    "dilated": (1, 3, 3, 2, 2, (3, 3), 2, 1, 0, 2, 1),
    "output padding below dilation": (1, 3, 2, 2, 2, (3, 3), 2, 2, 2, 3, 1),
    "groups": (1, 3, 3, 4, 6, (3, 3), 2, 1, 1, 1, 2),
    "oblong": (1, 2, 4, 2, 2, (1, 3), (1, 2), (0, 1), (0, 1), 1, 1),
    "one pixel": (1, 1, 1, 2, 3, (3, 3), 2, 1, 1, 1, 1),
}


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def convolution_arrays(case, dtype=np.float64):
    n, h, w, cin, cout, kernel, stride, padding, dilation, groups = CONVOLUTIONS[case]
    settings = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    x, weights, b = random(n, h, w, cin), random(*kernel, cin // groups, cout, seed=1), random(cout, seed=2)
    return x.astype(dtype), weights.astype(dtype), b.astype(dtype), settings


def transposed_arrays(case, dtype=np.float64):
    n, h, w, cin, cout, kernel, stride, padding, output_padding, dilation, groups = TRANSPOSED[case]
    settings = dict(stride=stride, padding=padding, output_padding=output_padding, dilation=dilation, groups=groups)
    x, weights, b = random(n, h, w, cin), random(*kernel, cin, cout // groups, seed=1), random(cout, seed=2)
    return x.astype(dtype), weights.astype(dtype), b.astype(dtype), settings


def error(found, expected):
    """The largest difference from the expected array, relative to the root mean square of that array."""
    assert found.shape == expected.shape and found.dtype == np.float32
    scale = np.sqrt(np.mean(expected**2)) if expected.size else 1
    return np.abs(found - expected).max(initial=0) / max(scale, 1e-30)
