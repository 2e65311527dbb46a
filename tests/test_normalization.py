"""Batch and group normalization against numbers by hand, torch and finite differences; kernels against array code."""

import numpy as np
import pytest

from minimask import nn, normalization
from minimask.convolution import conv2d
from minimask.normalization import batch_norm, constant_scale_and_shift, group_norm
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients


def random(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def arrays(*shape, dtype=np.float64):
    """x, gamma, beta, residual."""
    x = 3 * random(*shape, dtype=dtype) + 2
    return x, *(random(shape[-1], seed=s, dtype=dtype) for s in (1, 2)), random(*shape, seed=3, dtype=dtype)


def running(channels, dtype=np.float64):
    """A running mean and variance."""
    return random(channels, seed=4, dtype=dtype), 1 + random(channels, seed=5, dtype=dtype) ** 2


SHAPES = [(2, 3, 4, 5), (1, 2, 1, 3), (1, 7, 5, 16), (9, 4)]


# ------------------------------------------------------------------------------------------- worked numbers


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_batch_norm_worked_numbers(dtype):
    """1, 2, 3, 6 have mean 3 and variance 3.5 (unbiased 14/3)."""
    x = np.array([1, 2, 3, 6], dtype).reshape(2, 1, 2, 1)
    gamma, beta = np.full(1, 2, dtype), np.full(1, 1, dtype)
    mean, var = np.zeros(1, dtype), np.ones(1, dtype)
    y = batch_norm(Tensor(x), Tensor(gamma), Tensor(beta), mean, var, True, momentum=0.1, eps=0.5)
    np.testing.assert_allclose(y.data.ravel(), [-1, 0, 1, 4], atol=1e-6)  # 2 (x - 3) / 2 + 1
    np.testing.assert_allclose([mean[0], var[0]], [0.3, 0.9 + 1.4 / 3], rtol=1e-6)
    assert y.dtype == mean.dtype == dtype
    mean, var = np.full(1, 2, dtype), np.full(1, 15.5, dtype)
    y = batch_norm(Tensor(x), Tensor(gamma), Tensor(beta), mean, var, False, eps=0.5)
    np.testing.assert_allclose(y.data.ravel(), [0.5, 1, 1.5, 3], atol=1e-6)  # 2 (x - 2) / 4 + 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_group_norm_worked_numbers(dtype):
    """Channels 1, 3 have mean 2 and variance 1; channels 10, 50 have mean 30 and variance 400."""
    x = np.array([1, 3, 10, 50], dtype).reshape(1, 1, 1, 4)
    ones, zeros = np.ones(4, dtype), np.zeros(4, dtype)
    y = group_norm(Tensor(x), Tensor(ones), Tensor(zeros), 2, eps=0)
    np.testing.assert_allclose(y.data.ravel(), [-1, 1, -1, 1], atol=1e-6)


def test_fused_addition_and_relu():
    x, gamma, beta, residual = arrays(2, 3, 4, 6)
    plain = batch_norm(Tensor(x), Tensor(gamma), Tensor(beta), *running(6), True).data
    fused = batch_norm(Tensor(x), Tensor(gamma), Tensor(beta), *running(6), True, residual=Tensor(residual), relu=True)
    np.testing.assert_allclose(fused.data, np.maximum(plain + residual, 0), atol=1e-14)
    plain = group_norm(Tensor(x), Tensor(gamma), Tensor(beta), 3).data
    fused = group_norm(Tensor(x), Tensor(gamma), Tensor(beta), 3, residual=Tensor(residual), relu=True)
    np.testing.assert_allclose(fused.data, np.maximum(plain + residual, 0), atol=1e-14)


def test_frozen_batch_norm_worked_numbers():
    """For x = (1, 3), 3 x - 4 + (1, 1) = (0, 6); the gradient passes only where ReLU does."""
    norm = nn.FrozenBatchNorm2d(1, relu=True, eps=0.0).to(np.float64)
    norm.weight[:], norm.bias[:], norm.running_mean[:], norm.running_var[:] = 6.0, 2.0, 2.0, 4.0
    x, residual = (Tensor(np.array(v).reshape(1, 1, 2, 1), requires_grad=True) for v in ([1.0, 3.0], [1.0, 1.0]))
    y = norm(x, residual=residual)
    assert y.data.ravel().tolist() == [0, 6]
    y.backward(np.full((1, 1, 2, 1), 2.0))
    assert x.grad.ravel().tolist() == [0, 6] and residual.grad.ravel().tolist() == [0, 2]
    assert [float(a[0]) for a in norm.scale_and_shift()] == [3, -4]


def test_a_convolution_with_a_frozen_norm_is_one_convolution():
    x, w = random(1, 5, 5, 3), random(3, 3, 3, 4, seed=1)
    gamma, beta = random(4, seed=2), random(4, seed=3)
    two = batch_norm(conv2d(Tensor(x), Tensor(w)), Tensor(gamma), Tensor(beta), *running(4), False, eps=1e-3).data
    scale, shift = constant_scale_and_shift(gamma, beta, *running(4), 1e-3)
    np.testing.assert_allclose(conv2d(Tensor(x), Tensor(w * scale), Tensor(shift)).data, two, atol=1e-12)
    constants = (a.astype(np.float32) for a in (gamma, beta, *running(4)))
    assert all(a.dtype == np.float32 for a in constant_scale_and_shift(*constants))


# ------------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_equals_torch(shape, training):
    torch = pytest.importorskip("torch")
    x, gamma, beta, _ = arrays(*shape)
    (mean, var), (torch_mean, torch_var) = running(shape[-1]), (torch.tensor(a) for a in running(shape[-1]))
    y = batch_norm(Tensor(x), Tensor(gamma), Tensor(beta), mean, var, training, 0.2, 1e-3).data
    channels_first, parameters = torch.tensor(np.moveaxis(x, -1, 1)), (torch.tensor(gamma), torch.tensor(beta))
    settings = (torch_mean, torch_var, *parameters, training, 0.2, 1e-3)
    expected = torch.nn.functional.batch_norm(channels_first, *settings)
    np.testing.assert_allclose(y, np.moveaxis(expected.numpy(), 1, -1), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mean, torch_mean.numpy(), rtol=1e-10)
    np.testing.assert_allclose(var, torch_var.numpy(), rtol=1e-10)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_equals_torch(groups):
    torch = pytest.importorskip("torch")
    x, gamma, beta, _ = arrays(2, 3, 4, 6)
    y = group_norm(Tensor(x), Tensor(gamma), Tensor(beta), groups, 1e-3).data
    nchw = torch.tensor(x.transpose(0, 3, 1, 2))
    expected = torch.nn.functional.group_norm(nchw, groups, torch.tensor(gamma), torch.tensor(beta), 1e-3)
    np.testing.assert_allclose(y, expected.numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gradients(shape, training):
    x, gamma, beta, residual = arrays(*shape)

    def fused(x, gamma, beta, residual):
        return batch_norm(x, gamma, beta, *running(shape[-1]), training, residual=residual, relu=True)

    def plain(x, gamma, beta):
        return batch_norm(x, gamma, beta, *running(shape[-1]), training)

    check_gradients(fused, x, gamma, beta, residual, name="batch_norm")
    check_gradients(plain, x, gamma, beta, name="batch_norm")


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_gradients(groups):
    x, gamma, beta, residual = arrays(2, 3, 2, 6)
    check_gradients(lambda x, g, b, r: group_norm(x, g, b, groups, residual=r, relu=True), x, gamma, beta, residual)
    check_gradients(lambda x, g, b: group_norm(x, g, b, groups), x, gamma, beta)


# ------------------------------------------------------------------------------------------- kernels


def error(found, expected):
    """The largest difference, relative to the root mean square of what is expected."""
    assert found.shape == expected.shape and found.dtype == np.float32
    return np.abs(found - expected).max(initial=0) / max(1e-30, np.sqrt(np.mean(expected**2)))


@pytest.mark.parametrize(
    "shape", [(1, 7, 5), (1, 1000, 16), (3, 64, 24), (8, 1024, 16), (2, 2, 3), (4, 6, 300), (1, 40001, 2), (5, 1, 8)]
)
def test_kernels_equal_the_array_code(shape):
    """(segments, pixels, channels): float32 passes against float64, for numbers far from 0 (mean 10, deviation 3)."""
    segments, _, channels = shape
    x = 10 + 3 * random(*shape, dtype=np.float32)
    gy, residual = (random(*shape, seed=s, dtype=np.float32) for s in (1, 2))
    a, b, c = random(3, segments, channels, seed=3, dtype=np.float32)

    def check(name, *arguments):
        exact = [v.astype(np.float64) if isinstance(v, np.ndarray) else v for v in arguments]
        found, expected = getattr(normalization, name)(*arguments), getattr(normalization, name).plain(*exact)
        for one, right in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected))):
            assert (one is right is None) or error(one, right) < 1e-5, name
        return found

    mean, _ = check("moments", x)
    y = check("affine", x, a, b, residual, True)
    check("affine", x, a, b, None, False)
    g, *_ = check("gradient_sums", gy, y, x, mean)
    check("gradient_sums", gy, None, x, mean)
    gx = check("gradient", g, x, mean, a, b, c)

    held = gy.copy()
    over, *_ = normalization.gradient_sums(held, y, x, mean, overwrite=True)
    assert over is held and np.array_equal(over, g)
    over = normalization.gradient(held, x, mean, a, b, c, overwrite=True)
    assert over is held and np.array_equal(over, gx)
    for held in (np.stack([gy, x], -1)[..., 0], np.broadcast_to(gy[:1], gy.shape)):  # cannot be overwritten
        before = held.copy()
        found = normalization.gradient(held, x, mean, a, b, c, overwrite=True)
        assert np.array_equal(found, normalization.gradient(before, x, mean, a, b, c)) and np.array_equal(held, before)


@pytest.mark.parametrize("groups", [None, 1, 4, 12])
def test_between_the_passes(groups):
    """The numbers per channel, with mean 3, so that differences of large numbers would be noticed."""
    a, b, c, d = (random(3, 12, seed=s, dtype=np.float32) for s in range(4))
    statistics = a + 3, abs(b), c[0], d[0]
    sums = a, b, c[0], abs(d) + 1
    for name, arrays, rest in (
        ("scale_and_shift", statistics, (np.float32(0.01), groups)),
        ("gradient_coefficients", sums, (groups, 7)),
    ):
        found = getattr(normalization, name)(*arrays, *rest)
        expected = getattr(normalization, name).plain(*(v.astype(np.float64) for v in arrays), *rest)
        assert len(found) == len(expected)
        for one, right in zip(found, expected):
            assert error(one, right) < 1e-6, name


def test_a_constant_channel_without_eps():
    """1 / 0 is infinite, as in NumPy, and not an error in a kernel, which would go unnoticed."""
    zero, one = np.zeros((1, 2), np.float32), np.ones(2, np.float32)
    _, inverse, *_ = normalization.scale_and_shift(zero, zero, one, one, 0.0)
    assert np.isposinf(inverse).all()


def test_nan_stays_visible():
    x = random(1, 64, 3, dtype=np.float32)
    x[0, 5, 1] = np.nan
    for found in normalization.moments(x):
        np.testing.assert_array_equal(np.isnan(found), [[False, True, False]])
    one = np.ones((1, 3), np.float32)
    for residual in (None, np.zeros_like(x)):
        for relu in (False, True):
            np.testing.assert_array_equal(np.isnan(normalization.affine(x, one, one, residual, relu)), np.isnan(x))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_float32_equals_float64(norm):
    """The whole operation and its gradients."""
    results = []
    for dtype in (np.float64, np.float32):
        tensors = [Tensor(a.astype(dtype), requires_grad=True) for a in arrays(3, 17, 9, 24)]
        x, gamma, beta, residual = tensors
        if norm == "batch":
            y = batch_norm(x, gamma, beta, *running(24, dtype), True, residual=residual, relu=True)
        else:
            y = group_norm(x, gamma, beta, 6, residual=residual, relu=True)
        y.backward(random(*y.shape, seed=7).astype(dtype))
        results.append([y.data, *(t.grad for t in tensors)])
    for expected, found in zip(*results):
        assert error(found, expected) < 1e-5


def test_same_bits_again_and_any_strides():
    x, gamma, beta, _ = arrays(3, 17, 9, 24, dtype=np.float32)
    gy = random(*x.shape, seed=7, dtype=np.float32)
    results = []
    for own_x, own_gy in ((x, gy), (x, gy), (np.asfortranarray(x), np.asfortranarray(gy))):
        tensors = [Tensor(a, requires_grad=True) for a in (own_x, gamma, beta)]
        y = batch_norm(*tensors, *running(24, np.float32), True, relu=True)
        y.backward(own_gy)
        results.append([y.data, *(t.grad for t in tensors)])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("training", [True, False])
def test_no_images(dtype, training):
    """An empty batch does not change the running statistics, and its gradients are 0."""
    mean, var = running(6, dtype)
    gamma, beta = (Tensor(np.ones(6, dtype), requires_grad=True) for _ in range(2))
    x = Tensor(np.ones((0, 4, 4, 6), dtype), requires_grad=True)
    y = group_norm(batch_norm(x, gamma, beta, mean, var, training, relu=True), gamma, beta, 3)
    assert y.shape == x.shape and y.dtype == dtype
    y.backward(np.zeros(y.shape, dtype))
    assert x.grad.shape == x.shape and not gamma.grad.any() and not beta.grad.any()
    np.testing.assert_array_equal((mean, var), running(6, dtype))


# ------------------------------------------------------------------------------------------- bad input

X, C = np.ones((2, 3, 3, 4), np.float32), np.ones(4, np.float32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: batch_norm(X, C[:3], C, C, C, True), r"batch_norm: gamma must have shape \(4,\), got \(3,\)"),
        (lambda: batch_norm(X, C, C, C, C[:2], True), r"batch_norm: running_var must have shape \(4,\), got \(2,\)"),
        (lambda: batch_norm(X, C, C, C, C, True, residual=X[:1]), r"batch_norm: residual must have shape \(2, 3"),
        (lambda: batch_norm(X[:1, :1, :1], C, C, C, C, True), r"batch_norm: training needs more than one number"),
        (lambda: group_norm(X, C, C, 3), r"group_norm: groups must divide the 4 channels, got 3"),
        (lambda: group_norm(X[0], C, C, 2), r"group_norm: x must have shape \(N, H, W, C\), got \(3, 3, 4\)"),
        (lambda: group_norm(X, C, C[:1], 2), r"group_norm: beta must have shape \(4,\), got \(1,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
