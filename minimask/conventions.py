"""Where implementations of Mask R-CNN differ by half a pixel or so. Weights want the conventions they learned with.

aligned: whether half pixels count in RoIAlign and in mask targets. A box that begins at pixel 10, on a map of stride 4,
begins 2.5 cells from the map's border, and there lies the center of cell 2. Aligned it is sampled at
10 / 4 - 0.5 = 2.0, that is cell 2; not aligned at 2.5, halfway to cell 3, which stands for pixel 12: two pixels off.

stride_in_1x1: which convolution of a bottleneck skips cells. A 1x1 of stride 2 on 56 x 56 cells reads 784 of the 3136
and never sees the others; a 3x3 of stride 2 sees all.

anchor_rounding: an anchor of size 32 and ratio 0.5 should be 45.25 x 22.63 pixels. "none": it is, and levels have the
strides 4, 8, 16, ... "pixels": half its sides are rounded, -23, -11, 23, 11; and the stride of a level is the image's
side divided by the map's, rounded down, so that 800 pixels and 13 cells make 61. "cells": the sides are rounded at the
size of one cell (here 4 pixels: 5.66 x 3 becomes 6 x 3) and then enlarged: 48 x 24; and the anchor's center is the
cell's, half a stride further right and down.

binary_mask_targets: a cell of the 28 x 28 target that is covered to 40 % by the object is 0.4, or, binary, 0.

whole_pixels: a mask in a box from 10.9 to 26.9 is pasted from pixel 10, or exactly where the box lies.

"torchvision" and "detectron2" are what these libraries compute; "paper" is the authors' first release (Detectron).
They also resize photos differently (Detectron2 with Pillow's smoothing); `MaskRCNN` always does it torchvision's way.
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
    """The conventions `name` as a dict, with those `switches` in their place that are not None.

    Raises InputError for an unknown name or a value that a switch does not have.
    """
    if name not in CONVENTIONS:
        raise InputError(f"conventions must be one of {', '.join(CONVENTIONS)}, got {name!r}")
    chosen = {**CONVENTIONS[name], **{key: value for key, value in switches.items() if value is not None}}
    for key, value in chosen.items():
        allowed = ("none", "pixels", "cells") if key == "anchor_rounding" else (False, True)
        if value not in allowed:
            raise InputError(f"{key} must be one of {', '.join(map(str, allowed))}, got {value!r}")
    return chosen
