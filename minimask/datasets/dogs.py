"""Dogs that sit or stand, with the head seen from the front or from the side."""

import numpy as np

from minimask.datasets.shapes import (
    COATS,
    COLLARS,
    INK,
    WHITE,
    Drawing,
    blob,
    ellipse,
    pick,
    random_coat,
    shaded,
    shifted,
    stroke,
)


def draw_dog(rng):
    coat, belly, marks = random_coat(rng, COATS)
    return pick(rng, (_sitting_dog, _standing_dog, _standing_dog))(rng, coat, belly, marks)


def _sitting_dog(rng, coat, belly, marks):
    drawing = Drawing()
    wag = rng.uniform(-0.1, 0.1)
    tail = [(0.7, 0.92), (0.9, 0.84), (1.0 + wag * 0.5, 0.68 + wag)]
    drawing.paint(stroke(tail, 0.11, 0.05), coat, True)
    fat = rng.uniform(0.92, 1.1)
    body = [(0.5, 0.34), (0.7, 0.48), (0.5 + 0.27 * fat, 0.78), (0.5 + 0.28 * fat, 0.97), (0.5, 1.0)]
    body += [(1 - bx, by) for bx, by in body[3:0:-1]]
    drawing.paint(blob(*body), coat, True)
    drawing.paint(ellipse(0.5, 0.68, 0.13, 0.19), belly)
    for side, name in ((-1, "right_foot"), (1, "left_foot")):
        drawing.paint(stroke([(0.5 + side * 0.12, 0.62), (0.5 + side * 0.11, 0.94)], 0.14, 0.125), coat, True)
        drawing.paint(ellipse(0.5 + side * 0.125, 0.96, 0.095, 0.052, count=14), belly, True)
        drawing.keypoints[name] = (0.5 + side * 0.125, 0.96)
    turn, s = rng.uniform(-0.2, 0.2), rng.uniform(0.2, 0.235)
    if rng.random() < 0.6:
        drawing.paint(stroke([(0.36, 0.46), (0.5, 0.52), (0.64, 0.46)], 0.06, 0.06), pick(rng, COLLARS), True)
    _dog_face(drawing, rng, 0.5 + 0.1 * turn, 0.27, s, coat, belly, marks, turn)
    drawing.keypoints |= {"chest": (0.5, 0.6), "back": (0.5 + 0.21 * fat, 0.66), "tail": tail[-1]}
    return drawing


def _standing_dog(rng, coat, belly, marks):
    drawing = Drawing()
    wag, step = rng.uniform(-0.1, 0.12), rng.uniform(-0.07, 0.07)
    tail = [(0.1, 0.42), (-0.02, 0.32), (-0.1 + wag, 0.12), (-0.06 + wag, -0.02)]
    drawing.paint(stroke(tail, 0.1, 0.04), coat, True)
    far = shaded(coat, 0.76)
    for hip, swing in ((0.2, -step), (0.68, step)):
        foot = (hip + 0.04 + swing, 0.97)
        drawing.paint(stroke([(hip, 0.6), (hip + swing * 0.5, 0.8), foot], 0.16, 0.1), far, True)
    drawing.keypoints["left_foot"] = foot
    body = [(0.04, 0.46), (0.2, 0.37), (0.5, 0.39), (0.74, 0.34), (0.88, 0.46), (0.84, 0.7), (0.6, 0.72)]
    body += [(0.36, 0.64), (0.14, 0.68)]
    drawing.paint(blob(*body), coat, True)
    drawing.paint(ellipse(0.56, 0.66, 0.24, 0.05, -0.1), belly)
    if rng.random() < 0.5:
        drawing.paint(blob((0.24, 0.4), (0.44, 0.42), (0.5, 0.54), (0.34, 0.6), (0.22, 0.52)), marks)
    for hip, swing in ((0.14, step), (0.76, -step)):
        foot = (hip + 0.03 + swing, 0.99)
        drawing.paint(stroke([(hip, 0.58), (hip + swing * 0.5 - 0.01, 0.8), foot], 0.2, 0.105), coat, True)
        drawing.paint(ellipse(foot[0] + 0.035, 0.985, 0.08, 0.042, count=12), belly)
    drawing.keypoints["right_foot"] = foot
    x, y = 0.95 + rng.uniform(-0.02, 0.03), 0.2 + rng.uniform(-0.08, 0.08)
    drawing.paint(stroke([(0.78, 0.5), (0.86, 0.38), (x, y + 0.04)], 0.3, 0.22), coat, False)
    if rng.random() < 0.7:
        collar = [(0.74, 0.3 + 0.3 * (y - 0.2)), (0.86, 0.38), (0.98, 0.4 + 0.3 * (y - 0.2))]
        drawing.paint(stroke(collar, 0.055, 0.055), pick(rng, COLLARS), True)
    if rng.random() < 0.35:
        _dog_face(drawing, rng, x, y, rng.uniform(0.18, 0.21), coat, belly, marks, rng.uniform(0, 0.2))
    else:
        _dog_profile(drawing, rng, x, y, rng.uniform(0.165, 0.195), coat, belly, marks)
    drawing.keypoints |= {"chest": (0.86, 0.56), "back": (0.45, 0.4), "tail": tail[-1]}
    return drawing


def _dog_face(drawing, rng, x, y, size, coat, belly, marks, turn):
    """A head seen from the front: ears that hang down at the sides, a broad muzzle with a large nose, a tongue."""
    s, middle = size, x + turn * size
    head = [(0, -0.95), (0.72, -0.72), (0.86, 0), (0.5, 0.72), (0, 0.95), (-0.5, 0.72), (-0.86, 0), (-0.72, -0.72)]
    drawing.paint(blob(*shifted(s * np.array(head), x, y)), coat, True)
    if rng.random() < 0.4:
        drawing.paint(ellipse(middle + 0.38 * s, y - 0.2 * s, 0.3 * s, 0.36 * s, count=14), marks)
    else:
        drawing.paint(ellipse(middle, y - 0.35 * s, 0.14 * s, 0.5 * s, count=14), belly)
    drop, spread = rng.uniform(0.5, 0.95), rng.uniform(1.1, 1.3)
    for side in (-1, 1):
        ear = [(0.42, -0.86), (0.9, -0.8), (spread, -0.2), (spread - 0.06, drop), (0.9, drop + 0.06), (0.74, -0.1)]
        drawing.paint(blob(*[(x + side * s * ex, y + s * ey) for ex, ey in ear]), marks, True)
    if rng.random() < 0.6:
        drawing.paint(ellipse(middle, y + 0.98 * s, 0.17 * s, 0.28 * s, count=14), (222, 96, 110), True)
    drawing.paint(ellipse(middle, y + 0.5 * s, 0.52 * s, 0.42 * s), belly, True)
    drawing.paint(stroke([(middle, y + 0.4 * s), (middle, y + 0.76 * s)], 0.07 * s, 0.05 * s), INK)
    drawing.paint(ellipse(middle, y + 0.3 * s, 0.25 * s, 0.18 * s, count=16), INK)
    drawing.paint(ellipse(middle - 0.08 * s, y + 0.24 * s, 0.06 * s, 0.04 * s, count=8), (150, 146, 150))
    drawing.keypoints["nose"] = (middle, y + 0.3 * s)
    for side, name in ((-1, "right_eye"), (1, "left_eye")):
        eye_x, eye_y = middle + side * 0.38 * s, y - 0.2 * s
        drawing.paint(ellipse(eye_x, eye_y, 0.17 * s, 0.19 * s, count=12), WHITE)
        drawing.paint(ellipse(eye_x, eye_y + 0.02 * s, 0.14 * s, 0.16 * s, count=12), INK)
        drawing.paint(ellipse(eye_x + 0.04 * s, eye_y - 0.05 * s, 0.05 * s, 0.05 * s, count=8), WHITE)
        drawing.keypoints[name] = (eye_x, eye_y)


def _dog_profile(drawing, rng, x, y, size, coat, belly, marks):
    """A head seen from the side: a long snout with the nose at its end, one hanging ear, an open mouth."""
    s, long = size, rng.uniform(1.5, 1.95)
    jaw = [(0.3, 0.55), (long - 0.35, 0.62), (long - 0.3, 0.82), (0.35, 0.92)]
    drawing.paint(blob(*shifted(s * np.array(jaw), x, y)), shaded(belly, 0.9), True)
    if rng.random() < 0.6:
        tongue = [(0.8, 0.6), (long - 0.35, 0.62), (long - 0.4, 1.15), (long - 0.62, 1.12)]
        drawing.paint(blob(*shifted(s * np.array(tongue), x, y)), (222, 96, 110))
    head = [(-0.85, 0.1), (-0.6, -0.7), (0.1, -0.9), (0.65, -0.45), (long - 0.2, -0.12), (long, 0.2)]
    head += [(long - 0.15, 0.55), (0.6, 0.7), (-0.2, 0.85)]
    drawing.paint(blob(*shifted(s * np.array(head), x, y)), coat, True)
    muzzle = [(0.75, 0.0), (long - 0.2, 0.0), (long - 0.05, 0.25), (long - 0.2, 0.5), (0.7, 0.62)]
    drawing.paint(blob(*shifted(s * np.array(muzzle), x, y)), belly)
    drawing.paint(ellipse(x + (long - 0.03) * s, y + 0.02 * s, 0.22 * s, 0.19 * s, count=14), INK)
    eye_x, eye_y = x + 0.4 * s, y - 0.25 * s
    drawing.paint(ellipse(eye_x, eye_y, 0.17 * s, 0.18 * s, count=12), WHITE)
    drawing.paint(ellipse(eye_x + 0.02 * s, eye_y, 0.14 * s, 0.15 * s, count=12), INK)
    drop = rng.uniform(0.8, 1.2)
    ear = [(-0.05, -0.78), (0.12, -0.3), (0.05, drop - 0.15), (-0.3, drop), (-0.62, drop - 0.35), (-0.6, -0.35)]
    drawing.paint(blob(*shifted(s * np.array(ear), x, y)), marks, True)
    drawing.keypoints["nose"] = (x + long * s, y + 0.02 * s)
    drawing.keypoints["right_eye"] = (eye_x, eye_y)  # an animal that faces right shows its right side
