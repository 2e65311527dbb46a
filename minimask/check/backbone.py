"""Checks of notebook 03: the residual block, the cost of a convolution, groups, batch norm folded into a convolution.

One map: x (H, W, C); weights (kh, kw, Cin / groups, Cout). Convolutions have padding (kernel - 1) / 2 and no bias.
"""

import numpy as np

from minimask import convolution as library
from minimask.check.engine import Check
from minimask.normalization import constant_scale_and_shift


def _conv(x, w):
    window = library.Window(w.shape[:2], 1, (w.shape[0] - 1) // 2)
    return library.convolve.plain(x[None], w, window)[0]


def _relu(x):
    return np.maximum(x, 0)


def _block(x, w1, w2):
    return _relu(x + _conv(_relu(_conv(x, w1)), w2))


def _cost(height, width, kernel, channels_in, channels_out, stride, groups):
    parameters = kernel**2 * channels_in // groups * channels_out
    return parameters, parameters * -(-height // stride) * -(-width // stride)


def _dense(w, groups):
    kh, kw, inside, out = w.shape
    dense = np.zeros((kh, kw, inside * groups, out), w.dtype)
    for g, columns in enumerate(np.split(np.arange(out), groups)):
        dense[:, :, g * inside : (g + 1) * inside, columns] = w[..., columns]
    return dense


def _dense_interleaved(w, groups):
    """Group g has the channels g, g + groups, g + 2 groups, ..."""
    dense = np.zeros((*w.shape[:2], w.shape[2] * groups, w.shape[3]), w.dtype)
    for g in range(groups):
        dense[:, :, g::groups, g::groups] = w[..., g::groups]
    return dense


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(3)


def _normal(*shape):
    return _rng.standard_normal(shape)


def _center(value):
    """A 3 x 3 kernel for one channel that is 0 except at its center."""
    w = np.zeros((3, 3, 1, 1))
    w[1, 1] = value
    return w


def _random_block(rng):
    channels = int(rng.integers(1, 4))
    return dict(
        x=rng.standard_normal((*rng.integers(1, 5, 2), channels)),
        w1=rng.standard_normal((3, 3, channels, channels)) / 3,
        w2=rng.standard_normal((3, 3, channels, channels)) / 3,
    )


def _layer(height, width, kernel, channels_in, channels_out, stride=1, groups=1):
    return dict(
        height=height,
        width=width,
        kernel=kernel,
        channels_in=channels_in,
        channels_out=channels_out,
        stride=stride,
        groups=groups,
    )


def _random_layer(rng):
    groups = int(rng.choice([1, 2, 4]))
    return _layer(
        *map(int, 2 * rng.integers(2, 20, 2)),
        int(rng.choice([1, 3, 5, 7])),
        groups * int(rng.integers(1, 9)),
        groups * int(rng.integers(1, 9)),
        int(rng.integers(1, 3)),
        groups,
    )


def _random_groups(rng):
    groups, inside, out = map(int, rng.integers(1, 5, 3))
    return dict(w=rng.standard_normal((3, 3, inside, groups * out)), groups=groups)


def _random_norm(rng):
    channels = int(rng.integers(1, 5))
    return dict(
        w=rng.standard_normal((3, 3, 2, channels)),
        gamma=rng.standard_normal(channels),
        beta=rng.standard_normal(channels),
        mean=rng.standard_normal(channels),
        var=rng.uniform(0.1, 4, channels),
        eps=1e-5,
    )


def _fold(w, gamma, beta, mean, var, eps):
    scale, shift = constant_scale_and_shift(gamma, beta, mean, var, eps)
    return _folded(w, scale, shift)


def _folded(w, scale, shift):
    return w * scale, shift


# -------------------------------------------------------------------------------------------------------------- checks

residual_block = Check(
    reference=_block,
    cases={
        "the number by hand: 2 becomes 2.2": dict(x=np.full((1, 1, 1), 2.0), w1=_center(0.5), w2=_center(0.2)),
        "a map of one channel": dict(x=_normal(4, 5, 1), w1=_normal(3, 3, 1, 1), w2=_normal(3, 3, 1, 1)),
        "a branch that subtracts more than there is": dict(
            x=np.full((1, 1, 1), 2.0), w1=_center(0.5), w2=_center(-3.0)
        ),
        "weights of 0: nothing is added, and the last ReLU sets negative numbers to 0": dict(
            x=np.array([[[-1.0], [2.0]]]), w1=_center(0.0), w2=_center(0.0)
        ),
        "a map of three channels": dict(x=_normal(4, 5, 3), w1=_normal(3, 3, 3, 3), w2=_normal(3, 3, 3, 3)),
    },
    random=_random_block,
    covers="numbers by hand, weights of 0, several channels, negative inputs",
    grid=(0, 1),
    mistakes={
        "no shortcut: x is not added": lambda x, w1, w2: _relu(_conv(_relu(_conv(x, w1)), w2)),
        "the ReLU comes before the addition, so that a block can add but never subtract": lambda x, w1, w2: (
            x + _relu(_conv(_relu(_conv(x, w1)), w2))
        ),
        "a ReLU before the addition and another one after it": lambda x, w1, w2: _relu(
            x + _relu(_conv(_relu(_conv(x, w1)), w2))
        ),
        "no ReLU after the addition": lambda x, w1, w2: x + _conv(_relu(_conv(x, w1)), w2),
        "no ReLU between the convolutions: two convolutions in a row are just one": lambda x, w1, w2: _relu(
            x + _conv(_conv(x, w1), w2)
        ),
        "the shortcut starts after the first convolution": lambda x, w1, w2: _relu(
            _relu(_conv(x, w1)) + _conv(_relu(_conv(x, w1)), w2)
        ),
        "the weights swapped: w1 comes first": lambda x, w1, w2: _block(x, w2, w1),
    },
)

convolution_cost = Check(
    reference=_cost,
    cases={
        "the 3 x 3 of a bottleneck of ResNet-50": _layer(56, 56, 3, 64, 64),
        "the 1 x 1 before it": _layer(56, 56, 1, 256, 64),
        "stride 2": _layer(56, 56, 3, 128, 128, stride=2),
        "32 groups": _layer(56, 56, 3, 128, 128, groups=32),
        "the first layer: 7 x 7, stride 2": _layer(224, 224, 7, 3, 64, stride=2),
        "a map that is not square": _layer(10, 20, 3, 4, 6),
        "stride 2 on an odd number of rows: the last row counts": _layer(7, 8, 3, 4, 6, stride=2),
    },
    random=_random_layer,
    results=("parameters", "multiply-adds"),
    covers="kernels, strides, groups, maps that are not square, odd sizes",
    mistakes={
        "the groups are ignored: an output sees only the inputs of its own group": lambda *a: _cost(*a[:6], 1),
        "divided by the groups twice: each output sees fewer inputs, but there are as many outputs": lambda *a: tuple(
            n // a[6] for n in _cost(*a)
        ),
        "kernel instead of kernel x kernel": lambda h, w, k, *a: tuple(n // k for n in _cost(h, w, k, *a)),
        "the stride is ignored": lambda h, w, k, i, o, s, g: _cost(h, w, k, i, o, 1, g),
        "a bias per output: these convolutions have none, because a normalization follows": lambda h, w, k, i, o, *a: (
            _cost(h, w, k, i, o, *a)[0] + o,
            _cost(h, w, k, i, o, *a)[1],
        ),
        "the stride applied along one side only": lambda h, w, k, i, o, s, g: (
            _cost(h, w, k, i, o, s, g)[0],
            _cost(h, w, k, i, o, s, g)[0] * -(-h // s) * w,
        ),
    },
)

dense_weights = Check(
    reference=_dense,
    cases={
        "two groups of two channels, 1 x 1": dict(w=np.arange(1.0, 9).reshape(1, 1, 2, 4), groups=2),
        "one group: nothing changes": dict(w=_normal(3, 3, 2, 4), groups=1),
        "three groups, more outputs than inputs": dict(w=_normal(3, 3, 2, 9), groups=3),
        "as many groups as channels": dict(w=_normal(3, 3, 1, 4), groups=4),
    },
    random=_random_groups,
    covers="one and several groups, different numbers of inputs and outputs",
    mistakes={
        "groups of interleaved channels: a group consists of neighboring channels": _dense_interleaved,
        "the same weights for every group: inputs that a group does not see have the weight 0": lambda w, groups: (
            np.tile(w, (1, 1, groups, 1))
        ),
        "the groups are in reverse order": lambda w, groups: _dense(w, groups)[:, :, ::-1],
        "only the weights of the first group": lambda w, groups: np.concatenate(
            [w, np.zeros((*w.shape[:2], w.shape[2] * (groups - 1), w.shape[3]))], axis=2
        ),
    },
)

fold_batch_norm = Check(
    reference=_fold,
    cases={
        "the numbers by hand": dict(
            w=np.full((1, 1, 1, 1), 0.5),
            gamma=np.array([4.0]),
            beta=np.array([1.0]),
            mean=np.array([3.0]),
            var=np.array([4.0]),
            eps=0.0,
        ),
        "two channels, each with its own numbers": dict(
            w=_normal(1, 1, 2, 2),
            gamma=np.array([2.0, -1.0]),
            beta=np.array([1.0, 0.5]),
            mean=np.array([3.0, -2.0]),
            var=np.array([4.0, 0.25]),
            eps=1e-5,
        ),
        "a channel that hardly varies, where eps matters": dict(
            w=_normal(3, 3, 1, 2),
            gamma=np.ones(2),
            beta=np.zeros(2),
            mean=np.ones(2),
            var=np.array([1e-5, 1.0]),
            eps=1e-5,
        ),
        "as many outputs as inputs": dict(
            w=_normal(3, 3, 3, 3),
            gamma=_normal(3),
            beta=_normal(3),
            mean=_normal(3),
            var=_rng.uniform(0.1, 4, 3),
            eps=1e-5,
        ),
    },
    random=_random_norm,
    results=("weights", "bias"),
    covers="several channels, negative scales, variances near 0",
    mistakes={
        "divided by the variance instead of its square root, the standard deviation": lambda w, g, b, m, v, eps: (
            _folded(w, g / (v + eps), b - m * g / (v + eps))
        ),
        "the mean is not scaled: it is subtracted before scaling": lambda w, g, b, m, v, eps: _folded(
            w, g / np.sqrt(v + eps), b - m
        ),
        "the mean is added instead of subtracted": lambda w, g, b, m, v, eps: _folded(
            w, g / np.sqrt(v + eps), b + m * g / np.sqrt(v + eps)
        ),
        "beta without the mean": lambda w, g, b, m, v, eps: _folded(w, g / np.sqrt(v + eps), b),
        "eps outside the root: sqrt(var) + eps": lambda w, g, b, m, v, eps: _folded(
            w, g / (np.sqrt(v) + eps), b - m * g / (np.sqrt(v) + eps)
        ),
        "eps is missing": lambda w, g, b, m, v, eps: _folded(w, g / np.sqrt(v), b - m * g / np.sqrt(v)),
        "the scale applied along the input channels: a norm has one number per output": lambda w, g, b, m, v, eps: (
            _folded(w, (g / np.sqrt(v + eps))[:, None], b - m * g / np.sqrt(v + eps))
        ),
    },
)
