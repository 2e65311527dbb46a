"""Pictures of everything: detections, ground truth, anchors, proposals, sampling points, masks, loss curves.

All functions return (H, W, 3) uint8 arrays; `save_picture` writes one to a file. Small photos are enlarged by an
integer factor so that the text in them can be read, and a caption below says what is in the picture.
"""

from minimask.draw.colors import COLORS, CROWD, DARK, LIGHT, OUTLINES, instance_colors
from minimask.draw.curves import loss_curves, plot_losses, read_log, smoothed
from minimask.draw.objects import FILL, SURE, class_name, draw_prediction, draw_sample
from minimask.draw.pictures import LARGEST_SIDE, READABLE_SIDE, grid, picture_bytes, save_picture
from minimask.draw.stages import draw_anchors, draw_masks, draw_proposals, draw_sampling_points

__all__ = [
    "COLORS",
    "CROWD",
    "DARK",
    "FILL",
    "LARGEST_SIDE",
    "LIGHT",
    "OUTLINES",
    "READABLE_SIDE",
    "SURE",
    "class_name",
    "draw_anchors",
    "draw_masks",
    "draw_prediction",
    "draw_proposals",
    "draw_sample",
    "draw_sampling_points",
    "grid",
    "instance_colors",
    "loss_curves",
    "picture_bytes",
    "plot_losses",
    "read_log",
    "save_picture",
    "smoothed",
]
