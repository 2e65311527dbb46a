"""Other people's formats become COCO files with the same masks; what cannot be used is reported, all at once."""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from minimask.__main__ import main
from minimask.datasets.coco import CocoDataset
from minimask.datasets.coco import to_coco as written_as_coco
from minimask.datasets.formats import recognize, to_coco
from minimask.datasets.segmentation import decode_segmentation
from minimask.errors import InputError

HEIGHT, WIDTH = 40, 60
SQUARE = [[5, 5], [25, 5], [25, 20], [5, 20]]  # 20 x 15 pixels


def picture(path, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 60)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def open_converted(source, **settings):
    """The converted set, opened as training opens it -> dataset, problems."""
    content, root, problems = to_coco(source, **settings)
    return CocoDataset(root, json.loads(json.dumps(content))), problems


def square_mask():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:20, 5:25] = 1
    return mask


# ------------------------------------------------------------------------------------------------------------- labelme


def labelme(shapes, name="a.png"):
    return {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def test_labelme_polygons_rectangles_and_parts_of_one_object(tmp_path):
    picture(tmp_path / "a.png")
    parts = [
        shape("dog", [[30, 5], [40, 5], [40, 10]], group_id=4),
        shape("dog", [[45, 20], [55, 20], [55, 30]], group_id=4),
    ]
    shapes = [shape("cat", SQUARE), shape("cat", [[25, 20], [5, 5]], "rectangle"), *parts]
    write(tmp_path / "a.json", labelme(shapes))
    dataset, problems = open_converted(tmp_path)
    assert recognize(tmp_path) == "labelme" and len(problems) == 0
    assert dataset.class_names == ("cat", "dog")
    sample = dataset[0]
    assert sample.labels.tolist() == [1, 1, 2]
    np.testing.assert_array_equal(sample.masks[0], square_mask())
    np.testing.assert_array_equal(sample.masks[1], square_mask())
    np.testing.assert_array_equal(sample.boxes[2], [30, 5, 55, 30])
    assert sample.masks[2].sum() == pytest.approx(10 * 5 / 2 + 10 * 10 / 2, abs=8)


def test_a_circle_has_its_area(tmp_path):
    picture(tmp_path / "a.png")
    write(tmp_path / "a.json", labelme([shape("ball", [[30, 20], [30, 35]], "circle")]))
    content, _, _ = to_coco(tmp_path)
    corners = np.reshape(content["annotations"][0]["segmentation"][0], (-1, 2))
    x, y = corners.T
    assert abs(0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) == pytest.approx(math.pi * 15**2)


def test_labelme_masks_are_kept_to_the_pixel(tmp_path):
    picture(tmp_path / "a.png")
    drawn = np.random.default_rng(0).random((10, 12)) < 0.5
    file = io.BytesIO()
    Image.fromarray(drawn.astype(np.uint8) * 255).save(file, "PNG")
    code = base64.b64encode(file.getvalue()).decode()
    write(tmp_path / "a.json", labelme([shape("x", [[7, 3], [18, 12]], "mask", mask=code)]))
    dataset, _ = open_converted(tmp_path)
    np.testing.assert_array_equal(dataset[0].masks[0][3:13, 7:19], drawn)
    assert dataset[0].masks[0].sum() == drawn.sum()


def test_labelme_problems_are_all_reported(tmp_path):
    picture(tmp_path / "a.png")
    bad = [shape("cat", [[1, 1], [2, 2]]), shape("cat", [[1, 1], [9, 9]], "line"), shape("", SQUARE), shape("cat", "x")]
    write(tmp_path / "a.json", labelme([shape("cat", SQUARE), *bad]))
    write(tmp_path / "b.json", labelme([shape("cat", SQUARE)], "missing.png"))
    dataset, problems = open_converted(tmp_path)
    assert len(problems) == 5 and len(dataset[0].labels) == 1
    text = str(problems)
    for words in (
        "a.json, shape 1",
        "line (it has no area): a.json, shape 2",
        "without a label: a.json, shape 3",
        "missing.png",
    ):
        assert words in text, text


# ------------------------------------------------------------------------------------------------------------------ via


@pytest.mark.parametrize("project", [True, False])
def test_via_shapes(tmp_path, project):
    picture(tmp_path / "a.png")
    x, y = np.array(SQUARE).T.tolist()
    regions = [
        {
            "shape_attributes": {"name": "polygon", "all_points_x": x, "all_points_y": y},
            "region_attributes": {"type": "cat"},
        },
        {
            "shape_attributes": {"name": "rect", "x": 5, "y": 5, "width": 20, "height": 15},
            "region_attributes": {"type": "dog"},
        },
        {"shape_attributes": {"name": "point", "cx": 5, "cy": 5}, "region_attributes": {"type": "dog"}},
        {"shape_attributes": {"name": "rect", "x": 5, "y": 5, "width": 20, "height": 15}, "region_attributes": {}},
    ]
    images = {"a.png123": {"filename": "a.png", "size": 123, "regions": regions, "file_attributes": {}}}
    write(tmp_path / "via.json", {"_via_img_metadata": images, "_via_settings": {}} if project else images)
    dataset, problems = open_converted(tmp_path / "via.json")
    assert dataset.class_names == ("cat", "dog") and len(problems) == 2
    for mask in dataset[0].masks:
        np.testing.assert_array_equal(mask, square_mask())


# ----------------------------------------------------------------------------------------------------------------- yolo


@pytest.mark.parametrize("layout", ["images/{}/a.jpg labels/{}/a.txt", "{}/images/a.jpg {}/labels/a.txt"])
def test_yolo_corners_come_back_as_they_were(tmp_path, layout):
    image, label = layout.format("train", "train").split()
    picture(tmp_path / image)
    corners = np.array([[5, 5], [25, 5.25], [24.5, 20], [5, 19]])
    values = " ".join(f"{v:.9f}" for v in (corners / [WIDTH, HEIGHT]).ravel())
    write(
        tmp_path / label, f"1 {values}\n0 0.5 0.5 0.2 0.2\n7 {values}\n1 0.1 0.2 0.3\n0 {values.replace('0.4', '4')}\n"
    )
    write(tmp_path / "classes.txt", "dog\ncat\n")
    content, root, problems = to_coco(tmp_path)
    assert recognize(tmp_path) == "yolo" and len(problems) == 4
    assert [c["name"] for c in content["categories"]] == ["dog", "cat"]
    (annotation,) = content["annotations"]
    assert annotation["category_id"] == 2
    np.testing.assert_allclose(np.reshape(annotation["segmentation"][0], (-1, 2)), corners, atol=1e-6)
    assert (root / content["images"][0]["file_name"]).is_file()
    assert content["images"][0]["height"] == HEIGHT


# ------------------------------------------------------------------------------------------------------- voc, labels


def numbered():
    """Three objects, one in two parts, drawn as numbers."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint16)
    numbers[2:10, 3:20] = 1
    numbers[2:10, 30:40] = 1
    numbers[12:30, 5:9] = 700
    numbers[31:39, 50:60] = 2
    return numbers


@pytest.mark.parametrize("ending", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_label_images_keep_every_pixel(tmp_path, ending, suffix):
    picture(tmp_path / "images" / "cell.png")
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks" / f"cell{suffix}{ending}"
    np.save(path, numbered()) if ending == ".npy" else Image.fromarray(numbered()).save(path)
    dataset, problems = open_converted(tmp_path, classes=["nucleus"])
    assert len(problems) == 0 and dataset.class_names == ("nucleus",)
    masks = dataset[0].masks
    assert len(masks) == 3
    for mask, number in zip(masks, (1, 2, 700)):
        np.testing.assert_array_equal(mask, numbered() == number)


def test_colors_are_no_label_image(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(
        tmp_path / "masks/a.png"
    )
    Image.fromarray(numbered()).save(tmp_path / "masks/b.png")
    dataset, problems = open_converted(tmp_path)
    assert len(problems) == 1 and "a.png: colors" in str(problems)
    assert [len(dataset[i].labels) for i in range(2)] == [0, 3]


def test_pascal_voc(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    objects = np.minimum(numbered(), 3).astype(np.uint8)
    classes = np.choose(objects, [0, 8, 12, 8]).astype(np.uint8)  # cat, dog, cat
    objects[0], classes[0] = 255, 255
    for name, numbers in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (tmp_path / name).mkdir()
        picture_ = Image.fromarray(numbers, "P")
        picture_.putpalette(list(range(256)) * 3)
        picture_.save(tmp_path / name / "a.png")
    dataset, problems = open_converted(tmp_path)
    assert len(problems) == 0
    sample = dataset[0]
    assert [dataset.class_names[label - 1] for label in sample.labels] == ["cat", "dog", "cat"]
    for mask, number in zip(sample.masks, (1, 2, 3)):
        np.testing.assert_array_equal(mask, objects == number)


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": [], "annotations": []}, "already a COCO file"),
        (labelme([]), "pass the folder"),
        ({"a": 1}, "no known annotations"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, words):
    write(tmp_path / "x.json", content)
    with pytest.raises(InputError, match=words):
        to_coco(tmp_path / "x.json")


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        to_coco(tmp_path / "x")
    with pytest.raises(InputError, match="no known annotations"):
        to_coco(tmp_path)
    with pytest.raises(InputError, match="must be one of labelme, via, yolo, voc, labels, got 'coco'"):
        to_coco(tmp_path, format="coco")


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_refuses_what_is_bad_unless_told_to_leave_it_out(tmp_path, capsys):
    picture(tmp_path / "in" / "a.png")
    write(tmp_path / "in" / "a.json", labelme([shape("cat", SQUARE), shape("cat", [[1, 1], [9, 9]], "line")]))
    words = ["import", tmp_path / "in", "--output", tmp_path / "coco.json"]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "line (it has no area): a.json, shape 1" in message and "--skip-bad" in message
    assert not (tmp_path / "coco.json").exists()

    assert main([*words, "--skip-bad"]) == 0
    told = capsys.readouterr()
    assert "left out: 1" in told.out and "shape 1" in told.err
    assert len(CocoDataset(tmp_path / "in", tmp_path / "coco.json")[0].labels) == 1
    assert main([*words, "--skip-bad"]) == 2
    assert "exists already" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ there and back


def assert_same_masks_again(dataset, expected):
    """The masks of a converted image are `expected`, and so are those of the set written as COCO and read again."""
    np.testing.assert_array_equal(dataset[0].masks, expected)
    again = CocoDataset(dataset.folder, json.loads(json.dumps(written_as_coco(dataset))))
    np.testing.assert_array_equal(again[0].masks, expected)
    assert again[0].labels.tolist() == dataset[0].labels.tolist()


def test_yolo_polygons_have_the_masks_that_they_draw_in_the_image(tmp_path):
    rng = np.random.default_rng(3)
    picture(tmp_path / "images" / "a.jpg")
    polygons = [np.round(rng.uniform(0.1, 0.9, (points, 2)), 6) for points in (3, 5, 9)]
    lines = [f"{k % 2} " + " ".join(f"{v:.6f}" for v in polygon.ravel()) for k, polygon in enumerate(polygons)]
    write(tmp_path / "labels" / "a.txt", "\n".join(lines))
    write(tmp_path / "classes.txt", "dog\ncat\n")
    dataset, problems = open_converted(tmp_path)
    assert len(problems) == 0 and dataset[0].labels.tolist() == [1, 2, 1]
    pixels = [(polygon * [WIDTH, HEIGHT]).ravel().tolist() for polygon in polygons]
    assert_same_masks_again(dataset, [decode_segmentation([points], HEIGHT, WIDTH) for points in pixels])


def test_label_images_there_and_back(tmp_path):
    picture(tmp_path / "images" / "cell.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(numbered()).save(tmp_path / "masks" / "cell.png")
    dataset, _ = open_converted(tmp_path, classes=["nucleus"])
    assert_same_masks_again(dataset, [numbered() == number for number in (1, 2, 700)])


def test_labelme_and_via_there_and_back(tmp_path):
    picture(tmp_path / "labelme" / "a.png")
    write(tmp_path / "labelme" / "a.json", labelme([shape("cat", SQUARE)]))
    picture(tmp_path / "via" / "a.png")
    x, y = zip(*SQUARE)
    attributes = {"name": "polygon", "all_points_x": x, "all_points_y": y}
    region = {"shape_attributes": attributes, "region_attributes": {"class": "cat"}}
    entry = {"filename": "a.png", "size": 1, "regions": [region], "file_attributes": {}}
    write(tmp_path / "via" / "via.json", {"a.png1": entry})
    for source in (tmp_path / "labelme", tmp_path / "via" / "via.json"):
        dataset, problems = open_converted(source)
        assert len(problems) == 0
        assert_same_masks_again(dataset, [square_mask()])
