"""Cats, dogs and ducks as shapes: outlines in animal coordinates (about 1 wide, y down, facing right), painted in
order, with the places of their keypoints. `toy.py` turns, scales and shades them."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

CLASSES = ("cat", "dog", "duck")  # labels 1, 2, 3: the classes of the lecture
KEYPOINTS = ("nose", "left_eye", "right_eye", "chest", "back", "tail", "left_foot", "right_foot")
SKELETON = ((0, 1), (0, 2), (0, 3), (3, 4), (4, 5), (3, 6), (3, 7))  # pairs of KEYPOINTS to join with lines

INK = (38, 30, 32)
WHITE = (250, 248, 242)
PINK = (226, 150, 150)

# main color, belly, marks. Cats, dogs and some ducks share them, so color alone does not give the class.
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
    """Shapes from back to front, and keypoints by name."""

    shapes: list = field(default_factory=list)  # (points (P, 2), color, outlined)
    keypoints: dict = field(default_factory=dict)  # name -> (x, y); those not seen are absent

    def paint(self, points, color, outlined=False):
        self.shapes.append((points, color, outlined))


def draw_animal(label, rng):
    """A Drawing of the class `label` (1 cat, 2 dog, 3 duck) in a random pose, coat and build."""
    return (_cat, _dog, _duck)[label - 1](rng)


# --------------------------------------------------------------------------------- shapes


@lru_cache
def _circle(count):
    angles = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _ellipse(x, y, radius_x, radius_y, tilt=0.0, count=20):
    """Points (count, 2) on an ellipse, turned by `tilt` radians."""
    points = _circle(count) * (radius_x, radius_y)
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


def _blob(*control):
    """A smooth closed outline through the control points."""
    return _spline_weights(len(control), True) @ np.array(control)


@lru_cache
def _ramp(count):
    return np.linspace(0, 1, count)[:, None]


def _stroke(control, width_from, width_to):
    """A limb: a band along the smooth line through the control points, with round ends."""
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


def _shift(points, x, y):
    return np.asarray(points, float) + (x, y)


def _shade(color, factor):
    return tuple(min(255, int(c * factor)) for c in color)


def _coat(rng, coats):
    """One of the coats with its hue and lightness a little changed."""
    change = rng.uniform(-8, 8, 3) + rng.uniform(-18, 18)
    return [tuple(color) for color in np.clip(_pick(rng, coats) + change, 12, 255).astype(int).tolist()]


def _pick(rng, choices):
    return choices[rng.integers(len(choices))]


# --------------------------------------------------------------------------------- cat


def _cat(rng):
    coat, belly, marks = _coat(rng, COATS)
    return _pick(rng, (_sitting_cat, _walking_cat, _walking_cat, _lying_cat))(rng, coat, belly, marks)


def _cat_head(drawing, rng, x, y, size, coat, belly, marks, turn):
    """Round head with pointed ears, slit eyes, whiskers. turn: how far it looks to the right, about -0.3 to 0.3."""
    s, iris = size, _pick(rng, IRISES)
    striped = rng.random() < 0.55
    for side in (-1, 1):
        ear = [(side * 0.92, -0.12), (side * (0.86 + 0.1 * turn), -1.28), (side * 0.12, -0.66)]
        drawing.paint(_shift(s * np.array(ear), x, y), coat, True)
        inner = [(side * 0.74, -0.42), (side * (0.77 + 0.1 * turn), -1.0), (side * 0.38, -0.62)]
        drawing.paint(_shift(s * np.array(inner), x, y), PINK)
    drawing.paint(_ellipse(x, y, s, 0.82 * s, count=24), coat, True)
    if striped:
        for offset in (-0.26, 0, 0.26):
            stripe = [(offset, -0.78), (offset * 0.9 + 0.05, -0.45), (offset * 0.8, -0.42), (offset - 0.09, -0.78)]
            drawing.paint(_shift(s * np.array(stripe), x, y), marks)
    middle = x + turn * s
    drawing.paint(_ellipse(middle - 0.2 * s, y + 0.36 * s, 0.3 * s, 0.25 * s, count=14), belly)
    drawing.paint(_ellipse(middle + 0.2 * s, y + 0.36 * s, 0.3 * s, 0.25 * s, count=14), belly)
    for side, name in ((-1, "right_eye"), (1, "left_eye")):
        eye_x, eye_y = middle + side * 0.42 * s, y - 0.08 * s
        drawing.paint(_ellipse(eye_x, eye_y, 0.24 * s, 0.21 * s, side * -0.25, 14), INK)
        drawing.paint(_ellipse(eye_x, eye_y, 0.2 * s, 0.17 * s, side * -0.25, 14), iris)
        drawing.paint(_ellipse(eye_x, eye_y, 0.07 * s, 0.17 * s, count=10), INK)
        drawing.keypoints[name] = (eye_x, eye_y)
    nose = [(-0.12, 0.14), (0.12, 0.14), (0, 0.3)]
    drawing.paint(_shift(s * np.array(nose), middle, y), (206, 104, 110))
    drawing.paint(_stroke([(middle, y + 0.28 * s), (middle, y + 0.44 * s)], 0.06 * s, 0.04 * s), INK)
    drawing.keypoints["nose"] = (middle, y + 0.2 * s)
    whisker = WHITE if sum(belly) < 520 else _shade(marks, 0.6)
    for side in (-1, 1):
        for rise in (-0.16, 0.04, 0.24):
            start, end = (middle + side * 0.34 * s, y + 0.36 * s), (x + side * 1.42 * s, y + (0.36 + 1.1 * rise) * s)
            drawing.paint(_band(start, end, 0.05 * s, 0.03 * s), whisker)


def _band(start, end, width_from, width_to):
    """A straight thin line as a four-cornered shape."""
    (x1, y1), (x2, y2) = start, end
    length = np.hypot(x2 - x1, y2 - y1) + 1e-9
    nx, ny = -(y2 - y1) / length / 2, (x2 - x1) / length / 2
    a, b = width_from, width_to
    return np.array([(x1 + nx * a, y1 + ny * a), (x2 + nx * b, y2 + ny * b),
                     (x2 - nx * b, y2 - ny * b), (x1 - nx * a, y1 - ny * a)])  # fmt: skip


def _sitting_cat(rng, coat, belly, marks):
    drawing = Drawing()
    wave = rng.uniform(-0.08, 0.08)
    tail = [(0.66, 0.93), (0.95, 0.96), (1.08, 0.8 + wave), (0.98, 0.6 + wave), (1.1, 0.46 + wave)]
    drawing.paint(_stroke(tail, 0.1, 0.075), coat, True)
    fat = rng.uniform(0.9, 1.12)
    body = [(0.5, 0.36), (0.66, 0.5), (0.5 + 0.26 * fat, 0.8), (0.5 + 0.24 * fat, 0.97), (0.5, 1.0)]
    body += [(1 - bx, by) for bx, by in body[3:0:-1]]
    drawing.paint(_blob(*body), coat, True)
    if rng.random() < 0.6:
        for y in (0.56, 0.66, 0.76):
            for side in (-1, 1):
                drawing.paint(_band((0.5 + side * 0.25 * fat, y), (0.5 + side * 0.12, y + 0.04), 0.045, 0.02), marks)
    drawing.paint(_ellipse(0.5, 0.66, 0.1, 0.15), belly)
    for side, name in ((-1, "right_foot"), (1, "left_foot")):
        drawing.paint(_stroke([(0.5 + side * 0.09, 0.64), (0.5 + side * 0.08, 0.95)], 0.11, 0.1), coat, True)
        drawing.paint(_ellipse(0.5 + side * 0.095, 0.965, 0.075, 0.045, count=14), belly, True)
        drawing.keypoints[name] = (0.5 + side * 0.095, 0.965)
    turn = rng.uniform(-0.25, 0.25)
    _cat_head(drawing, rng, 0.5 + 0.1 * turn, 0.29, rng.uniform(0.2, 0.245), coat, belly, marks, turn)
    drawing.keypoints |= {"chest": (0.5, 0.6), "back": (0.5 + 0.2 * fat, 0.68), "tail": tail[-1]}
    return drawing


def _walking_cat(rng, coat, belly, marks):
    drawing = Drawing()
    sway, lift = rng.uniform(-0.08, 0.08), rng.uniform(-0.06, 0.06)
    tail = [(0.1, 0.52), (-0.06, 0.42), (-0.1 + sway, 0.16 + lift), (0.02 + sway, -0.04 + lift), (0.1 + sway, 0.02)]
    drawing.paint(_stroke(tail, 0.09, 0.06), coat, True)
    step = rng.uniform(-0.09, 0.09)
    far = _shade(coat, 0.78)
    feet = {}
    for hip, swing in ((0.2, -step), (0.74, step)):
        feet[hip] = (hip + swing, 0.97)
        drawing.paint(_stroke([(hip, 0.6), (hip + swing * 0.5 - 0.02, 0.8), feet[hip]], 0.13, 0.075), far, True)
    drawing.keypoints["left_foot"] = feet[0.74]
    body = [(0.06, 0.5), (0.2, 0.4), (0.5, 0.43), (0.76, 0.38), (0.9, 0.46), (0.84, 0.66), (0.5, 0.7), (0.16, 0.72)]
    drawing.paint(_blob(*body), coat, True)
    drawing.paint(_ellipse(0.5, 0.66, 0.28, 0.05), belly)
    if rng.random() < 0.6:
        for x in (0.2, 0.32, 0.44, 0.56, 0.68):
            drawing.paint(_band((x, 0.425), (x + 0.03, 0.58), 0.05, 0.015), marks)
    for hip, swing in ((0.15, step), (0.8, -step)):
        foot = (hip + swing, 1.0)
        drawing.paint(_stroke([(hip, 0.58), (hip + swing * 0.5 - 0.02, 0.8), foot], 0.16, 0.08), coat, True)
        drawing.paint(_ellipse(foot[0] + 0.025, 0.995, 0.06, 0.035, count=12), belly)
    drawing.keypoints["right_foot"] = foot
    up = rng.uniform(-0.1, 0.06)
    _cat_head(drawing, rng, 0.93, 0.33 + up, rng.uniform(0.18, 0.215), coat, belly, marks, rng.uniform(0, 0.3))
    drawing.keypoints |= {"chest": (0.88, 0.54), "back": (0.45, 0.44), "tail": tail[-1]}
    return drawing


def _lying_cat(rng, coat, belly, marks):
    drawing = Drawing()
    body = [(0.02, 0.66), (0.16, 0.42), (0.45, 0.34), (0.74, 0.44), (0.86, 0.7), (0.74, 0.84), (0.3, 0.86)]
    body += [(0.06, 0.82)]
    drawing.paint(_blob(*body), coat, True)
    if rng.random() < 0.6:
        for x in (0.2, 0.32, 0.44, 0.56):
            drawing.paint(_band((x, 0.4 + abs(x - 0.42) * 0.3), (x + 0.01, 0.6), 0.05, 0.015), marks)
    tail = [(0.05, 0.76), (0.1, 0.9), (0.4, 0.93), (0.6, 0.88 + rng.uniform(-0.03, 0.03))]
    drawing.paint(_stroke(tail, 0.1, 0.075), coat, True)
    for x, name in ((0.72, "right_foot"), (0.92, "left_foot")):
        drawing.paint(_ellipse(x, 0.85, 0.1, 0.055, count=14), belly, True)
        drawing.keypoints[name] = (x, 0.85)
    _cat_head(drawing, rng, 0.82, 0.5, rng.uniform(0.2, 0.235), coat, belly, marks, rng.uniform(-0.1, 0.25))
    drawing.keypoints |= {"chest": (0.78, 0.74), "back": (0.42, 0.37), "tail": tail[-1]}
    return drawing


# --------------------------------------------------------------------------------- dog


def _dog(rng):
    coat, belly, marks = _coat(rng, COATS)
    return _pick(rng, (_sitting_dog, _standing_dog, _standing_dog))(rng, coat, belly, marks)


def _sitting_dog(rng, coat, belly, marks):
    drawing = Drawing()
    wag = rng.uniform(-0.1, 0.1)
    tail = [(0.7, 0.92), (0.9, 0.84), (1.0 + wag * 0.5, 0.68 + wag)]
    drawing.paint(_stroke(tail, 0.11, 0.05), coat, True)
    fat = rng.uniform(0.92, 1.1)
    body = [(0.5, 0.34), (0.7, 0.48), (0.5 + 0.27 * fat, 0.78), (0.5 + 0.28 * fat, 0.97), (0.5, 1.0)]
    body += [(1 - bx, by) for bx, by in body[3:0:-1]]
    drawing.paint(_blob(*body), coat, True)
    drawing.paint(_ellipse(0.5, 0.68, 0.13, 0.19), belly)
    for side, name in ((-1, "right_foot"), (1, "left_foot")):
        drawing.paint(_stroke([(0.5 + side * 0.12, 0.62), (0.5 + side * 0.11, 0.94)], 0.14, 0.125), coat, True)
        drawing.paint(_ellipse(0.5 + side * 0.125, 0.96, 0.095, 0.052, count=14), belly, True)
        drawing.keypoints[name] = (0.5 + side * 0.125, 0.96)
    turn, s = rng.uniform(-0.2, 0.2), rng.uniform(0.2, 0.235)
    if rng.random() < 0.6:
        drawing.paint(_stroke([(0.36, 0.46), (0.5, 0.52), (0.64, 0.46)], 0.06, 0.06), _pick(rng, COLLARS), True)
    _dog_face(drawing, rng, 0.5 + 0.1 * turn, 0.27, s, coat, belly, marks, turn)
    drawing.keypoints |= {"chest": (0.5, 0.6), "back": (0.5 + 0.21 * fat, 0.66), "tail": tail[-1]}
    return drawing


def _dog_face(drawing, rng, x, y, size, coat, belly, marks, turn):
    """Head seen from the front: ears hang down at the sides, a broad muzzle with a large nose, a tongue."""
    s, middle = size, x + turn * size
    head = [(0, -0.95), (0.72, -0.72), (0.86, 0), (0.5, 0.72), (0, 0.95), (-0.5, 0.72), (-0.86, 0), (-0.72, -0.72)]
    drawing.paint(_blob(*_shift(s * np.array(head), x, y)), coat, True)
    if rng.random() < 0.4:
        drawing.paint(_ellipse(middle + 0.38 * s, y - 0.2 * s, 0.3 * s, 0.36 * s, count=14), marks)
    else:
        drawing.paint(_ellipse(middle, y - 0.35 * s, 0.14 * s, 0.5 * s, count=14), belly)
    drop, spread = rng.uniform(0.5, 0.95), rng.uniform(1.1, 1.3)
    for side in (-1, 1):
        ear = [(0.42, -0.86), (0.9, -0.8), (spread, -0.2), (spread - 0.06, drop), (0.9, drop + 0.06), (0.74, -0.1)]
        drawing.paint(_blob(*[(x + side * s * ex, y + s * ey) for ex, ey in ear]), marks, True)
    if rng.random() < 0.6:
        drawing.paint(_ellipse(middle, y + 0.98 * s, 0.17 * s, 0.28 * s, count=14), (222, 96, 110), True)
    drawing.paint(_ellipse(middle, y + 0.5 * s, 0.52 * s, 0.42 * s), belly, True)
    drawing.paint(_stroke([(middle, y + 0.4 * s), (middle, y + 0.76 * s)], 0.07 * s, 0.05 * s), INK)
    drawing.paint(_ellipse(middle, y + 0.3 * s, 0.25 * s, 0.18 * s, count=16), INK)
    drawing.paint(_ellipse(middle - 0.08 * s, y + 0.24 * s, 0.06 * s, 0.04 * s, count=8), (150, 146, 150))
    drawing.keypoints["nose"] = (middle, y + 0.3 * s)
    for side, name in ((-1, "right_eye"), (1, "left_eye")):
        eye_x, eye_y = middle + side * 0.38 * s, y - 0.2 * s
        drawing.paint(_ellipse(eye_x, eye_y, 0.17 * s, 0.19 * s, count=12), WHITE)
        drawing.paint(_ellipse(eye_x, eye_y + 0.02 * s, 0.14 * s, 0.16 * s, count=12), INK)
        drawing.paint(_ellipse(eye_x + 0.04 * s, eye_y - 0.05 * s, 0.05 * s, 0.05 * s, count=8), WHITE)
        drawing.keypoints[name] = (eye_x, eye_y)


def _standing_dog(rng, coat, belly, marks):
    drawing = Drawing()
    wag, step = rng.uniform(-0.1, 0.12), rng.uniform(-0.07, 0.07)
    tail = [(0.1, 0.42), (-0.02, 0.32), (-0.1 + wag, 0.12), (-0.06 + wag, -0.02)]
    drawing.paint(_stroke(tail, 0.1, 0.04), coat, True)
    far = _shade(coat, 0.76)
    for hip, swing in ((0.2, -step), (0.68, step)):
        foot = (hip + 0.04 + swing, 0.97)
        drawing.paint(_stroke([(hip, 0.6), (hip + swing * 0.5, 0.8), foot], 0.16, 0.1), far, True)
    drawing.keypoints["left_foot"] = foot
    body = [(0.04, 0.46), (0.2, 0.37), (0.5, 0.39), (0.74, 0.34), (0.88, 0.46), (0.84, 0.7), (0.6, 0.72)]
    body += [(0.36, 0.64), (0.14, 0.68)]
    drawing.paint(_blob(*body), coat, True)
    drawing.paint(_ellipse(0.56, 0.66, 0.24, 0.05, -0.1), belly)
    if rng.random() < 0.5:
        drawing.paint(_blob((0.24, 0.4), (0.44, 0.42), (0.5, 0.54), (0.34, 0.6), (0.22, 0.52)), marks)
    for hip, swing in ((0.14, step), (0.76, -step)):
        foot = (hip + 0.03 + swing, 0.99)
        drawing.paint(_stroke([(hip, 0.58), (hip + swing * 0.5 - 0.01, 0.8), foot], 0.2, 0.105), coat, True)
        drawing.paint(_ellipse(foot[0] + 0.035, 0.985, 0.08, 0.042, count=12), belly)
    drawing.keypoints["right_foot"] = foot
    x, y = 0.95 + rng.uniform(-0.02, 0.03), 0.2 + rng.uniform(-0.08, 0.08)
    drawing.paint(_stroke([(0.78, 0.5), (0.86, 0.38), (x, y + 0.04)], 0.3, 0.22), coat, False)
    if rng.random() < 0.7:
        collar = [(0.74, 0.3 + 0.3 * (y - 0.2)), (0.86, 0.38), (0.98, 0.4 + 0.3 * (y - 0.2))]
        drawing.paint(_stroke(collar, 0.055, 0.055), _pick(rng, COLLARS), True)
    if rng.random() < 0.35:
        _dog_face(drawing, rng, x, y, rng.uniform(0.18, 0.21), coat, belly, marks, rng.uniform(0, 0.2))
    else:
        _dog_profile(drawing, rng, x, y, rng.uniform(0.165, 0.195), coat, belly, marks)
    drawing.keypoints |= {"chest": (0.86, 0.56), "back": (0.45, 0.4), "tail": tail[-1]}
    return drawing


def _dog_profile(drawing, rng, x, y, size, coat, belly, marks):
    """Head seen from the side: a long snout with the nose at its end, one hanging ear, an open mouth."""
    s, long = size, rng.uniform(1.5, 1.95)
    jaw = [(0.3, 0.55), (long - 0.35, 0.62), (long - 0.3, 0.82), (0.35, 0.92)]
    drawing.paint(_blob(*_shift(s * np.array(jaw), x, y)), _shade(belly, 0.9), True)
    if rng.random() < 0.6:
        tongue = [(0.8, 0.6), (long - 0.35, 0.62), (long - 0.4, 1.15), (long - 0.62, 1.12)]
        drawing.paint(_blob(*_shift(s * np.array(tongue), x, y)), (222, 96, 110))
    head = [(-0.85, 0.1), (-0.6, -0.7), (0.1, -0.9), (0.65, -0.45), (long - 0.2, -0.12), (long, 0.2)]
    head += [(long - 0.15, 0.55), (0.6, 0.7), (-0.2, 0.85)]
    drawing.paint(_blob(*_shift(s * np.array(head), x, y)), coat, True)
    muzzle = [(0.75, 0.0), (long - 0.2, 0.0), (long - 0.05, 0.25), (long - 0.2, 0.5), (0.7, 0.62)]
    drawing.paint(_blob(*_shift(s * np.array(muzzle), x, y)), belly)
    drawing.paint(_ellipse(x + (long - 0.03) * s, y + 0.02 * s, 0.22 * s, 0.19 * s, count=14), INK)
    eye_x, eye_y = x + 0.4 * s, y - 0.25 * s
    drawing.paint(_ellipse(eye_x, eye_y, 0.17 * s, 0.18 * s, count=12), WHITE)
    drawing.paint(_ellipse(eye_x + 0.02 * s, eye_y, 0.14 * s, 0.15 * s, count=12), INK)
    drop = rng.uniform(0.8, 1.2)
    ear = [(-0.05, -0.78), (0.12, -0.3), (0.05, drop - 0.15), (-0.3, drop), (-0.62, drop - 0.35), (-0.6, -0.35)]
    drawing.paint(_blob(*_shift(s * np.array(ear), x, y)), marks, True)
    drawing.keypoints["nose"] = (x + long * s, y + 0.02 * s)
    drawing.keypoints["right_eye"] = (eye_x, eye_y)  # facing right shows the right side


# --------------------------------------------------------------------------------- duck


def _duck(rng):
    drawing, bill = Drawing(), _pick(rng, BILLS[:3] if rng.random() < 0.8 else BILLS)
    mallard = rng.random() < 0.25
    coat, belly, marks = _coat(rng, (MALLARD,) if mallard else PLUMAGE if rng.random() < 0.45 else COATS)
    standing, young = rng.random() < 0.65, rng.uniform(0, 1)
    if standing:
        step = rng.uniform(-0.05, 0.05)
        for hip, name, shade in ((0.5 + step, "left_foot", 0.8), (0.4 - step, "right_foot", 1.0)):
            _webbed_foot(drawing, hip, _shade(bill, shade))
            drawing.keypoints[name] = (hip + 0.04, 0.99)
    lift = rng.uniform(-0.06, 0.04)
    tail = (-0.06, 0.4 + lift)
    body = [tail, (0.12, 0.5), (0.36, 0.46), (0.62, 0.44), (0.8, 0.56), (0.76, 0.74), (0.52, 0.86)]
    body += [(0.22, 0.8), (0.03, 0.62)]
    drawing.paint(_blob(*body), coat, True)
    drawing.paint(_ellipse(0.5, 0.77, 0.24, 0.07, -0.05), belly)
    head_x, head_y = 0.74 + rng.uniform(-0.04, 0.06), 0.16 + 0.08 * young + rng.uniform(-0.05, 0.04)
    size = 0.135 + 0.045 * young
    head = (44, 110, 72) if mallard else coat
    drawing.paint(_stroke([(0.66, 0.6), (0.71, 0.42), (head_x, head_y)], 0.28, 0.2 + 0.06 * young), head, True)
    if mallard:
        drawing.paint(_blob((0.58, 0.5), (0.7, 0.47), (0.83, 0.47), (0.81, 0.62), (0.72, 0.76), (0.58, 0.7)), BREAST)
        drawing.paint(_stroke([(0.59, 0.43), (0.7, 0.46), (0.84, 0.42)], 0.045, 0.045), WHITE)
    else:
        drawing.paint(_blob((0.5, 0.52), (0.6, 0.47), (0.78, 0.5), (0.78, 0.66), (0.6, 0.72)), coat)
    _wing(drawing, rng, _shade(marks, 1.0), _shade(marks, 0.72))
    _duck_head(drawing, head_x, head_y, size, head, bill)
    drawing.keypoints |= {"chest": (0.77, 0.62), "back": (0.34, 0.47), "tail": tail}
    return drawing


def _webbed_foot(drawing, hip, color):
    drawing.paint(_band((hip, 0.8), (hip, 0.97), 0.05, 0.045), color, True)
    foot = [(hip - 0.05, 0.96), (hip + 0.06, 0.94), (hip + 0.17, 0.985), (hip + 0.12, 0.995), (hip + 0.12, 1.02),
            (hip + 0.06, 1.005), (hip + 0.02, 1.03), (hip - 0.02, 1.0)]  # fmt: skip
    drawing.paint(np.array(foot), color, True)


def _wing(drawing, rng, color, dark):
    """Folded along the side, or raised; feather tips are drawn as darker lines."""
    if rng.random() < 0.25:
        wing = [(0.56, 0.56), (0.44, 0.3), (0.16, 0.02), (0.08, 0.16), (0.02, 0.2), (0.06, 0.3)]
        wing += [(0.1, 0.42), (0.34, 0.64)]
        tips = [((0.44, 0.46), (0.16, 0.12)), ((0.42, 0.52), (0.1, 0.24)), ((0.4, 0.56), (0.12, 0.36))]
    else:
        wing = [(0.6, 0.56), (0.5, 0.5), (0.26, 0.53), (0.04, 0.52), (0.12, 0.62), (0.18, 0.68)]
        wing += [(0.3, 0.74), (0.5, 0.7)]
        tips = [((0.5, 0.56), (0.12, 0.56)), ((0.5, 0.61), (0.16, 0.63)), ((0.48, 0.66), (0.24, 0.69))]
    drawing.paint(_blob(*wing), color, True)
    for start, end in tips:
        drawing.paint(_band(start, end, 0.012, 0.03), dark)


def _duck_head(drawing, x, y, s, color, bill):
    """Round head; the bill is flat, broad at its end, and a little open."""
    lower = [(0.7, 0.3), (1.5, 0.42), (1.9, 0.5), (1.86, 0.62), (1.3, 0.66), (0.6, 0.62)]
    drawing.paint(_blob(*_shift(s * np.array(lower), x, y)), _shade(bill, 0.8), True)
    upper = [(0.6, -0.16), (1.1, 0.06), (1.6, 0.14), (2.1, 0.2), (2.12, 0.4), (1.6, 0.46), (0.7, 0.44)]
    drawing.paint(_blob(*_shift(s * np.array(upper), x, y)), bill, True)
    drawing.paint(_ellipse(x, y, s, 0.95 * s, count=22), color, True)
    drawing.paint(_ellipse(x + 1.25 * s, y + 0.14 * s, 0.07 * s, 0.05 * s, count=8), INK)
    drawing.paint(_ellipse(x + 0.36 * s, y - 0.2 * s, 0.23 * s, 0.25 * s, count=12), WHITE)
    drawing.paint(_ellipse(x + 0.4 * s, y - 0.2 * s, 0.16 * s, 0.18 * s, count=12), INK)
    drawing.paint(_ellipse(x + 0.45 * s, y - 0.27 * s, 0.06 * s, 0.06 * s, count=8), WHITE)
    drawing.keypoints["nose"] = (x + 2.08 * s, y + 0.3 * s)
    drawing.keypoints["right_eye"] = (x + 0.38 * s, y - 0.2 * s)
