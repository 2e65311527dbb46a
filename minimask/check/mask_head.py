"""Checks of notebook 10: the size of the mask head, its deconvolution, the mask of the right class, the mask's target.

At most one box at a time: x (H, W, C), mask (H, W) of 0 and 1, box (4,) in pixels.
"""

import numpy as np

from minimask import convolution, mask_head
from minimask import roi_align as library
from minimask.check.engine import Check

# ------------------------------------------------------------------------------------------------------------- the size


def _size(in_channels, channels, width, num_classes, bias=1, kernel=3, deconvolution=2, last=1):
    total = 0
    for out in channels:
        total += kernel**2 * in_channels * out + bias * out
        in_channels = out
    total += deconvolution**2 * in_channels * width + bias * width
    return total + last * (width * num_classes + bias * num_classes)


mask_head_size = Check(
    reference=_size,
    cases={
        "one convolution": dict(in_channels=2, channels=(3,), width=5, num_classes=4),
        "no convolution": dict(in_channels=3, channels=(), width=2, num_classes=4),
        "the toy model": dict(in_channels=64, channels=(64, 64, 64, 64), width=64, num_classes=4),
        "the paper": dict(in_channels=256, channels=(256, 256, 256, 256), width=256, num_classes=81),
    },
    random=lambda rng: dict(
        in_channels=int(rng.integers(1, 9)),
        channels=tuple(rng.integers(1, 9, rng.integers(0, 5)).tolist()),
        width=int(rng.integers(1, 9)),
        num_classes=int(rng.integers(2, 9)),
    ),
    covers="zero to four convolutions, different widths",
    mistakes={
        "the biases are missing: each layer has one per output channel": lambda *a: _size(*a, bias=0),
        "a 3x3 deconvolution: its kernel is 2x2": lambda *a: _size(*a, deconvolution=3),
        "the 1x1 convolution at the end is missing": lambda *a: _size(*a, last=0),
        "one class too few: num_classes includes the background": lambda i, c, w, n: _size(i, c, w, n - 1),
        "in_channels used for every convolution: from the second on, the input is the previous output": (
            lambda i, c, w, n: sum(9 * i * out + out for out in c) + _size(c[-1] if c else i, (), w, n)
        ),
    },
)

# ---------------------------------------------------------------------------------------------------- the deconvolution


def _double(x, w, b):
    size, window = (2 * x.shape[0], 2 * x.shape[1]), convolution.Window(w.shape[:2], stride=2)
    return convolution.convolve_backward_data.plain(x[None], w.transpose(0, 1, 3, 2), size, window)[0] + b


def _side_by_side(x, w, b):
    """Four maps side by side instead of interleaved."""
    parts = [[x @ w[i, j] + b for j in range(2)] for i in range(2)]
    return np.concatenate([np.concatenate(row, axis=1) for row in parts])


def _repeated(x, w, b):
    """Enlarges first, and adds up the kernel's four places."""
    return x.repeat(2, 0).repeat(2, 1) @ w.sum((0, 1)) + b


def _layer(rng, height, width, inner, outer):
    return dict(
        x=rng.standard_normal((height, width, inner)),
        w=rng.standard_normal((2, 2, inner, outer)),
        b=rng.standard_normal(outer),
    )


_rng = np.random.default_rng(10)

deconvolution = Check(
    reference=_double,
    cases={
        "one cell: its stamp": dict(
            x=np.array([[[2.0]]]), w=np.array([[1.0, -1], [2, 0]])[:, :, None, None], b=np.zeros(1)
        ),
        "the notebook's 2 x 2 cells": dict(
            x=np.array([[1.0, 2], [0, 3]])[:, :, None],
            w=np.array([[1.0, -1], [2, 0]])[:, :, None, None],
            b=np.zeros(1),
        ),
        "a bias": dict(x=np.zeros((1, 2, 1)), w=np.ones((2, 2, 1, 2)), b=np.array([0.5, -1.0])),
        "two input channels, three output channels": _layer(_rng, 2, 3, 2, 3),
        "14 x 14 cells": _layer(_rng, 14, 14, 3, 2),
    },
    random=lambda rng: _layer(rng, *rng.integers(1, 5, 4)),
    covers="one cell, several channels, bias, maps that are not square",
    grid=(0, 1),
    mistakes={
        "four maps side by side: the four numbers of a cell must be neighbors": _side_by_side,
        "each cell repeated, and the kernel's four places added up": _repeated,
        "the kernel rotated by 180 degrees": lambda x, w, b: _double(x, w[::-1, ::-1], b),
        "rows and columns of the kernel swapped": lambda x, w, b: _double(x, w.transpose(1, 0, 2, 3), b),
        "the bias is missing": lambda x, w, b: _double(x, w, 0 * b),
        "a ReLU at the end, which is a separate step": lambda x, w, b: np.maximum(_double(x, w, b), 0),
    },
)

# ----------------------------------------------------------------------------------------- the mask of the right class


def _softmax(logits, labels):
    return mask_head.mask_probabilities(logits, labels, "softmax")


def _logits(rng, boxes, size, classes):
    return dict(logits=2 * rng.standard_normal((boxes, size, size, classes)), labels=rng.integers(1, classes, boxes))


class_masks = Check(
    reference=mask_head.mask_probabilities,
    cases={
        "one cell, a dog: its logit is 0": dict(logits=np.array([[[[5.0, 3, 0, -3]]]]), labels=np.array([2])),
        "a cat and a duck": dict(logits=np.log(np.arange(1, 25).reshape(2, 1, 3, 4) / 25.0), labels=np.array([1, 3])),
        "one label for several boxes": dict(logits=_logits(_rng, 3, 2, 4)["logits"], labels=np.array([2, 2, 1])),
        "28 x 28 per class": _logits(_rng, 4, 28, 4),
        "no boxes": dict(logits=np.zeros((0, 28, 28, 4)), labels=np.zeros(0, np.int64)),
    },
    random=lambda rng: _logits(rng, int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(2, 6))),
    covers="several boxes, equal labels, no boxes",
    mistakes={
        "a softmax over the classes: each class has its own sigmoid": _softmax,
        "the channel before the right one: channel 0 is the background, so label 1 is channel 1": (
            lambda logits, labels: mask_head.mask_probabilities(logits, labels - 1)
        ),
        "logits: the sigmoid is missing": lambda logits, labels: np.take_along_axis(
            logits, labels[:, None, None, None], axis=3
        )[..., 0],
        "the class with the largest logit in each cell: the class branch chooses once per box": (
            lambda logits, labels: 1 / (1 + np.exp(-logits.max(-1)))
        ),
        "the label of the first box used for all boxes": lambda logits, labels: mask_head.mask_probabilities(
            logits, 0 * labels + labels[:1]
        ),
    },
)

# --------------------------------------------------------------------------------------------------- what to learn from


def _target(mask, box, size, samples, aligned, binary):
    zero, maps = np.zeros(1, np.int64), mask[None, :, :, None].astype(np.float64)
    cells, _ = library.roi_align_forward.plain([maps], box[None], zero, zero, [1.0], size, samples, aligned)
    cells = cells[0, :, :, 0]
    return _yes(cells) if binary else cells


def _yes(cells):
    return (cells >= 0.5 - 1e-9).astype(np.float64)


def _points_first(mask, box, size, samples, aligned, binary):
    """Rounds every sample before averaging."""
    points = library.sampling_points(box, 1.0, size, samples, aligned)
    cells = _yes(library.bilinear(mask[:, :, None].astype(float), points)[..., 0]).mean((2, 3))
    return _yes(cells) if binary else cells


def _whole_pixels(mask, box, size, samples, aligned, binary):
    x1, y1, x2, y2 = np.round(box)
    return _target(mask, np.array([x1, y1, x2, y2]), size, samples, aligned, binary)


_HALF = (np.arange(8) < 4) * np.ones((8, 1))  # the left half of 8 x 8 pixels
_BLOB = (np.hypot(*np.meshgrid(np.linspace(-1.3, 1.1, 20), np.linspace(-1.2, 1.4, 16))) < 0.9).astype(float)
_BOXES = {
    "a box around the object": (1.5, 2.2, 18.3, 14.6),
    "a box that cuts the object": (8.2, 3.1, 19.4, 9.7),
    "a box across the image's border": (-3.4, -2.0, 9.0, 11.5),
}

mask_target = Check(
    reference=_target,
    cases={
        "the left half of 8 x 8 pixels in 4 x 4 cells, aligned": dict(
            mask=_HALF, box=np.array([0.0, 0, 8, 8]), size=4, samples=2, aligned=True, binary=False
        ),
        "the same, not aligned": dict(
            mask=_HALF, box=np.array([0.0, 0, 8, 8]), size=4, samples=2, aligned=False, binary=False
        ),
        "in 3 x 3 cells, binary: the middle ones are exactly 0.5, which counts as 1": dict(
            mask=_HALF, box=np.array([0.5, 0.5, 6.5, 6.5]), size=3, samples=2, aligned=False, binary=True
        ),
        **{
            f"{name}, aligned={aligned}, binary={binary}": dict(
                mask=_BLOB, box=np.array(box), size=5, samples=2, aligned=aligned, binary=binary
            )
            for name, box in _BOXES.items()
            for aligned in (True, False)
            for binary in (False, True)
        },
    },
    random=lambda rng: dict(
        mask=_BLOB,
        box=np.concatenate([rng.uniform(0, 8, 2), rng.uniform(9, 18, 2)]),
        size=int(rng.integers(1, 6)),
        samples=int(rng.integers(1, 4)),
        aligned=bool(rng.integers(2)),
        binary=False,
    ),
    covers="boxes around and across the object and the border, soft and binary, aligned and not",
    mistakes={
        "half a pixel is not subtracted where aligned is True": lambda m, box, size, s, aligned, binary: _target(
            m, box + 0.5 * aligned, size, s, aligned, binary
        ),
        "x and y swapped in the box": lambda m, box, *rest: _target(m, box[[1, 0, 3, 2]], *rest),
        "the sum over a cell's samples instead of their average": lambda m, box, size, s, aligned, binary: (
            s**2 * _target(m, box, size, s, aligned, False)
        ),
        "samples rounded to 0 and 1 before the average": _points_first,
        "the box is rounded to integer pixels: that is what RoIPool does": _whole_pixels,
        "a soft target instead of a binary one": lambda m, box, size, s, aligned, binary: _target(
            m, box, size, s, aligned, False
        ),
        "`> 0.5` instead of `>= 0.5`": lambda m, box, size, s, aligned, binary: (
            (_target(m, box, size, s, aligned, False) > 0.5 + 1e-9).astype(float)
            if binary
            else _target(m, box, size, s, aligned, False)
        ),
    },
)
