"""The GPU kernels of convolution against the array code in float64: forward, both gradients, and as operations."""

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
)
from minimask.functional import linear
from minimask.kernels import conv_cuda, cuda
from minimask.tensor import Tensor
from tests.convolution_cases import (
    CONVOLUTIONS,
    DIRECT,
    TRANSPOSED,
    convolution_arrays,
    error,
    random,
    transposed_arrays,
)

# N, H, W, Cin, Cout, kernel: several tiles of pixels, channels and terms; channels not a multiple of 4; a linear layer.
SEVERAL_TILES = [
    (2, 9, 10, 12, 132, 3),
    (1, 17, 21, 33, 5, 3),
    (3, 7, 7, 64, 72, 1),
    (70, 1, 1, 200, 65, 1),
    (1, 40, 18, 4, 4, 3),
]


def tf32(a):
    """Rounded to 10 fraction bits, ties away from zero."""
    bits = a.view(np.uint32)
    return ((bits + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32)


def bf16(a):
    """Rounded to 7 fraction bits, ties to even."""
    bits = a.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & ~np.uint32(0xFFFF)).view(np.float32)


ROUNDED = {"highest": lambda a: a, "high": tf32, "medium": bf16}
TENSOR = 5e-5  # even of equally rounded factors, tensor cores compute sums a little less exactly than float32 does


def check(gpu, x, w, b, settings, bound=DIRECT, w_on_card=None, rounded=lambda a: a):
    """Compare the three functions with the array code; its factors are first rounded with `rounded`."""
    window = Window(w.shape[:2], **settings)
    size = window.output_size(x.shape[1:3])
    gy = random(len(x), *size, w.shape[3], seed=9, dtype=np.float32)
    x64, w64, gy64 = (rounded(a).astype(np.float64) for a in (x, w, gy))
    ours_x, ours_w, ours_b, ours_gy = (gpu.asarray(a) for a in (x, w, b, gy))
    ours_w = ours_w if w_on_card is None else w_on_card
    y = conv_cuda.convolve(ours_x, ours_w, window, size, ours_b, ours_gy, True)
    assert error(y.get(), convolve.plain(x64, w64, window, size, b, gy, True)) < bound
    y = conv_cuda.convolve(ours_x, ours_w, window, size)
    assert error(y.get(), convolve.plain(x64, w64, window, size)) < bound
    gx = conv_cuda.convolve_backward_data(ours_gy, ours_w, x.shape[1:3], window)
    expected = convolve_backward_data.plain(gy64, w64, x.shape[1:3], window)
    assert error(gx.get(), expected) < bound
    gw = conv_cuda.convolve_backward_weights(ours_x, ours_gy, window)
    assert error(gw.get(), convolve_backward_weights.plain(x64, gy64, window)) < bound


def arrays(n, h, w, cin, cout, kernel, groups=1):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    x, weights = random(n, h, w, cin, dtype=np.float32), random(*kernel, cin // groups, cout, seed=1, dtype=np.float32)
    return x, weights, random(cout, seed=2, dtype=np.float32)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_each_case(gpu, case):
    check(gpu, *convolution_arrays(case, np.float32))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 2), (3, 9, 10, 8, 68), (70, 1, 1, 36, 65)])
def test_pointwise_in_a_graph(gpu, shape):
    """1x1 layers are computed by cuBLAS, but in a CUDA graph by our own kernels."""
    with cuda.as_in_a_graph():
        check(gpu, *arrays(*shape, 1), {})


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes(gpu, seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2]))
    cin, cout = (int(rng.integers(1, 24)) * groups for _ in range(2))
    kernel, stride, dilation = (tuple(map(int, rng.integers(1, end, 2))) for end in (4, 4, 3))
    padding = tuple(map(int, rng.integers(0, 3, 2)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding)]
    size = [n + int(rng.integers(0, 9)) for n in least]
    settings = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    check(gpu, *arrays(int(rng.integers(1, 4)), *size, cin, cout, kernel, groups), settings)


@pytest.mark.parametrize("enough", [1, 264], ids=["large tiles", "small tiles"])
@pytest.mark.parametrize("shape", SEVERAL_TILES)
def test_several_tiles(gpu, monkeypatch, shape, enough):
    """If one block is considered enough, tiles are large and sums over pixels are not split into parts."""
    monkeypatch.setattr(conv_cuda, "ENOUGH_BLOCKS", enough)
    check(gpu, *arrays(*shape), dict(padding=shape[5] // 2))


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (2, 2), ((1, 3), (2, 1))])
@pytest.mark.parametrize("groups, inner, outer", [(40, 1, 1), (33, 1, 2), (6, 4, 4), (3, 5, 16), (2, 20, 24)])
def test_groups(gpu, groups, inner, outer, stride, dilation):
    """Depthwise convolution, small groups, and groups that fill only part of a tile."""
    settings = dict(stride=stride, padding=1, dilation=dilation, groups=groups)
    check(gpu, *arrays(2, 9, 11, groups * inner, groups * outer, 3, groups), settings)


@pytest.fixture(autouse=True)
def highest_precision():
    yield
    device.set_matmul_precision("highest")


@pytest.fixture
def launched(monkeypatch):
    """Collects (name, blocks) of each kernel that is launched."""
    names = []
    launch = conv_cuda.launch
    monkeypatch.setattr(
        conv_cuda, "launch", lambda *a, **k: names.append((a[1].split("<")[0], a[2])) or launch(*a, **k)
    )
    return names


@pytest.mark.parametrize("groups", [1, 3])
def test_parts_of_the_sum_over_pixels(gpu, launched, groups):
    """The pixels of 2 images of 17 x 31 are split into 4 parts of at most 272 pixels; the last one is shorter."""
    x, gy = random(2, 17, 31, 9, dtype=np.float32), random(2, 17, 31, 6, seed=1, dtype=np.float32)
    window = Window((3, 3), padding=1, groups=groups)
    gw = conv_cuda.convolve_backward_weights(gpu.asarray(x), gpu.asarray(gy), window)
    first = ("backward_weights", (2, 4, 1)) if groups == 1 else ("backward_weights_grouped", (1, 4, 1))
    assert launched[0] == first and [name for name, _ in launched[1:]] == ["add_parts"]
    expected = convolve_backward_weights.plain(*(a.astype(np.float64) for a in (x, gy)), window)
    assert error(gw.get(), expected) < DIRECT


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_parts_of_the_sum_over_terms(gpu, launched, precision):
    """With few tiles, 9 x 70 = 630 terms make 2 parts, added by `finish`; with stride 2, phases have 1 to 4 taps."""
    device.set_matmul_precision(precision)
    settings = dict(padding=1), dict(padding=1, stride=2)
    for more in settings:
        check(
            gpu,
            *arrays(1, 5, 6, 70, 140, 3),
            more,
            TENSOR if precision != "highest" else DIRECT,
            rounded=ROUNDED[precision],
        )
    forward = [blocks for name, blocks in launched if name == "convolve"]
    assert forward[0] == (3, 2, 1) and forward[2] == (2, 4, 1)  # 140 channels; then backward with 1260 terms
    assert forward[5] == (2, 2, 4) and [name for name, _ in launched].count("finish") == 6


def test_arrays_at_any_address(gpu):
    """Part of an array may begin where a float4 must not; a transposed convolution exchanges its weights' axes."""
    x, w, b = arrays(2, 5, 6, 8, 12, 3)
    flat = gpu.empty(x.size + w.size + 2, np.float32)
    flat[1 : 1 + x.size] = gpu.asarray(x.ravel())
    flat[1 + x.size : 1 + x.size + w.size] = gpu.asarray(w.ravel())
    on_card = flat[1 : 1 + x.size].reshape(x.shape), flat[1 + x.size : 1 + x.size + w.size].reshape(w.shape)
    assert on_card[0].data.ptr % 16 == 4
    window = Window(w.shape[:2], padding=1)
    y = conv_cuda.convolve(*on_card, window, (5, 6))
    expected = convolve.plain(x.astype(np.float64), w.astype(np.float64), window, (5, 6))
    assert error(y.get(), expected) < DIRECT
    exchanged = gpu.asarray(np.ascontiguousarray(w.transpose(0, 1, 3, 2))).transpose(0, 1, 3, 2)
    check(gpu, x, w, b, dict(padding=1), w_on_card=exchanged)
    sliced = gpu.asarray(np.repeat(w, 2, axis=1))[:, ::2]
    check(gpu, x, w, b, dict(padding=1), w_on_card=sliced)


def test_nan_passes(gpu):
    """A NaN reaches all results whose windows contain it; ReLU does not remove it."""
    x, w, _ = arrays(1, 5, 5, 4, 4, 3)
    x[0, 0, 0, 1] = np.nan
    y = conv_cuda.convolve(gpu.asarray(x), gpu.asarray(w), Window(w.shape[:2], padding=1), (5, 5), relu=True).get()
    assert np.isnan(y[0, :2, :2]).all() and np.isfinite(y[0, 2:]).all() and np.isfinite(y[0, :, 2:]).all()


def test_no_images(gpu):
    x, w, b = (gpu.asarray(a) for a in arrays(0, 5, 5, 4, 8, 3))
    window = Window(w.shape[:2], padding=1)
    assert conv_cuda.convolve(x, w, window, (5, 5), b).shape == (0, 5, 5, 8)
    assert conv_cuda.convolve_backward_data(gpu.empty((0, 5, 5, 8), np.float32), w, (5, 5), window).shape == x.shape
    gw = conv_cuda.convolve_backward_weights(x, gpu.empty((0, 5, 5, 8), np.float32), window)
    np.testing.assert_array_equal(gw.get(), np.zeros(w.shape))


# ------------------------------------------------------------------------------------------- tensor cores


@pytest.fixture(params=["high", "medium"])
def precision(request):
    device.set_matmul_precision(request.param)
    return request.param


@pytest.mark.parametrize(
    "case", ["plain 3x3", "stem 7x7 stride 2", "dilated, stride 2", "1x1", "1x1 stride 2", "oblong"]
)
def test_each_case_on_tensor_cores(gpu, precision, case):
    check(gpu, *convolution_arrays(case, np.float32), bound=TENSOR, rounded=ROUNDED[precision])


@pytest.mark.parametrize("enough", [1, 264], ids=["large tiles", "small tiles"])
@pytest.mark.parametrize("shape", SEVERAL_TILES)
def test_several_tiles_on_tensor_cores(gpu, precision, monkeypatch, shape, enough):
    monkeypatch.setattr(conv_cuda, "ENOUGH_BLOCKS", enough)
    check(gpu, *arrays(*shape), dict(padding=shape[5] // 2), bound=TENSOR, rounded=ROUNDED[precision])


def test_groups_on_tensor_cores(gpu, precision):
    check(gpu, *arrays(1, 5, 7, 40, 48, 3, 2), dict(padding=1, groups=2), bound=TENSOR, rounded=ROUNDED[precision])


def test_errors_of_tensor_cores(gpu, precision):
    """The error is below 1e-3 (TF32) and 1e-2 (BF16) of the largest result; neither is as exact as float32."""
    x, w, _ = arrays(1, 12, 12, 64, 64, 3)
    window = Window(w.shape[:2], padding=1)
    y = conv_cuda.convolve(gpu.asarray(x), gpu.asarray(w), window, (12, 12)).get()
    expected = convolve.plain(x.astype(np.float64), w.astype(np.float64), window, (12, 12))
    worst = abs(y - expected).max() / abs(expected).max()
    assert {"high": 1e-5, "medium": 1e-4}[precision] < worst < {"high": 1e-3, "medium": 1e-2}[precision]


def test_older_gpus_do_not_use_tensor_cores(gpu, precision, monkeypatch):
    if gpu.__name__ == "cupy":
        pytest.skip("the age of a real GPU cannot be changed")
    monkeypatch.setattr(gpu.cuda.Device, "compute_capability", "75")
    check(gpu, *arrays(1, 5, 6, 4, 8, 3), dict(padding=1))


# ------------------------------------------------------------------------------------------- operations


def check_operation(gpu, operation, inputs):
    """Compare the result and every gradient on the GPU in float32 with those of the array code in float64."""
    results = []
    for convert in (lambda a: a.astype(np.float64), lambda a: gpu.asarray(a.astype(np.float32))):
        tensors = [Tensor(convert(a), requires_grad=True) for a in inputs]
        y = operation(*tensors)
        y.backward(convert(random(*y.shape, seed=5)))
        results.append([y.data, *(t.grad for t in tensors)])
    for expected, found in zip(*results):
        assert error(found.get(), expected) < DIRECT


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_operation(gpu, case):
    x, w, b, settings = transposed_arrays(case)
    check_operation(gpu, lambda x, w, b: conv_transpose2d(x, w, b, relu=True, **settings), (x, w, b))


@pytest.mark.parametrize("case", ["plain 3x3", "stride 2", "groups", "1x1"])
def test_operation(gpu, case):
    x, w, b, settings = convolution_arrays(case)
    residual = random(*conv2d(*map(Tensor, (x, w)), **settings).shape, seed=6)
    check_operation(gpu, lambda x, w, b, r: conv2d(x, w, b, residual=r, relu=True, **settings), (x, w, b, residual))
    check_operation(gpu, lambda x, w: conv2d(x, w, **settings), (x, w))


def test_linear(gpu):
    x, w, b = random(5, 12), random(12, 7, seed=1), random(7, seed=2)
    check_operation(gpu, lambda x, w, b: linear(x, w, b, relu=True), (x, w, b))
