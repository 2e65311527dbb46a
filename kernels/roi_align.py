"""RoIAlign on the CPU: forward, and the gradients of the feature maps and of the boxes.

Layout: feature (N, H, W, C), out (R, bins, bins, C), rois (R, 6): x1, y1, x2, y2 in image pixels, image, level, all of
one float type. A part works on one pyramid level and skips the boxes of other levels. Sampling positions and weights
are computed once per box and axis and shared by all channels; the inner loops over channels read and write whole rows,
which the compiler turns into vector instructions. Forward reads 4 C floats per sample and writes C floats per bin. The
arithmetic is that of `minimask.roi_align`, in the precision of the feature map; only the gradient of average pooling is
summed in another order, rows and columns separately (`backward_box`).

No two threads write the same number: forward, each of T threads takes every T-th box; backward, each takes a range of
channels. So there are no races, and the results do not depend on T.
"""

import math

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import run

FLOATS = np.float32, np.float64


@takes(lambda features, *_, **__: features[0].dtype in FLOATS)
def roi_align_forward(
    features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=False, pooling="average"
):
    """See `minimask.roi_align.roi_align_forward`; the numbers of the chosen samples are floats here."""
    rois = join(boxes, image_index, levels, features[0].dtype)
    maximum = pooling == "max"
    out = np.empty((len(rois), size, size, features[0].shape[3]), rois.dtype)
    chosen = np.zeros_like(out) if maximum else None
    for level, (feature, scale) in enumerate(zip(features, scales)):
        feature = np.ascontiguousarray(feature)
        _run(forward_part, (feature, rois, out, chosen), scale, level, sampling_ratio, aligned, maximum)
    return out, chosen


@takes(lambda gy, *_, **__: gy.dtype in FLOATS)
def roi_align_backward(
    gy, chosen, features, boxes, image_index, levels, scales, size, sampling_ratio, aligned, pooling, to_boxes=False
):
    """See `minimask.roi_align.roi_align_backward`."""
    rois = join(boxes, image_index, levels, gy.dtype)
    gy = np.ascontiguousarray(gy)
    gfeatures = [np.zeros(feature.shape, gy.dtype) for feature in features]
    for level, (gfeature, scale) in enumerate(zip(gfeatures, scales)):
        arrays = gfeature, rois, gy, chosen
        _run(backward_part, arrays, scale, level, sampling_ratio, aligned, pooling == "max")
    if not to_boxes:
        return gfeatures, None

    chosen = np.zeros((len(gy), 0, 0, 0), gy.dtype) if chosen is None else chosen
    gboxes = np.zeros((len(rois), 4), gy.dtype)
    for level, (feature, scale) in enumerate(zip(features, scales)):
        settings = rois.dtype.type(scale), sampling_ratio, aligned, pooling == "max"
        backward_to_boxes_of_level(np.ascontiguousarray(feature), rois, level, *settings, gy, chosen, gboxes)
    return gfeatures, gboxes.astype(boxes.dtype, copy=False)


def join(boxes, image_index, levels, dtype):
    """The boxes as the kernels read them: rois (R, 6) = x1, y1, x2, y2, image, level."""
    parts = [boxes, image_index[:, None], levels[:, None]]
    return np.concatenate(parts, axis=1, dtype=dtype, casting="unsafe")


def _run(part, arrays, scale, *settings):
    feature, rois, out, chosen = arrays
    arrays = feature, rois, out, np.empty(0, feature.dtype) if chosen is None else chosen
    arrays = (*(x.reshape(-1) for x in arrays), np.array([scale], feature.dtype))
    numbers = tuple(map(int, (*feature.shape, len(rois), out.shape[1], *settings)))
    if feature.dtype == np.float32:
        run(part, arrays, numbers)
    else:
        part(0, 1, arrays, numbers)


@njit(cache=True, error_model="numpy")
def map_axis(first, last, scale, aligned):
    """One axis of a box on the feature map: where it starts, its extent, and whether the extent follows the box."""
    real = type(scale)
    offset = real(0.5) if aligned else real(0)
    start = first * scale - offset
    extent = last * scale - offset - start
    if aligned or extent >= real(1):
        return start, extent, True
    return start, real(1), False


@njit(cache=True, error_model="numpy")
def sample_axis(first, last, scale, aligned, bins, sampling_ratio, cells):
    """The samples of a box along an axis of `cells` cells: how many per bin, both neighbors of each, their weights.

    Cell i is at position i. For a sample more than one cell outside the map both weights are 0; for one nearer than
    that, the outermost cell has all the weight.
    """
    real = type(scale)
    start, extent, _ = map_axis(first, last, scale, aligned)
    step = extent / real(bins)
    per_bin = sampling_ratio
    if sampling_ratio <= 0:  # about one per cell; none if the extent is 0 or NaN
        per_bin = int(math.ceil(min(step, real(4096)))) if step > 0 else 0
    neighbors = np.empty((bins * per_bin, 2), np.int64)
    weights = np.empty((bins * per_bin, 2), np.dtype(real))
    i = 0
    for b in range(bins):
        for k in range(per_bin):
            position = start + real(b) * step + (real(k) + real(0.5)) * step / real(per_bin)
            low, high, share, total = 0, 0, real(0), real(0)
            if position >= -1 and position <= cells:
                total = real(1)
                position = max(position, real(0))
                low = min(int(position), cells - 1)
                high = min(low + 1, cells - 1)
                if high > low:
                    share = position - real(low)
            neighbors[i, 0], neighbors[i, 1] = low, high
            weights[i, 0], weights[i, 1] = total - share, share
            i += 1
    return per_bin, neighbors, weights


@njit(inline="always", error_model="numpy")
def forward_box(feature, box, scale, sampling_ratio, aligned, maximum, out, chosen):
    """One box: fills out (bins, bins, C) and, for maximum pooling, the numbers of the chosen samples, chosen."""
    real = type(scale)
    bins = out.shape[0]
    ny, ys, y_weights = sample_axis(box[1], box[3], scale, aligned, bins, sampling_ratio, feature.shape[0])
    nx, xs, x_weights = sample_axis(box[0], box[2], scale, aligned, bins, sampling_ratio, feature.shape[1])
    share = real(1) if maximum else real(1) / real(max(nx * ny, 1))
    for i in range(bins):
        for j in range(bins):
            result = out[i, j]
            for k in range(result.size):
                result[k] = 0
            for sample in range(ny * nx):
                p, q = i * ny + sample // nx, j * nx + sample % nx
                top, bottom, left, right = ys[p, 0], ys[p, 1], xs[q, 0], xs[q, 1]
                a, b, c, d = feature[top, left], feature[top, right], feature[bottom, left], feature[bottom, right]
                above, below = share * y_weights[p, 0], share * y_weights[p, 1]
                wa, wb = above * x_weights[q, 0], above * x_weights[q, 1]
                wc, wd = below * x_weights[q, 0], below * x_weights[q, 1]
                if maximum:
                    which = chosen[i, j]
                    for k in range(result.size):
                        value = wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k]
                        if sample == 0 or value > result[k]:
                            result[k] = value
                            which[k] = sample
                else:
                    for k in range(result.size):
                        result[k] += wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k]


@njit(cache=True, error_model="numpy")
def forward_part(t, parts, arrays, numbers):
    """Every parts-th box, from box t on."""
    feature, rois, out, chosen, scale = arrays[:5]
    images, height, width, channels, count, bins, level, sampling_ratio, aligned, maximum = numbers[:10]
    feature = feature.reshape((images, height, width, channels))
    rois = rois.reshape((count, 6))
    out = out.reshape((count, bins, bins, channels))
    chosen = chosen.reshape((count if maximum else 0, bins, bins, channels))
    for r in range(t, count, parts):
        if rois[r, 5] == level:
            image, which = feature[int(rois[r, 4])], chosen[r if maximum else 0]
            forward_box(image, rois[r], scale[0], sampling_ratio, aligned, maximum, out[r], which)


@njit(cache=True, error_model="numpy")
def cells_of_bins(per_bin, neighbors, weights, bins):
    """The average of each bin's samples as weights of cells, along one axis: first cell, weights (bins, cells)."""
    first, last = 1 << 30, -1
    for s in range(bins * per_bin):
        if weights[s, 0] + weights[s, 1] > 0:  # the sample is inside
            first, last = min(first, neighbors[s, 0]), max(last, neighbors[s, 1])
    table = np.zeros((bins, max(0, last + 1 - first)), weights.dtype)
    for s in range(bins * per_bin):
        for k in range(2):
            if weights[s, k] != 0:
                table[s // per_bin, neighbors[s, k] - first] += weights[s, k] / weights.dtype.type(per_bin)
    return first, table


@njit(cache=True, error_model="numpy")
def backward_box(gfeature, box, scale, sampling_ratio, aligned, gy, first, last, across):
    """Add one box's gradient gy (bins, bins, C) to the channels first .. last - 1 of gfeature (H, W, C).

    Average pooling weights rows and columns separately: out[i, j] = sum over y, x of wy[i, y] wx[j, x] feature[y, x].
    So each row of bins is first spread over the columns of cells, into `across` (W, last - first), then over the rows.
    """
    bins = gy.shape[0]
    ny, ys, y_weights = sample_axis(box[1], box[3], scale, aligned, bins, sampling_ratio, gfeature.shape[0])
    nx, xs, x_weights = sample_axis(box[0], box[2], scale, aligned, bins, sampling_ratio, gfeature.shape[1])
    top, wy = cells_of_bins(ny, ys, y_weights, bins)
    left, wx = cells_of_bins(nx, xs, x_weights, bins)
    for i in range(bins):
        for x in range(wx.shape[1]):
            spread, started = across[x], False
            for j in range(bins):
                weight, gradient = wx[j, x], gy[i, j, first:last]
                if weight != 0 and started:
                    for k in range(spread.size):
                        spread[k] += weight * gradient[k]
                elif weight != 0:
                    started = True
                    for k in range(spread.size):
                        spread[k] = weight * gradient[k]
            if not started:  # a column between the samples, which no bin reads
                spread[:] = 0
        for y in range(wy.shape[1]):
            weight = wy[i, y]
            if weight != 0:
                for x in range(wx.shape[1]):
                    target, spread = gfeature[top + y, left + x, first:last], across[x]
                    for k in range(target.size):
                        target[k] += weight * spread[k]


@njit(cache=True, error_model="numpy")
def backward_box_of_maximum(gfeature, box, scale, sampling_ratio, aligned, gy, chosen, first, last):
    """The same for maximum pooling: each gradient goes to the four cells around the sample that was chosen."""
    bins = gy.shape[0]
    ny, ys, y_weights = sample_axis(box[1], box[3], scale, aligned, bins, sampling_ratio, gfeature.shape[0])
    nx, xs, x_weights = sample_axis(box[0], box[2], scale, aligned, bins, sampling_ratio, gfeature.shape[1])
    for i in range(bins):
        for j in range(bins):
            gradient, which = gy[i, j, first:last], chosen[i, j, first:last]
            for sample in range(ny * nx):
                p, q = i * ny + sample // nx, j * nx + sample % nx
                for corner in range(4):
                    u, v = corner // 2, corner % 2
                    weight = y_weights[p, u] * x_weights[q, v]
                    target = gfeature[ys[p, u], xs[q, v], first:last]
                    if weight == 0:  # outside the map: not even a gradient that is not finite gets through
                        continue
                    for k in range(target.size):
                        if which[k] == sample:
                            target[k] += weight * gradient[k]


@njit(cache=True, error_model="numpy")
def backward_part(t, parts, arrays, numbers):
    """All boxes, for the t-th range of channels."""
    gfeature, rois, gy, chosen, scale = arrays[:5]
    images, height, width, channels, count, bins, level, sampling_ratio, aligned, maximum = numbers[:10]
    gfeature = gfeature.reshape((images, height, width, channels))
    rois = rois.reshape((count, 6))
    gy = gy.reshape((count, bins, bins, channels))
    chosen = chosen.reshape((count if maximum else 0, bins, bins, channels))
    first, last = channels * t // parts, channels * (t + 1) // parts
    across = np.empty((width, last - first), gfeature.dtype)
    for r in range(count):
        if rois[r, 5] == level:
            image, box = gfeature[int(rois[r, 4])], rois[r]
            if maximum:
                own = chosen[r]
                backward_box_of_maximum(image, box, scale[0], sampling_ratio, aligned, gy[r], own, first, last)
            else:
                backward_box(image, box, scale[0], sampling_ratio, aligned, gy[r], first, last, across)


@njit(cache=True, error_model="numpy")
def follows_position(neighbors, weights):
    """1 if a sample's weights change with its position; 0 outside the map and beyond its outermost cells."""
    return 1.0 if neighbors[1] > neighbors[0] and (neighbors[0] > 0 or weights[1] > 0) else 0.0


@njit(cache=True, error_model="numpy")
def backward_to_box(feature, box, scale, sampling_ratio, aligned, maximum, gy, chosen, gbox):
    """The gradient of one box: how the result follows the samples, and how they follow the box's four coordinates.

    position = start + fraction * extent, so gstart = sum(g) and gextent = sum(fraction * g), where g is the gradient of
    a sample's position; start = scale * first (- 0.5), and extent = scale * (last - first) unless it is raised to 1.
    """
    bins = gy.shape[0]
    ny, ys, y_weights = sample_axis(box[1], box[3], scale, aligned, bins, sampling_ratio, feature.shape[0])
    nx, xs, x_weights = sample_axis(box[0], box[2], scale, aligned, bins, sampling_ratio, feature.shape[1])
    gx_start = gx_extent = gy_start = gy_extent = 0.0
    for i in range(bins):
        for j in range(bins):
            for sample in range(ny * nx):
                p, q = i * ny + sample // nx, j * nx + sample % nx
                y, x, wy, wx = ys[p], xs[q], y_weights[p], x_weights[q]
                along_x = along_y = 0.0
                for k in range(feature.shape[2]):
                    if maximum and chosen[i, j, k] != sample:
                        continue
                    a, b = feature[y[0], x[0], k], feature[y[0], x[1], k]
                    c, d = feature[y[1], x[0], k], feature[y[1], x[1], k]
                    along_x += gy[i, j, k] * (wy[0] * (b - a) + wy[1] * (d - c))
                    along_y += gy[i, j, k] * (wx[0] * (c - a) + wx[1] * (d - b))
                along_x *= follows_position(x, wx)
                along_y *= follows_position(y, wy)
                gx_start += along_x
                gy_start += along_y
                gx_extent += along_x * (j + (q - j * nx + 0.5) / nx) / bins
                gy_extent += along_y * (i + (p - i * ny + 0.5) / ny) / bins
    share = scale if maximum else scale / max(nx * ny, 1)
    if not map_axis(box[0], box[2], scale, aligned)[2]:
        gx_extent = 0.0
    if not map_axis(box[1], box[3], scale, aligned)[2]:
        gy_extent = 0.0
    gbox[0], gbox[2] = share * (gx_start - gx_extent), share * gx_extent
    gbox[1], gbox[3] = share * (gy_start - gy_extent), share * gy_extent


@njit(cache=True, error_model="numpy")
def backward_to_boxes_of_level(feature, rois, level, scale, sampling_ratio, aligned, maximum, gy, chosen, gboxes):
    """Fill gboxes[r] (R, 4) for the boxes of this level; chosen (R, bins, bins, C), or (R, 0, 0, 0) for average.

    Serial, and compiled when it is first called: training never asks for it, since its proposals are constants.
    """
    for r in range(rois.shape[0]):
        if rois[r, 5] == level:
            image = feature[int(rois[r, 4])]
            backward_to_box(image, rois[r], scale, sampling_ratio, aligned, maximum, gy[r], chosen[r], gboxes[r])


def warm_up():
    """Compile (or load from the disk cache) what training and inference use in float32."""
    features, boxes, zero = [np.zeros((1, 2, 2, 1), np.float32)], np.zeros((1, 4), np.float32), np.zeros(1, np.int64)
    settings = features, boxes, zero, zero, [1.0], 1, 2, False, "average"
    out, chosen = roi_align_forward(*settings)
    roi_align_backward(out, chosen, *settings)
