"""Position-sensitive pooling: each part of a box is read from score maps of its own.

Dai et al. 2016 (R-FCN), section 2; Li et al. 2017 (FCIS), section 3. An object is divided into k x k parts, and there
is one set of D score maps per part: "upper left corner of an object", "upper edge of an object", and so on. A box is
divided into m x m bins, and each bin takes its mean from the maps of the part in which it lies. So the result says how
well the left of the box looks like the left of an object. A box that is off by a part reads other maps and scores
differently, although no layer follows that would look at the box as a whole.

Worked number: with m = 21 and k = 7, bins 0 to 2 lie in part 0, bins 3 to 5 in part 1, and so on. A box 10.5 cells wide
has bins of half a cell, so most bins read a single cell.

Boxes are not rounded. A bin takes the mean of the cells that it touches, each with the same weight (the authors' code
rounds the box to whole pixels of the image first; torchvision's ps_roi_pool rounds it to whole cells).
"""

import numpy as np

from minimask.device import accelerated, array_module, on_cpu
from minimask.errors import check_shape
from minimask.tensor import Function

SMALLEST_SIDE = 0.1  # cells; a narrower box counts as this wide
TOUCH = 1e-4  # cells; a bin that reaches less than this into a cell does so because of rounding errors


def position_sensitive_pool(maps, boxes, image_index, scale, parts, size):
    """The mean of each bin of each box, taken from the maps of its part: a Tensor (R, size, size, D).

    maps: Tensor (N, H, W, parts * parts * D), the maps of part (0, 0), then of (0, 1), ...: row and column of the part.
    boxes: (R, 4) float, pixels of the padded image. They receive no gradient.
    image_index: (R,) int, the image that each box belongs to.
    scale: cells per pixel, such as 1/16.
    parts: k, parts along each side of an object.
    size: m, bins along each side of a box, at least k.

    A bin that lies outside the map is 0. Raises ValueError if the arguments do not fit together.
    """
    xp = array_module(boxes)
    check_shape("position_sensitive_pool", "maps", maps, ("N", "H", "W", "parts * parts * D"))
    check_shape("position_sensitive_pool", "boxes", boxes, ("R", 4))
    image_index = xp.asarray(image_index, dtype=xp.int64)
    check_shape("position_sensitive_pool", "image_index", image_index, boxes.shape[:1])
    images, height, width, channels = maps.shape
    if parts < 1 or channels % parts**2 or size < parts:
        raise ValueError(
            "position_sensitive_pool: channels must be a multiple of parts * parts and size at least parts, "
            f"got {channels} channels, parts {parts}, size {size}"
        )
    if on_cpu(boxes) and len(boxes) and not (0 <= image_index.min() and image_index.max() < images):
        raise ValueError(f"position_sensitive_pool: image_index must be 0 to {images - 1}, got {image_index}")
    cells = bin_cells(boxes, scale, size, height, width)
    return PositionSensitivePool(cells, image_index, parts)(maps)


class PositionSensitivePool(Function):
    """y[r, i, j] = mean of maps[part of (i, j)] over the cells of bin (i, j);  each of these cells gets gy / cells."""

    fresh = True

    def __init__(self, *settings):
        self.settings = settings  # cells, image_index, parts

    def forward(self, maps):
        self.shape = maps.shape
        return position_sensitive_forward(maps, *self.settings)

    def backward(self, gy):
        return (position_sensitive_backward(gy, *self.settings, self.shape),)


def bin_cells(boxes, scale, size, height, width):
    """The cells that the bins of each box touch, along y and along x: (R, 2, size, 2) int32, start and stop.

    boxes: (R, 4) in pixels. scale: cells per pixel. height, width: of the map, outside which there are no cells.
    """
    xp = array_module(boxes)
    cells = xp.nan_to_num(boxes * boxes.dtype.type(scale)).clip(-1e6, 1e6).reshape(-1, 2, 2)[:, :, ::-1]
    first, last = cells[:, 0, :, None], cells[:, 1, :, None]  # (R, 2, 1): y, x
    edges = first + xp.maximum(last - first, SMALLEST_SIDE) * (xp.arange(size + 1) / size)  # (R, 2, size + 1)

    limit = xp.asarray([[height], [width]])
    start = xp.clip(xp.floor(edges[..., :-1] + TOUCH), 0, limit)
    stop = xp.clip(xp.ceil(edges[..., 1:] - TOUCH), 0, limit)
    return xp.stack([start, stop], axis=-1).astype(np.int32)


@accelerated("position_sensitive")
def position_sensitive_forward(maps, cells, image_index, parts):
    """Position-sensitive pooling of raw arrays, box by box: (R, m, m, D).

    maps: (N, H, W, parts * parts * D). cells: (R, 2, m, 2) int, see `bin_cells`. image_index: (R,) int.
    The mean over a bin is a product with one matrix per axis, y = A x B^T, as in `image.resize_bilinear`.
    """
    xp = array_module(maps)
    n, height, width, channels = maps.shape
    maps = maps.reshape(n, height, width, parts, parts, -1)
    out = xp.zeros((len(cells), cells.shape[2], cells.shape[2], channels // parts**2), maps.dtype)
    for r, image in enumerate(image_index):
        rows, columns = averages(cells[r, 0], height, maps.dtype), averages(cells[r, 1], width, maps.dtype)
        for p, q in np.ndindex(parts, parts):
            i, j = bins_of_part(p, parts, len(rows)), bins_of_part(q, parts, len(rows))
            out[r, i, j] = xp.einsum("ih,jw,hwd->ijd", rows[i], columns[j], maps[image, :, :, p, q])
    return out


@accelerated("position_sensitive")
def position_sensitive_backward(gy, cells, image_index, parts, shape):
    """The gradient of the maps, an array of `shape`, for the gradient gy (R, m, m, D) of the result."""
    xp = array_module(gy)
    n, height, width, _ = shape
    gmaps = xp.zeros((n, height, width, parts, parts, gy.shape[3]), gy.dtype)
    for r, image in enumerate(image_index):
        rows, columns = averages(cells[r, 0], height, gy.dtype), averages(cells[r, 1], width, gy.dtype)
        for p, q in np.ndindex(parts, parts):
            i, j = bins_of_part(p, parts, len(rows)), bins_of_part(q, parts, len(rows))
            gmaps[image, :, :, p, q] += xp.einsum("ih,jw,ijd->hwd", rows[i], columns[j], gy[r, i, j])
    return gmaps.reshape(shape)


def averages(cells, length, dtype):
    """The matrix (m, length) that takes the mean over cells start .. stop - 1 of each bin: cells (m, 2)."""
    xp = array_module(cells)
    start, stop = cells[:, :1], cells[:, 1:]
    inside = (xp.arange(length) >= start) & (xp.arange(length) < stop)
    return (inside / xp.maximum(stop - start, 1)).astype(dtype)


def bins_of_part(part, parts, size):
    """Which of `size` bins lie in a part, as a slice: bin i lies in part floor(i parts / size)."""
    return slice(-(-part * size // parts), -(-(part + 1) * size // parts))
