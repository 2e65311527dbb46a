"""The sum of two gradients on the GPU."""

import numpy as np

from minimask.kernels import add_cuda


def test_add(gpu):
    a, b = np.random.default_rng(0).normal(size=(2, 3, 700)).astype(np.float32)
    total = gpu.empty(a.shape, np.float32)
    with gpu.no_sync() if hasattr(gpu, "no_sync") else gpu.cuda.Stream():
        add_cuda.add(gpu.asarray(a), gpu.asarray(b), total)
    np.testing.assert_array_equal(total.get(), a + b)
