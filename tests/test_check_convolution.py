"""Checks of notebook 02: right answers pass, and typical wrong ones are named."""

import numpy as np

from minimask.check import convolution as topic
from tests import answers


def conv_output_size(size, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def windows(shape, kernel, stride):
    """(oy, ox, rows, columns) of each window of a padded map."""
    kh, kw = kernel
    for oy in range((shape[0] - kh) // stride + 1):
        for ox in range((shape[1] - kw) // stride + 1):
            yield oy, ox, slice(oy * stride, oy * stride + kh), slice(ox * stride, ox * stride + kw)


def pad(x, padding):
    return np.pad(x, ((padding, padding), (padding, padding), (0, 0)))


def conv2d(x, w, stride, padding):
    x = pad(x, padding)
    kh, kw = w.shape[:2]
    y = np.zeros(((x.shape[0] - kh) // stride + 1, (x.shape[1] - kw) // stride + 1, w.shape[3]))
    for oy, ox, rows, columns in windows(x.shape, (kh, kw), stride):
        y[oy, ox] = np.tensordot(x[rows, columns], w, 3)
    return y


def receptive_field(kernels, strides):
    field = jump = 1
    for kernel, stride in zip(kernels, strides):
        field += (kernel - 1) * jump
        jump *= stride
    return field


def conv2d_backward_weights(gy, x, kernel, stride, padding):
    x = pad(x, padding)
    gw = np.zeros((*kernel, x.shape[2], gy.shape[2]))
    for oy, ox, rows, columns in windows(x.shape, kernel, stride):
        gw += x[rows, columns, :, None] * gy[oy, ox]
    return gw


def conv2d_backward_data(gy, w, shape, stride, padding, add=True):
    """add: False for the wrong answer that keeps the last stamp."""
    gx = pad(np.zeros(shape), padding)
    for oy, ox, rows, columns in windows(gx.shape, w.shape[:2], stride):
        gx[rows, columns] = add * gx[rows, columns] + w @ gy[oy, ox]
    return gx[padding : padding + shape[0], padding : padding + shape[1]].copy()


def conv_transpose2d(x, w, stride, padding):
    height, width = ((n - 1) * stride - 2 * padding + k for n, k in zip(x.shape[:2], w.shape))
    return conv2d_backward_data(x, w.transpose(0, 1, 3, 2), (height, width, w.shape[3]), stride, padding)


RIGHT = dict(
    conv_output_size=conv_output_size,
    conv2d=conv2d,
    receptive_field=receptive_field,
    conv2d_backward_weights=conv2d_backward_weights,
    conv2d_backward_data=conv2d_backward_data,
    conv_transpose2d=conv_transpose2d,
)


def flip(w):
    return w[::-1, ::-1]


def turn(w):
    return w.transpose(1, 0, 2, 3)


def weights_without_stride(gy, x, kernel, stride, padding):
    x = np.pad(x, ((padding, 9), (padding, 9), (0, 0)))
    gw = np.zeros((*kernel, x.shape[2], gy.shape[2]))
    for oy, ox in np.ndindex(gy.shape[:2]):
        gw += x[oy : oy + kernel[0], ox : ox + kernel[1], :, None] * gy[oy, ox]
    return gw


def weights_without_padding(gy, x, kernel, stride, padding):
    gw = np.zeros((*kernel, x.shape[2], gy.shape[2]))
    x = np.pad(x, ((0, 9), (0, 9), (0, 0)))
    for oy, ox in np.ndindex(gy.shape[:2]):
        y, z = oy * stride, ox * stride
        gw += x[y : y + kernel[0], z : z + kernel[1], :, None] * gy[oy, ox]
    return gw


def data_without_stride(gy, w, shape, stride, padding):
    gx = np.zeros((shape[0] + 9, shape[1] + 9, shape[2]))
    for oy, ox in np.ndindex(gy.shape[:2]):
        gx[oy : oy + w.shape[0], ox : ox + w.shape[1]] += w @ gy[oy, ox]
    return gx[padding : padding + shape[0], padding : padding + shape[1]].copy()


def data_without_padding(gy, w, shape, stride, padding):
    gx = np.zeros((shape[0] + 9, shape[1] + 9, shape[2]))
    for oy, ox in np.ndindex(gy.shape[:2]):
        gx[oy * stride :, ox * stride :][: w.shape[0], : w.shape[1]] += w @ gy[oy, ox]
    return gx[: shape[0], : shape[1]].copy()


FIRST = '"the ramp, only the first window has a gradient"'
WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("conv_output_size", lambda n, k, s, p, d: (n - k + 2 * p) // s, "4 pixels", "the last position is missing"),
    ("conv_output_size", lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1) / s + 1, "4 pixels", "expected integers"),
    ("conv_output_size", lambda n, k, s, p, d: (n + 2 * p - k) // s + 1, "dilation 2", "the dilation is ignored"),
    ("conv2d", lambda x, w, *a: conv2d(x, flip(w), *a), "the ramp 0 to 15", "a flipped kernel"),
    ("conv2d", lambda x, w, *a: conv2d(x, turn(w), *a), "the ramp 0 to 15", "x and y swapped in the kernel"),
    ("conv2d", lambda x, w, *a: conv2d(x, w / 9, *a), "the ramp 0 to 15", "the average over the window"),
    ("conv2d", lambda x, w, s, p: conv2d(x, w, s, 0), "padding 1", "has shape (2, 2, 1), expected (4, 4, 1)"),
    ("receptive_field", lambda k, s: sum(k), "two 3 x 3 layers", "the sum of the kernel sizes"),
    ("receptive_field", lambda k, s: 1 + sum(k) - len(k), "the first of two has stride 2", "the strides are ignored"),
    ("conv2d_backward_weights", lambda *a: flip(conv2d_backward_weights(*a)).copy(), FIRST, "a flipped kernel"),
    ("conv2d_backward_weights", lambda *a: turn(conv2d_backward_weights(*a)).copy(), FIRST, "x and y swapped"),
    ("conv2d_backward_weights", lambda gy, *a: conv2d_backward_weights(gy / 4, *a), FIRST, "the average over the"),
    (
        "conv2d_backward_weights",
        weights_without_stride,
        '"stride 2"',
        "the window always moves by one pixel, regardless of",
    ),
    ("conv2d_backward_weights", weights_without_padding, '"the ramp with padding 1"', "no padding"),
    ("conv2d_backward_weights", lambda *a: 2 * conv2d_backward_weights(*a), FIRST, "Every element is 2 times"),
    ("conv2d_backward_data", lambda gy, w, *a: conv2d_backward_data(gy, flip(w), *a), FIRST, "a flipped kernel"),
    ("conv2d_backward_data", lambda gy, w, *a: conv2d_backward_data(gy, turn(w), *a), FIRST, "x and y swapped"),
    ("conv2d_backward_data", lambda gy, *a: conv2d_backward_data(gy / 4, *a), FIRST, "the average over the windows"),
    ("conv2d_backward_data", data_without_stride, '"stride 2"', "the window always moves by one pixel, regardless of"),
    ("conv2d_backward_data", data_without_padding, '"the ramp with padding 1"', "the padding is not cropped again"),
    ("conv2d_backward_data", lambda *a: conv2d_backward_data(*a, add=False), FIRST, "`=` instead of `+=`"),
    (
        "conv2d_backward_data",
        lambda gy, *a: conv2d_backward_data(gy.transpose(1, 0, 2), *a),
        "0 to 15",
        "rows and columns of gy swapped",
    ),
    ("conv_transpose2d", lambda x, w, *a: conv_transpose2d(x, flip(w), *a), "one pixel", "a flipped kernel"),
    (
        "conv_transpose2d",
        lambda x, w, s, p: conv_transpose2d(x, w, s, 0),
        "padding 1 crops one pixel on each side",
        "has shape (7, 9, 1)",
    ),
    (
        "conv_transpose2d",
        lambda x, w, s, p: conv2d_backward_data(
            x, w.transpose(0, 1, 3, 2), conv_transpose2d(x, w, s, p).shape, s, p, add=False
        ),
        "3 x 3 stamps",
        "`=` instead of `+=`",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_every_check_of_the_topic_is_here():
    assert {check.name for check in vars(topic).values() if getattr(check, "cases", None)} == set(RIGHT)
