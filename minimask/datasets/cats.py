"""Cats that sit, walk or lie."""

import numpy as np

from minimask.datasets.shapes import (
    COATS,
    INK,
    IRISES,
    PINK,
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


def draw_cat(rng):
    coat, belly, marks = random_coat(rng, COATS)
    return pick(rng, (_sitting_cat, _walking_cat, _walking_cat, _lying_cat))(rng, coat, belly, marks)


def _sitting_cat(rng, coat, belly, marks):
    drawing = Drawing()
    wave = rng.uniform(-0.08, 0.08)
    tail = [(0.66, 0.93), (0.95, 0.96), (1.08, 0.8 + wave), (0.98, 0.6 + wave), (1.1, 0.46 + wave)]
    drawing.paint(stroke(tail, 0.1, 0.075), coat, True)
    fat = rng.uniform(0.9, 1.12)
    body = [(0.5, 0.36), (0.66, 0.5), (0.5 + 0.26 * fat, 0.8), (0.5 + 0.24 * fat, 0.97), (0.5, 1.0)]
    body += [(1 - bx, by) for bx, by in body[3:0:-1]]
    drawing.paint(blob(*body), coat, True)
    if rng.random() < 0.6:
        for y in (0.56, 0.66, 0.76):
            for side in (-1, 1):
                drawing.paint(band((0.5 + side * 0.25 * fat, y), (0.5 + side * 0.12, y + 0.04), 0.045, 0.02), marks)
    drawing.paint(ellipse(0.5, 0.66, 0.1, 0.15), belly)
    for side, name in ((-1, "right_foot"), (1, "left_foot")):
        drawing.paint(stroke([(0.5 + side * 0.09, 0.64), (0.5 + side * 0.08, 0.95)], 0.11, 0.1), coat, True)
        drawing.paint(ellipse(0.5 + side * 0.095, 0.965, 0.075, 0.045, count=14), belly, True)
        drawing.keypoints[name] = (0.5 + side * 0.095, 0.965)
    turn = rng.uniform(-0.25, 0.25)
    _cat_head(drawing, rng, 0.5 + 0.1 * turn, 0.29, rng.uniform(0.2, 0.245), coat, belly, marks, turn)
    drawing.keypoints |= {"chest": (0.5, 0.6), "back": (0.5 + 0.2 * fat, 0.68), "tail": tail[-1]}
    return drawing


def _walking_cat(rng, coat, belly, marks):
    drawing = Drawing()
    sway, lift = rng.uniform(-0.08, 0.08), rng.uniform(-0.06, 0.06)
    tail = [(0.1, 0.52), (-0.06, 0.42), (-0.1 + sway, 0.16 + lift), (0.02 + sway, -0.04 + lift), (0.1 + sway, 0.02)]
    drawing.paint(stroke(tail, 0.09, 0.06), coat, True)
    step = rng.uniform(-0.09, 0.09)
    far = shaded(coat, 0.78)
    feet = {}
    for hip, swing in ((0.2, -step), (0.74, step)):
        feet[hip] = (hip + swing, 0.97)
        drawing.paint(stroke([(hip, 0.6), (hip + swing * 0.5 - 0.02, 0.8), feet[hip]], 0.13, 0.075), far, True)
    drawing.keypoints["left_foot"] = feet[0.74]
    body = [(0.06, 0.5), (0.2, 0.4), (0.5, 0.43), (0.76, 0.38), (0.9, 0.46), (0.84, 0.66), (0.5, 0.7), (0.16, 0.72)]
    drawing.paint(blob(*body), coat, True)
    drawing.paint(ellipse(0.5, 0.66, 0.28, 0.05), belly)
    if rng.random() < 0.6:
        for x in (0.2, 0.32, 0.44, 0.56, 0.68):
            drawing.paint(band((x, 0.425), (x + 0.03, 0.58), 0.05, 0.015), marks)
    for hip, swing in ((0.15, step), (0.8, -step)):
        foot = (hip + swing, 1.0)
        drawing.paint(stroke([(hip, 0.58), (hip + swing * 0.5 - 0.02, 0.8), foot], 0.16, 0.08), coat, True)
        drawing.paint(ellipse(foot[0] + 0.025, 0.995, 0.06, 0.035, count=12), belly)
    drawing.keypoints["right_foot"] = foot
    up = rng.uniform(-0.1, 0.06)
    _cat_head(drawing, rng, 0.93, 0.33 + up, rng.uniform(0.18, 0.215), coat, belly, marks, rng.uniform(0, 0.3))
    drawing.keypoints |= {"chest": (0.88, 0.54), "back": (0.45, 0.44), "tail": tail[-1]}
    return drawing


def _lying_cat(rng, coat, belly, marks):
    drawing = Drawing()
    body = [(0.02, 0.66), (0.16, 0.42), (0.45, 0.34), (0.74, 0.44), (0.86, 0.7), (0.74, 0.84), (0.3, 0.86)]
    body += [(0.06, 0.82)]
    drawing.paint(blob(*body), coat, True)
    if rng.random() < 0.6:
        for x in (0.2, 0.32, 0.44, 0.56):
            drawing.paint(band((x, 0.4 + abs(x - 0.42) * 0.3), (x + 0.01, 0.6), 0.05, 0.015), marks)
    tail = [(0.05, 0.76), (0.1, 0.9), (0.4, 0.93), (0.6, 0.88 + rng.uniform(-0.03, 0.03))]
    drawing.paint(stroke(tail, 0.1, 0.075), coat, True)
    for x, name in ((0.72, "right_foot"), (0.92, "left_foot")):
        drawing.paint(ellipse(x, 0.85, 0.1, 0.055, count=14), belly, True)
        drawing.keypoints[name] = (x, 0.85)
    _cat_head(drawing, rng, 0.82, 0.5, rng.uniform(0.2, 0.235), coat, belly, marks, rng.uniform(-0.1, 0.25))
    drawing.keypoints |= {"chest": (0.78, 0.74), "back": (0.42, 0.37), "tail": tail[-1]}
    return drawing


def _cat_head(drawing, rng, x, y, size, coat, belly, marks, turn):
    """A round head with pointed ears, slit eyes and whiskers.

    turn: how far it looks to the right, about -0.3 to 0.3.
    """
    s, iris = size, pick(rng, IRISES)
    striped = rng.random() < 0.55
    for side in (-1, 1):
        ear = [(side * 0.92, -0.12), (side * (0.86 + 0.1 * turn), -1.28), (side * 0.12, -0.66)]
        drawing.paint(shifted(s * np.array(ear), x, y), coat, True)
        inner = [(side * 0.74, -0.42), (side * (0.77 + 0.1 * turn), -1.0), (side * 0.38, -0.62)]
        drawing.paint(shifted(s * np.array(inner), x, y), PINK)
    drawing.paint(ellipse(x, y, s, 0.82 * s, count=24), coat, True)
    if striped:
        for offset in (-0.26, 0, 0.26):
            stripe = [(offset, -0.78), (offset * 0.9 + 0.05, -0.45), (offset * 0.8, -0.42), (offset - 0.09, -0.78)]
            drawing.paint(shifted(s * np.array(stripe), x, y), marks)
    middle = x + turn * s
    drawing.paint(ellipse(middle - 0.2 * s, y + 0.36 * s, 0.3 * s, 0.25 * s, count=14), belly)
    drawing.paint(ellipse(middle + 0.2 * s, y + 0.36 * s, 0.3 * s, 0.25 * s, count=14), belly)
    for side, name in ((-1, "right_eye"), (1, "left_eye")):
        eye_x, eye_y = middle + side * 0.42 * s, y - 0.08 * s
        drawing.paint(ellipse(eye_x, eye_y, 0.24 * s, 0.21 * s, side * -0.25, 14), INK)
        drawing.paint(ellipse(eye_x, eye_y, 0.2 * s, 0.17 * s, side * -0.25, 14), iris)
        drawing.paint(ellipse(eye_x, eye_y, 0.07 * s, 0.17 * s, count=10), INK)
        drawing.keypoints[name] = (eye_x, eye_y)
    nose = [(-0.12, 0.14), (0.12, 0.14), (0, 0.3)]
    drawing.paint(shifted(s * np.array(nose), middle, y), (206, 104, 110))
    drawing.paint(stroke([(middle, y + 0.28 * s), (middle, y + 0.44 * s)], 0.06 * s, 0.04 * s), INK)
    drawing.keypoints["nose"] = (middle, y + 0.2 * s)
    whisker = WHITE if sum(belly) < 520 else shaded(marks, 0.6)
    for side in (-1, 1):
        for rise in (-0.16, 0.04, 0.24):
            start, end = (middle + side * 0.34 * s, y + 0.36 * s), (x + side * 1.42 * s, y + (0.36 + 1.1 * rise) * s)
            drawing.paint(band(start, end, 0.05 * s, 0.03 * s), whisker)
