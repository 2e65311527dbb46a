"""Convolution on the GPU, float32: launches conv_direct.cu, conv_weights.cu, conv_grouped.cu and conv_tensor.cu.

The same functions as in conv.py. cuBLAS multiplies the matrices of 1x1 layers, unless a CUDA graph is being captured.
conv_grouped.cu takes small groups; conv_tensor.cu everything else if `device.set_matmul_precision` allows it.
"""

import sys
from functools import lru_cache
from math import gcd

import numpy as np

from minimask.device import array_module, get_matmul_precision, takes
from minimask.kernels import normalization_cuda
from minimask.kernels.cuda import NULL, blocks_for, capturing, channel_threads, launch

THREADS = 256
ENOUGH_BLOCKS = 264  # two per multiprocessor of the largest cards; constant, so that sums are the same on every card
PIXELS = 4  # per thread in convolve_grouped
DEPTH, STAGES = 16, 3  # D and STAGES of conv_tensor.cu
SHARES = 4  # the most shares per axis in one launch

# The structs of conv_window.cuh.
Axis = np.dtype([(name, np.int32) for name in "count first step taps tap tap_step start stride dilation".split()])
NUMBERS = (
    "shares_x height width images rows columns kernel_x groups inner outer w_tap w_group w_in w_out "
    "quads_x quads_w quads_y"
)
Geometry = np.dtype([("y", Axis, SHARES), ("x", Axis, SHARES), *((name, np.int32) for name in NUMBERS.split())])


def all_float32(*arrays):
    """Whether all arrays, None left out, are float32."""
    return all(a is None or a.dtype == np.float32 for a in arrays)


@takes(lambda x, w, window, size=None, b=None, residual=None, relu=False: all_float32(x, w, b, residual))
def convolve(x, w, window, size=None, b=None, residual=None, relu=False):
    """See `minimask.convolution.convolve`."""
    size = window.output_size(x.shape[1:3]) if size is None else size
    xp, shape = array_module(x), (len(x), *size, w.shape[3])
    if _for_cublas(window, x):
        return _finished(xp.matmul(_matrix(x), _matrix(w)), b, residual, relu).reshape(shape)
    return _convolve(x, w, window, False, b, residual, relu, xp.empty(shape, np.float32))


@takes(lambda gy, w, size, window, b=None, relu=False: all_float32(gy, w, b))
def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """See `minimask.convolution.convolve_backward_data`."""
    xp, shape = array_module(gy), (len(gy), *size, w.shape[2] * window.groups)
    if _for_cublas(window, gy):
        return _finished(xp.matmul(_matrix(gy), _matrix(w).T), b, None, relu).reshape(shape)
    return _convolve(gy, w, window, True, b, None, relu, xp.empty(shape, np.float32))


@takes(lambda x, gy, window: all_float32(x, gy))
def convolve_backward_weights(x, gy, window):
    """See `minimask.convolution.convolve_backward_weights`."""
    xp, groups = array_module(x), window.groups
    inner, outer = x.shape[3] // groups, gy.shape[3] // groups
    shape = *window.kernel, inner, gy.shape[3]
    if gy.size == 0:
        return xp.zeros(shape, np.float32)
    if _for_cublas(window, x):
        return xp.matmul(_matrix(x).T, _matrix(gy)).reshape(shape)

    if _pointwise(window):  # one long row: no division is needed to find the next pixel
        x, gy = (a.reshape(1, 1, -1, a.shape[3]) for a in (x, gy))
    x, gy = _contiguous(x), _contiguous(gy)
    quads = inner % 4 == 0 and _aligned(x), False, outer % 4 == 0 and _aligned(gy)
    channels = groups, inner, outer
    ((g, rows, columns, _, _),) = _geometries(
        _settings(window), x.shape, gy.shape, channels, False, (0, 0, 0, 0), quads
    )

    gw, shared = xp.empty(shape, np.float32), 0
    enough = ENOUGH_BLOCKS
    if _small(*channels):
        source, name, blocks = "conv_grouped", "backward_weights_grouped", (-(-gw.size // THREADS), 1)
        enough *= 4  # these blocks have little work
    else:
        terms = window.kernel[0] * window.kernel[1] * inner
        tile = 128 if min(terms, outer) > 64 else 64
        source, name, shared = _form("conv_weights", "backward_weights", tile)
        blocks = _tiles(terms, outer, tile), groups

    each = _part(rows * columns, blocks[0] * blocks[1], enough)
    parts = -(-rows * columns // each)
    sums = gw if parts == 1 else xp.empty((parts, *shape), np.float32)
    launch(source, name, (blocks[0], parts, blocks[1]), THREADS, g, x, gy, each, sums, shared=shared)
    if parts > 1:
        launch("conv_weights", "add_parts", blocks_for(gw.size, THREADS), THREADS, sums, parts, np.int64(gw.size), gw)
    return gw


@takes(lambda gy, y, needs_bias, overwrite=False: all_float32(gy, y) and gy.size > 0)
def epilogue_backward(gy, y, needs_bias, overwrite=False):
    """See `minimask.convolution.epilogue_backward`: the mask and the sum in one pass over the map."""
    if y is None and not needs_bias:
        return gy, None
    pixels = gy.reshape(1, -1, gy.shape[3])  # (1, N OH OW, Cout)
    result = None if y is None else y.reshape(pixels.shape)
    g, gb, _ = normalization_cuda.gradient_sums(pixels, result, None, None, overwrite)
    return g.reshape(gy.shape), gb[0] if needs_bias else None


def _convolve(x, w, window, backward, b, residual, relu, y):
    """Compute y, in either direction: one launch, unless the gradient of a map has more shares than fit into one.

    backward: x is gy and y is gx.
    """
    if y.size == 0:
        return y

    x, b, residual = (None if a is None else _contiguous(a) for a in (x, b, residual))
    w, steps = _weights(w, window.groups, backward)
    inner, outer = x.shape[3] // window.groups, y.shape[3] // window.groups
    across = steps[3] == 1  # neighboring output channels lie side by side in the weights
    quads_w = (outer if across else inner) % 4 == 0 and all(step % 4 == 0 for step in steps if step != 1)
    quads = inner % 4 == 0 and _aligned(x), quads_w and _aligned(w), outer % 4 == 0
    channels = window.groups, inner, outer

    launches = _geometries(_settings(window), x.shape, y.shape, channels, backward, steps, quads)
    follows = *(NULL if a is None else a for a in (b, residual)), relu
    for g, rows, columns, terms, shares in launches:
        if _small(*channels):
            blocks = -(-rows * -(-columns // PIXELS) * y.shape[3] // THREADS), 1, shares
            launch("conv_grouped", "convolve_grouped", blocks, THREADS, g, x, w, *follows, y)
            continue

        shares *= window.groups
        tile = 128 if outer > 64 and _tiles(rows * columns, outer, 128) * shares >= ENOUGH_BLOCKS else 64
        tiles = _tiles(rows * columns, outer, tile)
        each = _part(terms, tiles * shares, ENOUGH_BLOCKS) if len(launches) == 1 else max(1, terms)
        parts = max(1, -(-terms // each))

        source, name, shared = _form("conv_direct", "convolve", tile, across)
        blocks = tiles, parts, shares
        if parts == 1:
            launch(source, name, blocks, THREADS, g, x, w, *follows, each, y, shared=shared)
        else:
            sums = array_module(x).empty((parts, *y.shape), np.float32)
            launch(source, name, blocks, THREADS, g, x, w, NULL, NULL, False, each, sums, shared=shared)
            _finish(sums, parts, b, residual, relu, y)
    return y


def _part(terms, blocks, enough):
    """How many terms of a sum each block adds up, a multiple of 16.

    All of them, unless there are many terms and this would make fewer blocks than enough.
    """
    parts = max(1, min(-(-enough // blocks), terms // 256, 65535))
    return max(1, -(-terms // (16 * parts))) * 16


def _finish(parts, number, b, residual, relu, y):
    """y = relu(sum of the parts + b + residual); number: how many parts; parts may be y itself."""
    pixels, channels = y.size // y.shape[-1], y.shape[-1]
    others = (NULL if a is None else _contiguous(a) for a in (b, residual))
    _, (lanes, rows) = channel_threads(channels, THREADS)
    blocks = blocks_for(pixels, rows)
    launch("conv_direct", "finish", blocks, (lanes, rows), parts, number, *others, pixels, channels, relu, y)


# ---------------------------------------------------------------------------- matrix products by cuBLAS


def _for_cublas(window, x):
    """Whether cuBLAS may compute this convolution as a matrix product: 1x1, in float32, not in a CUDA graph."""
    plain = _pointwise(window) and window.groups == 1 and x.size > 0
    return plain and _precision() == "highest" and not capturing()


def _pointwise(window):
    return window.kernel == window.stride == (1, 1) and window.padding == (0, 0)


def _matrix(a):
    """(..., C) -> (all the others, C): a map's pixels as rows; of weights (1, 1, in, out) the matrix (in, out)."""
    return a.reshape(-1, a.shape[-1])


def _finished(y, b, residual, relu):
    """relu(y + b + residual), in place."""
    if not (b is None and residual is None and not relu):
        _finish(y, 1, b, residual, relu, y)
    return y


# ---------------------------------------------------------------------------- which kernel


def _precision():
    """The precision that was set, or "highest" if the GPU does not support it."""
    asked = get_matmul_precision()
    if asked == "highest" or int(sys.modules["cupy"].cuda.Device().compute_capability) < 80:
        return "highest"
    return asked


def _form(source, name, tile, *template):
    """The source, the kernel's full name and its bytes of dynamic shared memory, for the current precision."""
    precision = _precision()
    if precision == "highest":
        return source, _instance(name, tile, *template), 0
    bf16 = precision == "medium"
    across = template[0] if template else True
    deep, wide = DEPTH + (8 if bf16 else 4), tile + (4 if bf16 else 8)  # `pitch` of conv_tensor.cu, DEEP or not
    x = tile * deep if template else DEPTH * wide
    w = DEPTH * wide if across else tile * deep
    return "conv_tensor", _instance(name, tile, *template, bf16), STAGES * (x + w) * 4


def _instance(name, *template):
    return f"{name}<{', '.join(str(value).lower() for value in template)}>"


def _small(groups, inner, outer):
    """Whether the groups are so small that most of a tile would stay empty."""
    return groups > 1 and max(inner, outer) <= 16


def _tiles(height, width, tile):
    """How many squares of side `tile` cover a matrix."""
    return -(-height // tile) * -(-width // tile)


def _contiguous(a):
    return array_module(a).ascontiguousarray(a)


def _aligned(a):
    """Whether the array begins where a float4 may begin; a part of a larger array need not."""
    return a.data.ptr % 16 == 0


def _weights(w, groups, backward):
    """The weights, and the distances in numbers between places, groups, channels read and channels written.

    w: (kh, kw, Cin / groups, Cout), contiguous or with its last two axes exchanged, as in a transposed convolution.
    """
    inner, channels = w.shape[2:]
    exchanged = not w.flags.c_contiguous and w.transpose(0, 1, 3, 2).flags.c_contiguous
    w, c, o = (w.transpose(0, 1, 3, 2), 1, inner) if exchanged else (_contiguous(w), channels, 1)
    return w, (inner * channels, channels // groups * o, *((o, c) if backward else (c, o)))


def _settings(window):
    """Kernel size, stride, padding and dilation of a `Window`, each (y, x)."""
    return window.kernel, window.stride, window.padding, window.dilation


@lru_cache(maxsize=1024)
def _geometries(window, source, result, channels, backward, steps, quads):
    """For each launch: the struct `Geometry`, the most rows (of all images), columns and terms of a share, the shares.

    window: see `_settings`.  source, result: shapes of the map that is read and of the one that is written.
    channels: (groups, channels read, channels written), the last two per group.  steps: see `_weights`.
    quads: whether x, w and y may be accessed as float4.
    """
    axes = backward_axis if backward else forward_axis
    axes_y, axes_x = (axes(*settings) for settings in zip(result[1:3], *window))
    kernel_x = window[0][1]
    numbers = *source[1:3], *result[:3], kernel_x, *channels, *steps, *quads

    launches = []
    for y in range(0, len(axes_y), SHARES):
        for x in range(0, len(axes_x), SHARES):
            some_y, some_x = axes_y[y : y + SHARES], axes_x[x : x + SHARES]
            g = np.zeros((), Geometry)
            g["y"][: len(some_y)], g["x"][: len(some_x)] = some_y, some_x
            for name, number in zip(NUMBERS.split(), (len(some_x), *numbers)):
                g[name] = number
            rows, columns = (max(axis[0] for axis in some) for some in (some_y, some_x))
            terms = channels[1] * max(axis[3] for axis in some_y) * max(axis[3] for axis in some_x)
            launches.append((g, result[0] * rows, columns, terms, len(some_y) * len(some_x)))
    return launches


def forward_axis(size, kernel, stride, padding, dilation):
    """The only share (see Axis in conv_window.cuh) of a convolution along one axis; size: the result's."""
    return [(size, 0, 1, kernel, 0, 1, -padding, stride, dilation)]


def backward_axis(size, kernel, stride, padding, dilation):
    """The shares of a map's gradient along one axis, one per phase: the pixels p with (p + padding) % stride == phase.

    Pixel p = stride q + phase - padding meets place i of the window at pixel (p + padding - i dilation) / stride of gy,
    for those i with (i dilation) % stride == phase, which are every step-th: each phase is a convolution of stride 1.
    size: height or width of the map.
    """
    divisor = gcd(stride, dilation)
    shares = []
    for phase in range(stride):
        first = (phase - padding) % stride
        count = -(-(size - first) // stride)
        taps = [i for i in range(kernel) if (i * dilation) % stride == phase]
        tap = taps[0] if taps else 0
        start = (first + padding - tap * dilation) // stride
        if count > 0:
            shares.append((count, first, stride, len(taps), tap, stride // divisor, start, 1, -dilation // divisor))
    return shares
