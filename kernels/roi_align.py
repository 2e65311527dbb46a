"""RoIAlign on the CPU: forward, gradient of the feature map, gradient of the boxes.

Layout: feature (N, H, W, C), boxes (R, 4) in image pixels, out (R, bins, bins, C). A kernel works on one pyramid level
and passes over the boxes of other levels. Positions and weights of the samples are computed once for each box and axis
and shared by all channels; the loops over channels read and write rows, which become vector instructions.
Forward moves 4 C floats a sample in, C floats a bin out. Same arithmetic as the specification in `minimask.roi_align`,
in the feature map's own precision.

No two threads write the same number: in forward and in the gradient of the boxes they take every T-th box, in the
gradient of the feature map a range of channels each. So there are no races, and the results do not depend on T.
"""

import math

import numpy as np
from numba import njit, prange


@njit(cache=True, error_model="numpy")
def map_axis(first, last, scale, aligned):
    """One side of a box on the feature map: where it starts, its extent, and whether the extent follows the box."""
    real = type(scale)
    offset = real(0.5) if aligned else real(0)
    start = first * scale - offset
    extent = last * scale - offset - start
    if aligned or extent >= real(1):
        return start, extent, True
    return start, real(1), False


@njit(cache=True, error_model="numpy")
def samples_per_bin(extent, bins, sampling_ratio):
    """How many samples a bin has along an axis: the given number, or about one for each cell of the map."""
    if sampling_ratio > 0:
        return sampling_ratio
    if not extent > 0:  # of no size, or not a number
        return 0
    return int(math.ceil(min(extent / type(extent)(bins), type(extent)(4096))))


@njit(cache=True, error_model="numpy")
def sample_axis(start, extent, bins, per_bin, cells):
    """The bins * per_bin samples along an axis of `cells` cells: both neighbours, their weights, position in the box.

    Cell i is at position i. Outside -1 .. cells both weights are 0. Between the border and the outermost cell the
    sample takes that cell's value: slope (the change of the second weight with the position) is 0 there.
    """
    real = type(start)
    neighbours = np.zeros((bins * per_bin, 2), np.int64)
    weights = np.zeros((bins * per_bin, 2), np.dtype(real))
    slopes = np.zeros(bins * per_bin, np.dtype(real))
    fractions = np.zeros(bins * per_bin, np.dtype(real))
    step = extent / real(bins)
    for i in range(bins * per_bin):
        b, k = divmod(i, per_bin)
        position = start + real(b) * step + (real(k) + real(0.5)) * step / real(per_bin)
        fractions[i] = (real(b) + (real(k) + real(0.5)) / real(per_bin)) / real(bins)
        if not (position >= -1 and position <= cells):
            continue
        low = int(max(position, real(0)))
        if low >= cells - 1:
            low = cells - 1
            neighbours[i] = low
            weights[i, 0] = 1
        else:
            high_weight = max(position, real(0)) - real(low)
            neighbours[i, 0], neighbours[i, 1] = low, low + 1
            weights[i, 0], weights[i, 1] = real(1) - high_weight, high_weight
            slopes[i] = position > 0
    return neighbours, weights, slopes, fractions


@njit(cache=True, error_model="numpy")
def add_scaled(target, source, factor):
    """target += factor * source, for rows."""
    for c in range(target.shape[0]):
        target[c] += factor * source[c]


@njit(cache=True, error_model="numpy")
def forward_box(feature, box, scale, sampling_ratio, aligned, maximum, out, chosen):
    """One box: out (bins, bins, C), and for maximum pooling the number of the chosen sample, chosen (bins, bins, C)."""
    height, width, channels = feature.shape
    real = type(scale)
    bins = out.shape[0]
    x_start, x_extent, _ = map_axis(box[0], box[2], scale, aligned)
    y_start, y_extent, _ = map_axis(box[1], box[3], scale, aligned)
    nx, ny = samples_per_bin(x_extent, bins, sampling_ratio), samples_per_bin(y_extent, bins, sampling_ratio)
    xs, x_weights, _, _ = sample_axis(x_start, x_extent, bins, nx, width)
    ys, y_weights, _, _ = sample_axis(y_start, y_extent, bins, ny, height)
    share = real(1) if maximum else real(1) / real(max(nx * ny, 1))
    for i in range(bins):
        for j in range(bins):
            result = out[i, j]
            result[:] = 0
            for sample in range(ny * nx):
                p, q = i * ny + sample // nx, j * nx + sample % nx
                y, x, wy, wx = ys[p], xs[q], y_weights[p], x_weights[q]
                a, b = feature[y[0], x[0]], feature[y[0], x[1]]
                c, d = feature[y[1], x[0]], feature[y[1], x[1]]
                wa, wb = share * wy[0] * wx[0], share * wy[0] * wx[1]
                wc, wd = share * wy[1] * wx[0], share * wy[1] * wx[1]
                if maximum:
                    which = chosen[i, j]
                    for k in range(channels):
                        value = wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k]
                        if sample == 0 or value > result[k]:
                            result[k] = value
                            which[k] = sample
                else:
                    for k in range(channels):
                        result[k] += wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k]


@njit(cache=True, error_model="numpy")
def forward_thread(
    thread, threads, feature, boxes, image_index, levels, level, scale, sampling_ratio, aligned, maximum, out, chosen
):
    for r in range(thread, boxes.shape[0], threads):
        if levels[r] == level:
            image = feature[image_index[r]]
            forward_box(image, boxes[r], scale, sampling_ratio, aligned, maximum, out[r], chosen[r])


@njit(parallel=True, cache=True, error_model="numpy")
def forward(
    threads, feature, boxes, image_index, levels, level, scale, sampling_ratio, aligned, maximum, out, chosen
):
    """Fill out[r] for the boxes of this level. chosen: (R, bins, bins, C) int32, or of size 0 for average pooling."""
    for t in prange(threads):
        forward_thread(
            t, threads, feature, boxes, image_index, levels, level, scale, sampling_ratio, aligned, maximum, out, chosen
        )


@njit(cache=True, error_model="numpy")
def backward_box(gy, box, chosen, scale, sampling_ratio, aligned, maximum, first, last, gfeature):
    """Add one box's gradient gy (bins, bins, C) to the channels first .. last of gfeature (H, W, C)."""
    height, width, _ = gfeature.shape
    real = type(scale)
    bins = gy.shape[0]
    x_start, x_extent, _ = map_axis(box[0], box[2], scale, aligned)
    y_start, y_extent, _ = map_axis(box[1], box[3], scale, aligned)
    nx, ny = samples_per_bin(x_extent, bins, sampling_ratio), samples_per_bin(y_extent, bins, sampling_ratio)
    if nx * ny == 0:
        return
    xs, x_weights, _, _ = sample_axis(x_start, x_extent, bins, nx, width)
    ys, y_weights, _, _ = sample_axis(y_start, y_extent, bins, ny, height)
    share = real(1) / real(nx * ny)
    for i in range(bins):
        for j in range(bins):
            if maximum:
                which = chosen[i, j]
                for k in range(first, last):
                    p, q = i * ny + which[k] // nx, j * nx + which[k] % nx
                    for u in range(2):
                        for v in range(2):
                            gfeature[ys[p, u], xs[q, v], k] += y_weights[p, u] * x_weights[q, v] * gy[i, j, k]
                continue
            gradient = gy[i, j, first:last]
            for p in range(i * ny, (i + 1) * ny):
                for q in range(j * nx, (j + 1) * nx):
                    for u in range(2):
                        for v in range(2):
                            weight = share * y_weights[p, u] * x_weights[q, v]
                            if weight != 0:
                                add_scaled(gfeature[ys[p, u], xs[q, v], first:last], gradient, weight)


@njit(cache=True, error_model="numpy")
def backward_thread(
    thread, threads, gy, boxes, image_index, levels, level, chosen, scale, sampling_ratio, aligned, maximum, gfeature
):
    channels = gy.shape[3]
    first, last = channels * thread // threads, channels * (thread + 1) // threads
    for r in range(boxes.shape[0]):
        if levels[r] == level:
            image = gfeature[image_index[r]]
            backward_box(gy[r], boxes[r], chosen[r], scale, sampling_ratio, aligned, maximum, first, last, image)


@njit(parallel=True, cache=True, error_model="numpy")
def backward(
    threads, gy, boxes, image_index, levels, level, chosen, scale, sampling_ratio, aligned, maximum, gfeature
):
    """Add the gradient of this level's boxes, gy (R, bins, bins, C), to gfeature (N, H, W, C)."""
    for t in prange(threads):
        backward_thread(
            t, threads, gy, boxes, image_index, levels, level, chosen, scale, sampling_ratio, aligned, maximum, gfeature
        )


@njit(cache=True, error_model="numpy")
def backward_to_box(gy, feature, box, chosen, scale, sampling_ratio, aligned, maximum, gbox):
    """One box's gradient: how the result follows its samples, and how they follow the box's four coordinates.

    position = start + fraction * extent, so gstart = sum(g), gextent = sum(fraction * g) with g the gradient of a
    sample's position; start = scale * first (- 0.5), extent = scale * (last - first) unless its minimum of 1 holds.
    """
    height, width, channels = feature.shape
    bins = gy.shape[0]
    x_start, x_extent, x_follows = map_axis(box[0], box[2], scale, aligned)
    y_start, y_extent, y_follows = map_axis(box[1], box[3], scale, aligned)
    nx, ny = samples_per_bin(x_extent, bins, sampling_ratio), samples_per_bin(y_extent, bins, sampling_ratio)
    xs, x_weights, x_slopes, x_fractions = sample_axis(x_start, x_extent, bins, nx, width)
    ys, y_weights, y_slopes, y_fractions = sample_axis(y_start, y_extent, bins, ny, height)
    gx_start = gx_extent = gy_start = gy_extent = 0.0
    for i in range(bins):
        for j in range(bins):
            for sample in range(ny * nx):
                p, q = i * ny + sample // nx, j * nx + sample % nx
                y, x, wy, wx = ys[p], xs[q], y_weights[p], x_weights[q]
                along_x = along_y = 0.0
                for k in range(channels):
                    if maximum and chosen[i, j, k] != sample:
                        continue
                    a, b = feature[y[0], x[0], k], feature[y[0], x[1], k]
                    c, d = feature[y[1], x[0], k], feature[y[1], x[1], k]
                    along_x += gy[i, j, k] * (wy[0] * (b - a) + wy[1] * (d - c))
                    along_y += gy[i, j, k] * (wx[0] * (c - a) + wx[1] * (d - b))
                along_x *= x_slopes[q]
                along_y *= y_slopes[p]
                gx_start += along_x
                gx_extent += along_x * x_fractions[q]
                gy_start += along_y
                gy_extent += along_y * y_fractions[p]
    share = scale if maximum else scale / max(nx * ny, 1)
    gx_extent = gx_extent if x_follows else 0.0
    gy_extent = gy_extent if y_follows else 0.0
    gbox[0], gbox[2] = share * (gx_start - gx_extent), share * gx_extent
    gbox[1], gbox[3] = share * (gy_start - gy_extent), share * gy_extent


@njit(cache=True, error_model="numpy")
def backward_to_boxes(
    gy, feature, boxes, image_index, levels, level, chosen, scale, sampling_ratio, aligned, maximum, gboxes
):
    """Fill gboxes[r] (R, 4) for the boxes of this level. Serial: few models need it, and none for the whole pyramid."""
    for r in range(boxes.shape[0]):
        if levels[r] == level:
            image = feature[image_index[r]]
            backward_to_box(gy[r], image, boxes[r], chosen[r], scale, sampling_ratio, aligned, maximum, gboxes[r])


def warm_up():
    """Compile (or load from the disk cache) what training and inference use in float32."""
    feature, boxes = np.zeros((1, 2, 2, 1), np.float32), np.zeros((1, 4), np.float32)
    index = np.zeros(1, np.int64)
    out, chosen = np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 0, 0, 0), np.int32)
    forward(1, feature, boxes, index, index, 0, np.float32(1), 2, False, False, out, chosen)
    backward(1, out, boxes, index, index, 0, chosen, np.float32(1), 2, False, False, feature)
