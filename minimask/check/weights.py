"""Checks of notebook 18: a file's weights in our layout, one rule after the other, and what of a file fits a model."""

import numpy as np

from minimask import weights as library
from minimask.check.engine import Check

_rng = np.random.default_rng(18)


def _counting(*shape):
    """1, 2, 3, ... in this shape, so that each number says where it comes from."""
    return np.arange(1.0, np.prod(shape) + 1).reshape(shape)


def _convolution(w):
    return library.from_torchvision({"layer.weight": w})["layer.weight"]


def _fc6(w, channels, side):
    return w.reshape(len(w), channels, side, side).transpose(2, 3, 1, 0).reshape(-1, len(w))


def _fits(model, file):
    both = model.keys() & file.keys()
    loaded = sum(model[name] == file[name] for name in both)
    return np.array([loaded, len(both) - loaded, len(model.keys() - both), len(file.keys() - both)])


_MODEL = {"conv.weight": (3, 3, 4, 8), "norm.bias": (8,), "scores.weight": (16, 4), "scores.bias": (4,)}

convolution_weights = Check(
    reference=_convolution,
    cases={
        "5 outputs from 4 channels, 2 x 3": dict(w=_counting(5, 4, 2, 3)),
        "as many outputs as channels, so that a wrong order has the right shape": dict(w=_counting(3, 3, 3, 3)),
        "1 x 1": dict(w=_counting(2, 3, 1, 1)),
    },
    random=lambda rng: dict(w=rng.standard_normal((*rng.integers(1, 5, 2), 3, 3))),
    covers="square and other kernels, and shapes that do not reveal a wrong order",
    grid=(0, 1),
    view_allowed=True,
    mistakes={
        "a reshape, which keeps the order of the numbers in memory: the axes must move": (
            lambda w: w.reshape(*w.shape[2:], w.shape[1], w.shape[0])
        ),
        "all axes reversed, `.T`, which also swaps rows and columns of the kernel": lambda w: w.T,
        "(kh, kw, out, in), the order of a transposed convolution": lambda w: w.transpose(2, 3, 0, 1),
    },
)

fc6_weights = Check(
    reference=_fc6,
    cases={
        "one output, 2 channels of 2 x 2 cells": dict(w=_counting(1, 8), channels=2, side=2),
        "3 outputs, 2 channels of 3 x 3 cells": dict(w=_counting(3, 18), channels=2, side=3),
        "as many channels as cells in a row": dict(w=_counting(2, 27), channels=3, side=3),
        "one cell: just a transpose": dict(w=_counting(2, 4), channels=4, side=1),
    },
    random=lambda rng: dict(w=rng.standard_normal((3, 4 * 9)), channels=4, side=3),
    covers="several outputs, channels and sides",
    view_allowed=True,
    mistakes={
        "just a transpose: the rows are still ordered channel by channel": lambda w, c, s: w.T,
        "rows and columns of the cells swapped": lambda w, c, s: (
            w.reshape(len(w), c, s, s).transpose(3, 2, 1, 0).reshape(-1, len(w))
        ),
        "the file read as if it were already ordered cell by cell": lambda w, c, s: (
            w.reshape(len(w), s, s, c).transpose(3, 1, 2, 0).reshape(-1, len(w))
        ),
    },
)

background_first = Check(
    reference=lambda w: np.roll(w, 1, axis=0),
    cases={
        "cat, dog, duck, and the background, which is last": dict(w=_counting(4, 2)),
        "a bias": dict(w=np.array([1.0, 2, 3, 0])),
        "two classes": dict(w=_counting(2, 3)),
    },
    random=lambda rng: dict(w=rng.standard_normal((int(rng.integers(2, 6)), 3))),
    covers="weights and biases",
    view_allowed=True,
    mistakes={
        "all classes reversed: the objects must keep their order": lambda w: w[::-1],
        "the first class moved to the end: that is the opposite direction": lambda w: np.roll(w, -1, axis=0),
        "first and last swapped": lambda w: w[[-1, *range(1, len(w) - 1), 0]],
        "all numbers rolled as one row: pass the axis to np.roll": lambda w: np.roll(w, 1),
    },
)

first_layer = Check(
    reference=lambda w: w[:, :, ::-1] * 255,
    cases={
        "a 1 x 1 kernel: weights 1, 2, 3 of blue, green, red": dict(w=_counting(1, 1, 3, 1)),
        "3 x 3, 3 outputs": dict(w=_counting(3, 3, 3, 3)),
    },
    random=lambda rng: dict(w=rng.standard_normal((3, 3, 3, 4))),
    covers="order and range of the colors",
    mistakes={
        "the order of the colors is not reversed": lambda w: w * 255,
        "the weights still expect colors from 0 to 255": lambda w: w[:, :, ::-1],
        "a division by 255: the weights must grow, because the image's numbers shrink": lambda w: w[:, :, ::-1] / 255,
        "the wrong axis reversed: w is (kh, kw, in, out), and the input channels are colors": lambda w: (
            w[..., ::-1] * 255
        ),
        "a mirrored kernel: its columns are reversed instead of its colors": lambda w: w[:, ::-1] * 255,
    },
)

what_fits = Check(
    reference=_fits,
    cases={
        "one of each kind": dict(
            model=_MODEL,
            file={"conv.weight": (3, 3, 4, 8), "scores.weight": (16, 91), "scores.bias": (4,), "old": (1,)},
        ),
        "all of it": dict(model=_MODEL, file=dict(_MODEL)),
        "an empty file": dict(model=_MODEL, file={}),
        "as many numbers in a different shape: a misfit": dict(model={"w": (2, 3)}, file={"w": (3, 2)}),
        "a file with more arrays": dict(model={"w": (2, 3)}, file={"w": (2, 3), "a": (1,), "b": (1,)}),
    },
    covers="loaded, misfit, missing, skipped",
    mistakes={
        "misfits counted as loaded: the shapes must be equal, too": lambda model, file: np.array(
            [len(model.keys() & file.keys()), 0, len(model.keys() - file.keys()), len(file.keys() - model.keys())]
        ),
        "missing and skipped swapped: missing is what the file lacks": lambda m, f: _fits(m, f)[[0, 1, 3, 2]],
        "shapes compared by the number of their elements": lambda model, file: _fits(
            {name: np.prod(shape) for name, shape in model.items()},
            {name: np.prod(shape) for name, shape in file.items()},
        ),
    },
)
