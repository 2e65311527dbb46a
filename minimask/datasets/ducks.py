"""Ducks that stand or swim, with wings folded or raised."""

import numpy as np

from minimask.datasets.shapes import (
    BILLS,
    BREAST,
    COATS,
    INK,
    MALLARD,
    PLUMAGE,
    WHITE,
    Drawing,
    band,
    blob,
    ellipse,
    pick,
    random_coat,
    shaded,
    shifted,
    stroke,
)


def draw_duck(rng):
    drawing, bill = Drawing(), pick(rng, BILLS[:3] if rng.random() < 0.8 else BILLS)
    mallard = rng.random() < 0.25
    coat, belly, marks = random_coat(rng, (MALLARD,) if mallard else PLUMAGE if rng.random() < 0.45 else COATS)
    standing, young = rng.random() < 0.65, rng.uniform(0, 1)
    if standing:
        step = rng.uniform(-0.05, 0.05)
        for hip, name, shade in ((0.5 + step, "left_foot", 0.8), (0.4 - step, "right_foot", 1.0)):
            _webbed_foot(drawing, hip, shaded(bill, shade))
            drawing.keypoints[name] = (hip + 0.04, 0.99)
    lift = rng.uniform(-0.06, 0.04)
    tail = (-0.06, 0.4 + lift)
    body = [tail, (0.12, 0.5), (0.36, 0.46), (0.62, 0.44), (0.8, 0.56), (0.76, 0.74), (0.52, 0.86)]
    body += [(0.22, 0.8), (0.03, 0.62)]
    drawing.paint(blob(*body), coat, True)
    drawing.paint(ellipse(0.5, 0.77, 0.24, 0.07, -0.05), belly)
    head_x, head_y = 0.74 + rng.uniform(-0.04, 0.06), 0.16 + 0.08 * young + rng.uniform(-0.05, 0.04)
    size = 0.135 + 0.045 * young
    head = (44, 110, 72) if mallard else coat
    drawing.paint(stroke([(0.66, 0.6), (0.71, 0.42), (head_x, head_y)], 0.28, 0.2 + 0.06 * young), head, True)
    if mallard:
        drawing.paint(blob((0.58, 0.5), (0.7, 0.47), (0.83, 0.47), (0.81, 0.62), (0.72, 0.76), (0.58, 0.7)), BREAST)
        drawing.paint(stroke([(0.59, 0.43), (0.7, 0.46), (0.84, 0.42)], 0.045, 0.045), WHITE)
    else:
        drawing.paint(blob((0.5, 0.52), (0.6, 0.47), (0.78, 0.5), (0.78, 0.66), (0.6, 0.72)), coat)
    _wing(drawing, rng, shaded(marks, 1.0), shaded(marks, 0.72))
    _duck_head(drawing, head_x, head_y, size, head, bill)
    drawing.keypoints |= {"chest": (0.77, 0.62), "back": (0.34, 0.47), "tail": tail}
    return drawing


def _webbed_foot(drawing, hip, color):
    drawing.paint(band((hip, 0.8), (hip, 0.97), 0.05, 0.045), color, True)
    foot = [
        (hip - 0.05, 0.96),
        (hip + 0.06, 0.94),
        (hip + 0.17, 0.985),
        (hip + 0.12, 0.995),
        (hip + 0.12, 1.02),
        (hip + 0.06, 1.005),
        (hip + 0.02, 1.03),
        (hip - 0.02, 1.0),
    ]
    drawing.paint(np.array(foot), color, True)


def _wing(drawing, rng, color, dark):
    """A wing, folded along the side or raised. Darker lines are the tips of feathers."""
    if rng.random() < 0.25:
        wing = [(0.56, 0.56), (0.44, 0.3), (0.16, 0.02), (0.08, 0.16), (0.02, 0.2), (0.06, 0.3)]
        wing += [(0.1, 0.42), (0.34, 0.64)]
        tips = [((0.44, 0.46), (0.16, 0.12)), ((0.42, 0.52), (0.1, 0.24)), ((0.4, 0.56), (0.12, 0.36))]
    else:
        wing = [(0.6, 0.56), (0.5, 0.5), (0.26, 0.53), (0.04, 0.52), (0.12, 0.62), (0.18, 0.68)]
        wing += [(0.3, 0.74), (0.5, 0.7)]
        tips = [((0.5, 0.56), (0.12, 0.56)), ((0.5, 0.61), (0.16, 0.63)), ((0.48, 0.66), (0.24, 0.69))]
    drawing.paint(blob(*wing), color, True)
    for start, end in tips:
        drawing.paint(band(start, end, 0.012, 0.03), dark)


def _duck_head(drawing, x, y, s, color, bill):
    """A round head with a flat bill that is broad at its end and a little open."""
    lower = [(0.7, 0.3), (1.5, 0.42), (1.9, 0.5), (1.86, 0.62), (1.3, 0.66), (0.6, 0.62)]
    drawing.paint(blob(*shifted(s * np.array(lower), x, y)), shaded(bill, 0.8), True)
    upper = [(0.6, -0.16), (1.1, 0.06), (1.6, 0.14), (2.1, 0.2), (2.12, 0.4), (1.6, 0.46), (0.7, 0.44)]
    drawing.paint(blob(*shifted(s * np.array(upper), x, y)), bill, True)
    drawing.paint(ellipse(x, y, s, 0.95 * s, count=22), color, True)
    drawing.paint(ellipse(x + 1.25 * s, y + 0.14 * s, 0.07 * s, 0.05 * s, count=8), INK)
    drawing.paint(ellipse(x + 0.36 * s, y - 0.2 * s, 0.23 * s, 0.25 * s, count=12), WHITE)
    drawing.paint(ellipse(x + 0.4 * s, y - 0.2 * s, 0.16 * s, 0.18 * s, count=12), INK)
    drawing.paint(ellipse(x + 0.45 * s, y - 0.27 * s, 0.06 * s, 0.06 * s, count=8), WHITE)
    drawing.keypoints["nose"] = (x + 2.08 * s, y + 0.3 * s)
    drawing.keypoints["right_eye"] = (x + 0.38 * s, y - 0.2 * s)
