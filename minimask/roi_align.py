"""RoIAlign: crop a feature map inside each box to a grid of fixed size, without rounding.

He et al. 2017, section 3 and figure 3; slides L07 to L17, T10. Four steps (L12): map the box to the feature map (L13),
divide it into bins (L14), interpolate at a few sampling points in each bin (L15, L16), and take their average, or their
maximum as the lecture does (L17). The choice of pyramid level comes from Lin et al. 2017, section 4.2.

Positions on a feature map are measured in cells: the features of cell (y, x) sit at position (y, x). The image's corner
lies half a cell before the first of them, at -0.5. `aligned=True` says so (Detectron2). The first implementations, and
torchvision's Mask R-CNN, put the corner at 0 instead (`aligned=False`), and make every box at least one cell wide.
"""

import math

from minimask.device import accelerated, array_module, on_cpu
from minimask.errors import check_shape
from minimask.tensor import Function, Tensor

POOLINGS = ("average", "max")


def roi_align(features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=False, pooling="average"):
    """The features inside each box, as a Tensor (R, size, size, C).

    features: list of Tensors (N, H, W, C), one per pyramid level.
    boxes: (R, 4) float, pixels of the padded image; if it is a Tensor that requires a gradient, it receives one.
    image_index: (R,) int, the image that each box belongs to.
    levels: (R,) int, the entry of `features` that each box reads.
    scales: list of floats, cells per pixel at each level, such as 1/4.
    size: number of bins along each side.
    sampling_ratio: s, for s x s sampling points per bin; 0 takes about one per cell.
    aligned: whether pixel corners and cell centers are half a cell apart (see the module's docstring).
    pooling: "average" or "max" of the samples in a bin.

    `roi_pool` and `roi_warp` take the same arguments up to `aligned`, and so can a pooling function of your own: the
    model calls it as pooling(features, boxes, image_index, levels, scales, size, sampling_ratio=..., aligned=...).

    A sample more than one cell outside the map is 0. A box without area is sampled at a single place; with `aligned`
    and sampling_ratio 0 it has no samples, and its result is 0. If several samples share the maximum, the first one
    receives the gradient. Raises ValueError if the arguments do not fit together.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"roi_align: pooling must be one of {POOLINGS}, got {pooling!r}")
    boxes = boxes if isinstance(boxes, Tensor) else Tensor(boxes)
    image_index, levels = check_rois("roi_align", features, boxes.data, image_index, levels, scales)
    return RoIAlign(image_index, levels, scales, size, sampling_ratio, bool(aligned), pooling)(*features, boxes)


class RoIAlign(Function):
    """Inputs: the features of each level, then the boxes (R, 4). Output (R, size, size, C).

    y[r, i, j] = average (or maximum) over the samples p of bin (i, j) of sum_n weight_n(p) feature[n], n the 4 cells
    around p.  gfeature[n] = sum over p of weight_n(p) gy / samples;  gposition(p) = sum_n dweight_n(p) feature[n] gy.
    """

    fresh = True

    def __init__(self, *settings):
        self.settings = settings  # as in `roi_align`, from image_index on

    def forward(self, *inputs):
        *self.features, self.boxes = inputs
        y, self.chosen = roi_align_forward(self.features, self.boxes, *self.settings)
        return y

    def backward(self, gy):
        arguments = gy, self.chosen, self.features, self.boxes, *self.settings
        gfeatures, gboxes = roi_align_backward(*arguments, to_boxes=self.needs[len(self.features)])
        return *gfeatures, gboxes


@accelerated("roi_align")
def roi_align_forward(
    features, boxes, image_index, levels, scales, size=7, sampling_ratio=2, aligned=False, pooling="average"
):
    """RoIAlign of raw arrays, box by box. Arguments as in `roi_align`.

    Returns the result (R, size, size, C) and, for pooling="max", the number of the sample that each of its values comes
    from (same shape, counted within the bin), otherwise None.
    """
    xp = array_module(boxes)
    out = xp.zeros((len(boxes), size, size, features[0].shape[3]), features[0].dtype)
    chosen = xp.zeros(out.shape, int) if pooling == "max" else None

    for r, (box, image, level) in enumerate(zip(boxes.astype(out.dtype), image_index, levels)):
        # Steps 1 and 2 (L13, L14): map the box to its level, divide it into bins, place the samples.
        points = sampling_points(box, scales[level], size, sampling_ratio, aligned)  # (size, size, s, s, 2)

        # Step 3 (L15, L16): interpolate between the four cells around each sample.
        samples = bilinear(features[level][image], points)  # (size, size, s, s, C)
        samples = samples.reshape(size, size, -1, out.shape[3])  # (size, size, s * s, C)

        # Step 4 (L17): one number per bin and channel.
        if samples.shape[2] == 0:
            continue
        if pooling == "average":
            out[r] = samples.mean(2)
        else:
            out[r], chosen[r] = samples.max(2), samples.argmax(2)
    return out, chosen


def map_boxes(boxes, scale, aligned=False):
    """Step 1 (L13): boxes (..., 4) on the feature map, as corner (..., 2) x, y and extent (..., 2) width, height.

    Worked number: (112, 45, 219, 213), which is 107 x 168 pixels, covers 6.7 x 10.5 cells at scale 1/16.
    """
    xp = array_module(boxes)
    boxes = boxes * boxes.dtype.type(scale) - boxes.dtype.type(0.5 if aligned else 0)
    corner, extent = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    return corner, extent if aligned else xp.maximum(extent, 1)


def sampling_points(box, scale, size, sampling_ratio=2, aligned=False):
    """Steps 1 and 2 (L13 to L15): where a box (4,), in pixels, is sampled, as positions on the feature map.

    Each bin is divided into s x s equal cells, and their centers are the samples; s is sampling_ratio or, if that is 0,
    the side of the bin on the feature map, rounded up. Returns (size, size, s_y, s_x, 2): the bin's row and column, the
    row and column of the sample in its bin, then x, y.
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
    """Step 3 (L16): the four cells around each point (..., 2) x, y, and their weights for bilinear interpolation.

    Yields four times: y, x (...) int, the weight (...), and its derivative (..., 2) with respect to the point's x and
    y. All weights of a point more than one cell outside the map are 0; a point nearer than that takes the border's
    value.
    """
    xp = array_module(points)
    limit = xp.asarray([width, height])
    inside = ((points >= -1) & (points <= limit)).all(-1)
    position = xp.where(inside[..., None], xp.clip(points, 0, limit - 1), 0).astype(points.dtype)
    low = position.astype(xp.int64)
    high = xp.minimum(low + 1, limit - 1)
    fraction = position - low  # (..., 2) in 0 .. 1
    moves = (points > 0) & (low < high) & inside[..., None]  # beyond the border the value stays the same

    for y, wy, sign_y in ((low, 1 - fraction, -1), (high, fraction, 1)):
        for x, wx, sign_x in ((low, 1 - fraction, -1), (high, fraction, 1)):
            slope = xp.stack([sign_x * wy[..., 1], sign_y * wx[..., 0]], axis=-1) * moves
            yield y[..., 1], x[..., 0], wx[..., 0] * wy[..., 1] * inside, slope


def bilinear(feature, points):
    """Step 3 (L16): a feature map (H, W, C) at points (..., 2) x, y between its cells, as (..., C)."""
    return sum(weight[..., None] * feature[y, x] for y, x, weight, _ in neighbors(points, *feature.shape[:2]))


@accelerated("roi_align")
def roi_align_backward(
    gy, chosen, features, boxes, image_index, levels, scales, size, sampling_ratio, aligned, pooling, to_boxes=False
):
    """The gradients of the feature maps and, if to_boxes, of the boxes: a list like `features`, and (R, 4) or None.

    gy: (R, size, size, C), the gradient of the result. chosen: what `roi_align_forward` returned with the result.
    A bin passes its gradient on to its samples, and a sample to the four cells around it, in proportion to their
    weights. The samples also move with the box: position = start + fraction * extent.
    """
    xp = array_module(gy)
    gfeatures, gboxes = [xp.zeros_like(feature) for feature in features], xp.zeros(boxes.shape, gy.dtype)
    for r, (box, image, level) in enumerate(zip(boxes.astype(gy.dtype), image_index, levels)):
        feature, scale = features[level][image], scales[level]
        points = sampling_points(box, scale, size, sampling_ratio, aligned)
        gsamples = _pass_to_samples(gy[r], None if chosen is None else chosen[r], points.shape)

        gpoints = xp.zeros_like(points)
        for y, x, weight, slope in neighbors(points, *feature.shape[:2]):
            xp.add.at(gfeatures[level][image], (y, x), weight[..., None] * gsamples)
            if to_boxes:
                gpoints += slope * (gsamples * feature[y, x]).sum(-1)[..., None]

        gextent = (gpoints * _fractions(points)).sum((0, 1, 2, 3))  # (2,)
        if not aligned:
            gextent = gextent * ((box[2:] - box[:2]) * scale >= 1)  # a smaller box has an extent of 1
        gboxes[r, :2] = scale * (gpoints.sum((0, 1, 2, 3)) - gextent)
        gboxes[r, 2:] = scale * gextent
    return gfeatures, gboxes.astype(boxes.dtype, copy=False) if to_boxes else None


def _pass_to_samples(gy, chosen, shape):
    """One box's gradient, from its bins (k, k, C) to its samples (k, k, s_y, s_x, C); shape: that of the points.

    With an average every sample receives an equal share, with a maximum the chosen one receives everything.
    """
    xp = array_module(gy)
    k, _, rows, columns, _ = shape
    if chosen is None:
        return xp.broadcast_to(gy[:, :, None, None] / max(rows * columns, 1), (k, k, rows, columns, gy.shape[2]))
    is_chosen = xp.arange(rows * columns)[:, None] == chosen[:, :, None]  # (k, k, s_y * s_x, C)
    return (is_chosen * gy[:, :, None]).reshape(k, k, rows, columns, gy.shape[2])


def _fractions(points):
    """How far along the box each sampling point lies, 0 .. 1 in x and y; the shape of points (k, k, s_y, s_x, 2)."""
    xp = array_module(points)
    k, _, rows, columns, _ = points.shape
    x = (xp.arange(k * columns, dtype=points.dtype) + 0.5).reshape(1, k, 1, columns) / (k * columns)
    y = (xp.arange(k * rows, dtype=points.dtype) + 0.5).reshape(k, 1, rows, 1) / (k * rows)
    return xp.stack(xp.broadcast_arrays(x, y), axis=-1)


@accelerated("roi_align")
def assign_levels(boxes, first_level=2, levels=4, canonical_size=224, canonical_level=4):
    """The pyramid level that each box reads, counted from 0: boxes (..., 4) in pixels -> (...) int64.

    k = floor(canonical_level + log2(sqrt(area) / canonical_size)), clipped to the `levels` levels that start at
    P`first_level`. Lin et al. 2017, equation 1. Worked numbers: a box of 224 x 224 pixels reads P4, which is index 2
    here; one of 112 x 112 reads P3, index 1.
    """
    xp = array_module(boxes)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    side = xp.sqrt(xp.fmax(area, xp.finfo(area.dtype).tiny))
    level = xp.floor(canonical_level + xp.log2(side / canonical_size) + side.dtype.type(1e-6))
    return (xp.clip(level, first_level, first_level + levels - 1) - first_level).astype(xp.int64)


def check_rois(caller, features, boxes, image_index, levels, scales):
    """Raises ValueError, with `caller` in the message, if the arguments of a RoI pooling function do not fit together.

    Returns image_index and levels as int64 arrays.
    """
    xp = array_module(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind != "f":
        raise ValueError(
            f"{caller}: boxes must be (R, 4) float arrays in image pixels, got shape {boxes.shape} {boxes.dtype}"
        )
    if len(features) != len(scales) or not features:
        raise ValueError(f"{caller}: scales must be one per level, {len(features)} in all, got {len(scales)}")
    for level, feature in enumerate(features):
        if feature.ndim != 4 or feature.shape[0::3] != features[0].shape[0::3] or not feature.size:
            raise ValueError(
                f"{caller}: features must be (N, H, W, C) with the same N and C, got {feature.shape} at level {level}"
            )

    checked = []
    for name, index, limit in (("image_index", image_index, features[0].shape[0]), ("levels", levels, len(features))):
        index = xp.asarray(index, dtype=xp.int64)
        check_shape(caller, name, index, boxes.shape[:1])
        if on_cpu(index) and index.size and not (0 <= index.min() and index.max() < limit):
            raise ValueError(f"{caller}: {name} must be 0 to {limit - 1}, got {index.min()} to {index.max()}")
        checked.append(index)
    return checked
