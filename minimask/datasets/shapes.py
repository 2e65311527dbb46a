"""The shapes and colors that animals are drawn with: ellipses, smooth outlines, limbs; coats and plumage.

Coordinates are those of an animal: about 1 wide, y pointing down, facing right.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

INK = (38, 30, 32)
WHITE = (250, 248, 242)
PINK = (226, 150, 150)
# Main color, belly, marks. Cats, dogs and some ducks share them, so that the color alone does not give the class away.
COATS = (
    ((205, 125, 58), (243, 219, 186), (150, 78, 30)),  # ginger
    ((142, 140, 144), (214, 212, 212), (88, 86, 94)),  # gray
    ((66, 60, 64), (104, 96, 98), (38, 34, 38)),  # black
    ((236, 230, 218), (250, 248, 242), (196, 182, 162)),  # white
    ((134, 98, 66), (206, 178, 142), (82, 56, 36)),  # brown
    ((222, 190, 132), (246, 232, 202), (174, 134, 78)),  # cream
    ((176, 132, 74), (228, 202, 160), (120, 82, 42)),  # sand
    ((108, 118, 138), (190, 198, 208), (66, 74, 92)),  # blue gray
)
PLUMAGE = (
    ((246, 204, 70), (252, 228, 140), (216, 160, 40)),  # yellow
    ((244, 240, 230), (252, 250, 246), (204, 196, 182)),  # white
)
MALLARD = ((168, 160, 150), (214, 206, 194), (112, 98, 86))
BREAST = (120, 72, 46)
IRISES = ((150, 190, 80), (214, 178, 60), (96, 158, 190), (196, 130, 50))
BILLS = ((240, 140, 36), (228, 116, 40), (232, 172, 52), (120, 118, 78))
COLLARS = ((200, 48, 52), (46, 96, 190), (40, 140, 96), (226, 170, 40), (150, 70, 160))


@dataclass
class Drawing:
    """The shapes of an animal from back to front, and its keypoints by name."""

    shapes: list = field(default_factory=list)  # (points (P, 2), color, outlined)
    keypoints: dict = field(default_factory=dict)  # name -> (x, y), only those that are visible

    def paint(self, points, color, outlined=False):
        self.shapes.append((points, color, outlined))


@lru_cache
def circle(count):
    angles = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def ellipse(x, y, radius_x, radius_y, tilt=0.0, count=20):
    """Points (count, 2) on an ellipse, turned by `tilt` radians."""
    points = circle(count) * (radius_x, radius_y)
    if tilt:
        cos, sin = np.cos(tilt), np.sin(tilt)
        points = points @ np.array([[cos, sin], [-sin, cos]])
    return points + (x, y)


@lru_cache
def _spline_weights(count, closed, steps=6):
    """Matrix (samples, count) from control points to points on the Catmull-Rom spline through them."""
    segments = count if closed else count - 1
    weights = np.zeros((segments * steps + (not closed), count))
    for row in range(len(weights)):
        segment, t = min(row // steps, segments - 1), row / steps - min(row // steps, segments - 1)
        basis = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
        for offset, weight in zip((-1, 0, 1, 2), basis):
            k = segment + offset
            weights[row, k % count if closed else min(max(k, 0), count - 1)] += weight / 2
    return weights


def blob(*control):
    """A smooth closed outline through the control points, (P, 2)."""
    return _spline_weights(len(control), True) @ np.array(control)


@lru_cache
def _ramp(count):
    return np.linspace(0, 1, count)[:, None]


def stroke(control, width_from, width_to):
    """A limb: a band with round ends along the smooth line through the control points, (P, 2)."""
    line = _spline_weights(len(control), False) @ np.array(control)
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    along /= np.hypot(along[:, :1], along[:, 1:]) + 1e-9
    half = width_from / 2 + (width_to - width_from) / 2 * _ramp(len(line))
    side = along[:, ::-1] * half * (-1, 1)
    end, start = along[-1:] * half[-1], -along[:1] * half[0]
    round_end = line[-1] + 0.87 * end + np.array([[0.5], [-0.5]]) * side[-1]
    round_start = line[0] + 0.87 * start + np.array([[-0.5], [0.5]]) * side[0]
    return np.concatenate([line + side, round_end, (line - side)[::-1], round_start])


def band(start, end, width_from, width_to):
    """A straight thin line as a shape with four corners, (4, 2)."""
    (x1, y1), (x2, y2) = start, end
    length = np.hypot(x2 - x1, y2 - y1) + 1e-9
    nx, ny = -(y2 - y1) / length / 2, (x2 - x1) / length / 2
    a, b = width_from, width_to
    return np.array(
        [(x1 + nx * a, y1 + ny * a), (x2 + nx * b, y2 + ny * b), (x2 - nx * b, y2 - ny * b), (x1 - nx * a, y1 - ny * a)]
    )


def shifted(points, x, y):
    return np.asarray(points, float) + (x, y)


def shaded(color, factor):
    return tuple(min(255, int(c * factor)) for c in color)


def random_coat(rng, coats):
    """One of the coats, with its hue and lightness changed a little."""
    change = rng.uniform(-8, 8, 3) + rng.uniform(-18, 18)
    return [tuple(color) for color in np.clip(pick(rng, coats) + change, 12, 255).astype(int).tolist()]


def pick(rng, choices):
    return choices[rng.integers(len(choices))]
