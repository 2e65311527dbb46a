"""RoIAlign: the features inside each box as a grid of fixed size, read off between the cells, without rounding.

He et al. 2017, section 3 and figure 3; slides L07 to L17, T10. In four steps (L12): map the box to the feature map
(L13), divide it into bins (L14), interpolate at the sampling points of each bin (L15, L16), take their average, or
their maximum as in the lecture (L17). Which level of the pyramid a box reads: Lin et al. 2017, section 4.2.

Positions on a feature map count cells: the features of cell (y, x) sit at position (y, x). With `aligned` a pixel
corner at 0 is half a cell before the first center, -0.5 (Detectron2); without, as in the first implementations and in
torchvision's Mask R-CNN, it is at 0, and a box is at least one cell wide.
"""

import math

from minimask.device import array_module, fits_gpu_kernel, kernels, on_cpu
from minimask.tensor import Function, Tensor

POOLINGS = ("average", "max")


def roi_align(
    features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=False, pooling="average"
):
    """Features inside each box: -> Tensor (R, size, size, C).

    features: for each pyramid level a Tensor (N, H, W, C); boxes: (R, 4) float, pixels of the padded image (a Tensor
    that requires a gradient gets one); image_index: (R,) int, the image of each box; levels: (R,) int, the entry of
    `features` each box reads; scales: for each level cells / pixels, such as 1/4; sampling_ratio: s for s x s samples
    in a bin, 0 for about one sample a cell; aligned: see the module; pooling: "average" or "max" of a bin's samples.
    A sample more than one cell outside the map is 0. A box of no area is sampled at one place, or for `aligned` with
    sampling_ratio 0 not at all: 0. Of equal samples the maximum's gradient goes to the first.
    Raises ValueError if the shapes do not fit together.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"roi_align: pooling must be one of {POOLINGS}, got {pooling!r}")
    boxes = boxes if isinstance(boxes, Tensor) else Tensor(boxes)
    image_index, levels = check("roi_align", features, boxes.data, image_index, levels, scales)
    return RoIAlign(image_index, levels, scales, size, sampling_ratio, aligned, pooling)(*features, boxes)


def assign_levels(boxes, first_level=2, levels=4, canonical_size=224, canonical_level=4):
    """The pyramid level of each box, counted from 0: boxes (..., 4) -> (...) int64.

    k = floor(canonical_level + log2(sqrt(area) / canonical_size)), kept within the `levels` levels that start with P
    `first_level`: a box of 224 x 224 pixels reads P4 (2 here), one of 112 x 112 P3 (1). Lin et al. 2017, equation 1.
    """
    if fits_gpu_kernel(boxes):
        settings = first_level, levels, canonical_size, canonical_level
        return kernels("roi_align", boxes).assign_levels(boxes, *settings)
    xp = array_module(boxes)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    side = xp.sqrt(xp.fmax(area, xp.finfo(area.dtype).tiny))
    level = xp.floor(canonical_level + xp.log2(side / canonical_size) + side.dtype.type(1e-6))
    return (xp.clip(level, first_level, first_level + levels - 1) - first_level).astype(xp.int64)


def map_boxes(boxes, scale, aligned=False):
    """Step 1 (L13): boxes (..., 4) on the feature map, as corner (..., 2) x, y and extent (..., 2) width, height.

    Worked number: (112, 45, 219, 213), 107 x 168 pixels, is 6.7 x 10.5 cells at scale 1/16.
    """
    xp = array_module(boxes)
    boxes = boxes * boxes.dtype.type(scale) - boxes.dtype.type(0.5 if aligned else 0)
    corner, extent = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    return corner, extent if aligned else xp.maximum(extent, 1)


def sampling_points(box, scale, size, sampling_ratio=2, aligned=False):
    """Steps 2 and 3 (L14, L15): where a box is sampled, as positions on the feature map.

    box: (4,) float pixels. -> (size, size, s_y, s_x, 2): row and column of the bin, row and column of the sample in
    it, then x, y. The samples are the centers of s x s equal cells of the bin; s = sampling_ratio, or with
    sampling_ratio 0 the bin's side on the feature map, rounded up.
    """
    xp = array_module(box)
    real = box.dtype.type
    corner, extent = map_boxes(box, scale, aligned)
    along = []
    for start, side in zip(corner, extent):
        count = sampling_ratio if sampling_ratio > 0 else max(math.ceil(side / size), 0)
        step = side / real(size)
        centers = (xp.arange(count) + 0.5).astype(box.dtype) * step / real(max(count, 1))  # in a bin
        along.append(start + xp.arange(size, dtype=box.dtype)[:, None] * step + centers)  # (size, s)
    x, y = along
    return xp.stack(xp.broadcast_arrays(x[None, :, None, :], y[:, None, :, None]), axis=-1)


def neighbors(points, height, width):
    """Step 3 (L16): the four cells around each point and their weights, for bilinear interpolation.

    points (..., 2) x, y. Yields four times y, x (..., ) int, weight (...) and its derivative (..., 2) by the point's
    x and y. The weights of a point more than one cell outside the map are 0; nearer, it takes the border's value.
    """
    xp = array_module(points)
    limit = xp.asarray([width, height])
    inside = ((points >= -1) & (points <= limit)).all(-1)
    position = xp.where(inside[..., None], xp.clip(points, 0, limit - 1), 0).astype(points.dtype)
    low = position.astype(xp.int64)
    high = xp.minimum(low + 1, limit - 1)
    fraction = position - low  # (..., 2) in 0 .. 1
    moves = (points > 0) & (low < high) & inside[..., None]  # at the border the value does not follow the point
    for y, wy, sign_y in ((low, 1 - fraction, -1), (high, fraction, 1)):
        for x, wx, sign_x in ((low, 1 - fraction, -1), (high, fraction, 1)):
            slope = xp.stack([sign_x * wy[..., 1], sign_y * wx[..., 0]], axis=-1) * moves
            yield y[..., 1], x[..., 0], wx[..., 0] * wy[..., 1] * inside, slope


def bilinear(feature, points):
    """Step 3 (L16): a feature map (H, W, C) at points (..., 2) x, y between its cells: -> (..., C)."""
    return sum(weight[..., None] * feature[y, x] for y, x, weight, _ in neighbors(points, *feature.shape[:2]))


def roi_align_specification(
    features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=False, pooling="average"
):
    """`roi_align` forward on raw arrays, box by box: -> (R, size, size, C)."""
    xp = array_module(boxes)
    out = xp.zeros((len(boxes), size, size, features[0].shape[3]), features[0].dtype)
    for r, (box, image, level) in enumerate(zip(boxes.astype(out.dtype), image_index, levels)):
        points = sampling_points(box, scales[level], size, sampling_ratio, aligned)
        samples = bilinear(features[level][image], points)  # (size, size, s, s, C)
        samples = samples.reshape(size, size, -1, samples.shape[-1])  # (size, size, s * s, C)
        if samples.shape[2]:
            out[r] = samples.mean(2) if pooling == "average" else samples.max(2)
    return out


def roi_align_backward_specification(
    gy, features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=False, pooling="average"
):
    """Gradient gy (R, size, size, C) of the result -> (list of gradients like `features`, gradient (R, 4) of boxes).

    A bin hands its gradient to its samples (average: an equal share; maximum: all to the largest), a sample hands it
    to four cells by their weights; and the sample moves with the box: position = start + t * extent.
    """
    xp = array_module(boxes)
    boxes = boxes.astype(gy.dtype)
    gfeatures, gboxes = [xp.zeros_like(feature) for feature in features], xp.zeros_like(boxes)
    for r, (box, image, level) in enumerate(zip(boxes, image_index, levels)):
        feature = features[level][image]
        points = sampling_points(box, scales[level], size, sampling_ratio, aligned)
        if points.size == 0:
            continue
        gsamples = _hand_to_samples(gy[r], bilinear(feature, points), pooling)
        gpoints = xp.zeros_like(points)
        for y, x, weight, slope in neighbors(points, *feature.shape[:2]):
            xp.add.at(gfeatures[level][image], (y, x), weight[..., None] * gsamples)
            gpoints += slope * (gsamples * feature[y, x]).sum(-1)[..., None]
        gextent = (gpoints * _fractions(points)).sum((0, 1, 2, 3))
        if not aligned:
            gextent = gextent * ((box[2:] - box[:2]) * scales[level] >= 1)  # below, the extent is 1 whatever the box
        gboxes[r, :2] = scales[level] * (gpoints.sum((0, 1, 2, 3)) - gextent)
        gboxes[r, 2:] = scales[level] * gextent
    return gfeatures, gboxes


def _fractions(points):
    """How far along the box each sampling point lies, 0 .. 1 in x and y: shaped like points (k, k, s_y, s_x, 2)."""
    xp = array_module(points)
    k, _, rows, columns, _ = points.shape
    x = (xp.arange(k * columns, dtype=points.dtype) + 0.5).reshape(1, k, 1, columns) / (k * columns)
    y = (xp.arange(k * rows, dtype=points.dtype) + 0.5).reshape(k, 1, rows, 1) / (k * rows)
    return xp.stack(xp.broadcast_arrays(x, y), axis=-1)


def _hand_to_samples(gy, samples, pooling):
    """Gradient of one box's result (k, k, C) -> of its samples (k, k, s, s, C)."""
    xp = array_module(samples)
    k, _, rows, columns, channels = samples.shape
    if pooling == "average":
        return xp.broadcast_to(gy[:, :, None, None] / (rows * columns), samples.shape)
    largest = samples.reshape(k, k, rows * columns, channels).argmax(2)  # (k, k, C)
    chosen = xp.arange(rows * columns)[:, None] == largest[:, :, None]  # (k, k, s * s, C)
    return (chosen * gy[:, :, None]).reshape(samples.shape)


class RoIAlign(Function):
    """Inputs: the features of each level, then the boxes (R, 4). Output (R, size, size, C).

    y[r, i, j] = average (or maximum) over the samples p of bin (i, j) of sum_n weight_n(p) feature[n], n the 4 cells
    around p.  gfeature[n] = sum over p of weight_n(p) gy / samples;  gposition(p) = sum_n dweight_n(p) feature[n] gy.
    """

    fresh = True

    def __init__(self, image_index, levels, scales, size, sampling_ratio, aligned, pooling):
        self.settings = image_index, levels, scales, size, sampling_ratio, bool(aligned), pooling

    def forward(self, *inputs):
        *features, boxes = inputs
        self.features, self.boxes = features, boxes
        if not has_kernel(features):
            return roi_align_specification(features, boxes, *self.settings)
        out, self.chosen = kernels("roi_align", boxes).forward(features, boxes, *self.settings)
        return out

    def backward(self, gy):
        arguments = self.features, self.boxes, *self.settings
        if not has_kernel(self.features):
            gfeatures, gboxes = roi_align_backward_specification(gy, *arguments)
            return *gfeatures, gboxes.astype(self.boxes.dtype, copy=False)
        kernel, last = kernels("roi_align", gy), len(self.features)
        needs = [self.needs[level] for level in range(last)]
        gfeatures = kernel.backward(gy, self.chosen, needs, *arguments)
        gboxes = None
        if self.needs[last]:
            gboxes = kernel.backward_to_boxes(gy, self.chosen, *arguments).astype(self.boxes.dtype, copy=False)
        return *gfeatures, gboxes


def has_kernel(features):
    """Whether the kernels can do it: any float type on the CPU, float32 on the GPU."""
    return on_cpu(features[0]) or fits_gpu_kernel(*features)


def check(who, features, boxes, image_index, levels, scales):
    """Raises ValueError if the arguments do not fit together. Returns image_index and levels as int64 arrays."""
    xp = array_module(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind != "f":
        raise ValueError(
            f"{who}: boxes must be (R, 4) float arrays in image pixels, got shape {boxes.shape} {boxes.dtype}"
        )
    if len(features) != len(scales) or not features:
        raise ValueError(f"{who}: there must be one scale for each level, got {len(features)} and {len(scales)}")
    for level, feature in enumerate(features):
        if feature.ndim != 4 or feature.shape[0::3] != features[0].shape[0::3] or not feature.size:
            raise ValueError(
                f"{who}: features must be (N, H, W, C) with the same N and C, got {feature.shape} at level {level}"
            )
    checked = []
    for name, index, limit in (("image_index", image_index, features[0].shape[0]), ("levels", levels, len(features))):
        index = xp.asarray(index, dtype=xp.int64)
        if index.shape != boxes.shape[:1]:
            raise ValueError(f"{who}: {name} must be ({len(boxes)},) like the boxes, got shape {index.shape}")
        if on_cpu(index) and index.size and not (0 <= index.min() and index.max() < limit):
            raise ValueError(f"{who}: {name} must be 0 to {limit - 1}, got {index.min()} to {index.max()}")
        checked.append(index)
    return checked
