"""What one image costs a system at test time: forward passes of its network, multiplications, seconds; slide T09.

R-CNN runs its network on every proposal, Fast R-CNN once per image, and Faster R-CNN finds the proposals with the same
network. Multiplications are those of convolutions and fully connected layers.
"""

import contextlib
import math
import time

from minimask import convolution, functional
from minimask.datasets.toy import ToyScenes
from minimask.mask_rcnn import build

COMPARED = {"R-CNN": "slow_rcnn", "Fast R-CNN": "fast_rcnn", "Faster R-CNN": "toy_faster_rcnn_c4"}


@contextlib.contextmanager
def counting():
    """Inside, multiplications are counted: yields a dict whose entry "multiplications" grows."""
    count = {"multiplications": 0}
    convolve, linear = convolution.convolve, functional.linear_forward

    def counted_convolve(x, w, *args, **settings):
        y = convolve(x, w, *args, **settings)
        count["multiplications"] += y.size * w.size // y.shape[-1]
        return y

    def counted_linear(x, w, *args, **settings):
        y = linear(x, w, *args, **settings)
        count["multiplications"] += y.size * x.shape[-1]
        return y

    convolution.convolve, functional.linear_forward = counted_convolve, counted_linear
    try:
        yield count
    finally:
        convolution.convolve, functional.linear_forward = convolve, linear


def cost(name, images=8, repeats=3):
    """{"forward passes", "multiplications", "seconds"} per image of a system or preset, untrained.

    Proposals are found before the clock starts, so the seconds are those of the networks. repeats: the fastest counts.
    """
    model = build(name, classes=ToyScenes.class_names, seed=0).eval()
    scenes = ToyScenes("test", count=images)
    batches = [model.transform([scenes[i]]) for i in range(images)]
    for batch in batches:
        model.detect(batch)  # finds the proposals, and compiles

    seconds = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        for batch in batches:
            model.detect(batch)
        seconds = min(seconds, (time.perf_counter() - began) / images)
    with counting() as count:
        for batch in batches:
            model.detect(batch)
    passes = [sum(model.forward_passes(batch)) if hasattr(model, "forward_passes") else 1 for batch in batches]
    return {
        "forward passes": sum(passes) / images,
        "multiplications": count["multiplications"] / images,
        "seconds": round(seconds, 5),
    }


def costs():
    """The cost of each system that is compared: dict from its name to the result of `cost`."""
    return {title: cost(name) for title, name in COMPARED.items()}
