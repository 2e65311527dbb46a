"""The keypoint branch: a keypoint is a one-hot mask. He et al. 2017, section 5; slide T25.

For each of K keypoints (say, the 17 of a person) the branch predicts a 56 x 56 map of logits inside the box. It is
trained so that the softmax over all 3136 places is 1 at the place of the keypoint. A mask asks "inside or not?" at
every place; a keypoint asks once, "which place?". The network and its conventions are torchvision's.
"""

import numpy as np

from minimask import nn
from minimask.device import accelerated, array_module, on_cpu
from minimask.errors import check_shape
from minimask.image import resize_bilinear
from minimask.targets import take

LARGEST_SIDE = 2**16  # pixels of a box to decode; a larger one is a mistake, and would take forever

# ------------------------------------------------------------------------------------------------------------- network


class KeypointHead(nn.Module):
    """3x3 convolutions with ReLU that keep the grid: (R, 14, 14, in_channels) -> (R, 14, 14, channels[-1]).

    By default the paper's eight of 512 channels. They are named 0, 2, 4, ..., as in torchvision, where each ReLU has a
    number too.
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
    """A map of logits per keypoint, with four times the side: (R, 14, 14, in_channels) -> (R, 56, 56, keypoints).

    A transposed 4x4 convolution of stride 2, then bilinear interpolation to twice the side. Places need a fine grid:
    the paper uses 56 where 28 is enough for masks.
    """

    def __init__(self, in_channels, keypoints):
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, keypoints, 4, stride=2, padding=1)

    def forward(self, x):
        x = self.kps_score_lowres(x)
        return resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))


# ------------------------------------------------------------------------------------------------------------- targets


def keypoint_targets(keypoints, boxes, matches, size=56):
    """The place of each keypoint in the map of its object's box.

    keypoints: (N, G, K, 3) float: x, y in pixels, and visibility (0: not labeled).
    boxes: (N, S, 4) float, in the same pixels.
    matches: (N, S) int, the object of each box.
    size: side of the map, in cells.

    Returns places (N, S, K) int64, y * size + x of the cell, and visible (N, S, K) bool: the keypoints that are labeled
    (even if hidden) and inside the box. Only those are learned; the place of the others is 0. A keypoint on the right
    or lower border belongs to the last cell. Worked number: in a box from 10 to 38 a cell is half a pixel, so x = 17.2
    lies in cell floor(7.2 * 2) = 14. Raises ValueError if the shapes do not fit together.
    """
    xp = array_module(boxes)
    check_shape("keypoint_targets", "keypoints", keypoints, ("N", "G", "K", 3))
    check_shape("keypoint_targets", "boxes", boxes, (len(keypoints), "S", 4))
    check_shape("keypoint_targets", "matches", matches, boxes.shape[:2])
    if not keypoints.shape[1]:
        raise ValueError(f"keypoint_targets: keypoints must have room for an object, got shape {keypoints.shape}")

    points = take(keypoints, xp.clip(matches, 0, keypoints.shape[1] - 1))  # (N, S, K, 3)
    start, end = boxes[:, :, None, :2], boxes[:, :, None, 2:]  # (N, S, 1, 2)
    scale = size / xp.where(end > start, end - start, 1)
    cell = xp.floor((points[..., :2] - start) * scale)
    cell = xp.where(points[..., :2] == end, size - 1, xp.where(end > start, cell, -1))  # (N, S, K, 2) x, y

    visible = (points[..., 2] > 0) & ((cell >= 0) & (cell < size)).all(axis=-1)
    places = xp.where(visible, cell[..., 1] * size + cell[..., 0], 0)
    return places.astype(np.int64), visible


# ------------------------------------------------------------------------------------------------------ into the image


def decode_keypoints(logits, boxes):
    """Where each keypoint is in the image: at the largest logit, after stretching its map to the pixels of the box.

    logits: (R, H, W, K) float.
    boxes: (R, 4) float, pixels.

    Returns (R, K, 3): x, y in pixels, and the logit there, which is the keypoint's score (any number, no probability).
    The map is stretched by bicubic interpolation to ceil(width) x ceil(height) pixels, at least 1. Worked number: a box
    from x = 10 to 12.5 has 3 pixels of width 2.5 / 3, and a peak in the middle one gives 10 + 1.5 * 2.5 / 3. Raises
    ValueError if the shapes do not fit together or a box is wider than 65,536 pixels.
    """
    xp = array_module(logits)
    check_shape("decode_keypoints", "logits", logits, ("R", "H", "W", "K"))
    check_shape("decode_keypoints", "boxes", boxes, (len(logits), 4))
    boxes = xp.nan_to_num(boxes)  # entries that are not used may hold anything
    side = xp.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    if on_cpu(side) and side.max(initial=1) > LARGEST_SIDE:
        raise ValueError(f"decode_keypoints: boxes must be at most {LARGEST_SIDE} pixels wide, got {side.max()}")
    side = xp.minimum(side, LARGEST_SIDE)  # on the GPU nothing was checked, because looking would wait for it
    pixels = xp.ceil(side).astype(np.int64)

    peaks = find_peaks(logits, pixels)  # (R, K, 3) x, y, logit
    step = (side / pixels).astype(peaks.dtype)[:, None]  # (R, 1, 2)
    return xp.concatenate([(peaks[..., :2] + 0.5) * step + boxes[:, None, :2], peaks[..., 2:]], axis=2)


@accelerated("keypoints")
def find_peaks(logits, pixels):
    """The pixel with the largest logit, when a map of cells is stretched to the pixels of its box.

    logits: (R, H, W, K) float. pixels: (R, 2) int, width and height of each box.
    Each axis has a matrix of bicubic weights: y = A m B^T. Returns (R, K, 3): x, y, and the logit there; of equal
    logits the first one in reading order counts.
    """
    xp = array_module(logits)
    r, h, w, k = logits.shape
    peaks = xp.zeros((r, k, 3), logits.dtype)
    for i, (width, height) in enumerate(pixels.tolist()):
        down = bicubic_matrix(h, height, xp, logits.dtype)
        across = bicubic_matrix(w, width, xp, logits.dtype)
        for j in range(k):
            stretched = (down @ logits[i, :, :, j] @ across.T).reshape(-1)  # (height * width,)
            place = stretched.argmax()
            peaks[i, j, 0], peaks[i, j, 1], peaks[i, j, 2] = place % width, place // width, stretched[place]
    return peaks


def bicubic_matrix(cells, pixels, xp=np, dtype=np.float32):
    """The (pixels, cells) matrix that stretches `cells` values to `pixels` by cubic convolution (Keys 1981).

    The center of pixel i lies at (i + 1/2) cells / pixels - 1/2, measured in cells, and takes a weighted sum of the
    four cells around it; a cell beyond the border has the value of the border. a = -0.75, as in torch and OpenCV.
    """
    position = (xp.arange(pixels) + 0.5) * (cells / pixels) - 0.5  # (P,)
    low = xp.floor(position)
    matrix = xp.zeros((pixels, cells))
    for tap in (low - 1, low, low + 1, low + 2):
        at = xp.clip(tap, 0, cells - 1)
        matrix += (at[:, None] == xp.arange(cells)) * cubic(abs(position - tap))[:, None]
    return matrix.astype(dtype)


def cubic(d, a=-0.75):
    """The weight of a cell at a distance d of 0 to 2 cells."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return array_module(d).where(d <= 1, near, far)
