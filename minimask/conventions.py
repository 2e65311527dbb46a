"""Where implementations of Mask R-CNN differ by half a pixel or so. Weights need the conventions they learned with.

aligned: whether RoIAlign and the mask targets take half a pixel off. On a map of stride 4, a box that begins at pixel
10 begins 2.5 cells from the border of the map, which is the center of cell 2. Aligned, it is sampled at
10 / 4 - 0.5 = 2.0, which is cell 2. Not aligned, it is sampled at 2.5, halfway between the centers of cells 2 and 3,
which is pixel 12: two pixels off.

stride_in_1x1: which convolution of a bottleneck skips cells. A 1x1 convolution with stride 2 reads 784 of the 3136
cells of a 56 x 56 map and never sees the others; a 3x3 convolution with stride 2 sees all of them.

anchor_rounding: an anchor of size 32 and ratio 0.5 should be 45.25 x 22.63 pixels. With "none" it is, and the strides
of the levels are 4, 8, 16, ... With "pixels", half of each side is rounded, which gives (-23, -11, 23, 11), and the
stride of a level is the side of the image divided by that of the map, rounded down: 800 pixels and 13 cells make 61.
With "cells", the sides are rounded for an anchor of the size of one cell (4 pixels here: 5.66 x 2.83 becomes 6 x 3) and
then enlarged to 48 x 24; the center of the anchor is the center of the cell, half a stride further right and down.

binary_mask_targets: if the object covers 40 % of a cell of the 28 x 28 target, the target is 0 if binary, else 0.4.

whole_pixels: whether a mask in a box from 10.9 to 26.9 is pasted from pixel 10 on, or exactly where the box lies.

"torchvision" and "detectron2" compute what these libraries compute; "paper" is the authors' first release (Detectron).
The libraries also resize photos differently (Detectron2 with Pillow's smoothing); `MaskRCNN` always resizes like
torchvision.
"""

from minimask.errors import InputError

CONVENTIONS = {
    "torchvision": dict(
        aligned=False, stride_in_1x1=False, anchor_rounding="pixels", binary_mask_targets=False, whole_pixels=True
    ),
    "detectron2": dict(
        aligned=True, stride_in_1x1=True, anchor_rounding="none", binary_mask_targets=True, whole_pixels=False
    ),
    "paper": dict(
        aligned=False, stride_in_1x1=True, anchor_rounding="cells", binary_mask_targets=True, whole_pixels=True
    ),
}


def resolve(name, **switches):
    """The conventions called `name` as a dict; each of the `switches` that is not None replaces one of them.

    Raises InputError if the name is unknown or the value of a switch is not allowed.
    """
    if name not in CONVENTIONS:
        raise InputError(f"conventions must be one of {', '.join(CONVENTIONS)}, got {name!r}")
    chosen = {**CONVENTIONS[name], **{key: value for key, value in switches.items() if value is not None}}
    for key, value in chosen.items():
        allowed = ("none", "pixels", "cells") if key == "anchor_rounding" else (False, True)
        if value not in allowed:
            raise InputError(f"{key} must be one of {', '.join(map(str, allowed))}, got {value!r}")
    return chosen
