"""Pictures of the stages: anchors, proposals, the way from a 28 x 28 mask to the image, RoIAlign's sampling points."""

import numpy as np

from minimask.draw.colors import COLORS, DARK, outline_of, score_color, unit
from minimask.draw.curves import new_figure, render
from minimask.draw.objects import class_name
from minimask.draw.pen import Pen, font_of, line_width
from minimask.draw.pictures import as_rgb, enlarged_into, grid, readable, title_strip


def draw_anchors(image, anchors, title=None):
    """Draw the anchors at a few places of the feature map.

    Each place has its own color and a dot; each aspect ratio has its own outline. If anchors reach beyond the image,
    it gets a gray margin.

    image: (H, W, 3) uint8.
    anchors: (P, A, 4), the A anchors at each of P places, x1 y1 x2 y2 in pixels of the image; (A, 4) for one place.
    title: a line of text above; by default it counts anchors and places.
    Returns (H', W', 3) uint8.
    """
    image = as_rgb(image)
    anchors = np.asarray(anchors, dtype=np.float64)
    anchors = anchors[None] if anchors.ndim == 2 else anchors
    if anchors.ndim != 3 or anchors.shape[2] != 4:
        raise ValueError(f"draw_anchors: anchors must be (P, A, 4), got {anchors.shape}")

    height, width = image.shape[:2]
    beyond = np.array([-anchors[..., :2].min(), (anchors[..., 2:] - (width, height)).max()])
    margin = int(np.ceil(max(0, beyond.max(initial=0)))) + 2
    page = np.full((height + 2 * margin, width + 2 * margin, 3), 128, dtype=np.uint8)
    page[margin : margin + height, margin : margin + width] = image

    picture, scale = readable(page)
    pen, thickness = Pen(picture), line_width(picture)
    sides = np.maximum(anchors[..., 2:] - anchors[..., :2], 1e-3)
    _, shape = np.unique(np.round(2 * np.log2(sides[..., 1] / sides[..., 0])), return_inverse=True)
    shape = shape.reshape(anchors.shape[:2]) + 1  # (P, A): 1 for the flattest ratio, 2 for the next, ...
    for place, boxes in enumerate(anchors):
        color = COLORS[place % len(COLORS)]
        for k, box in enumerate((boxes + margin) * scale):
            pen.outline(box, color, thickness, outline_of(shape[place, k]))
        center = (boxes[:, :2] + boxes[:, 2:]).mean(axis=0) / 2
        pen.keypoints(np.array([[*(center + margin) * scale, 2]]), color, thickness)

    places = "one place" if len(anchors) == 1 else f"{len(anchors)} places"
    title = title or f"{anchors.shape[1]} anchors at {places}"
    return np.concatenate([title_strip(title, picture.shape[1]), pen.array()])


def draw_proposals(image, boxes, scores, count=50, title=None):
    """Draw the best proposals: the higher the score, the brighter and thicker the outline. A scale stands below.

    image: (H, W, 3) uint8.
    boxes: (R, 4) x1 y1 x2 y2 in pixels of the image.
    scores: (R,), in any range.
    count: how many of the best to show.
    title: a line of text above.
    Returns (H', W', 3) uint8.
    """
    boxes, scores = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(scores, dtype=np.float64)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"draw_proposals: {len(boxes)} boxes but scores of shape {scores.shape}")

    order = np.argsort(-scores, kind="stable")[:count]
    picture, scale = readable(as_rgb(image))
    pen, thickness = Pen(picture), line_width(picture)
    low, high = (scores[order].min(), scores[order].max()) if len(order) else (0.0, 1.0)
    share = (scores[order] - low) / max(high - low, 1e-12)
    for i in range(len(order) - 1, -1, -1):  # the best one last, on top
        width = max(1, round(thickness * (0.4 + 0.6 * share[i])))
        pen.outline(boxes[order[i]] * scale, score_color(share[i]), width, edge=DARK)

    strips = [pen.array(), _score_strip(low, high, len(order), len(boxes), picture.shape[1])]
    if title:
        strips.insert(0, title_strip(title, picture.shape[1]))
    return np.concatenate(strips)


def _score_strip(low, high, shown, count, width):
    """A strip that explains the colors of the proposals."""
    size = int(np.clip(round(width / 50), 13, 30))
    pen = Pen(np.full((2 * size, width, 3), 255, dtype=np.uint8))
    text = f"best {shown} of {count} proposals; score {low:.3g}"
    pen.draw.text((6, size), text, font=font_of(size), fill=DARK, anchor="lm")
    x = 6 + int(font_of(size).getlength(text)) + size // 2
    bar = max(40, min(width // 4, width - x - 5 * size))
    for i in range(bar):
        pen.draw.line([x + i, size // 2, x + i, 3 * size // 2], fill=score_color(i / max(bar - 1, 1)))
    pen.draw.text((x + bar + size // 2, size), f"{high:.3g}", font=font_of(size), fill=DARK, anchor="lm")
    return pen.array()


def draw_masks(image, prediction, class_names, count=3):
    """Draw how a mask gets into the image: 28 x 28 as predicted, resized to its box, and after the threshold (T12).

    image: (H, W, 3) uint8.
    prediction: a Prediction with soft_masks.
    class_names: the names of labels 1, 2, ...
    count: how many of the best objects to show, one per row.
    Returns (H', W', 3) uint8.
    Raises ValueError if the prediction has no soft masks or no objects.
    """
    from minimask.mask_head import paste_masks

    image = as_rgb(image)
    if prediction.soft_masks is None or len(prediction.boxes) == 0:
        raise ValueError("draw_masks: the prediction has no soft masks")
    shown = np.argsort(-np.asarray(prediction.scores), kind="stable")[:count]
    boxes, soft = prediction.boxes[shown], np.asarray(prediction.soft_masks)[shown]
    pasted = paste_masks(soft, boxes, image.shape[0], image.shape[1], threshold=None)

    pictures, titles = [], []
    for d, box, small, large in zip(shown, boxes, soft, pasted):
        window = _around(box, image.shape)
        gray = (255 * np.clip(small, 0, 1)).round().astype(np.uint8)
        pictures.append(_zoomed(as_rgb(gray)))
        for mask in (large, (large >= 0.5).astype(np.float32)):
            zoomed = _zoomed(_with_soft_mask(image[window], mask[window]))
            scale = zoomed.shape[0] / (window[0].stop - window[0].start)
            pen = Pen(zoomed)
            corner = np.array([window[1].start, window[0].start] * 2)
            pen.outline((box - corner) * scale, COLORS[3], 2)
            pictures.append(pen.array())
        name = f"{class_name(class_names, prediction.labels[d])} {prediction.scores[d]:.2f}"
        titles += [f"{name}: {small.shape[0]} x {small.shape[1]}", "resized to its box, soft", "final: at least 0.5"]
    return grid(pictures, columns=3, titles=titles)


def _around(box, shape):
    """The window (rows, columns) around a box, with a margin of a quarter of the box's longer side."""
    margin = 0.25 * max(box[2] - box[0], box[3] - box[1]) + 2
    low, high = np.floor(box[:2] - margin), np.ceil(box[2:] + margin)
    (x1, y1), (x2, y2) = np.clip(low, 0, (shape[1] - 1, shape[0] - 1)), np.clip(high, 1, (shape[1], shape[0]))
    return slice(int(y1), int(y2)), slice(int(x1), int(x2))


def _zoomed(picture, side=448):
    """The picture at about `side` pixels, reduced or enlarged so that single pixels can be seen."""
    from PIL import Image

    longest = max(picture.shape[:2])
    if longest <= side:
        return enlarged_into(picture, max(side, picture.shape[0]), max(side, picture.shape[1]))
    size = [max(1, round(n * side / longest)) for n in picture.shape[1::-1]]
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _with_soft_mask(image, mask):
    """The image, dimmed, with the mask's probability added as orange light."""
    dim = 0.45 * image.astype(np.float32)
    light = mask[..., None] * (0.35 * image + 0.65 * COLORS[0])
    return np.clip(dim * (1 - mask[..., None]) + light, 0, 255).round().astype(np.uint8)


def draw_sampling_points(feature_map, box, points, chosen=(0, 0, 0, 0), title=None):
    """Draw RoIAlign on the feature map: the box, its bins, the sampling points, and the four neighbors of one point.

    He et al. 2017, figure 3; slides L13 to L16. `roi_align.map_boxes` and `roi_align.sampling_points` compute the box
    and the points.

    feature_map: (h, w), or (h, w, C), of which the mean over the channels is shown.
    box: (4,) x1 y1 x2 y2 in cells of the map; the center of cell i is at i, as in bilinear interpolation.
    points: (k, k, s, s, 2) x and y of the s x s points in each of k x k bins, in the same units.
    chosen: (bin row, bin column, point row, point column) of the point whose neighbors and weights are shown.
    title: a line of text above.
    Returns (H, W, 3) uint8.
    """
    feature_map, points = np.asarray(feature_map), np.asarray(points, dtype=np.float64)
    feature_map = feature_map.mean(axis=2) if feature_map.ndim == 3 else feature_map
    if feature_map.ndim != 2:
        raise ValueError(f"draw_sampling_points: feature_map must be (h, w) or (h, w, C), got {feature_map.shape}")
    if points.ndim != 5 or points.shape[0] != points.shape[1] or points.shape[4] != 2:
        raise ValueError(f"draw_sampling_points: points must be (k, k, s, s, 2), got {points.shape}")

    h, w = feature_map.shape
    figure, axes = new_figure(7 * min(2, max(0.5, w / h)), 7.6)
    axes.imshow(feature_map, cmap="cividis", alpha=0.75)
    axes.set_xticks(np.arange(-0.5, w), minor=True)
    axes.set_yticks(np.arange(-0.5, h), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6, alpha=0.7)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)

    size = len(points)
    x1, y1, x2, y2 = (float(v) for v in box)
    for t in np.linspace(0, 1, size + 1):
        for style in (dict(color="black", linewidth=4), dict(color="white", linewidth=2)):
            axes.plot([x1 + t * (x2 - x1)] * 2, [y1, y2], **style)
            axes.plot([x1, x2], [y1 + t * (y2 - y1)] * 2, **style)

    flat = points.reshape(-1, 2)  # (k*k*s*s, 2)
    axes.scatter(flat[:, 0], flat[:, 1], s=28, color=unit(COLORS[0]), edgecolors="black", linewidths=0.8, zorder=4)
    _draw_neighbors(axes, points[tuple(chosen)], feature_map.shape)

    axes.set_xlim(min(-0.5, x1 - 0.5, flat[:, 0].min() - 0.5), max(w - 0.5, x2 + 0.5))
    axes.set_ylim(max(h - 0.5, y2 + 0.5), min(-0.5, y1 - 0.5, flat[:, 1].min() - 0.5))
    axes.set_title(
        title or f"{size} x {size} bins, {points.shape[2]} x {points.shape[3]} points in each; one point's weights"
    )
    return render(figure)


def _draw_neighbors(axes, point, shape):
    """Draw lines from a point to the centers of the four cells around it, with the bilinear weight of each."""
    from minimask.roi_align import neighbors

    for row, column, weight, _ in neighbors(point, *shape):
        axes.plot([point[0], column], [point[1], row], color=unit(COLORS[2]), linewidth=1.5, zorder=5)
        axes.scatter([column], [row], s=36, marker="s", color=unit(COLORS[2]), edgecolors="white", zorder=6)
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
    axes.scatter(*point[:, None], s=90, marker="*", color=unit(COLORS[3]), edgecolors="black", zorder=8)
