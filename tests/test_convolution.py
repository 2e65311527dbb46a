"""Convolution, transposed convolution and max pooling.

The array code is compared with worked numbers, PyTorch and finite differences, and the kernels with the array code.
"""

import numpy as np
import pytest

from minimask import device
from minimask.convolution import (
    Window,
    conv2d,
    conv_transpose2d,
    convolve,
    convolve_backward_data,
    convolve_backward_weights,
    epilogue_backward,
    max_pool,
    max_pool2d,
    max_pool_backward,
)
from minimask.kernels import conv_direct, conv_winograd
from minimask.kernels import conv_winograd_tiles as winograd
from minimask.tensor import Tensor
from tests.convolution_cases import (
    CONVOLUTIONS,
    DIRECT,
    TRANSPOSED,
    WINOGRAD,
    convolution_arrays,
    error,
    random,
    transposed_arrays,
)
from tests.gradcheck import check_gradients

# H, W, size, stride, padding
POOLS = {
    "stem 3/2/1": (7, 8, 3, 2, 1),
    "2/2": (6, 5, 2, 2, 0),
    "overlapping": (5, 5, 3, 1, 1),
    "1/2 (FPN's pool level)": (5, 4, 1, 2, 0),
    "oblong": (6, 7, (2, 3), (3, 1), (1, 1)),
    "one pixel": (1, 1, 3, 2, 1),
    "window = map": (4, 3, (4, 3), 1, 0),
    "stride > size": (9, 9, 2, 4, 1),
}


def nchw(torch, a):
    return torch.tensor(np.ascontiguousarray(a.transpose(0, 3, 1, 2)))


def nhwc(t):
    return t.numpy().transpose(0, 2, 3, 1)


# ------------------------------------------------------------------------------------------- worked numbers


def test_worked_numbers():
    """On the map 0..8, a 3x3 window of ones sums up nine, six or four numbers."""
    x = Tensor(np.arange(9.0).reshape(1, 3, 3, 1))
    w = Tensor(np.ones((3, 3, 1, 1)))
    expected = [[8, 15, 12], [21, 36, 27], [20, 33, 24]]
    np.testing.assert_array_equal(conv2d(x, w, padding=1).data[0, :, :, 0], expected)
    np.testing.assert_array_equal(conv2d(x, w, padding=1, stride=2).data[0, :, :, 0], [[8, 12], [20, 24]])
    np.testing.assert_array_equal(conv2d(x, w).data[0, :, :, 0], [[36]])
    b, residual = Tensor(np.array([-20.0])), Tensor(np.full((1, 3, 3, 1), -1.0))
    fused = conv2d(x, w, b, padding=1, residual=residual, relu=True)
    np.testing.assert_array_equal(fused.data[0, :, :, 0], np.maximum(np.array(expected) - 21, 0))


def test_convolution_is_a_correlation():
    """Place (i, j) of the window meets row y + i, column x + j: the weights are not mirrored."""
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 1] = 1
    w = np.arange(9.0).reshape(3, 3, 1, 1)
    y = conv2d(Tensor(x), Tensor(w), padding=1).data[0, :, :, 0]
    np.testing.assert_array_equal(y, w[::-1, ::-1, 0, 0])


def test_transposed_worked_numbers():
    """With a 2x2 kernel and stride 2 each pixel becomes a 2x2 patch."""
    x = Tensor(np.array([[1.0, 2.0]]).reshape(1, 1, 2, 1))
    w = Tensor(np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1))
    y = conv_transpose2d(x, w, Tensor(np.array([0.5]))).data[0, :, :, 0]
    np.testing.assert_array_equal(y, [[1.5, 10.5, 2.5, 20.5], [100.5, 1000.5, 200.5, 2000.5]])


def test_pool_worked_numbers():
    """Padding never wins, not even against negative numbers; of equal numbers, the first gets the gradient."""
    x = np.array([[-4.0, -2.0, -2.0], [-5.0, -3.0, -9.0], [-7.0, -8.0, -1.0]]).reshape(1, 3, 3, 1)
    for dtype in (np.float64, np.float32):
        tensor = Tensor(x.astype(dtype), requires_grad=True)
        y = max_pool2d(tensor, 3, 2, 1)
        np.testing.assert_array_equal(y.data[0, :, :, 0], [[-2, -2], [-3, -1]])
        y.backward(np.array([[1, 10], [100, 1000]], dtype).reshape(1, 2, 2, 1))
        np.testing.assert_array_equal(tensor.grad[0, :, :, 0], [[0, 11, 0], [0, 100, 0], [0, 0, 1000]])


def test_pool_passes_nan_on():
    for dtype in (np.float64, np.float32):
        x = np.zeros((1, 4, 4, 1), dtype)
        x[0, 1, 1] = np.nan
        y = max_pool2d(Tensor(x), 2).data[0, :, :, 0]
        np.testing.assert_array_equal(np.isnan(y), [[True, False], [False, False]])


# ------------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_equals_torch(case):
    torch = pytest.importorskip("torch")
    x, w, b, settings = convolution_arrays(case)
    y = conv2d(Tensor(x), Tensor(w), Tensor(b), **settings).data
    weights = torch.tensor(w.transpose(3, 2, 0, 1))  # (Cout, Cin/G, kh, kw)
    expected = torch.nn.functional.conv2d(nchw(torch, x), weights, torch.tensor(b), **settings)
    np.testing.assert_allclose(y, nhwc(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose2d_equals_torch(case):
    torch = pytest.importorskip("torch")
    x, w, b, settings = transposed_arrays(case)
    y = conv_transpose2d(Tensor(x), Tensor(w), Tensor(b), **settings).data
    weights = torch.tensor(w.transpose(2, 3, 0, 1))  # (Cin, Cout/G, kh, kw)
    expected = torch.nn.functional.conv_transpose2d(nchw(torch, x), weights, torch.tensor(b), **settings)
    np.testing.assert_allclose(y, nhwc(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_max_pool2d_equals_torch(case, dtype):
    torch = pytest.importorskip("torch")
    h, w, *settings = POOLS[case]
    x = random(2, h, w, 3).astype(dtype)
    np.testing.assert_array_equal(
        max_pool2d(Tensor(x), *settings).data, nhwc(torch.nn.functional.max_pool2d(nchw(torch, x), *settings))
    )


# ------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_gradients(case):
    x, w, b, settings = convolution_arrays(case)
    check_gradients(lambda x, w, b: conv2d(x, w, b, **settings), x, w, b, name="conv2d")


def test_conv2d_gradients_of_what_is_fused():
    x, w, b, settings = convolution_arrays("stride 2")
    residual = random(2, 3, 4, 3, seed=3)
    check_gradients(lambda x, w, b, r: conv2d(x, w, b, residual=r, relu=True, **settings), x, w, b, residual)
    check_gradients(lambda x, w, r: conv2d(x, w, residual=r, **settings), x, w, residual)
    check_gradients(lambda x, w: conv2d(x, w, relu=True, **settings), x, w)
    check_gradients(lambda w: conv2d(Tensor(x), w, **settings), w)


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose2d_gradients(case):
    x, w, b, settings = transposed_arrays(case)
    check_gradients(lambda x, w, b: conv_transpose2d(x, w, b, relu=True, **settings), x, w, b, name="conv_transpose2d")
    check_gradients(lambda x, w: conv_transpose2d(x, w, **settings), x, w, name="conv_transpose2d")


@pytest.mark.parametrize("case", POOLS)
def test_max_pool2d_gradients(case):
    h, w, *settings = POOLS[case]
    check_gradients(lambda x: max_pool2d(x, *settings), random(2, h, w, 2), name="max_pool2d")


# ------------------------------------------------------------------------------------------- kernels


@pytest.fixture
def direct(monkeypatch):
    """Every convolution is computed as the direct sum."""
    monkeypatch.setattr(device, "winograd", False)


def check_kernels(x, w, b, settings, bound):
    """The convolution and both gradients in float32, which the kernels compute, against the array code in float64."""
    window = Window(w.shape[:2], **settings)
    size = window.output_size(x.shape[1:3])
    gy = random(len(x), *size, w.shape[3], seed=9, dtype=np.float32)
    x64, w64, gy64 = (a.astype(np.float64) for a in (x, w, gy))

    y = convolve(x, w, window, size, b, gy, True)
    assert error(y, convolve.plain(x64, w64, window, size, b, gy, True)) < bound
    gx = convolve_backward_data(gy, w, x.shape[1:3], window)
    assert error(gx, convolve_backward_data.plain(gy64, w64, x.shape[1:3], window)) < bound
    gw = convolve_backward_weights(x, gy, window)
    rounding = max(1, np.sqrt(len(x) * size[0] * size[1] / 2000))  # the error of a sum over P pixels grows as sqrt(P)
    assert error(gw, convolve_backward_weights.plain(x64, gy64, window)) < bound * rounding


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_direct_kernels_on_each_case(direct, case):
    check_kernels(*convolution_arrays(case, np.float32), DIRECT)


@pytest.mark.parametrize("seed", range(60))
def test_direct_kernels_on_random_shapes(direct, seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 1, 2, 4, 32]))
    most = 4 if groups > 2 else 45
    cin, cout = (int(rng.integers(1, most)) * groups for _ in range(2))
    kernel, stride, dilation = (tuple(map(int, rng.integers(1, end, 2))) for end in (6, 5, 4))
    padding = tuple(map(int, rng.integers(0, 4, 2)))
    # the smallest possible map, and up to 20 pixels more
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding)]
    size = [n + int(rng.integers(0, 20)) for n in least]
    x = random(int(rng.integers(1, 4)), *size, cin, seed=seed, dtype=np.float32)
    w, b = random(*kernel, cin // groups, cout, dtype=np.float32), random(cout, dtype=np.float32)
    settings = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    check_kernels(x, w, b, settings, DIRECT)


@pytest.mark.parametrize(
    "shape", [(700, 1, 1, 1200, 950), (3, 60, 50, 64, 32), (1, 33, 9, 3, 130), (150, 1, 1, 1024, 40)]
)
def test_direct_kernels_on_several_tiles(direct, shape):
    """More weights than a cache holds, more rows of weights than are used at a time, more pixels than a tile has, and
    rows that are spaced apart.
    """
    n, h, w, cin, cout = shape
    kernel = (1, 1) if h == 1 else (3, 3)
    x, weights = random(n, h, w, cin, dtype=np.float32), random(*kernel, cin, cout, dtype=np.float32)
    check_kernels(x, weights, random(cout, dtype=np.float32), dict(padding=kernel[0] // 2), DIRECT)


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (2, 2), ((1, 3), (2, 1))])
def test_depthwise_kernels(direct, stride, dilation):
    x, w = random(2, 19, 21, 40, dtype=np.float32), random(3, 3, 1, 40, dtype=np.float32)
    settings = dict(stride=stride, padding=1, dilation=dilation, groups=40)
    check_kernels(x, w, random(40, dtype=np.float32), settings, DIRECT)


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_kernels_on_each_case(case):
    """conv_transpose2d in float32, which the kernels compute, agrees with the array code in float64."""
    x, w, b, settings = transposed_arrays(case)
    results = []
    for dtype in (np.float64, np.float32):
        tensors = [Tensor(a.astype(dtype), requires_grad=True) for a in (x, w, b)]
        y = conv_transpose2d(*tensors, relu=True, **settings)
        y.backward(random(*y.shape, seed=5).astype(dtype))
        results.append([y.data, *(t.grad for t in tensors)])
    for expected, found in zip(*results):
        assert error(found, expected) < DIRECT


# N, H, W, Cin, Cout, padding
WINOGRAD_SHAPES = (
    (1, 40, 40, 16, 16, 1),
    (2, 29, 37, 32, 48, 1),
    (1, 50, 43, 64, 16, 0),
    (1, 41, 41, 128, 96, 2),
    (1, 33, 35, 16, 80, 3),
    (1, 24, 22, 512, 272, 1),
)


@pytest.mark.parametrize("shape", WINOGRAD_SHAPES)
def test_winograd_kernels(shape):
    n, h, w, cin, cout, padding = shape
    x, weights = random(n, h, w, cin, dtype=np.float32), random(3, 3, cin, cout, dtype=np.float32)
    window = Window((3, 3), padding=padding)
    assert winograd.fits(n, cin, cout, window, window.output_size((h, w)))
    check_kernels(x, weights, random(cout, dtype=np.float32), dict(padding=padding), WINOGRAD)


def test_winograd_transforms_are_the_identity_they_claim():
    """For one tile in float64: A^T [(G w G^T) * (B^T d B)] A is the convolution."""
    b_t, g, a_t = (np.array(m) for m in (winograd.B_T, winograd.G, winograd.A_T))
    d, w = random(6, 6), random(3, 3, seed=1)
    y = a_t @ ((g @ w @ g.T) * (b_t @ d @ b_t.T)) @ a_t.T
    expected = conv2d(Tensor(d[None, :, :, None]), Tensor(w[:, :, None, None])).data[0, :, :, 0]
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_winograd_can_be_switched_off(monkeypatch):
    x, w = random(1, 40, 40, 16, dtype=np.float32), random(3, 3, 16, 16, dtype=np.float32)
    window = Window((3, 3), padding=1)
    monkeypatch.setattr(device, "winograd", False)
    y = conv2d(Tensor(x), Tensor(w), padding=1).data
    np.testing.assert_array_equal(y, conv_direct.convolve(x, w, window, (40, 40)))
    monkeypatch.setattr(device, "winograd", True)
    y = conv2d(Tensor(x), Tensor(w), padding=1).data
    np.testing.assert_array_equal(y, conv_winograd.convolve(x, w, window, (40, 40)))


def test_winograd_is_for_what_it_can_do():
    def fits(stride=1, dilation=1, groups=1, kernel=(3, 3), channels=32, images=8, size=(16, 16)):
        window = Window(kernel, stride, 1, dilation, groups)
        return winograd.fits(images, channels // groups, channels, window, size)

    assert fits()
    assert not fits(stride=2) and not fits(dilation=2) and not fits(groups=2) and not fits(kernel=(3, 1))
    assert not fits(channels=24) and not fits(channels=528) and not fits(images=1) and not fits(images=99, size=(1, 1))


@pytest.mark.parametrize("relu, bias", [(True, True), (True, False), (False, True), (False, False)])
def test_gradient_before_relu_and_of_the_bias(relu, bias):
    gy, y = random(2, 9, 7, 20, dtype=np.float32), random(2, 9, 7, 20, seed=1, dtype=np.float32)
    y = np.maximum(y, 0) if relu else None
    expected_g, expected_gb = epilogue_backward.plain(gy, y, bias)
    held = gy.copy()
    for gradient, overwrite in ((gy, False), (held, True)):
        g, gb = epilogue_backward(gradient, y, bias, overwrite)
        np.testing.assert_array_equal(g, expected_g)
        assert gb is None if not bias else error(gb, expected_gb) < DIRECT
    assert np.shares_memory(g, held)
    np.testing.assert_array_equal(gy, random(2, 9, 7, 20, dtype=np.float32))  # was not overwritten


@pytest.mark.parametrize("seed", range(30))
def test_pool_kernels_on_random_shapes(seed):
    rng = np.random.default_rng(seed)
    size, stride = (tuple(map(int, rng.integers(1, 6, 2))) for _ in range(2))
    window = Window(size, stride, tuple(int(rng.integers(0, k // 2 + 1)) for k in size))
    shape = (int(rng.integers(0, 4)), *map(int, rng.integers(5, 17, 2)), int(rng.integers(1, 40)))
    x = rng.integers(0, 5, shape).astype(np.float32)  # with many equal numbers

    y, winner = max_pool(x, window)
    for found, expected in zip((y, winner), max_pool.plain(x, window)):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype

    gy = rng.integers(0, 9, y.shape).astype(np.float32)  # integers: sums are exact in any order
    gx = max_pool_backward(gy, winner, shape[1:3], window)
    np.testing.assert_array_equal(gx, max_pool_backward.plain(gy, winner, shape[1:3], window))


def test_pool_keeps_nan_and_minus_infinity():
    x = np.array([np.nan, 1, 2, -np.inf, -np.inf, 3], np.float32).reshape(1, 1, 6, 1)
    window = Window((1, 2))
    for y, winner in (max_pool(x, window), max_pool.plain(x, window)):
        np.testing.assert_array_equal(y.ravel(), [np.nan, 2, 2, -np.inf, 3])
        np.testing.assert_array_equal(winner.ravel(), [0, 1, 0, 0, 1])


def test_pool_of_more_than_256_places():
    x = random(1, 20, 20, 2, dtype=np.float32)
    tensor = Tensor(x, requires_grad=True)
    y = max_pool2d(tensor, 20)
    np.testing.assert_array_equal(y.data, x.max((1, 2), keepdims=True))
    y.backward(np.ones((1, 1, 1, 2), np.float32))
    np.testing.assert_array_equal(tensor.grad, x == x.max((1, 2), keepdims=True))


# ------------------------------------------------------------------------------------------- any input


def run_all(x, w, gy, **settings):
    """conv2d and its gradients as four arrays."""
    b = np.linspace(-1, 1, w.shape[3], dtype=x.dtype)
    tensors = [Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = conv2d(*tensors, relu=True, **settings)
    y.backward(gy)
    return [y.data, *(t.grad for t in tensors)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("cin", [5, 16])
def test_arrays_that_are_not_contiguous_or_not_writable(dtype, cin):
    x, w, gy = random(2, 24, 24, cin), random(3, 3, cin, 16, seed=1), random(2, 24, 24, 16, seed=2)
    x, w, gy = (a.astype(dtype) for a in (x, w, gy))
    expected = run_all(x, w, gy, padding=1)
    views = [np.asfortranarray(x), np.repeat(w, 2, axis=0)[::2], np.ascontiguousarray(gy[:, ::-1])[:, ::-1]]
    assert not any(v.flags.c_contiguous for v in views)
    for found, right in zip(run_all(*views, padding=1), expected):
        np.testing.assert_array_equal(found, right)
    for a in (x, w, gy):
        a.flags.writeable = False
    for found, right in zip(run_all(x, w, gy, padding=1), expected):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_images(dtype):
    """A batch without RoIs: empty results, gradients of weights are 0."""
    w, wt = Tensor(np.ones((3, 3, 16, 32), dtype), True), Tensor(np.ones((2, 2, 32, 4), dtype), True)
    b = Tensor(np.ones(32, dtype), True)
    y = conv2d(Tensor(np.ones((0, 14, 14, 16), dtype)), w, b, padding=1, relu=True)
    y = max_pool2d(conv_transpose2d(y, wt), 2)
    assert y.shape == (0, 14, 14, 4) and y.dtype == dtype
    y.backward(np.zeros(y.shape, dtype))
    for tensor in (w, wt, b):
        assert tensor.grad.shape == tensor.shape and not tensor.grad.any()


@pytest.mark.parametrize("cin", [3, 16])
def test_same_bits_again(cin):
    x, w, gy = (random(2, 40, 40, cin), random(3, 3, cin, 16, seed=1), random(2, 40, 40, 16, seed=2))
    x, w, gy = (a.astype(np.float32) for a in (x, w, gy))
    first, second = (run_all(x, w, gy, padding=1) for _ in range(2))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cin", [3, 16])
def test_nan_is_not_hidden_by_relu(cin):
    """Training stops at a NaN, so a NaN that enters a layer must come out of it."""
    x = random(1, 40, 40, cin, dtype=np.float32)
    x[0, 5, 5, 1] = np.nan
    y = conv2d(Tensor(x), Tensor(random(3, 3, cin, 16, dtype=np.float32)), padding=1, relu=True).data
    assert np.isnan(y[0, 4:7, 4:7]).all() and not np.isnan(y[0, 12:]).any()


# ------------------------------------------------------------------------------------------- bad input

X, W = np.ones((1, 4, 4, 6), np.float32), np.ones((3, 3, 6, 4), np.float32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: conv2d(X[0], W), r"conv2d: x must have shape \(N, H, W, 6\), got \(4, 4, 6\)"),
        (lambda: conv2d(X[..., :5], W), r"conv2d: x must have shape \(N, H, W, 6\), got \(1, 4, 4, 5\)"),
        (lambda: conv2d(X, W[0]), r"conv2d: w must have four axes .* got shape \(3, 6, 4\)"),
        (lambda: conv2d(X, W, np.ones(3)), r"conv2d: b must have shape \(4,\), got \(3,\)"),
        (lambda: conv2d(X, W, residual=X), r"conv2d: residual must have shape \(1, 2, 2, 4\), got \(1, 4, 4, 6\)"),
        (lambda: conv2d(X, W, stride=0), r"conv2d: stride must be an int >= 1 or two of them \(y, x\), got 0"),
        (lambda: conv2d(X, W, padding=(1, -1)), r"conv2d: padding must be an int >= 0 .*, got \(1, -1\)"),
        (lambda: conv2d(X, W, dilation=1.5), r"conv2d: dilation must be an int >= 1 .*, got 1.5"),
        (lambda: conv2d(X, W, groups=0), r"conv2d: groups must be an int >= 1, got 0"),
        (lambda: conv2d(X, W[:, :, :2, :], groups=3), r"conv2d: groups must divide axis 3 of w, got 3 groups"),
        (lambda: conv2d(X, W, dilation=2), r"conv2d: x of 4 x 4 pixels gives an empty result with kernel \(3, 3\)"),
        (lambda: conv2d(X[:, :0], W, padding=2), r"conv2d: x of 0 x 4 pixels gives an empty result"),
        (lambda: conv_transpose2d(X, W, output_padding=2), r"output_padding must be smaller than stride \(2, 2\)"),
        (lambda: conv_transpose2d(X, W, groups=4), r"conv_transpose2d: groups must divide axis 2 of w, got 4 groups"),
        (lambda: conv_transpose2d(X, W, np.ones(5)), r"conv_transpose2d: b must have shape \(4,\), got \(5,\)"),
        (lambda: conv_transpose2d(X, W, padding=9), r"conv_transpose2d: x of 4 x 4 pixels gives an empty result"),
        (lambda: max_pool2d(X, 3, 2, 2), r"max_pool2d: padding must be at most half of size \(3, 3\), got \(2, 2\)"),
        (lambda: max_pool2d(X[0], 3), r"max_pool2d: x must have shape \(N, H, W, C\), got \(4, 4, 6\)"),
        (lambda: max_pool2d(X, 5), r"max_pool2d: x of 4 x 4 pixels gives an empty result with kernel \(5, 5\)"),
        (lambda: max_pool2d(X, "3"), r"max_pool2d: size must be an int >= 1 .*, got '3'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gradients_are_not_shared():
    """Backward adds gradients in place if nobody else holds them; this must not change another tensor's."""
    x, w, residual = (
        Tensor(random(*s, dtype=np.float32), requires_grad=True) for s in ((1, 4, 4, 2), (1, 1, 2, 2), (1, 4, 4, 2))
    )
    y = conv2d(x, w, residual=residual)
    (y + x).backward(np.ones(y.shape, np.float32))
    assert not np.shares_memory(x.grad, residual.grad)
    np.testing.assert_array_equal(residual.grad, np.ones(y.shape))
    np.testing.assert_allclose(x.grad, 1 + np.ones(y.shape) @ w.data[0, 0].T, rtol=1e-6)
