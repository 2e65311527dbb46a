"""Convolution on the CPU, float32: chooses the algorithm for each layer. The kernels are in the other conv_*.py files.

    conv_winograd, conv_winograd_weights    3x3 layers with stride 1 and enough pixels and channels: a quarter of the
                                            multiplications, rounding errors ten times as large
    conv_direct, conv_weights               everything else: the pixels under the windows, gathered into the rows of a
                                            matrix, times the weights; if each channel is a group, by conv_depthwise

The first of each pair holds the convolution and the gradient of its map, the second the gradient of its weights.
`device.winograd = False` leaves everything to the direct sum.
"""

import numpy as np

from minimask import device
from minimask.device import takes
from minimask.kernels import conv_direct, conv_weights, conv_winograd, conv_winograd_weights, normalization
from minimask.kernels.conv_winograd_tiles import fits


def all_float32(*arrays):
    """Whether all arrays, None left out, are float32."""
    return all(a is None or a.dtype == np.float32 for a in arrays)


@takes(lambda x, w, window, size=None, b=None, residual=None, relu=False: all_float32(x, w, b, residual))
def convolve(x, w, window, size=None, b=None, residual=None, relu=False):
    """See `minimask.convolution.convolve`."""
    size = window.output_size(x.shape[1:3]) if size is None else tuple(size)
    winograd = device.winograd and fits(len(x), *w.shape[2:], window, size)
    algorithm = conv_winograd if winograd else conv_direct
    return algorithm.convolve(x, w, window, size, b, residual, relu)


@takes(lambda gy, w, size, window, b=None, relu=False: all_float32(gy, w, b))
def convolve_backward_data(gy, w, size, window, b=None, relu=False):
    """See `minimask.convolution.convolve_backward_data`."""
    size = tuple(size)
    winograd = device.winograd and fits(len(gy), *w.shape[2:], window, size)
    algorithm = conv_winograd if winograd else conv_direct
    return algorithm.convolve_backward_data(gy, w, size, window, b, relu)


@takes(lambda x, gy, window: all_float32(x, gy))
def convolve_backward_weights(x, gy, window):
    """See `minimask.convolution.convolve_backward_weights`."""
    inner, outer = x.shape[3] // window.groups, gy.shape[3]
    winograd = device.winograd and fits(len(x), inner, outer, window, gy.shape[1:3])
    algorithm = conv_winograd_weights if winograd else conv_weights
    return algorithm.convolve_backward_weights(x, gy, window)


@takes(lambda gy, y, needs_bias, overwrite=False: all_float32(gy, y) and gy.size > 0)
def epilogue_backward(gy, y, needs_bias, overwrite=False):
    """See `minimask.convolution.epilogue_backward`: the mask and the sum in one pass over the map."""
    if y is None and not needs_bias:
        return gy, None
    pixels = gy.reshape(1, -1, gy.shape[3])  # (1, N OH OW, Cout)
    result = None if y is None else y.reshape(pixels.shape)
    g, gb, _ = normalization.gradient_sums(pixels, result, None, None, overwrite)
    return g.reshape(gy.shape), gb[0] if needs_bias else None
