"""A model that is small enough for CUDA kernels running on the CPU, with its data and training settings."""

import contextlib

import pytest

from minimask import mask_rcnn, presets
from minimask.datasets.loader import Loader
from minimask.datasets.toy import ToyScenes
from minimask.train import TrainSettings

SMALL = dict(
    backbone=dict(channels=(8, 8, 8, 8), stem="small", fpn_channels=8),
    rpn=dict(first_level=0, anchor_sizes=((8,), (16,), (32,), (64,)), samples=16, pre_nms=(60, 60), post_nms=(40, 40)),
    roi=dict(samples=16, canonical_size=56, box_size=4, mask_size=4),
    heads=dict(box_width=16, mask_channels=(8,), mask_width=8),
    transform=dict(min_size=64, max_size=64),
)

# For tests of whole models. The tests of single kernels try several orders of a kernel's threads.
one_schedule = pytest.mark.parametrize("gpu", [0], indirect=True, ids=["schedule0"])

RATE = 2e-3  # with 1e-2, a change of the weights by 3e-7 would change a gradient in step 10 by 1%


def small_model(**changes):
    """The toy preset with fewer channels, boxes and pixels, on the CPU."""
    return mask_rcnn.build("toy", 4, seed=0, **presets.merge(SMALL, changes))


def scenes(model, batch_size=2):
    """A loader of 12 drawn scenes of 64 x 64 pixels."""
    return Loader(ToyScenes("train", 64, 12), model.transform, batch_size)


def settings(**changes):
    """TrainSettings of 20 steps, with a learning rate that changes in every step."""
    return TrainSettings(**{**dict(steps=20, learning_rate=RATE, schedule="cosine", warm_up=3), **changes})


def no_sync(gpu, **rules):
    """While inside, waiting for the GPU raises an error if `gpu` is the stand-in for CuPy."""
    return gpu.no_sync(**rules) if hasattr(gpu, "no_sync") else contextlib.nullcontext()
