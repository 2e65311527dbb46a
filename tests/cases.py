"""Random boxes, objects and generators that the tests of several stages share, on the CPU and on the GPU."""

import numpy as np

from minimask.device import generator


def random_boxes(rng, *shape, side=100.0, dtype=np.float64):
    """Boxes (*shape, 4) with sides of 1 to side / 2 pixels; their top left corners lie in a square of `side` pixels."""
    corner = rng.uniform(0, side, (*shape, 2))
    size = rng.uniform(1, side / 2, (*shape, 2))
    return np.concatenate([corner, corner + size], axis=-1).astype(dtype)


def anchors_and_objects(seed, n=3, a=50, g=5):
    """Anchors (n, a, 4), boxes (n, g, 4), real and crowd (n, g) for `targets.match`; integer pixels, so IoUs tie."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 60, (n, a + g, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 50, (n, a + g, 2))], 2).astype(np.float32)
    real = rng.random((n, g)) < 0.7
    return boxes[:, :a], boxes[:, a:], real, ~real & (rng.random((n, g)) < 0.5)


def head_outputs(seed=0, n=2, r=40, c=5, spread=3.0):
    """Logits (n, r, c), deltas (n, r, 4 c) and proposals (n, r, 4), some outside the image, for `box_head.detect`."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, 50, (n, r, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(1, 40, (n, r, 2))], 2).astype(np.float32)
    logits = (rng.standard_normal((n, r, c)) * spread).astype(np.float32)
    deltas = rng.standard_normal((n, r, c * 4)).astype(np.float32)
    return logits, deltas, proposals


class HostNumbers:
    """A generator that draws its numbers on the host and returns them as arrays of `module`."""

    def __init__(self, module, *seed):
        self.module, self.host = module, generator(*seed)

    def random(self, shape, dtype):
        return self.module.asarray(self.host.random(shape, dtype=dtype))


class FixedNumbers:
    """A generator that always returns the same array; a test may change the array between calls."""

    def __init__(self, numbers):
        self.numbers = numbers

    def random(self, shape, dtype):
        assert shape == self.numbers.shape and dtype == self.numbers.dtype
        return self.numbers


def no_sync(gpu):
    """While inside, the stand-in for CuPy raises if the host would wait; with a real GPU, this is just a new stream."""
    return gpu.no_sync() if hasattr(gpu, "no_sync") else gpu.cuda.Stream()
