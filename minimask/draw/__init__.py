"""Every picture: what was found, the ground truth, anchors, proposals, sampling points, masks growing, loss curves.

All functions return (H, W, 3) uint8 arrays; `save_picture` writes one. Small photos are enlarged by a whole number so
that text can be read, and a caption strip below says what is in the picture.

Colors are those of Okabe and Ito (jfly.uni-koeln.de/color) and three more that stay apart from them for protanopes,
deuteranopes and tritanopes alike. A color only tells neighbors apart; the class is told by the outline (solid,
dashed, dotted, dash-dot) and by the label, never by color alone.
"""

import functools
import importlib.util
import io
import json
from pathlib import Path

import numpy as np

from minimask.errors import InputError
from minimask.run.files import write_files

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

READABLE_SIDE = 1024  # pixels: a photo is enlarged while its longer side times the next factor stays within this ...
LARGEST_SIDE = 4000  # ... and reduced where it is longer than this
CROWD = np.array([190, 190, 190], dtype=np.uint8)
FILL = 0.33  # how much of the color a mask adds to the photo
SURE = 2.0  # the logit above which a found keypoint is drawn, as in Detectron: the network places absent ones too
DARK, LIGHT = (20, 20, 20), (255, 255, 255)


# ---------------------------------------------------------------------------------------------------------------------
# Detections and ground truth


def draw_prediction(
    image, prediction, class_names, score_threshold=0.5, title=None, skeleton=(), caption=True, side=READABLE_SIDE
):
    """The photo with what was found in it: translucent masks, outlined boxes, label and score, keypoints.

    image: (H, W, 3) uint8, RGB, or (H, W) gray. prediction: a Prediction in pixels of `image`.
    class_names: name of label 1, of label 2, ... (the background, label 0, has none).
    score_threshold: what scores lower is left out. skeleton: pairs of keypoint numbers (from 0) to join by lines;
    of the keypoints those are drawn whose score, a logit, is above SURE.
    side: a small photo is enlarged by a whole number while its longer side stays within so many pixels.
    Returns (H', W', 3) uint8. Raises ValueError for shapes that do not fit.
    """
    shown = np.flatnonzero(np.asarray(prediction.scores) >= score_threshold)
    shown = shown[np.argsort(-np.asarray(prediction.scores)[shown], kind="stable")]
    names = [class_name(class_names, label) for label in prediction.labels[shown]]
    scores = [f"{score:.2f}" for score in prediction.scores[shown]]
    keypoints = None
    if prediction.keypoints is not None:
        keypoints = np.array(prediction.keypoints[shown])  # (D, K, 3)
        keypoints[..., 2] = np.where(keypoints[..., 2] > SURE, 2, 0)  # visible or missing
    return _draw_objects(
        image,
        boxes=prediction.boxes[shown],
        labels=prediction.labels[shown],
        names=names,
        texts=[(f"{name} {score}", score) for name, score in zip(names, scores)],
        masks=None if prediction.masks is None else prediction.masks[shown],
        keypoints=keypoints,
        skeleton=skeleton,
        title=title,
        caption=f"found above {score_threshold:.2f}:" if caption else None,
        side=side,
    )


def draw_sample(sample, class_names, title=None, keypoints=True, skeleton=(), caption=True, side=READABLE_SIDE):
    """A dataset's picture with its ground truth; crowds are hatched and called so.

    sample: a Sample. keypoints: whether to draw them. The rest is as for `draw_prediction`. Returns (H', W', 3) uint8.
    """
    names = [class_name(class_names, label) for label in sample.labels]
    texts = [(f"{name} (crowd)" if crowd else name,) for name, crowd in zip(names, sample.crowd)]
    return _draw_objects(
        sample.image,
        boxes=sample.boxes,
        labels=sample.labels,
        names=names,
        texts=texts,
        masks=sample.masks,
        crowd=sample.crowd,
        keypoints=sample.keypoints if keypoints else None,
        skeleton=skeleton,
        title=title,
        caption="ground truth:" if caption else None,
        side=side,
    )


def class_name(class_names, label):
    """The name of a label (1 is the first), or "class 7" where the list is too short."""
    label = int(label)
    return str(class_names[label - 1]) if 1 <= label <= len(class_names) else f"class {label}"


def instance_colors(boxes, margin=0.25):
    """A color for each object, (D,) rows of COLORS: another than its neighbors', as long as there are enough.

    boxes: (D, 4). Two objects are neighbors if their boxes, each larger by `margin` of its size (and at least
    8 pixels) on every side, overlap. Of the colors left, the one used least is taken.
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


def _draw_objects(
    image, boxes, labels, names, texts, masks, title, caption, side, crowd=None, keypoints=None, skeleton=()
):
    """Masks, then boxes, then keypoints, then labels, then the strips above and below."""
    image = _as_rgb(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(boxes)
    crowd = np.zeros(count, dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool)
    if masks is not None and np.shape(masks) != (count, *image.shape[:2]):
        raise ValueError(
            f"draw: masks must be (D, H, W) = {(count, *image.shape[:2])} like boxes and image, got {np.shape(masks)}"
        )
    colors = np.where(crowd[:, None], CROWD, COLORS[instance_colors(boxes)])
    picture, scale = _readable(image, side)
    width = _line_width(picture)
    covered = np.zeros(picture.shape[:2], dtype=bool)  # where objects are: labels keep away from there
    boxes = boxes * scale

    if masks is not None:
        area = np.array([mask.sum() for mask in masks], dtype=np.int64)
        for i in np.argsort(-area, kind="stable"):  # small ones last, so that none is hidden
            _paint_mask(picture, masks[i], scale, colors[i], width, covered, hatched=crowd[i])

    pen = _Pen(picture)
    thin = max(2, width - 1) if count > 20 else width
    if count > 30 and len(set(map(int, labels))) == 1:  # the caption names the class: no need to say it 31 times
        texts = [options[1:] for options in texts]
    for i in range(count):
        pen.outline(boxes[i], colors[i], thin, _outline_of(labels[i]))
    if keypoints is not None:
        for i in range(count):
            pen.keypoints(np.asarray(keypoints[i]) * (scale, scale, 1), colors[i], width, skeleton)
    _place_labels(pen, boxes, texts, colors, covered)

    strips = [pen.array()]
    if title:
        strips.insert(0, _title_strip(title, picture.shape[1]))
    if caption:
        hidden = keypoints is not None and any((np.asarray(points)[:, 2] == 1).any() for points in keypoints)
        strips.append(_caption_strip(caption, labels, names, crowd, picture.shape[1], hidden))
    return np.concatenate(strips)


def _as_rgb(image):
    """The image as an (H, W, 3) uint8 array."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"draw: image must be (H, W, 3) uint8, got shape {image.shape} {image.dtype}")
    return image


def _readable(image, side=READABLE_SIDE):
    """The image, enlarged or reduced to a size at which text can be read, and by how much."""
    from PIL import Image

    longest = max(image.shape[:2])
    scale = max(1, side // longest) if longest <= LARGEST_SIDE else 1 / -(-longest // LARGEST_SIDE)
    if scale == 1:
        return image.copy(), 1
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return np.array(Image.fromarray(image).resize((width, height), method)), scale


def _line_width(picture):
    return max(2, round(max(picture.shape[:2]) / 450))


def _outline_of(label):
    """Name of the outline of a label: the second way, beside its name, in which a class can be told."""
    return list(OUTLINES)[(int(label) - 1) % len(OUTLINES)]


def _bounds(mask):
    """Rows and columns (y0, y1, x0, x1) of the smallest window that holds the mask, or None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _scaled_mask(mask, scale, shape, margin):
    """The part of a mask that is not empty, at the picture's scale: (window of the picture, bool mask of its size)."""
    from PIL import Image

    bounds = _bounds(mask)
    if bounds is None:
        return None
    y0, y1, x0, x1 = bounds
    y0, x0, y1, x1 = max(y0 - 1, 0), max(x0 - 1, 0), min(y1 + 1, mask.shape[0]), min(x1 + 1, mask.shape[1])
    top, left = int(np.floor(y0 * scale)), int(np.floor(x0 * scale))
    bottom, right = min(shape[0], int(np.ceil(y1 * scale))), min(shape[1], int(np.ceil(x1 * scale)))
    crop = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    if scale != 1:  # between pixels linearly: an enlarged mask has a smooth outline
        crop = crop.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BILINEAR)
    window = (
        slice(max(top - margin, 0), min(bottom + margin, shape[0])),
        slice(max(left - margin, 0), min(right + margin, shape[1])),
    )
    inside = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), dtype=bool)
    y, x = top - window[0].start, left - window[1].start
    crop = np.asarray(crop) >= 128
    inside[y : y + crop.shape[0], x : x + crop.shape[1]] = crop[: inside.shape[0] - y, : inside.shape[1] - x]
    return window, inside


def _paint_mask(picture, mask, scale, color, width, covered, hatched=False):
    """Blend the mask's color into the picture (in place), and draw its border with a contrasting edge around it."""
    scaled = _scaled_mask(np.asarray(mask), scale, picture.shape[:2], margin=2)
    if scaled is None:
        return
    window, inside = scaled
    part = picture[window].astype(np.float32)
    fill = inside
    if hatched:
        y, x = np.mgrid[window]
        fill = inside & ((x + y) % (6 * width) < 2 * width)
    part[fill] += FILL * (color - part[fill])
    border = inside & ~_grow(inside, -width)
    part[_grow(inside, 1) & ~inside] = _contrast(color)
    part[border] = color
    picture[window] = part.round().astype(np.uint8)
    covered[window] |= inside


def _grow(mask, pixels):
    """The mask grown by so many pixels on all sides (shrunk if negative); at the edge it goes on as it is there."""
    from PIL import Image, ImageFilter

    size = 2 * abs(pixels) + 1
    kind = ImageFilter.MaxFilter if pixels > 0 else ImageFilter.MinFilter
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(kind(size))) > 0


def _luminance(color):
    """Relative luminance of an sRGB color, 0 to 1 (WCAG 2.1)."""
    c = np.asarray(color, dtype=np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _contrast(color):
    """Dark or light, whichever stands out more from the color."""
    l = _luminance(color)
    return DARK if (l + 0.05) / (_luminance(DARK) + 0.05) > 1.05 / (l + 0.05) else LIGHT


# ---------------------------------------------------------------------------------------------------------------------
# Lines and text


@functools.cache
def _font(size, bold=False):
    """DejaVu Sans, which comes with matplotlib and knows most of the world's letters (found without importing it)."""
    from PIL import ImageFont

    matplotlib = importlib.util.find_spec("matplotlib")
    for folder in matplotlib.submodule_search_locations if matplotlib else ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def _text_size(picture):
    return int(np.clip(round(max(picture.shape[:2]) / 55), 13, 48))


class _Pen:
    """Draws on a copy of a picture, in pixels of it."""

    def __init__(self, picture):
        from PIL import Image, ImageDraw

        self.picture = Image.fromarray(picture)
        self.draw = ImageDraw.Draw(self.picture)

    def array(self):
        return np.array(self.picture)

    def line(self, start, end, color, width, outline="solid", edge=None):
        """A straight line in the pattern of an outline, with an edge one pixel wide (contrasting if not given)."""
        edge = _contrast(color) if edge is None else edge
        start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        length = float(np.hypot(*(end - start)))
        direction = (end - start) / max(length, 1e-9)
        pieces = [(start + a * direction, start + b * direction) for a, b in _dashes(length, width, outline)]
        for ink, thickness in ((edge, width + 2), (tuple(int(c) for c in color), width)):
            for a, b in pieces:
                self.draw.line([*a, *b], fill=ink, width=thickness)

    def outline(self, box, color, width, outline="solid", edge=None):
        """A box (x1, y1, x2, y2); its line runs just outside, so that small objects are not hidden."""
        x1, y1, x2, y2 = np.asarray(box) + np.array([-1, -1, 1, 1]) * width / 2
        # A box at the picture's border is drawn just inside it, as its line would be lost.
        w, h = self.picture.size
        x1, y1 = max(x1, width / 2), max(y1, width / 2)
        x2, y2 = min(x2, w - 1 - width / 2), min(y2, h - 1 - width / 2)
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2))):
            self.line(start, end, color, width, outline, edge)

    def keypoints(self, points, color, width, skeleton=()):
        """Points (K, 3): x, y, and visibility or score; hidden ones (1) hollow, missing ones (0 and less) left out.

        Both points and lines are finer on small objects, so that two eyes stay two points.
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
        ink, edge = tuple(int(c) for c in color), _contrast(color)
        for x, y, visibility in points[seen]:
            rings = [(radius + 1, edge), (radius, ink)]
            if visibility == 1:
                rings += [(radius * 0.65, edge)]
            for r, fill in rings:
                self.draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def text_box(self, text, size):
        """Width and height of a label with this text."""
        left, top, right, bottom = _font(size).getbbox(text)
        return int(right - left) + 8, int(1.3 * size) + 2

    def label(self, x, y, text, size, color):
        """Text on a plate of the color, with a contrasting edge."""
        w, h = self.text_box(text, size)
        ink = tuple(int(c) for c in color)
        self.draw.rectangle([x, y, x + w - 1, y + h - 1], fill=ink, outline=_contrast(color))
        self.draw.text((x + 4, y + h / 2), text, font=_font(size), fill=_contrast(color), anchor="lm")


def _dashes(length, width, outline):
    """Stretches (from, to) of a line of this length that are drawn, in pixels."""
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


def _place_labels(pen, boxes, texts, colors, covered):
    """Write each object's label where it covers no other label and the least of other objects.

    texts: for each object, its texts from the longest to the shortest; the shorter ones are tried where the longer
    would hide much. A label that finds no place is left out: the caption still counts the object.
    """
    size = _text_size(covered) if len(boxes) <= 20 else max(12, _text_size(covered) - 3)
    # Sums of `covered` over any rectangle, by four look-ups.
    total = np.pad(covered.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    taken = np.zeros((0, 4))
    for box, options, color in zip(boxes, texts, colors):
        best = None
        for rank, text in enumerate(options):
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
    """Where a label of w x h may stand at a box, best first: outside above, below, beside, then inside. (P, 4)"""
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
    """Which places (P, 4) overlap any of the taken ones (T, 4)."""
    a, b = places[:, None], taken[None]
    return ((a[..., :2] < b[..., 2:]) & (a[..., 2:] > b[..., :2])).all(axis=-1).any(axis=1)


def _coverage(places, box, total):
    """The share of each place that hides objects, (P,); inside its own box a large object may be covered."""
    x1, y1, x2, y2 = np.clip(places, 0, [total.shape[1] - 1, total.shape[0] - 1] * 2).astype(np.int64).T
    area = np.maximum((x2 - x1) * (y2 - y1), 1)
    hidden = (total[y2, x2] - total[y1, x2] - total[y2, x1] + total[y1, x1]) / area
    inside = (places[:, :2] >= box[:2]).all(axis=1) & (places[:, 2:] <= box[2:]).all(axis=1)
    share_of_box = area / max((box[2] - box[0]) * (box[3] - box[1]), 1)
    order = 0.01 * np.arange(len(places))
    return np.where(inside, np.minimum(hidden, 4 * share_of_box), hidden) + order


def _title_strip(text, width, size=None):
    """A white strip with a line of text, shortened to fit the width."""
    from PIL import Image, ImageDraw

    size = size or int(np.clip(round(width / 40), 13, 32))
    strip = Image.new("RGB", (width, int(1.7 * size)), LIGHT)
    font = _font(size, bold=True)
    while text and font.getlength(text) > width - 12:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    ImageDraw.Draw(strip).text((6, strip.height / 2), text, font=font, fill=DARK, anchor="lm")
    return np.array(strip)


def _caption_strip(caption, labels, names, crowd, width, hidden=False):
    """What is in the picture: each class with its outline and how many there are, on as many lines as needed.

    hidden: there are hidden keypoints, so their sign is explained.
    """
    size = int(np.clip(round(width / 50), 13, 30))
    entries = [(None, caption if len(labels) else f"{caption} nothing")]
    for label in sorted({int(label) for label in labels}):
        of_class = [i for i in range(len(labels)) if int(labels[i]) == label]
        crowds = sum(bool(crowd[i]) for i in of_class)
        many = f"{names[of_class[0]]}: {len(of_class) - crowds}"
        entries.append((_outline_of(label), many + (f" + {crowds} crowd" if crowds else "")))
    if hidden:
        entries.append((None, "\N{BLACK CIRCLE} visible  \N{FISHEYE} hidden"))
    font, sample, gap = _font(size), 4 * size, size
    lines, x = [[]], gap
    for outline, text in entries:
        needed = font.getlength(text) + gap + (sample + gap // 2 if outline else 0)
        if x + needed > width and lines[-1]:
            lines.append([])
            x = gap
        lines[-1].append((x, outline, text))
        x += needed
    pen = _Pen(np.full((int(1.6 * size) * len(lines) + size // 2, width, 3), 255, dtype=np.uint8))
    for row, line in enumerate(lines):
        y = int(1.6 * size * (row + 0.5)) + size // 4
        for x, outline, text in line:
            if outline:
                pen.line((x, y), (x + sample, y), DARK, 2, outline, edge=LIGHT)
                x += sample + gap // 2
            pen.draw.text((x, y), text, font=font, fill=DARK, anchor="lm")
    return pen.array()


# ---------------------------------------------------------------------------------------------------------------------
# Several pictures in one


def side_by_side(pictures, titles=None, gap=12):
    """Pictures in a row, as high as the highest, with titles above. Returns (H, W, 3) uint8."""
    return grid(pictures, columns=len(pictures), titles=titles, gap=gap)


def grid(pictures, columns=None, titles=None, gap=12):
    """Pictures in rows of `columns` (about square if not given), each enlarged or not, on white.

    pictures: list of (H, W, 3) uint8, of any sizes: each stands at the top of a cell as wide as the widest picture;
    small ones are enlarged by a whole number while they fit the largest's size. titles: a text above each, or None.
    Raises ValueError for no pictures or another number of titles.
    """
    pictures = [_as_rgb(picture) for picture in pictures]
    if not pictures:
        raise ValueError("grid: no pictures")
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"grid: {len(pictures)} pictures but {len(titles)} titles")
    columns = columns or int(np.ceil(np.sqrt(len(pictures))))
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    pictures = [_padded(_enlarged_into(picture, height, width), width) for picture in pictures]
    if titles is not None:
        pictures = [np.concatenate([_title_strip(title, width), p]) for title, p in zip(titles, pictures)]
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    page_width = gap + len(rows[0]) * (width + gap)
    page = np.full((gap + sum(heights) + gap * len(rows), page_width, 3), 255, dtype=np.uint8)
    y = gap
    for row, row_height in zip(rows, heights):
        for i, picture in enumerate(row):
            x = gap + i * (width + gap)
            page[y : y + picture.shape[0], x : x + width] = picture
        y += row_height + gap
    return page


def _enlarged_into(picture, height, width):
    factor = max(1, min(height // picture.shape[0], width // picture.shape[1]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else picture


def _padded(picture, width):
    """The picture with white at its right, up to a width."""
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


def save_picture(path, picture):
    """Write an (H, W, 3) uint8 array as PNG (or JPEG if the name says so), whole or not at all.

    Raises InputError naming the file if it cannot be written or its ending is unknown.
    """
    write_files({path: picture_bytes(picture, path)})


def picture_bytes(picture, path="picture.png"):
    """An (H, W, 3) uint8 array as the bytes of an image file of the kind that the path's ending names."""
    from PIL import Image

    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    kind = kinds.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"{path}: pictures are written as .png or .jpg")
    data = io.BytesIO()
    Image.fromarray(_as_rgb(picture)).save(data, kind, **({"quality": 92} if kind == "JPEG" else {"compress_level": 4}))
    return data.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# What the stages do


def draw_anchors(image, anchors, title=None):
    """The anchors of some places of the feature map: each place has its color and a dot, each ratio its outline.

    image: (H, W, 3) uint8. anchors: (P, A, 4): the A anchors of each of P places, x1 y1 x2 y2 in pixels of the image;
    ((A, 4) is one place). Anchors reach beyond the picture: it is shown with a gray margin where they do.
    """
    image = _as_rgb(image)
    anchors = np.asarray(anchors, dtype=np.float64)
    anchors = anchors[None] if anchors.ndim == 2 else anchors
    if anchors.ndim != 3 or anchors.shape[2] != 4:
        raise ValueError(f"draw_anchors: anchors must be (P, A, 4), got {anchors.shape}")
    height, width = image.shape[:2]
    beyond = np.array([-anchors[..., :2].min(), (anchors[..., 2:] - (width, height)).max()])
    margin = int(np.ceil(max(0, beyond.max(initial=0)))) + 2
    page = np.full((height + 2 * margin, width + 2 * margin, 3), 128, dtype=np.uint8)
    page[margin : margin + height, margin : margin + width] = image
    picture, scale = _readable(page)
    pen, thickness = _Pen(picture), _line_width(picture)
    sides = np.maximum(anchors[..., 2:] - anchors[..., :2], 1e-3)
    _, shape = np.unique(np.round(2 * np.log2(sides[..., 1] / sides[..., 0])), return_inverse=True)
    shape = shape.reshape(anchors.shape[:2]) + 1  # (P, A): 1 for the flattest, and so on
    for place, boxes in enumerate(anchors):
        color = COLORS[place % len(COLORS)]
        for k, box in enumerate((boxes + margin) * scale):
            pen.outline(box, color, thickness, _outline_of(shape[place, k]))
        center = (boxes[:, :2] + boxes[:, 2:]).mean(axis=0) / 2
        pen.keypoints(np.array([[*(center + margin) * scale, 2]]), color, thickness)
    places = "one place" if len(anchors) == 1 else f"{len(anchors)} places"
    title = title or f"{anchors.shape[1]} anchors at {places}"
    return np.concatenate([_title_strip(title, picture.shape[1]), pen.array()])


def draw_proposals(image, boxes, scores, count=50, title=None):
    """The best proposals: the higher the score, the brighter and the thicker the outline, with a scale below.

    image: (H, W, 3) uint8. boxes: (R, 4) x1 y1 x2 y2 in pixels. scores: (R,), any range. count: how many to show.
    """
    boxes, scores = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(scores, dtype=np.float64)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"draw_proposals: {len(boxes)} boxes but scores of shape {scores.shape}")
    order = np.argsort(-scores, kind="stable")[:count]
    picture, scale = _readable(_as_rgb(image))
    pen, thickness = _Pen(picture), _line_width(picture)
    low, high = (scores[order].min(), scores[order].max()) if len(order) else (0.0, 1.0)
    share = (scores[order] - low) / max(high - low, 1e-12)
    for i in range(len(order) - 1, -1, -1):  # the best last, on top
        width = max(1, round(thickness * (0.4 + 0.6 * share[i])))
        pen.outline(boxes[order[i]] * scale, _ramp(share[i]), width, edge=DARK)
    strips = [pen.array(), _score_strip(low, high, len(order), len(boxes), picture.shape[1])]
    if title:
        strips.insert(0, _title_strip(title, picture.shape[1]))
    return np.concatenate(strips)


def _ramp(share):
    """A color from dark blue over gray to yellow, even in brightness for every kind of sight (after cividis)."""
    stops = np.array([(0, 34, 78), (66, 78, 108), (124, 123, 120), (187, 172, 105), (254, 232, 56)], dtype=np.float64)
    return tuple(int(np.interp(share, np.linspace(0, 1, len(stops)), stops[:, c])) for c in range(3))


def _score_strip(low, high, shown, count, width):
    """The scale of the proposals' colors."""
    size = int(np.clip(round(width / 50), 13, 30))
    pen = _Pen(np.full((2 * size, width, 3), 255, dtype=np.uint8))
    text = f"best {shown} of {count} proposals; score {low:.3g}"
    pen.draw.text((6, size), text, font=_font(size), fill=DARK, anchor="lm")
    x = 6 + int(_font(size).getlength(text)) + size // 2
    bar = max(40, min(width // 4, width - x - 5 * size))
    for i in range(bar):
        pen.draw.line([x + i, size // 2, x + i, 3 * size // 2], fill=_ramp(i / max(bar - 1, 1)))
    pen.draw.text((x + bar + size // 2, size), f"{high:.3g}", font=_font(size), fill=DARK, anchor="lm")
    return pen.array()


def draw_masks(image, prediction, class_names, count=3):
    """How a mask grows: the 28 x 28 prediction, resized to its box (still soft), the final mask (slide T12).

    image: (H, W, 3) uint8. prediction: a Prediction with soft_masks. count: how many of the best objects, one a row.
    Raises ValueError if the prediction holds no soft masks or no objects.
    """
    from minimask.mask_head import paste_masks

    image = _as_rgb(image)
    if prediction.soft_masks is None or len(prediction.boxes) == 0:
        raise ValueError("draw_masks: the prediction holds no soft masks")
    shown = np.argsort(-np.asarray(prediction.scores), kind="stable")[:count]
    boxes, soft = prediction.boxes[shown], np.asarray(prediction.soft_masks)[shown]
    pasted = paste_masks(soft, boxes, image.shape[0], image.shape[1], threshold=None)
    pictures, titles = [], []
    for d, box, small, large in zip(shown, boxes, soft, pasted):
        window = _around(box, image.shape)
        gray = (255 * np.clip(small, 0, 1)).round().astype(np.uint8)
        pictures.append(_zoomed(_as_rgb(gray)))
        for mask in (large, (large >= 0.5).astype(np.float32)):
            zoomed = _zoomed(_with_soft_mask(image[window], mask[window]))
            scale = zoomed.shape[0] / (window[0].stop - window[0].start)
            pen = _Pen(zoomed)
            corner = np.array([window[1].start, window[0].start] * 2)
            pen.outline((box - corner) * scale, COLORS[3], 2)
            pictures.append(pen.array())
        name = f"{class_name(class_names, prediction.labels[d])} {prediction.scores[d]:.2f}"
        titles += [f"{name}: {small.shape[0]} x {small.shape[1]}", "resized to its box, soft", "final: at least 0.5"]
    return grid(pictures, columns=3, titles=titles)


def _around(box, shape):
    """The window (rows, columns) of a picture around a box, with a margin of a quarter of its larger side."""
    margin = 0.25 * max(box[2] - box[0], box[3] - box[1]) + 2
    low, high = np.floor(box[:2] - margin), np.ceil(box[2:] + margin)
    (x1, y1), (x2, y2) = np.clip(low, 0, (shape[1] - 1, shape[0] - 1)), np.clip(high, 1, (shape[1], shape[0]))
    return slice(int(y1), int(y2)), slice(int(x1), int(x2))


def _zoomed(picture, side=448):
    """The picture at about `side` pixels: enlarged so that its pixels can be seen, or reduced."""
    from PIL import Image

    longest = max(picture.shape[:2])
    if longest <= side:
        return _enlarged_into(picture, max(side, picture.shape[0]), max(side, picture.shape[1]))
    size = [max(1, round(n * side / longest)) for n in picture.shape[1::-1]]
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _with_soft_mask(image, mask):
    """The image, dimmed, with the mask's probability as orange light."""
    dim = 0.45 * image.astype(np.float32)
    light = mask[..., None] * (0.35 * image + 0.65 * COLORS[0])
    return np.clip(dim * (1 - mask[..., None]) + light, 0, 255).round().astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Charts


def draw_sampling_points(feature_map, box, points, chosen=(0, 0, 0, 0), title=None):
    """RoIAlign on the grid: the box, its k x k bins, s x s sampling points in each, and the four neighbors of one.

    feature_map: (h, w), or (h, w, C), of which the mean over channels is shown. Pixel i of the map has its center at
    i, as bilinear interpolation counts. box: (4,) x1 y1 x2 y2 in those units. points: (k, k, s, s, 2), each x, y
    (roi_align.map_boxes and roi_align.sampling_points make both).
    chosen: (bin row, bin column, point row, point column) of the point whose neighbors and weights are written.
    Returns (H, W, 3) uint8. He et al. 2017, figure 3; slides L13 to L16.
    """
    feature_map, points = np.asarray(feature_map), np.asarray(points, dtype=np.float64)
    feature_map = feature_map.mean(axis=2) if feature_map.ndim == 3 else feature_map
    if feature_map.ndim != 2:
        raise ValueError(f"draw_sampling_points: feature_map must be (h, w) or (h, w, C), got {feature_map.shape}")
    if points.ndim != 5 or points.shape[0] != points.shape[1] or points.shape[4] != 2:
        raise ValueError(f"draw_sampling_points: points must be (k, k, s, s, 2), got {points.shape}")
    x1, y1, x2, y2 = (float(v) for v in box)
    size = len(points)
    h, w = feature_map.shape
    figure, axes = _figure(7 * min(2, max(0.5, w / h)), 7.6)
    axes.imshow(feature_map, cmap="cividis", alpha=0.75)
    axes.set_xticks(np.arange(-0.5, w), minor=True)
    axes.set_yticks(np.arange(-0.5, h), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6, alpha=0.7)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    for t in np.linspace(0, 1, size + 1):
        for style in (dict(color="black", linewidth=4), dict(color="white", linewidth=2)):
            axes.plot([x1 + t * (x2 - x1)] * 2, [y1, y2], **style)
            axes.plot([x1, x2], [y1 + t * (y2 - y1)] * 2, **style)
    flat = points.reshape(-1, 2)  # (k*k*s*s, 2)
    axes.scatter(flat[:, 0], flat[:, 1], s=28, color=_unit(COLORS[0]), edgecolors="black", linewidths=0.8, zorder=4)
    _draw_neighbors(axes, points[tuple(chosen)], feature_map.shape)
    axes.set_xlim(min(-0.5, x1 - 0.5, flat[:, 0].min() - 0.5), max(w - 0.5, x2 + 0.5))
    axes.set_ylim(max(h - 0.5, y2 + 0.5), min(-0.5, y1 - 0.5, flat[:, 1].min() - 0.5))
    axes.set_title(
        title or f"{size} x {size} bins, {points.shape[2]} x {points.shape[3]} points in each; one point's weights"
    )
    return _render(figure)


def _draw_neighbors(axes, point, shape):
    """Lines from a point to the centers of the four pixels around it, with the bilinear weight of each."""
    from minimask.roi_align import neighbors

    for row, column, weight, _ in neighbors(point, *shape):
        axes.plot([point[0], column], [point[1], row], color=_unit(COLORS[2]), linewidth=1.5, zorder=5)
        axes.scatter([column], [row], s=36, marker="s", color=_unit(COLORS[2]), edgecolors="white", zorder=6)
        axes.annotate(
            f"{weight:.2f}",
            (column, row),
            xytext=(22 if column > point[0] else -22, -16 if row > point[1] else 16),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=13,
            bbox=dict(boxstyle="round,pad=0.15", facecolor="white", edgecolor="black", linewidth=0.8),
            zorder=7,
        )
    axes.scatter(*point[:, None], s=90, marker="*", color=_unit(COLORS[3]), edgecolors="black", zorder=8)


def plot_losses(log, parts=None, smoothing=0.95, title=None):
    """Loss curves of one run: the total and its parts over the steps, faint as logged and strong as smoothed.

    log: path of a JSON-lines file, or a list of records (dicts). A record has "step" and losses: "loss" and
    "loss_...", either beside the step or in a dict "losses"; "validation_loss" is drawn as points. A last line that a
    killed run left half-written is passed over. parts: names of the losses to draw (by
    default all but the parts of the validation loss).
    smoothing: weight of the past in the running mean, 0 to below 1. Returns (H, W, 3) uint8.
    Raises InputError naming file and line if it is not such a log, or holds no losses.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"plot_losses: smoothing must be at least 0 and below 1, got {smoothing}")
    name = str(log) if isinstance(log, (str, Path)) else "plot_losses: the log"
    curves = loss_curves(read_log(log) if isinstance(log, (str, Path)) else log)
    if parts is None:
        parts = [name for name in curves if not name.startswith("validation_loss_")]
    curves = {part: curves[part] for part in parts if part in curves}
    if not curves:
        raise InputError(f"{name}: holds no record with a step and a loss")
    figure, axes = _figure(9, 5.4)
    dashes = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2))]
    inks = [(0.1, 0.1, 0.1), *(_unit(COLORS[i]) for i in (2, 4, 6, 0, 5, 8, 9))]  # those dark enough on white
    for i, (part, (steps, values)) in enumerate(curves.items()):
        ink = inks[i % len(inks)]
        if part.startswith("validation"):
            axes.plot(steps, values, "D--", color=ink, markersize=6, markeredgecolor="white", label=_loss_name(part))
            continue
        axes.plot(steps, values, color=ink, alpha=0.18, linewidth=0.8)
        smooth = smoothed(values, smoothing)
        axes.plot(steps, smooth, color=ink, linestyle=dashes[i % 4], linewidth=2, label=_loss_name(part))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    highest = max(float(np.nanpercentile(values, 99)) for _, values in curves.values())
    axes.set_ylim(0, 1.05 * highest if np.isfinite(highest) and highest > 0 else None)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", framealpha=0.9)
    axes.set_title(title or "training loss and its parts")
    return _render(figure)


def _loss_name(part):
    return {"loss": "total"}.get(part, part.removeprefix("loss_").replace("_", " "))


def read_log(path):
    """The records of a JSON-lines file, as a list of dicts; a half-written last line is passed over."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a log ({getattr(error, 'strerror', None) or error})") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}: line {number} is not JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {number} must be a JSON object, is {type(record).__name__}")
        records.append(record)
    return records


def loss_curves(records):
    """The losses in a log: dict name -> (steps, values), each an array, "loss" (the total) first.

    A step that was logged twice, because a run was killed and resumed, counts as logged last.
    """
    found = {}
    for record in records:
        losses = {**record, **record.get("losses", {})} if isinstance(record.get("losses"), dict) else record
        if "step" not in record:
            continue
        for name, value in losses.items():
            is_loss = name == "loss" or name.startswith(("loss_", "validation_loss"))
            if is_loss and isinstance(value, (int, float)):
                found.setdefault(name, {})[record["step"]] = float(value)
    names = sorted(found, key=lambda name: name != "loss")
    order = {name: sorted(found[name]) for name in names}
    return {name: (np.array(order[name]), np.array([found[name][step] for step in order[name]])) for name in names}


def smoothed(values, weight):
    """Running mean m_t = (w m_{t-1} + v_t) / normalizer, without the pull towards 0 at the start; NaN passed over."""
    mean, norm, result = 0.0, 0.0, []
    for value in np.asarray(values, dtype=np.float64):
        if np.isfinite(value):
            mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        result.append(mean / norm if norm else np.nan)
    return np.array(result)


def _unit(color):
    """A color as matplotlib takes it: floats 0 to 1."""
    return tuple(np.asarray(color) / 255)


def _figure(width, height):
    """A matplotlib figure that draws into memory, whatever backend the user's own figures have."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _render(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
