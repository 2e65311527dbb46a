"""Convolution, transposed convolution, max pooling: against torch, finite differences, worked numbers, and the kernels."""

import numpy as np
import pytest

from minimask.convolution import conv2d, conv_transpose2d, max_pool2d
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients

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


def convolution_arrays(case, seed=0, dtype=np.float64):
    n, h, w, cin, cout, kernel, stride, padding, dilation, groups = CONVOLUTIONS[case]
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, cin)).astype(dtype)
    weights = rng.standard_normal((*kernel, cin // groups, cout)).astype(dtype)
    b = rng.standard_normal(cout).astype(dtype)
    return x, weights, b, dict(stride=stride, padding=padding, dilation=dilation, groups=groups)


def nchw(torch, a):
    return torch.tensor(np.ascontiguousarray(a.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_equals_torch(case):
    torch = pytest.importorskip("torch")
    x, w, b, settings = convolution_arrays(case)
    y = conv2d(Tensor(x), Tensor(w), Tensor(b), **settings).data
    expected = torch.nn.functional.conv2d(nchw(torch, x), torch.tensor(w.transpose(3, 2, 0, 1)), torch.tensor(b), **settings)
    np.testing.assert_allclose(y, expected.numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_gradients(case):
    x, w, b, settings = convolution_arrays(case)
    check_gradients(lambda x, w, b: conv2d(x, w, b, **settings), x, w, b, name="conv2d")
