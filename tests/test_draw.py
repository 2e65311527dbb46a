"""Pictures: what is drawn where, colors that every kind of sight can tell apart, files that are written completely."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minimask import draw
from minimask.draw.colors import contrast, luminance, score_color
from minimask.draw.labels import place_labels
from minimask.draw.pen import Pen
from minimask.errors import InputError
from minimask.roi_align import map_boxes, sampling_points
from minimask.run import files
from minimask.structures import Prediction, Sample

GREY = (100, 100, 100)
NAMES = ("cat", "dog", "duck")


def _image(height=90, width=120, color=GREY):
    return np.full((height, width, 3), color, np.uint8)


def _prediction(boxes, labels=None, scores=None, size=(90, 120)):
    """A prediction whose masks fill their boxes."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = True
    labels = np.ones(len(boxes), np.int64) if labels is None else np.array(labels)
    scores = np.linspace(0.99, 0.6, len(boxes)) if scores is None else np.array(scores)
    return Prediction(boxes, labels, scores.astype(np.float32), masks)


def _sample(prediction, image, crowd=None, keypoints=None):
    count = len(prediction.boxes)
    crowd = np.zeros(count, bool) if crowd is None else np.array(crowd)
    masks = prediction.masks.astype(np.uint8)
    return Sample(image, prediction.boxes, prediction.labels, masks, crowd, 1, "test", keypoints)


def _has(picture, color):
    return (picture == np.array(color)).all(axis=-1).any()


# -------------------------------------------------------------------------------- colors

# From linear RGB to the color that each kind of sight sees (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHTS = {
    "usual": np.eye(3),
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def _lab(colors, sight):
    """CIE L*a*b* of sRGB colors (n, 3), as one kind of sight sees them."""
    c = np.asarray(colors, float) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SIGHTS[sight]).T, 0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    xyz /= [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


@pytest.mark.parametrize("sight", SIGHTS)
def test_colors_differ_for_every_kind_of_sight(sight):
    lab = _lab(draw.COLORS, sight)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    distance[np.diag_indices(len(lab))] = np.inf
    assert distance.min() > 15, f"{sight}: colors {np.unravel_index(distance.argmin(), distance.shape)}"


def test_text_stands_out_from_its_plate():
    """Contrast of at least 4.5 (WCAG 2.1, level AA) for labels in every color."""
    for color in [*draw.COLORS, draw.CROWD]:
        bright, dark = sorted((luminance(color), luminance(contrast(color))), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) > 4.5, color


def test_neighbors_have_different_colors():
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(np.arange(12) * 20, np.arange(9) * 20), -1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 18], axis=1) + rng.normal(0, 1, (108, 1))
    colors = draw.instance_colors(boxes)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    for i in range(len(boxes)):
        beside = np.abs(centers - centers[i]).max(axis=1) < 25
        assert (colors[beside] == colors[i]).sum() == 1  # itself
    assert len(np.unique(colors)) == len(draw.COLORS)
    assert draw.instance_colors(np.zeros((0, 4))).shape == (0,)


def test_more_neighbors_than_colors():
    colors = draw.instance_colors(np.tile([0, 0, 50, 50], (25, 1)))
    assert np.bincount(colors).max() == 3  # 25 objects, 10 colors: used as evenly as possible


# -------------------------------------------------------------------------------- objects


def test_side_limits_the_enlargement():
    found = _prediction([(30, 20, 70, 60)])
    assert draw.draw_prediction(_image(), found, NAMES, side=512, caption=False).shape == (360, 480, 3)
    assert draw.draw_prediction(_image(), found, NAMES, side=1, caption=False).shape == (90, 120, 3)


def test_small_pictures_are_enlarged_and_masks_are_where_they_belong():
    picture = draw.draw_prediction(_image(), _prediction([(30, 20, 70, 60)]), NAMES)
    scale = draw.READABLE_SIDE // 120
    assert scale == 8
    assert picture.shape[1] == 8 * 120 and picture.shape[0] > 8 * 90 and picture.dtype == np.uint8
    inside = picture[8 * 40, 8 * 50]
    expected = np.array(GREY) + draw.FILL * (draw.COLORS[0] - np.array(GREY))
    assert np.abs(inside - expected).max() <= 1
    assert (picture[8 * 80, 8 * 10] == GREY).all()  # unchanged outside
    assert _has(picture, draw.COLORS[0])  # outline and plate


def test_scores_below_the_threshold_are_left_out():
    found = _prediction([(10, 10, 40, 40), (70, 40, 110, 80)], scores=[0.4, 0.9])
    low = draw.draw_prediction(_image(), found, NAMES, score_threshold=0.5)
    high = draw.draw_prediction(_image(), found, NAMES, score_threshold=0.3)
    assert (low[8 * 25, 8 * 25] == GREY).all() and not (low[8 * 60, 8 * 90] == GREY).all()
    assert not (high[8 * 25, 8 * 25] == GREY).all()


def test_the_caption_says_if_nothing_was_found():
    picture = draw.draw_prediction(_image(), _prediction([]), NAMES)
    assert (picture[: 8 * 90] == GREY).all()
    assert (picture[8 * 90 :] < 60).any()  # the caption's text


def test_title_and_caption():
    plain = draw.draw_prediction(_image(), _prediction([]), NAMES, caption=False)
    assert plain.shape == (720, 960, 3)
    titled = draw.draw_prediction(_image(), _prediction([]), NAMES, title="a very long title " * 30, caption=False)
    assert titled.shape[1] == 960 and titled.shape[0] > 720
    assert (titled[:20, -6:] == 255).all()  # shortened: it ends before the border


def test_classes_have_their_own_outline():
    pictures = [
        draw.draw_prediction(_image(), _prediction([(20, 20, 100, 80)], labels=[label]), NAMES, caption=False)
        for label in (1, 2, 3)
    ]
    lines = [(picture[8 * 80 : 8 * 80 + 3, 200:700] == draw.COLORS[0]).all(-1).any(0).mean() for picture in pictures]
    assert lines[0] == 1 and 0.3 < lines[1] < 0.9 and 0.3 < lines[2] < 0.9
    assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128)])
def test_labels_can_be_read_on_dark_and_bright_pictures(color):
    """A label has its own background: dark text on the first color, whatever is behind it."""
    picture = draw.draw_prediction(_image(color=color), _prediction([(30, 40, 70, 80)]), NAMES, caption=False)
    above = picture[8 * 40 - 40 : 8 * 40 - 4, 8 * 30 : 8 * 30 + 80]
    assert _has(above, draw.COLORS[0]) and _has(above, draw.DARK)


def test_labels_do_not_cover_each_other():
    boxes = np.array([(x, y, x + 60, y + 60) for y in range(40, 700, 70) for x in range(10, 900, 70)], float)
    pen = Pen(np.zeros((800, 1000, 3), np.uint8))
    plates = []
    pen.label = lambda x, y, text, size, color: plates.append((x, y, *pen.text_box(text, size)))
    texts = [("some class 0.99", "0.99")] * len(boxes)
    place_labels(pen, boxes, texts, draw.COLORS[draw.instance_colors(boxes)], np.zeros((800, 1000), bool))
    assert len(plates) > 100
    painted = np.zeros((800, 1000), int)
    for x, y, w, h in np.array(plates, int):
        assert x >= 0 and y >= 0 and x + w <= 1000 and y + h <= 800
        painted[y : y + h, x : x + w] += 1
    assert painted.max() == 1


def test_boxes_at_and_beyond_the_border_and_empty_masks():
    boxes = [(-20, -20, 500, 500), (0, 0, 120, 90), (119, 89, 120, 90), (50, 50, 50, 50), (0, 0, 1, 90)]
    picture = draw.draw_prediction(_image(), _prediction(boxes), NAMES)
    assert picture.shape[1] == 960
    assert not (picture[8 * 45, 8 * 20] == GREY).all()  # the boxes that cover the picture fill it


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_and_thin_pictures(size):
    found = _prediction([(0, 0, size[1], size[0])], size=size)
    picture = draw.draw_prediction(_image(*size), found, NAMES, title="t")
    assert picture.ndim == 3 and picture.dtype == np.uint8
    filled = np.array(GREY) + draw.FILL * (draw.COLORS[0] - np.array(GREY))
    assert (np.abs(picture - filled).max(axis=2) <= 1).any() or _has(picture, draw.COLORS[0])


def test_huge_pictures_are_reduced():
    size = (50, 9000)
    picture = draw.draw_prediction(_image(*size), _prediction([(100, 5, 8000, 45)], size=size), NAMES, caption=False)
    assert picture.shape == (17, 3000, 3)
    assert not (picture[8, 1500] == GREY).all()


def test_hundreds_of_objects():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 240, (300, 2))
    found = _prediction(np.concatenate([corners, corners + 12], 1), size=(256, 256))
    picture = draw.draw_prediction(_image(256, 256), found, ("nucleus",))
    assert picture.shape[1] == 1024
    for x, y in (corners + 6) * 4:  # at the center of each object
        assert not (picture[y, x] == GREY).all()


def test_ground_truth_with_crowds_and_keypoints():
    found = _prediction([(10, 10, 50, 50), (60, 40, 110, 80)], labels=[1, 3])
    points = np.array([[[20, 20, 2], [30, 30, 1], [0, 0, 0]], [[70, 50, 2], [90, 60, 2], [100, 70, 2]]], np.float32)
    sample = _sample(found, _image(), crowd=[False, True], keypoints=points)
    with_line = draw.draw_sample(sample, NAMES, skeleton=[(0, 1), (1, 2)])
    assert _has(with_line, draw.CROWD)
    without = draw.draw_sample(_sample(found, _image(), crowd=[False, True]), NAMES)
    changed = (with_line[: len(without)] != without).any(-1)
    assert changed[8 * 20, 8 * 20] and changed[8 * 25, 8 * 25]  # a point, the line to the next
    visible, hidden = with_line[8 * 20, 8 * 20], with_line[8 * 30, 8 * 30]
    assert (draw.COLORS == visible).all(1).any()  # filled with the object's color
    assert tuple(hidden) in (draw.DARK, draw.LIGHT)  # hollow
    assert with_line.shape[0] >= without.shape[0] and changed[8 * 90 :].any()  # the caption explains it
    assert (draw.draw_sample(sample, NAMES, keypoints=False) == without).all()
    assert not changed[: 8 * 8, : 8 * 8].any()  # the third point of the first object is not labeled
    hatch = without[8 * 45 : 8 * 75, 8 * 65 : 8 * 105]
    assert 0.2 < (hatch == GREY).all(-1).mean() < 0.8


def test_predicted_keypoints_are_drawn_if_their_logit_is_high():
    found = _prediction([(10, 10, 110, 80)])
    without = draw.draw_prediction(_image(), found, NAMES)
    found.keypoints = np.array([[[30, 30, 2.1], [60, 50, 1], [90, 30, 40]]], np.float32)  # logits, not visibilities
    picture = draw.draw_prediction(_image(), found, NAMES, skeleton=[(0, 1), (0, 2)])
    assert picture.shape == without.shape  # no hidden ones, so no longer caption
    changed = (picture != without).any(-1)
    assert changed[8 * 30, 8 * 30] and changed[8 * 30, 8 * 60] and changed[8 * 30, 8 * 90]
    assert not changed[8 * 35 :].any() and found.keypoints[0, 0, 2] == np.float32(2.1)


def test_class_names():
    assert draw.class_name(NAMES, 1) == "cat" and draw.class_name(NAMES, 3) == "duck"
    assert draw.class_name(NAMES, 4) == "class 4" and draw.class_name((), np.int64(1)) == "class 1"
    picture = draw.draw_prediction(_image(), _prediction([(10, 30, 50, 60)]), ("Käfer 日本",))
    assert picture.shape[1] == 960


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"masks must be \(D, H, W\) = \(1, 50, 50\)"):
        draw.draw_prediction(_image(50, 50), _prediction([(1, 1, 5, 5)]), NAMES)
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8, got shape \(3, 4, 4\) uint8"):
        draw.draw_prediction(np.zeros((3, 4, 4), np.uint8), _prediction([]), NAMES)


def test_the_photo_stays_as_it_was():
    image = _image()
    draw.draw_prediction(image, _prediction([(30, 20, 70, 60)]), NAMES)
    large = _image(1500, 20)
    draw.draw_prediction(large, _prediction([(3, 20, 17, 600)], size=(1500, 20)), NAMES)
    assert (image == GREY).all() and (large == GREY).all()


# -------------------------------------------------------------------------------- several pictures


def test_grid():
    red, blue = _image(60, 80, (200, 0, 0)), _image(60, 80, (0, 0, 200))
    row = draw.grid([red, blue], columns=2, gap=10)
    assert row.shape == (80, 190, 3)
    assert (row[40, 50] == (200, 0, 0)).all() and (row[40, 140] == (0, 0, 200)).all() and (row[5] == 255).all()
    titled = draw.grid([red, blue], columns=2, titles=["left", "right"], gap=10)
    assert titled.shape[1] == 190 and titled.shape[0] > 80 and (titled[:30] < 60).any()
    page = draw.grid([red] * 5, gap=10)
    assert page.shape == (2 * 60 + 30, 3 * 80 + 40, 3)
    assert (page[10 + 60 + 10 + 30, 10 + 2 * 90 + 40] == 255).all()  # the sixth place is empty
    assert draw.grid([red, _image(20, 30, (0, 0, 200))], columns=2, gap=0)[30, 120].tolist() == [0, 0, 200]  # enlarged
    with pytest.raises(ValueError, match="no pictures"):
        draw.grid([])
    with pytest.raises(ValueError, match="2 pictures but 1 titles"):
        draw.grid([red, blue], titles=["left"])


# -------------------------------------------------------------------------------- files


def test_save_picture(tmp_path):
    picture = draw.draw_prediction(_image(), _prediction([(30, 20, 70, 60)]), NAMES)
    draw.save_picture(tmp_path / "new" / "a.png", picture)
    assert (np.asarray(Image.open(tmp_path / "new" / "a.png")) == picture).all()
    draw.save_picture(str(tmp_path / "a.JPG"), picture)
    assert Image.open(tmp_path / "a.JPG").format == "JPEG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.JPG", "new"]
    with pytest.raises(InputError, match=r"a.txt: a picture can be saved as .png or .jpg only"):
        draw.save_picture(tmp_path / "a.txt", picture)


def test_a_full_disk_leaves_the_earlier_picture(tmp_path, monkeypatch):
    draw.save_picture(tmp_path / "a.png", _image())
    before = (tmp_path / "a.png").read_bytes()

    def full(path, data):
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write_through", full)
    with pytest.raises(InputError, match=r"a.png: could not be written \(No space left on device\)"):
        draw.save_picture(tmp_path / "a.png", _image(color=(1, 2, 3)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


# -------------------------------------------------------------------------------- stages


def test_anchors_beyond_the_picture_are_seen():
    anchors = np.array([[(-10, -20, 30, 40), (0, 0, 20, 20)], [(100, 60, 140, 80), (90, 50, 150, 100)]], float)
    picture = draw.draw_anchors(_image(color=(0, 0, 0)), anchors)
    assert _has(picture, draw.COLORS[0]) and _has(picture, draw.COLORS[1])
    margin, scale = 32, draw.READABLE_SIDE // (120 + 64)
    assert picture.shape[1] == scale * (120 + 2 * margin)
    one_place = draw.draw_anchors(_image(), anchors[0])
    assert _has(one_place, draw.COLORS[0]) and not _has(one_place, draw.COLORS[1])
    with pytest.raises(ValueError, match=r"anchors must be \(P, A, 4\)"):
        draw.draw_anchors(_image(), np.zeros((3, 5)))


def test_the_best_proposals_are_brightest():
    boxes = np.array([(10, 10, 50, 50), (60, 20, 110, 80), (5, 60, 30, 85)], float)
    picture = draw.draw_proposals(_image(), boxes, np.array([0.2, 5.0, -3.0]), count=2)
    assert _has(picture, score_color(1.0)) and _has(picture, score_color(0.0))
    assert (picture[8 * 60 : 8 * 85, : 8 * 30] == GREY).all()  # the third is not shown
    brightness = [luminance(score_color(share)) for share in np.linspace(0, 1, 20)]
    assert (np.diff(brightness) > 0).all()
    assert draw.draw_proposals(_image(), np.zeros((0, 4)), np.zeros(0)).shape[1] == 960
    with pytest.raises(ValueError, match="2 boxes but scores of shape"):
        draw.draw_proposals(_image(), boxes[:2], np.zeros(3))


def test_mask_growing():
    found = _prediction([(30, 20, 70, 60), (80, 30, 110, 80)])
    found.soft_masks = np.zeros((2, 28, 28), np.float32)
    found.soft_masks[:, 4:24, 4:24] = 0.9
    picture = draw.draw_masks(_image(), found, NAMES, count=2)
    assert picture.shape[1] == 3 * 448 + 4 * 12 and picture.shape[0] > 2 * 448
    first = picture[-448 - 12 : -12, 12 : 12 + 448]  # the second object's 28 x 28, each 16 x 16 pixels
    assert (first[: 4 * 16] == 0).all() and (first[4 * 16 : 24 * 16, 4 * 16 : 24 * 16] == 230).all()
    with pytest.raises(ValueError, match="no soft masks"):
        draw.draw_masks(_image(), _prediction([(30, 20, 70, 60)]), NAMES)


def test_sampling_points_of_the_lecture():
    """Slides L13 to L16: the box (112, 45)-(219, 213) at scale 1/16 with 3 x 3 bins of 2 x 2 points."""
    box = np.array([112, 45, 219, 213], np.float64)
    corner, extent = map_boxes(box, 1 / 16)
    points = sampling_points(box, 1 / 16, 3, 2)
    feature = np.random.default_rng(0).random((15, 20, 4))
    picture = draw.draw_sampling_points(feature, [*corner, *(corner + extent)], points, chosen=(1, 1, 0, 0))
    assert picture.ndim == 3 and picture.dtype == np.uint8 and min(picture.shape[:2]) > 300
    assert _has(picture, draw.COLORS[0])
    other = draw.draw_sampling_points(feature, [*corner, *(corner + extent)], points, chosen=(0, 2, 1, 1))
    assert other.shape == picture.shape and (other != picture).any()
    outside = sampling_points(box - 160, 1 / 16, 3, 2)
    assert draw.draw_sampling_points(feature[..., 0], (-3, -7, 4, 3), outside).ndim == 3
    with pytest.raises(ValueError, match=r"points must be \(k, k, s, s, 2\)"):
        draw.draw_sampling_points(feature, box, points[0])


# -------------------------------------------------------------------------------- loss curves


def _records(count=50):
    steps = np.arange(1, count + 1)
    return [{"step": int(s), "loss": 3 / s, "loss_mask": 1 / s, "loss_box_reg": 2 / s, "lr": 0.1} for s in steps]


def test_loss_curves_of_a_log(tmp_path):
    records = _records()
    records += [{"step": 50, "validation_loss": 0.4, "validation_loss_mask": 0.1, "validation_box_AP": 0.3}]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 51, "lo')  # killed here
    curves = draw.loss_curves(draw.read_log(path))
    assert list(curves) == ["loss", "loss_mask", "loss_box_reg", "validation_loss", "validation_loss_mask"]
    assert curves["loss"][0].tolist() == list(range(1, 51)) and curves["loss"][1][1] == 1.5
    picture = draw.plot_losses(path)
    assert picture.ndim == 3 and picture.dtype == np.uint8 and picture.shape[1] > 600
    assert (draw.plot_losses(records, parts=["loss"]) != picture).any()
    nested = [{"step": 1, "losses": {"loss": 2.0, "loss_mask": 1.0}}]
    assert draw.loss_curves(nested)["loss_mask"][1].tolist() == [1.0]


def test_the_last_record_of_a_step_counts():
    steps, values = draw.loss_curves([{"step": 2, "loss": 9.0}, {"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}])[
        "loss"
    ]
    assert steps.tolist() == [1, 2] and values.tolist() == [5.0, 4.0]


def test_smoothing():
    assert draw.smoothed([4.0, 4.0, 4.0], 0.9).tolist() == pytest.approx([4, 4, 4])  # no pull toward 0
    assert draw.smoothed([1.0, 3.0], 0.5)[1] == pytest.approx((0.5 * 1 + 3) / 1.5)
    assert draw.smoothed([1.0, 3.0], 0).tolist() == [1, 3]
    assert draw.smoothed([np.nan, 2.0, np.nan], 0.9).tolist()[1:] == pytest.approx([2, 2])
    with pytest.raises(ValueError, match="smoothing must be at least 0 and below 1"):
        draw.plot_losses(_records(), smoothing=1)


def test_bad_logs_are_named(tmp_path):
    with pytest.raises(InputError, match="none.jsonl: cannot be read as a log"):
        draw.plot_losses(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_text('{"step": 1, "loss": 2}\nnot json\n{"step": 2, "loss": 1}\n')
    with pytest.raises(InputError, match="a.jsonl: line 2 is not JSON"):
        draw.plot_losses(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="b.jsonl: line 1 must be a JSON object, but is a list"):
        draw.plot_losses(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(InputError, match="c.jsonl: contains no record with a step and a loss"):
        draw.plot_losses(tmp_path / "c.jsonl")


# -------------------------------------------------------------------------------- imports


def test_matplotlib_comes_late_and_leaves_the_backend_alone():
    program = (
        "import sys, minimask.draw as d, minimask.run.predict, minimask.evaluate;"
        "assert 'matplotlib' not in sys.modules and 'pycocotools' not in sys.modules and 'tqdm' not in sys.modules;"
        "import matplotlib; before = dict.__getitem__(matplotlib.rcParams, 'backend');"
        "d.plot_losses([{'step': 1, 'loss': 2.0}, {'step': 2, 'loss': 1.0}]);"
        "assert dict.__getitem__(matplotlib.rcParams, 'backend') is before;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
