"""Weights of torchvision's models and ours: the names are the same, and this is the one place that transposes.

    layer                   torchvision             minimask
    convolution             (out, in, kh, kw)       (kh, kw, in, out)
    transposed convolution  (in, out, kh, kw)       (kh, kw, in, out)
    fully connected         (out, in)               (in, out)
    first one after RoIs    (out, C * 7 * 7)        (7 * 7 * C, out)

The last one differs because a RoI's features are flattened: theirs channel by channel, ours pixel by pixel.
"""

import numpy as np

TRANSPOSED_CONVOLUTIONS = ("conv5_mask.weight", "kps_score_lowres.weight")
AFTER_ROIS = ("roi_heads.box_head.fc6.weight",)
COUNTERS = "num_batches_tracked"  # batch norm's, of no use here


def from_torchvision(state, roi_size=7):
    """name -> NumPy array as torchvision saves them, to a dict for `Module.load_state_dict`.

    roi_size: height and width of the RoI features that the first fully connected layer reads.
    """
    return {
        name: np.ascontiguousarray(_to_ours(name, np.asarray(value), roi_size))
        for name, value in state.items()
        if not name.endswith(COUNTERS)
    }


def to_torchvision(state, roi_size=7):
    """The inverse of `from_torchvision`: `Module.state_dict()` in torchvision's layout."""
    return {name: np.ascontiguousarray(_to_theirs(name, value, roi_size)) for name, value in state.items()}


def _to_ours(name, value, roi_size):
    if name.endswith(AFTER_ROIS):
        out = value.shape[0]
        value = value.reshape(out, -1, roi_size, roi_size)  # (out, C, y, x)
        return value.transpose(2, 3, 1, 0).reshape(-1, out)  # (y * x * C, out)
    if value.ndim == 4:
        return value.transpose(2, 3, 0, 1) if name.endswith(TRANSPOSED_CONVOLUTIONS) else value.transpose(2, 3, 1, 0)
    return value.T  # a vector stays as it is


def _to_theirs(name, value, roi_size):
    if name.endswith(AFTER_ROIS):
        out = value.shape[1]
        value = value.reshape(roi_size, roi_size, -1, out)  # (y, x, C, out)
        return value.transpose(3, 2, 0, 1).reshape(out, -1)  # (out, C * y * x)
    if value.ndim == 4:
        return value.transpose(2, 3, 0, 1) if name.endswith(TRANSPOSED_CONVOLUTIONS) else value.transpose(3, 2, 0, 1)
    return value.T
