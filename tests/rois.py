"""Feature maps and boxes for the tests of RoIAlign, RoIPool and RoIWarp."""

import numpy as np

# In pixels of an image of 48 x 40 pixels, whose feature map of scale 1/4 has 12 x 10 cells.
BOXES = {
    "inside": (8.3, 5.1, 30.2, 25.7),
    "across the left and upper border": (-9.2, -7.7, 12.4, 10.1),
    "across the right and lower border": (33.3, 28.8, 61.7, 55.5),
    "around everything": (-30.5, -20.5, 90.5, 80.5),
    "outside": (-90.1, -80.2, -40.3, -50.4),
    "outside, on the other side": (200.1, 300.2, 240.3, 350.4),
    "smaller than a cell": (10.2, 12.3, 11.1, 13.7),
    "a point": (17.3, 18.4, 17.3, 18.4),
    "a line": (5.1, 18.4, 31.9, 18.4),
    "nothing": (0.0, 0.0, 0.0, 0.0),
    "the whole map": (0.0, 0.0, 40.0, 48.0),
}


def roi_case(seed=0, channels=3, dtype=np.float64, images=2):
    """Two levels, with every box above on each of them: features, boxes, image_index, levels, scales."""
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((images, h, w, channels)).astype(dtype) for h, w in ((12, 10), (6, 5))]
    boxes = np.array(list(BOXES.values()) * 2, dtype)
    image_index = rng.integers(0, images, len(boxes))
    levels = np.repeat([0, 1], len(BOXES))
    return features, boxes, image_index, levels, (1 / 4, 1 / 8)
