"""Where the labels of objects go, and the caption that counts the objects."""

import numpy as np

from minimask.draw.colors import DARK, LIGHT, outline_of
from minimask.draw.pen import Pen, font_of, text_size


def place_labels(pen, boxes, texts, colors, covered, size=None):
    """Write each object's label where it covers no other label and as little as possible of other objects.

    A label that finds no place is left out; the caption still counts the object.

    boxes: (D, 4). texts: for each object, its label in several lengths, longest first. A shorter one is taken if a
    longer one would hide too much; an empty one is not drawn. colors: (D, 3) uint8.
    covered: (H, W) bool, True where there are objects. size: of the text in pixels; by default that of the picture.
    """
    if size is None:
        size = text_size(covered) if len(boxes) <= 20 else max(12, text_size(covered) - 3)
    # A summed-area table: the sum of `covered` over any rectangle takes four look-ups.
    total = np.pad(covered.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    taken = np.zeros((0, 4))
    for box, options, color in zip(boxes, texts, colors):
        best = None
        for rank, text in enumerate(filter(None, options)):
            w, h = pen.text_box(text, size)
            places = _label_places(box, w, h, covered.shape)
            free = places[~_overlap(places, taken)] if len(taken) else places
            if len(free):
                cost = _coverage(free, box, total) + 0.1 * rank
                i = int(cost.argmin())
                if best is None or cost[i] < best[0] - 0.1:
                    best = cost[i], free[i], text
        if best and best[0] < 0.75:
            _, (x1, y1, x2, y2), text = best
            taken = np.concatenate([taken, [(x1 - 1, y1 - 1, x2 + 1, y2 + 1)]])
            pen.label(x1, y1, text, size, color)


def _label_places(box, w, h, shape):
    """Places for a label of w x h near a box, best first: above, below, beside, then inside it. Returns (P, 4)."""
    x1, y1, x2, y2 = box
    gap = 3
    corners = [
        (x1, y1 - h - gap),
        (x2 - w, y1 - h - gap),
        (x1, y2 + gap),
        (x2 - w, y2 + gap),
        (x2 + gap, y1),
        (x1 - w - gap, y1),
        (x1 + gap, y1 + gap),
        (x2 - w - gap, y1 + gap),
        (x1 + gap, y2 - h - gap),
        ((x1 + x2 - w) / 2, (y1 + y2 - h) / 2),
    ]
    corners = np.round(corners)
    fits = (corners >= 0).all(axis=1) & (corners[:, 0] + w <= shape[1]) & (corners[:, 1] + h <= shape[0])
    if not fits.any():  # a box at the border of a small picture: push the label inside
        corners = np.clip(corners[:1], 0, np.maximum(np.array([shape[1] - w, shape[0] - h]), 0))
        fits = np.ones(1, dtype=bool)
    corners = corners[fits]
    return np.concatenate([corners, corners + (w, h)], axis=1)


def _overlap(places, taken):
    """Whether each of the places (P, 4) overlaps any of the taken ones (T, 4). Returns (P,) bool."""
    a, b = places[:, None], taken[None]
    return ((a[..., :2] < b[..., 2:]) & (a[..., 2:] > b[..., :2])).all(axis=-1).any(axis=1)


def _coverage(places, box, total):
    """The share of each place that hides objects, (P,). Within its own box, a label may cover a large object."""
    x1, y1, x2, y2 = np.clip(places, 0, [total.shape[1] - 1, total.shape[0] - 1] * 2).astype(np.int64).T
    area = np.maximum((x2 - x1) * (y2 - y1), 1)
    hidden = (total[y2, x2] - total[y1, x2] - total[y2, x1] + total[y1, x1]) / area
    inside = (places[:, :2] >= box[:2]).all(axis=1) & (places[:, 2:] <= box[2:]).all(axis=1)
    share_of_box = area / max((box[2] - box[0]) * (box[3] - box[1]), 1)
    order = 0.01 * np.arange(len(places))
    return np.where(inside, np.minimum(hidden, 4 * share_of_box), hidden) + order


def caption_strip(caption, labels, names, crowd, width, hidden=False):
    """A strip that lists the classes in the picture, each with its outline and its number of objects.

    It has as many lines as it needs. hidden: also explain the sign for a hidden keypoint.
    """
    size = int(np.clip(round(width / 50), 13, 30))
    entries = [(None, caption if len(labels) else f"{caption} nothing")]
    for label in sorted({int(label) for label in labels}):
        of_class = [i for i in range(len(labels)) if int(labels[i]) == label]
        crowds = sum(bool(crowd[i]) for i in of_class)
        many = f"{names[of_class[0]]}: {len(of_class) - crowds}"
        entries.append((outline_of(label), many + (f" + {crowds} crowd" if crowds else "")))
    if hidden:
        entries.append((None, "\N{BLACK CIRCLE} visible  \N{FISHEYE} hidden"))

    font, sample, gap = font_of(size), 4 * size, size
    lines, x = [[]], gap
    for outline, text in entries:
        needed = font.getlength(text) + gap + (sample + gap // 2 if outline else 0)
        if x + needed > width and lines[-1]:
            lines.append([])
            x = gap
        lines[-1].append((x, outline, text))
        x += needed

    pen = Pen(np.full((int(1.6 * size) * len(lines) + size // 2, width, 3), 255, dtype=np.uint8))
    for row, line in enumerate(lines):
        y = int(1.6 * size * (row + 0.5)) + size // 4
        for x, outline, text in line:
            if outline:
                pen.line((x, y), (x + sample, y), DARK, 2, outline, edge=LIGHT)
                x += sample + gap // 2
            pen.draw.text((x, y), text, font=font, fill=DARK, anchor="lm")
    return pen.array()
