"""Checks of notebook 02: the size of a result, convolution forward, backward and transposed, the receptive field.

One image: x (H, W, Cin), weights (kh, kw, Cin, Cout), results (OH, OW, Cout); stride and padding are the same for
rows and columns. At output pixel (oy, ox) place (i, j) of the kernel meets pixel
(oy stride + i - padding, ox stride + j - padding).
"""

import numpy as np

from minimask import convolution as library
from minimask.check.engine import Check


def _window(w, stride, padding, dilation=1):
    return library.Window(w.shape[:2], stride, padding, dilation)


def _output_size(size, kernel, stride, padding, dilation):
    return library.Window((kernel, kernel), stride, padding, dilation).output_size((size, size))[0]


def _forward(x, w, stride, padding):
    return library.convolve.plain(x[None], w, _window(w, stride, padding))[0]


def _backward_weights(gy, x, kernel, stride, padding):
    return library.convolve_backward_weights.plain(x[None], gy[None], library.Window(kernel, stride, padding))


def _backward_data(gy, w, shape, stride, padding):
    return library.convolve_backward_data.plain(gy[None], w, shape[:2], _window(w, stride, padding))[0]


def _transposed(x, w, stride, padding):
    window = _window(w, stride, padding)
    size = window.transposed_size(x.shape[:2])
    return library.convolve_backward_data.plain(x[None], w.transpose(0, 1, 3, 2), size, window)[0]


def _receptive_field(kernels, strides):
    field, jump = 1, 1
    for kernel, stride in zip(kernels, strides):
        field += (kernel - 1) * jump
        jump *= stride
    return field


# ------------------------------------------------------------------------------------------------ what goes wrong often

FLIPPED = "a flipped kernel: place (i, j) of the kernel meets the pixel i rows down and j columns to the right"
SWAPPED = "x and y swapped in the kernel: its first axis is y, down"
NO_STRIDE = "the window always moves by one pixel, regardless of the stride"
NO_PADDING = "no padding: the window always begins at the map's first pixel, regardless of the padding"
ASSIGNED = "a pixel keeps only what the last window sent: `=` instead of `+=`"


def _forward_without_stride(x, w, stride, padding):
    rows, columns, _ = _result_shape(x, w, stride, padding)
    return _forward(x, w, 1, padding)[:rows, :columns]


def _edge_padded(x, w, stride, padding):
    """The pixels at the border repeated, where there should be zeros."""
    return _forward(np.pad(x, ((padding, padding), (padding, padding), (0, 0)), mode="edge"), w, stride, 0)


def _weights_without_stride(gy, x, kernel, stride, padding):
    """The window of output pixel (oy, ox) begins at pixel (oy - padding, ox - padding)."""
    x = np.pad(x, ((padding, padding + max(kernel)), (padding, padding + max(kernel)), (0, 0)))
    used = x[: gy.shape[0] + kernel[0] - 1, : gy.shape[1] + kernel[1] - 1]
    return _backward_weights(gy, used, kernel, 1, 0)


def _weights_without_padding(gy, x, kernel, stride, padding):
    height, width = ((n - 1) * stride + k for n, k in zip(gy.shape[:2], kernel))
    return _backward_weights(gy, np.pad(x, ((0, height), (0, width), (0, 0)))[:height, :width], kernel, stride, 0)


def _stamped(gy, w, height, width, stride, add=True):
    """A map of height x width on which each pixel of gy stamps its kernel, cropped at the map's border."""
    kh, kw, channels = w.shape[:3]
    gx = np.zeros(((gy.shape[0] - 1) * stride + kh + height, (gy.shape[1] - 1) * stride + kw + width, channels))
    for oy, ox in np.ndindex(gy.shape[:2]):
        at = gx[oy * stride : oy * stride + kh, ox * stride : ox * stride + kw]
        at[:] = add * at + w @ gy[oy, ox]
    return gx[:height, :width]


def _cut(padded, padding):
    return padded[padding : padded.shape[0] - padding, padding : padded.shape[1] - padding]


def _data(gy, w, shape, stride, padding, add=True):
    """The gradient of the data by stamping. Without `add`, only the last stamp is left at each pixel."""
    return _cut(_stamped(gy, w, shape[0] + 2 * padding, shape[1] + 2 * padding, stride, add), padding)


def _transposed_assigned(x, w, stride, padding):
    height, width = ((n - 1) * stride + k for n, k in zip(x.shape[:2], w.shape))
    return _cut(_stamped(x, w.transpose(0, 1, 3, 2), height, width, stride, add=False), padding)


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(2)
RAMP = np.arange(16.0).reshape(4, 4, 1)
_KERNEL = np.array([[1.0, 2, 0], [0, 0, 3], [0, 4, 0]])[:, :, None, None]  # no two of its rotations are equal
ONLY_FIRST = "the ramp, only the first window has a gradient"
_ONE = np.array([[1.0, 0], [0, 0]])[:, :, None]  # only the first window has a gradient


def _normal(*shape):
    return _rng.standard_normal(shape)


_FORWARD = {
    "the ramp 0 to 15, 4 x 4": dict(x=RAMP, w=_KERNEL, stride=1, padding=0),
    "the ramp with padding 1": dict(x=RAMP, w=_KERNEL, stride=1, padding=1),
    "stride 2": dict(x=_normal(7, 7, 1), w=_normal(3, 3, 1, 1), stride=2, padding=0),
    "stride 2 and padding 1: the last window does not end at the border": dict(
        x=_normal(6, 8, 1), w=_normal(3, 3, 1, 1), stride=2, padding=1
    ),
    "several channels in and out": dict(x=_normal(5, 6, 3), w=_normal(3, 3, 3, 2), stride=1, padding=1),
    "a kernel of 2 x 3": dict(x=_normal(5, 6, 2), w=_normal(2, 3, 2, 2), stride=1, padding=1),
    "a kernel of 1 x 1": dict(x=_normal(3, 4, 3), w=_normal(1, 1, 3, 2), stride=1, padding=0),
}


def _random_forward(rng):
    kernel, stride, padding = rng.integers(1, 4, 2), int(rng.integers(1, 4)), int(rng.integers(0, 2))
    x, w = rng.standard_normal((*rng.integers(4, 8, 2), 2)), rng.standard_normal((*kernel, 2, 3))
    return dict(x=x, w=w, stride=stride, padding=padding)


def _result_shape(x, w, stride, padding):
    return (*_window(w, stride, padding).output_size(x.shape[:2]), w.shape[3])


def _weights_case(case, rng, gy=None):
    """The arguments of the gradient of the weights, for a case of the convolution."""
    gy = rng.standard_normal(_result_shape(**case)) if gy is None else gy
    settings = dict(kernel=case["w"].shape[:2], stride=case["stride"], padding=case["padding"])
    return dict(gy=gy, x=case["x"], **settings)


def _data_case(case, rng, gy=None):
    """The arguments of the gradient of the map, for a case of the convolution."""
    gy = rng.standard_normal(_result_shape(**case)) if gy is None else gy
    return dict(gy=gy, w=case["w"], shape=case["x"].shape, stride=case["stride"], padding=case["padding"])


_TRANSPOSED = {
    "one pixel is one stamp": dict(x=np.array([[[2.0]]]), w=_KERNEL, stride=2, padding=0),
    "2 x 2 stamps with stride 2 lie side by side": dict(x=_normal(3, 4, 1), w=_normal(2, 2, 1, 1), stride=2, padding=0),
    "3 x 3 stamps with stride 2 overlap": dict(x=_normal(3, 4, 1), w=_normal(3, 3, 1, 1), stride=2, padding=0),
    "padding 1 crops one pixel on each side": dict(x=_normal(3, 4, 1), w=_normal(3, 3, 1, 1), stride=2, padding=1),
    "as many channels out as in": dict(x=_normal(3, 4, 2), w=_normal(2, 2, 2, 2), stride=2, padding=0),
    "several channels": dict(x=_normal(3, 4, 3), w=_normal(2, 2, 3, 2), stride=2, padding=0),
    "stamps with gaps between them": dict(x=_normal(2, 3, 2), w=_normal(2, 2, 2, 2), stride=3, padding=0),
}


def _random_transposed(rng):
    kernel = rng.integers(2, 4, 2)
    x, w = rng.standard_normal((*rng.integers(2, 5, 2), 2)), rng.standard_normal((*kernel, 2, 3))
    return dict(x=x, w=w, stride=int(rng.integers(1, 4)), padding=int(rng.integers(0, 2)))


# -------------------------------------------------------------------------------------------------------------- checks

conv_output_size = Check(
    reference=_output_size,
    cases={
        "4 pixels, a window of 3": dict(size=4, kernel=3, stride=1, padding=0, dilation=1),
        "padding 2 keeps the size for a window of 5": dict(size=14, kernel=5, stride=1, padding=2, dilation=1),
        "stride 2": dict(size=7, kernel=3, stride=2, padding=0, dilation=1),
        "stride 2 with something left over": dict(size=224, kernel=7, stride=2, padding=3, dilation=1),
        "dilation 2: a window of 3 spans 5": dict(size=9, kernel=3, stride=1, padding=0, dilation=2),
        "a window of 1": dict(size=5, kernel=1, stride=1, padding=0, dilation=1),
        "all at once": dict(size=20, kernel=3, stride=2, padding=2, dilation=2),
    },
    random=lambda rng: dict(
        size=int(rng.integers(12, 40)),
        kernel=int(rng.integers(1, 6)),
        stride=int(rng.integers(1, 4)),
        padding=int(rng.integers(0, 3)),
        dilation=int(rng.integers(1, 3)),
    ),
    covers="stride, padding, dilation, and pixels left over",
    mistakes={
        "the last position is missing: + 1": lambda n, k, s, p, d: _output_size(n, k, s, p, d) - 1,
        "padding on one side only": lambda n, k, s, p, d: (n + p - d * (k - 1) - 1) // s + 1,
        "the stride is ignored": lambda n, k, s, p, d: _output_size(n, k, 1, p, d),
        "rounded up: a window that reaches beyond the end does not count": lambda n, k, s, p, d: (
            -(-(n + 2 * p - d * (k - 1) - 1) // s) + 1
        ),
        "the dilation is ignored": lambda n, k, s, p, d: _output_size(n, k, s, p, 1),
    },
)

conv2d = Check(
    reference=_forward,
    cases=_FORWARD,
    random=_random_forward,
    covers="stride, padding, channels, kernels that are not square",
    grid=(0, 1),
    mistakes={
        FLIPPED: lambda x, w, *rest: _forward(x, w[::-1, ::-1], *rest),
        SWAPPED: lambda x, w, *rest: _forward(x, w.transpose(1, 0, 2, 3), *rest),
        "the average over the window instead of the sum": lambda x, w, *rest: _forward(x, w / w[..., 0].size, *rest),
        "the border pixels repeated: padding consists of zeros": _edge_padded,
        NO_STRIDE: _forward_without_stride,
        "padding only on the right and at the bottom": lambda x, w, s, p: _forward(
            np.pad(x, ((0, 2 * p), (0, 2 * p), (0, 0))), w, s, 0
        ),
    },
)

receptive_field = Check(
    reference=_receptive_field,
    cases={
        "one 3 x 3 layer": dict(kernels=[3], strides=[1]),
        "two 3 x 3 layers": dict(kernels=[3, 3], strides=[1, 1]),
        "the first of two has stride 2": dict(kernels=[3, 3], strides=[2, 1]),
        "a stride in the last layer changes nothing": dict(kernels=[3, 3], strides=[1, 2]),
        "a window of 1 adds nothing": dict(kernels=[3, 1, 3], strides=[1, 1, 1]),
        "the first layers of a ResNet": dict(kernels=[7, 3, 3, 3], strides=[2, 2, 1, 1]),
        "no layer: a pixel sees itself": dict(kernels=[], strides=[]),
    },
    random=lambda rng: dict(
        kernels=[int(k) for k in rng.integers(1, 6, 4)], strides=[int(s) for s in rng.integers(1, 3, 4)]
    ),
    covers="stacks with and without strides",
    mistakes={
        "the sum of the kernel sizes: windows overlap, so each layer adds kernel - 1": lambda k, s: sum(k),
        "the strides are ignored: after a stride of 2, one step is two pixels": lambda k, s: _receptive_field(
            k, [1] * len(k)
        ),
        "a layer's stride applied to its own window: it takes effect in the next layer": lambda k, s: (
            1 + sum((a - 1) * int(b) for a, b in zip(k, np.cumprod(s)))
        ),
    },
)

conv2d_backward_weights = Check(
    reference=_backward_weights,
    cases={
        ONLY_FIRST: _weights_case(_FORWARD["the ramp 0 to 15, 4 x 4"], _rng, _ONE),
        **{name: _weights_case(case, _rng) for name, case in _FORWARD.items()},
    },
    random=lambda rng: _weights_case(_random_forward(rng), rng),
    covers="stride, padding, channels, kernels that are not square",
    grid=(0, 1),
    mistakes={
        FLIPPED: lambda *a: _backward_weights(*a)[::-1, ::-1],
        SWAPPED: lambda *a: _backward_weights(*a).transpose(1, 0, 2, 3),
        "the average over the windows instead of the sum": lambda gy, *a: _backward_weights(gy / gy[..., 0].size, *a),
        NO_STRIDE: _weights_without_stride,
        NO_PADDING: _weights_without_padding,
        "rows and columns of gy swapped": lambda gy, *a: _backward_weights(gy.transpose(1, 0, 2), *a),
    },
)

conv2d_backward_data = Check(
    reference=_backward_data,
    cases={
        ONLY_FIRST: _data_case(_FORWARD["the ramp 0 to 15, 4 x 4"], _rng, _ONE),
        **{name: _data_case(case, _rng) for name, case in _FORWARD.items()},
    },
    random=lambda rng: _data_case(_random_forward(rng), rng),
    covers="stride, padding, channels, kernels that are not square",
    grid=(0, 1),
    mistakes={
        FLIPPED: lambda gy, w, *a: _backward_data(gy, w[::-1, ::-1], *a),
        SWAPPED: lambda gy, w, *a: _backward_data(gy, w.transpose(1, 0, 2, 3), *a),
        "the average over the windows instead of the sum": lambda gy, *a: _backward_data(gy / gy[..., 0].size, *a),
        NO_STRIDE: lambda gy, w, shape, s, p: _data(gy, w, shape, 1, p),
        "the padding is not cropped again": lambda gy, w, shape, s, p: _stamped(gy, w, *shape[:2], s),
        ASSIGNED: lambda *a: _data(*a, add=False),
        "rows and columns of gy swapped": lambda gy, *a: _backward_data(gy.transpose(1, 0, 2), *a),
    },
)

conv_transpose2d = Check(
    reference=_transposed,
    cases=_TRANSPOSED,
    random=_random_transposed,
    covers="stamps side by side, overlapping and with gaps; padding; channels",
    grid=(0, 1),
    mistakes={
        "a flipped kernel: the stamp is the kernel as it is": lambda x, w, *rest: _transposed(x, w[::-1, ::-1], *rest),
        "x and y swapped in the stamp: its first axis is y, down": lambda x, w, *rest: _transposed(
            x, w.transpose(1, 0, 2, 3), *rest
        ),
        "a pixel keeps only the last stamp: `=` instead of `+=`": _transposed_assigned,
        "input and output channels swapped: w is (kh, kw, Cin, Cout)": lambda x, w, *rest: _transposed(
            x, w.transpose(0, 1, 3, 2), *rest
        ),
        "each stamp is a copy of the pixel, not weighted by the kernel": lambda x, w, *rest: _transposed(
            x, np.ones_like(w), *rest
        ),
    },
)
