"""Lines, boxes, keypoints and text, drawn with Pillow."""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from minimask.draw.colors import OUTLINES, contrast


class Pen:
    """Draws on a copy of a picture. All coordinates are pixels of that picture."""

    def __init__(self, picture):
        from PIL import Image, ImageDraw

        self.picture = Image.fromarray(picture)
        self.draw = ImageDraw.Draw(self.picture)

    def array(self):
        return np.array(self.picture)

    def line(self, start, end, color, width, outline="solid", edge=None):
        """Draw a straight line in the pattern of an outline, with an edge one pixel wide on both sides.

        start, end: (x, y). outline: a key of OUTLINES. edge: color of the edge; by default one that contrasts.
        """
        edge = contrast(color) if edge is None else edge
        start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        length = float(np.hypot(*(end - start)))
        direction = (end - start) / max(length, 1e-9)
        pieces = [(start + a * direction, start + b * direction) for a, b in _dashes(length, width, outline)]
        for ink, thickness in ((edge, width + 2), (tuple(int(c) for c in color), width)):
            for a, b in pieces:
                self.draw.line([*a, *b], fill=ink, width=thickness)

    def outline(self, box, color, width, outline="solid", edge=None):
        """Draw a box (x1, y1, x2, y2). The line runs just outside of it, so that small objects stay visible."""
        x1, y1, x2, y2 = np.asarray(box) + np.array([-1, -1, 1, 1]) * width / 2
        # Where the box touches the picture's border, the line runs just inside; otherwise it could not be seen.
        w, h = self.picture.size
        x1, y1 = max(x1, width / 2), max(y1, width / 2)
        x2, y2 = min(x2, w - 1 - width / 2), min(y2, h - 1 - width / 2)
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2))):
            self.line(start, end, color, width, outline, edge)

    def keypoints(self, points, color, width, skeleton=()):
        """Draw keypoints as dots, joined by the lines of the skeleton.

        Dots and lines are thinner on small objects, so that two eyes stay two dots.

        points: (K, 3) x, y and visibility: 2 is drawn filled, 1 (hidden) as a ring, 0 or less is left out.
        skeleton: pairs of keypoint indices.
        """
        seen = points[:, 2] > 0
        if not seen.any():
            return
        extent = np.ptp(points[seen, :2], axis=0).max()
        thick = round(np.clip(extent / 80, width, 2 * width))
        for a, b in skeleton:
            if seen[a] and seen[b]:
                self.line(points[a, :2], points[b, :2], color, thick)
        radius = np.clip(extent / 28, 1.5 * width, 4 * width)
        ink, edge = tuple(int(c) for c in color), contrast(color)
        for x, y, visibility in points[seen]:
            rings = [(radius + 1, edge), (radius, ink)]
            if visibility == 1:
                rings += [(radius * 0.65, edge)]
            for r, fill in rings:
                self.draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def text_box(self, text, size):
        """The width and height of a label with this text, in pixels."""
        left, top, right, bottom = font_of(size).getbbox(text)
        return int(right - left) + 8, int(1.3 * size) + 2

    def label(self, x, y, text, size, color):
        """Write text on a plate of the given color, with a contrasting edge."""
        w, h = self.text_box(text, size)
        ink = tuple(int(c) for c in color)
        self.draw.rectangle([x, y, x + w - 1, y + h - 1], fill=ink, outline=contrast(color))
        self.draw.text((x + 4, y + h / 2), text, font=font_of(size), fill=contrast(color), anchor="lm")


def _dashes(length, width, outline):
    """The parts of a line that its pattern draws, as (from, to) in pixels along the line."""
    if outline == "solid":
        return [(0, length)]
    pattern, stretches, position, i = OUTLINES[outline], [], 0.0, 0
    while position < length:
        step = pattern[i % len(pattern)] * width
        if i % 2 == 0:
            stretches.append((position, min(position + step, length)))
        position += step
        i += 1
    return stretches


def line_width(picture):
    return max(2, round(max(picture.shape[:2]) / 450))


@functools.cache
def font_of(size, bold=False):
    """DejaVu Sans, which comes with matplotlib and covers most alphabets. matplotlib itself is not imported."""
    from PIL import ImageFont

    matplotlib = importlib.util.find_spec("matplotlib")
    for folder in matplotlib.submodule_search_locations if matplotlib else ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def text_size(picture):
    return int(np.clip(round(max(picture.shape[:2]) / 55), 13, 48))
