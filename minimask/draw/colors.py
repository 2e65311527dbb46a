"""The colors of objects, told apart by every kind of sight, and the contrast of text with its background.

The colors are those of Okabe and Ito (jfly.uni-koeln.de/color) and three more that protanopes, deuteranopes and
tritanopes can tell from them. A color only separates neighbors; the class is shown by the outline (solid, dashed,
dotted, dash-dot) and by the label, never by color alone.
"""

import numpy as np

COLORS = np.array(
    [
        (230, 159, 0),  # orange
        (86, 180, 233),  # sky blue
        (213, 94, 0),  # vermillion
        (240, 228, 66),  # yellow
        (0, 114, 178),  # blue
        (204, 121, 167),  # reddish purple
        (0, 158, 115),  # bluish green
        (210, 255, 225),  # mint
        (135, 0, 240),  # violet
        (135, 60, 45),  # brown
    ],
    dtype=np.uint8,
)
# Lengths of (line, gap, line, gap, ...) in line widths; the outline of label l is OUTLINES[(l - 1) % 4].
OUTLINES = {"solid": (1, 0), "dashed": (6, 3), "dotted": (1.5, 2), "dash-dot": (7, 2.5, 1.5, 2.5)}
CROWD = np.array([190, 190, 190], dtype=np.uint8)
DARK, LIGHT = (20, 20, 20), (255, 255, 255)


def instance_colors(boxes, margin=0.25):
    """Choose a color for each object that none of its neighbors has, as long as there are enough colors.

    Two objects are neighbors if their boxes overlap after each is enlarged on every side. Among the colors that no
    neighbor has, the least used one is taken.

    boxes: (D, 4) x1 y1 x2 y2 in pixels.
    margin: how far a box is enlarged on each side, as a fraction of its size (and at least 8 pixels).
    Returns (D,) int64, rows of COLORS.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    grow = np.maximum(margin * size, 8)
    low, high = boxes[:, :2] - grow, boxes[:, 2:] + grow  # (D, 2) each

    chosen = np.zeros(len(boxes), dtype=np.int64)
    used = np.zeros(len(COLORS), dtype=np.int64)
    for i in range(len(boxes)):
        near = ((low[:i] < high[i]) & (high[:i] > low[i])).all(axis=1)
        near_use = np.bincount(chosen[:i][near], minlength=len(COLORS))
        chosen[i] = np.lexsort((used, near_use))[0]
        used[chosen[i]] += 1
    return chosen


def outline_of(label):
    """The name of a label's outline: besides the written name, the second way to tell a class."""
    return list(OUTLINES)[(int(label) - 1) % len(OUTLINES)]


def luminance(color):
    """The relative luminance of an sRGB color, from 0 to 1 (WCAG 2.1)."""
    c = np.asarray(color, dtype=np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(color):
    """DARK or LIGHT, whichever stands out more from the color."""
    l = luminance(color)
    return DARK if (l + 0.05) / (luminance(DARK) + 0.05) > 1.05 / (l + 0.05) else LIGHT


def score_color(share):
    """A color from dark blue through gray to yellow whose brightness rises evenly for every kind of sight.

    share: from 0 (dark) to 1 (bright). The colors follow cividis (Nunez, Anderton and Renslow 2018).
    """
    stops = np.array([(0, 34, 78), (66, 78, 108), (124, 123, 120), (187, 172, 105), (254, 232, 56)], dtype=np.float64)
    return tuple(int(np.interp(share, np.linspace(0, 1, len(stops)), stops[:, c])) for c in range(3))


def unit(color):
    """A color as matplotlib takes it: floats from 0 to 1."""
    return tuple(np.asarray(color) / 255)
