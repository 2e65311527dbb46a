"""The keypoint branch: a keypoint is a one-hot mask. He et al. 2017, section 5; slide T25.

For each of K keypoints (the 17 of a person, say) the branch predicts a 56 x 56 map of logits inside the box, trained
so that its softmax over all 3136 places is a one at the keypoint's place: where masks ask at each place "inside or
not?", keypoints ask once "which place?". Network and conventions are torchvision's.
"""

import numpy as np

from minimask import nn
from minimask.device import array_module, kernels, on_cpu
from minimask.image import resize_bilinear
from minimask.losses import CrossEntropy
from minimask.machine import distributed
from minimask.targets import take

LARGEST_SIDE = 2**16  # pixels of a box to decode: more is a mistake, and would take for ever

# ------------------------------------------------------------------------------------------------------------- network


class KeypointHead(nn.Module):
    """3x3 convolutions with ReLU that keep the grid: (R, 14, 14, in_channels) -> (R, 14, 14, channels[-1]).

    The paper's eight of 512 channels. They are named 0, 2, 4, ..., as in torchvision, where a ReLU has a number too.
    """

    def __init__(self, in_channels, channels=(512,) * 8):
        for i, out_channels in enumerate(channels):
            setattr(self, str(2 * i), nn.Conv2d(in_channels, out_channels, 3, padding=1, relu=True))
            in_channels = out_channels

    def forward(self, x):
        for _, convolution in self.children():
            x = convolution(x)
        return x


class KeypointPredictor(nn.Module):
    """A map of logits for each keypoint, four times as wide: (R, 14, 14, in_channels) -> (R, 56, 56, keypoints).

    A transposed convolution 4x4 of stride 2, then bilinear interpolation to twice the side: places must be fine, and
    the paper found 56 to be needed where masks do with 28.
    """

    def __init__(self, in_channels, keypoints):
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, keypoints, 4, stride=2, padding=1)

    def forward(self, x):
        x = self.kps_score_lowres(x)
        return resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))


# ------------------------------------------------------------------------------------------------------------- targets


def keypoint_targets(keypoints, boxes, matches, size=56):
    """The place in the map of each box where each keypoint of its object lies.

    keypoints: (N, G, K, 3) float: x, y, visibility (0: not labeled); boxes: (N, S, 4) float, in the same pixels;
    matches: (N, S) int, the object of each box. -> places (N, S, K) int64, y * size + x of the cell, or 0; visible
    (N, S, K) bool: labeled (if hidden or not) and inside the box, the only ones that are learned.
    A keypoint on the right or lower border belongs to the last cell.
    Worked number: in a box from 10 to 38, a cell is half a pixel, and x = 17.2 lies in cell floor(7.2 * 2) = 14.
    """
    xp = array_module(boxes)
    if keypoints.ndim != 4 or keypoints.shape[3] != 3 or not keypoints.shape[1]:
        raise ValueError(f"keypoint_targets: keypoints must be (N, G, K, 3) with G >= 1, got {keypoints.shape}")
    if boxes.ndim != 3 or boxes.shape[2] != 4 or len(boxes) != len(keypoints) or matches.shape != boxes.shape[:2]:
        raise ValueError(
            f"keypoint_targets: boxes must be ({len(keypoints)}, S, 4) and matches ({len(keypoints)}, S), "
            f"got {boxes.shape} and {matches.shape}"
        )
    points = take(keypoints, xp.clip(matches, 0, keypoints.shape[1] - 1))  # (N, S, K, 3)
    start, end = boxes[:, :, None, :2], boxes[:, :, None, 2:]  # (N, S, 1, 2)
    scale = size / xp.where(end > start, end - start, 1)
    cell = xp.floor((points[..., :2] - start) * scale)
    cell = xp.where(points[..., :2] == end, size - 1, xp.where(end > start, cell, -1))  # (N, S, K, 2) x, y
    visible = (points[..., 2] > 0) & ((cell >= 0) & (cell < size)).all(axis=-1)
    places = xp.where(visible, cell[..., 1] * size + cell[..., 0], 0)
    return places.astype(np.int64), visible


# ---------------------------------------------------------------------------------------------------------------- loss


def keypoint_loss(logits, places, visible):
    """Cross-entropy over the places of a map, the mean over the visible keypoints of all boxes: -> Tensor ().

    logits: Tensor (R, H, W, K); places: (R, K) int, y * W + x of each keypoint; visible: (R, K) bool, those that
    count. Without any, 0.
    """
    r, h, w, k = logits.shape
    if places.shape != (r, k) or visible.shape != (r, k):
        raise ValueError(
            f"keypoint_loss: for logits {logits.shape}, places and visible must be {(r, k)}, "
            f"got {places.shape} and {visible.shape}"
        )
    maps = logits.transpose(0, 3, 1, 2).reshape(r * k, h * w)
    weights = visible.reshape(-1) / array_module(visible).maximum(distributed.total(visible.sum()), 1)
    return CrossEntropy(places.reshape(-1))(maps, weights.astype(logits.dtype))


def keypoint_loss_specification(logits, places, visible):
    """`keypoint_loss` on raw arrays, keypoint by keypoint: L = -1/V sum log p[place], p = softmax of the whole map."""
    xp = array_module(logits)
    losses = []
    for r, k in xp.argwhere(visible).tolist():
        z = logits[r, :, :, k].reshape(-1)  # (H * W,)
        losses.append(xp.log(xp.exp(z).sum()) - z[places[r, k]])
    return sum(losses) / max(len(losses), 1)


# -------------------------------------------------------------------------------------------------- into the picture


def decode_keypoints(logits, boxes):
    """Where each keypoint is in the picture: the largest logit once the map is stretched to the box's pixels.

    logits: (R, H, W, K) float; boxes: (R, 4) float, pixels. -> (R, K, 3): x, y in pixels and the logit there, the
    keypoint's score (no probability: any number). The map is stretched by bicubic interpolation to ceil(width) x
    ceil(height) pixels, at least 1; of equal logits the first in reading order counts. Worked number: in a box from
    x = 10 to 12.5 there are 3 pixels of 2.5 / 3, and the largest logit in the middle one gives 10 + 1.5 * 2.5 / 3.
    """
    xp = array_module(logits)
    if logits.ndim != 4 or boxes.shape != (len(logits), 4):
        raise ValueError(f"decode_keypoints: logits must be (R, H, W, K), boxes (R, 4): {logits.shape}, {boxes.shape}")
    if logits.dtype != np.float32 or boxes.dtype != np.float32:
        return decode_keypoints_specification(logits, boxes)
    corner, side, pixels = _pixels(boxes)
    maps = xp.ascontiguousarray(logits.transpose(0, 3, 1, 2))  # (R, K, H, W)
    found = kernels("keypoints", maps).find_peaks(maps, pixels)  # (R, K, 3) x, y, logit
    return _places_in_picture(found, corner, side, pixels, xp)


def decode_keypoints_specification(logits, boxes):
    """`decode_keypoints` map by map: y = A m B^T with a matrix of bicubic weights for each axis, then its argmax."""
    xp = array_module(logits)
    r, h, w, k = logits.shape
    corner, side, pixels = _pixels(boxes)
    found = xp.zeros((r, k, 3), logits.dtype)
    for i, (width, height) in enumerate(pixels.tolist()):
        down, across = (bicubic_matrix(*sizes, xp, logits.dtype) for sizes in ((h, height), (w, width)))
        for j in range(k):
            stretched = (down @ logits[i, :, :, j] @ across.T).reshape(-1)  # (height * width,)
            place = stretched.argmax()
            found[i, j, 0], found[i, j, 1], found[i, j, 2] = place % width, place // width, stretched[place]
    return _places_in_picture(found, corner, side, pixels, xp)


def bicubic_matrix(cells, pixels, xp=np, dtype=np.float32):
    """The (pixels, cells) matrix that stretches `cells` values to `pixels` by cubic convolution (Keys 1981).

    Pixel i has its center at (i + 1/2) cells / pixels - 1/2 in cells, and is a sum of the four cells around it; beyond
    the border a cell is its neighbor inside. a = -0.75, as in torch and OpenCV.
    """
    position = (xp.arange(pixels) + 0.5) * (cells / pixels) - 0.5  # (P,)
    low = xp.floor(position)
    matrix = xp.zeros((pixels, cells))
    for tap in (low - 1, low, low + 1, low + 2):
        at = xp.clip(tap, 0, cells - 1)
        matrix += (at[:, None] == xp.arange(cells)) * cubic(abs(position - tap))[:, None]
    return matrix.astype(dtype)


def cubic(d, a=-0.75):
    """The weight of a cell at distance d of 0 to 2 cells."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return array_module(d).where(d <= 1, near, far)


def _pixels(boxes):
    """Upper left corner (R, 2) and sides (R, 2) of boxes, and the sides in whole pixels (R, 2) int64; all x, y."""
    xp = array_module(boxes)
    boxes = xp.nan_to_num(boxes)  # places that are not used may hold anything
    side = xp.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    if on_cpu(side) and side.max(initial=1) > LARGEST_SIDE:
        raise ValueError(f"decode_keypoints: boxes must be at most {LARGEST_SIDE} pixels wide, got {side.max()}")
    side = xp.minimum(side, LARGEST_SIDE)  # on the GPU nobody has looked: that would wait for it
    return boxes[:, :2], side, xp.ceil(side).astype(np.int64)


def _places_in_picture(found, corner, side, pixels, xp):
    """Pixels (R, K, 3) x, y, logit in the stretched map -> the same in the picture."""
    step = (side / pixels).astype(found.dtype)[:, None]  # (R, 1, 2)
    return xp.concatenate([(found[..., :2] + 0.5) * step + corner[:, None], found[..., 2:]], axis=2)
