"""The GPU kernels of normalization against the array code in float64, and whole layers against the CPU."""

import numpy as np
import pytest

from minimask import normalization
from minimask.kernels import normalization_cuda
from minimask.normalization import batch_norm, group_norm
from minimask.tensor import Tensor

# (segments, pixels, channels): one number, fewer channels than a warp, odd numbers, two tiles of channels, many blocks.
SHAPES = [(1, 1, 1), (3, 5, 1), (1, 7, 3), (2, 301, 5), (1, 64, 33), (3, 40, 64), (2, 30, 65), (1, 9, 300), (1, 900, 9)]


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def maps(shape):
    """The maps x (around 5), gy, y and residual, and the arrays mean, a, b, c of one number per channel."""
    small = (shape[0], shape[2])
    x = 2 * random(*shape) + 5
    return x, *(random(*shape, seed=s) for s in (1, 2, 3)), *(random(*small, seed=s) for s in (4, 5, 6, 7))


def close(ours, theirs, tolerance=1e-5):
    """Assert that arrays agree within `tolerance`, relative to the largest number."""
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    scale = max(1.0, float(abs(theirs).max(initial=0)))
    np.testing.assert_allclose(ours.get(), theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("shape, blocks", [*((s, None) for s in SHAPES), ((2, 600, 64), None), ((2, 601, 64), 1)])
def test_passes_equal_the_array_code(gpu, monkeypatch, shape, blocks):
    """600 x 64: more than 32 parts to add up. blocks = 1: as many pixels per thread as on large maps."""
    monkeypatch.setattr(normalization_cuda, "BLOCKS", blocks or normalization_cuda.BLOCKS)
    arrays = maps(shape)
    x, gy, y, residual, mean, a, b, c = (v.astype(np.float64) for v in arrays)
    on_card = [gpu.asarray(v) for v in arrays]
    gx, ggy, gy_, gresidual, gmean, ga, gb, gc = on_card
    for ours, theirs in zip(normalization.moments(gx), normalization.moments.plain(x)):
        close(ours, theirs)
    for extra, relu in ((None, False), (None, True), (residual, False), (residual, True)):
        ours = normalization.affine(gx, ga, gb, None if extra is None else gresidual, relu)
        close(ours, normalization.affine.plain(x, a, b, extra, relu))
    close(normalization.gradient(ggy, gx, gmean, ga, gb, gc), normalization.gradient.plain(gy, x, mean, a, b, c))
    for result in (None, y):
        ours = normalization.gradient_sums(ggy, None if result is None else gy_, gx, gmean)
        for one, other in zip(ours, normalization.gradient_sums.plain(gy, result, x, mean)):
            close(one, other)
    assert normalization.gradient_sums(ggy, None, gx, gmean)[0] is ggy
    held = ggy.copy()
    assert normalization.gradient_sums(held, gy_, gx, gmean, overwrite=True)[0] is held
    np.testing.assert_array_equal(held.get(), ours[0].get())
    expected = normalization.gradient(held, gx, gmean, ga, gb, gc).get()
    assert normalization.gradient(held, gx, gmean, ga, gb, gc, overwrite=True) is held
    np.testing.assert_array_equal(held.get(), expected)
    g, total, product = normalization.gradient_sums(ggy, gy_)
    close(total, (gy * (y > 0)).sum(1))
    assert not product.get().any()


@pytest.mark.parametrize("groups", [None, 1, 4, 12])
def test_between_the_passes(gpu, groups):
    small = [random(3, 12, seed=s) for s in range(4)]
    mean, var, gamma, beta = small[0] + 3, abs(small[1]), small[2][0], small[3][0]
    ours = normalization.scale_and_shift(*map(gpu.asarray, (mean, var, gamma, beta)), np.float32(0.01), groups)
    wide = [v.astype(np.float64) for v in (mean, var, gamma, beta)]
    for one, other in zip(ours, normalization.scale_and_shift.plain(*wide, 0.01, groups)):
        close(one, other)
    inputs = small[0], small[1], gamma, var + 1
    ours = normalization.gradient_coefficients(*map(gpu.asarray, inputs), groups, 7)
    theirs = normalization.gradient_coefficients.plain(*(v.astype(np.float64) for v in inputs), groups, 7)
    for one, other in zip(ours, theirs):
        close(one, other)


def test_running_statistics(gpu):
    running = [random(300, seed=s) for s in (0, 1)]
    values = [random(300, seed=s) for s in (2, 3)]
    on_card = [gpu.asarray(a) for a in running]
    normalization.move_running(*on_card, *map(gpu.asarray, values), 0.1, 1.5)
    normalization.move_running.plain(*running, *values, 0.1, 1.5)
    for ours, theirs in zip(on_card, running):
        close(ours, theirs, 1e-6)


def test_a_mean_far_from_zero(gpu):
    """The variance of 10,000 + noise stays exact because the first pixel is subtracted from all."""
    x = 10000 + random(1, 4000, 2)
    mean, var = normalization.moments(gpu.asarray(x))
    np.testing.assert_allclose(mean.get(), x.astype(np.float64).mean(1), rtol=1e-6)
    np.testing.assert_allclose(var.get(), x.astype(np.float64).var(1), rtol=1e-4)


def test_nan_stays_visible(gpu):
    x = random(1, 8, 2)
    x[0, 3, 1] = np.nan
    mean, var = (a.get() for a in normalization.moments(gpu.asarray(x)))
    assert np.isnan([mean[0, 1], var[0, 1]]).all() and np.isfinite([mean[0, 0], var[0, 0]]).all()
    one = gpu.asarray(np.ones((1, 2), np.float32))
    y = normalization.affine(gpu.asarray(x), one, one, None, True).get()
    assert np.isnan(y[0, 3, 1]) and np.isnan(y).sum() == 1


def layer(asarray, get, kind, training, shape, transposed=False):
    """y, the running statistics and the gradients of a layer with residual and ReLU."""
    channels = shape[-1]
    inputs = 2 * random(*shape) + 1, random(channels, seed=1), random(channels, seed=2), random(*shape, seed=3)
    x, gamma, beta, residual = (Tensor(asarray(a), requires_grad=True) for a in inputs)
    running = [asarray(abs(random(channels, seed=s))) for s in (4, 5)]
    gy = asarray(random(*shape, seed=6))
    if transposed:
        gy = asarray(np.ascontiguousarray(random(*shape, seed=6).T)).T
    if kind == "batch":
        y = batch_norm(x, gamma, beta, *running, training, residual=residual, relu=True)
    else:
        y = group_norm(x, gamma, beta, 2, residual=residual, relu=True)
    y.backward(gy)
    return [get(a) for a in (y.data, *running, x.grad, gamma.grad, beta.grad, residual.grad)]


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 2, 1, 34), (2, 9, 11, 16)])
@pytest.mark.parametrize("kind, training", [("batch", True), ("batch", False), ("group", True)])
def test_layers_equal_the_cpu(gpu, kind, training, shape):
    theirs = layer(np.asarray, np.asarray, kind, training, shape)
    ours = layer(gpu.asarray, lambda a: a.get(), kind, training, shape)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5 * max(1, abs(other).max()))


def test_layers_do_not_wait(gpu):
    if not hasattr(gpu, "no_sync"):
        pytest.skip("CuPy cannot tell when it waits")
    with gpu.no_sync():
        for kind, training in (("batch", True), ("batch", False), ("group", True)):
            layer(gpu.asarray, lambda a: a, kind, training, (2, 3, 4, 6))


def test_a_gradient_with_strides(gpu):
    straight = layer(gpu.asarray, lambda a: a.get(), "batch", True, (2, 3, 4, 6))
    transposed = layer(gpu.asarray, lambda a: a.get(), "batch", True, (2, 3, 4, 6), transposed=True)
    for a, b in zip(straight, transposed):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(0, 3, 4, 6), (2, 0, 4, 6)])
def test_empty_maps(gpu, shape):
    theirs = layer(np.asarray, np.asarray, "group", True, shape)
    ours = layer(gpu.asarray, lambda a: a.get(), "group", True, shape)
    for one, other in zip(ours, theirs):
        np.testing.assert_array_equal(one, other)
