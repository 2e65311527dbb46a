"""COCO json: files as people have them are read, and what cannot be used is named in one line."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from minimask.__main__ import main
from minimask.datasets.coco import CocoDataset, split
from minimask.datasets.loader import Loader
from minimask.datasets.photos import image_size
from minimask.datasets.segmentation import decode_segmentation, rle_counts
from minimask.errors import InputError
from minimask.evaluate import coco_average_precision
from minimask.image import ImageTransform

# pycocotools still implements __array__ as in NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real data is not there")


def small_coco():
    """Three images of 20 x 10 pixels (width x height): two objects, no object, a crowd beside an object."""
    full = np.zeros((10, 20), np.uint8)
    full[2:5, 3:9] = 1
    code = rle.encode(np.asfortranarray(full))
    return {
        "images": [
            {"id": 0, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 7, "file_name": "train/b.png", "width": 20, "height": 10},
            {"id": 12, "file_name": "c.png", "width": 20, "height": 10},
        ],
        "categories": [
            {"id": 90, "name": "whale"},
            {"id": 0, "name": "crab", "keypoints": ["left_claw", "right_claw"], "skeleton": [[1, 2]]},
        ],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 90,
                "bbox": [3, 2, 6, 3],
                "segmentation": {"size": [10, 20], "counts": code["counts"].decode()},
            },
            {
                "id": 5,
                "image_id": 0,
                "category_id": 0,
                "bbox": [1.5, 1, 4, 4],
                "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5], [10, 5, 15, 5, 15, 8]],
                "iscrowd": 0,
                "keypoints": [2, 3, 2, 9, 9, 0],
            },
            {
                "id": 6,
                "image_id": 12,
                "category_id": 90,
                "bbox": [0, 0, 2, 10],
                "iscrowd": 1,
                "segmentation": {"size": [10, 20], "counts": [0, 20, 180]},
            },
            {"id": 8, "image_id": 12, "category_id": 0, "segmentation": [[4, 4, 8, 4, 8, 7]]},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with the images of `small_coco`."""
    (tmp_path / "images").mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def open_coco(folder, content, **options):
    (folder / "coco.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return CocoDataset(folder / "images", folder / "coco.json", **options)


# ------------------------------------------------------------------------------------------- what is read


def test_ids_of_any_kind_become_labels_from_1(folder):
    dataset = open_coco(folder, small_coco())
    assert len(dataset) == 3
    assert dataset.class_names == ("crab", "whale") and dataset.category_ids == (0, 90)
    sample = dataset[0]
    assert sample.labels.tolist() == [2, 1] and sample.image_id == 0 and sample.name == "a.png"
    assert sample.image.shape == (10, 20, 3) and sample.image[0, 0].tolist() == [0, 0, 0]
    assert dataset[1].image[0, 0].tolist() == [1, 0, 0]  # found by the last part of its name


def test_boxes_and_masks(folder):
    sample = open_coco(folder, small_coco())[0]
    assert sample.boxes.tolist() == [[3, 2, 9, 5], [1.5, 1, 5.5, 5]] and sample.boxes.dtype == np.float32
    assert sample.masks.shape == (2, 10, 20) and sample.masks.dtype == np.uint8
    assert sample.masks[0].sum() == 18 and sample.masks[0, 2:5, 3:9].all()
    assert sample.masks[1, 1:5, 1:5].all() and sample.masks[1, 6, 13] == 1  # both polygons
    assert not sample.crowd.any()


def test_crowd_and_missing_box(folder):
    sample = open_coco(folder, small_coco())[2]
    assert sample.crowd.tolist() == [True, False]
    assert sample.masks[0, :, :2].all() and sample.masks[0].sum() == 20
    assert sample.boxes[1].tolist() == [4, 4, 8, 7]  # of the polygon


def test_missing_box_of_rle(folder):
    content = small_coco()
    del content["annotations"][0]["bbox"]
    assert open_coco(folder, content)[0].boxes[0].tolist() == [3, 2, 9, 5]


def test_keypoints(folder):
    dataset = open_coco(folder, small_coco())
    assert dataset.keypoint_names == ("left_claw", "right_claw") and dataset.skeleton == ((0, 1),)
    assert dataset.keypoint_order.tolist() == [1, 0]
    assert dataset[0].keypoints.tolist() == [[[0, 0, 0], [0, 0, 0]], [[2, 3, 2], [0, 0, 0]]]
    content = small_coco()
    del content["categories"][1]["keypoints"]
    dataset = open_coco(folder, content)
    assert dataset.keypoint_names is None and dataset[0].keypoints is None


def test_a_picture_without_objects_is_background(folder):
    sample = open_coco(folder, small_coco())[1]
    assert sample.boxes.shape == (0, 4) and sample.masks.shape == (0, 10, 20) and sample.keypoints.shape == (0, 2, 3)
    batch = Loader(open_coco(folder, small_coco()), ImageTransform(32, 64), 3).batch(0)
    assert sorted(batch.valid.sum(1).tolist()) == [0, 2, 2]


def test_boxes_are_cut_at_the_border(folder):
    content = small_coco()
    content["annotations"][0]["bbox"] = [-3, 2, 40, 30]
    assert open_coco(folder, content)[0].boxes[0].tolist() == [0, 2, 20, 10]


def test_images_without_stated_size(folder):
    content = small_coco()
    for image in content["images"]:
        del image["width"], image["height"]
    dataset = open_coco(folder, content)
    assert dataset[0].masks.shape == (2, 10, 20)
    assert dataset.coco_dict["images"][0]["width"] == 20 and "width" not in content["images"][0]


def test_some_images_only(folder):
    content = small_coco()
    content["annotations"][0]["segmentation"] = None  # of an image that is not used
    (folder / "images" / "a.png").unlink()
    dataset = open_coco(folder, content, image_ids=[12])
    assert len(dataset) == 1 and dataset[0].image_id == 12
    assert [a["id"] for a in dataset.coco_dict["annotations"]] == [6, 8]
    with pytest.raises(InputError, match="coco.json: has no image with the id 13"):
        open_coco(folder, content, image_ids=[12, 13])


def test_class_names_give_the_labels(folder):
    dataset = open_coco(folder, small_coco(), class_names=("whale", "snail", "crab"))
    assert dataset.category_ids == (90, 92, 0) and dataset[0].labels.tolist() == [1, 3]
    with pytest.raises(InputError, match='has a category "whale", which is not one of crab, snail'):
        open_coco(folder, small_coco(), class_names=("crab", "snail"))


def test_image_ids_may_be_text(folder):
    content = small_coco()
    for entry, key in [(image, "id") for image in content["images"]] + [
        (a, "image_id") for a in content["annotations"]
    ]:
        entry[key] = f"photo {entry[key]}"
    assert open_coco(folder, content)[0].image_id == "photo 0"
    assert coco_average_precision(folder / "coco.json", [], "segm")["AP"] == 0


def test_null_is_as_good_as_missing(folder):
    content = small_coco()
    for annotation in content["annotations"]:
        annotation |= {"bbox": None, "area": None, "iscrowd": annotation.get("iscrowd"), "keypoints": None}
    for image in content["images"]:
        image |= {"width": None, "height": None}
    assert open_coco(folder, content)[0].boxes[0].tolist() == [3, 2, 9, 5]
    assert coco_average_precision(open_coco(folder, content).coco_dict, [], "bbox")["AP"] == 0


def test_a_byte_order_mark_and_sizes_with_a_point_are_read(folder):
    content = small_coco()
    content["images"][0] |= {"width": 20.0, "height": 10.0}
    (folder / "coco.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    sample = CocoDataset(folder / "images", folder / "coco.json")[0]
    assert sample.masks.shape == (2, 10, 20) and sample.boxes[0].tolist() == [3, 2, 9, 5]


def test_keypoints_of_a_category_without_keypoints_are_left_out(folder):
    content = small_coco()
    content["annotations"][0]["keypoints"] = [1, 1, 2]  # a whale, for which the file names no keypoints
    assert open_coco(folder, content)[0].keypoints[0].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_dict_instead_of_a_file(folder):
    assert CocoDataset(folder / "images", small_coco())[0].labels.tolist() == [2, 1]


@pytest.mark.parametrize("stated", [(20, 10), (10, 20)])
def test_a_turned_photo_is_read_in_the_size_that_the_json_states(tmp_path, stated):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    square = [[1, 1, 5, 1, 5, 5]]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": stated[0], "height": stated[1]}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "segmentation": square}],
    }
    assert CocoDataset(tmp_path, content)[0].image.shape[:2] == stated[::-1]
    assert image_size(tmp_path / "a.jpg") == (20, 10)
    del content["images"][0]["width"], content["images"][0]["height"]
    assert CocoDataset(tmp_path, content)[0].masks.shape == (1, 20, 10)


def test_split_takes_every_fifth_by_name():
    content = {
        "info": {"x": 1},
        "images": [{"id": i, "file_name": f"{(i * 7) % 10}.png"} for i in range(10)],
        "annotations": [{"id": i, "image_id": i % 10} for i in range(30)],
        "categories": [],
    }
    train, val = split(content)
    assert [image["file_name"] for image in val["images"]] == ["0.png", "5.png"]
    assert len(train["images"]) == 8 and train["info"] == {"x": 1}
    for part, count in ((train, 24), (val, 6)):
        ids = {image["id"] for image in part["images"]}
        assert len(part["annotations"]) == count and {a["image_id"] for a in part["annotations"]} == ids
    with pytest.raises(InputError, match="every must be 2 or more, got 1"):
        split(content, 1)


def test_compressed_counts_equal_pycocotools():
    rng = np.random.default_rng(0)
    shapes = [((9, 7), 0.5), ((1, 1), 1), ((300, 200), 0.01), ((640, 900), 0), ((5, 5), 1), ((80, 3), 0.9)]
    for shape, density in shapes:
        mask = (rng.random(shape) < density).astype(np.uint8)
        flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
        starts = np.flatnonzero(np.diff(flat)) if flat[1] == 0 else np.concatenate([[0], np.flatnonzero(np.diff(flat))])
        runs = np.diff(np.unique(np.concatenate([[0], starts, [mask.size]])))
        runs = np.concatenate([[0], runs]) if mask.ravel(order="F")[0] else runs
        text = rle.encode(np.asfortranarray(mask))["counts"].decode()
        assert rle_counts(text).tolist() == runs.tolist()
    assert rle_counts("o") is None  # more is announced than comes
    assert rle_counts("oooooooo0") is None and rle_counts("{}") is None


# ------------------------------------------------------------------------------------------- what is not


def change(path, value):
    """small_coco() with one value replaced, or removed if the value is KeyError."""
    content = copy.deepcopy(small_coco())
    *parents, last = path
    place = content
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return content


RLE = {"size": [10, 20], "counts": [0, 20, 180]}
BAD = [
    # the file
    ("{", "is not json (Expecting property name"),
    ("[1, 2]", "is not COCO json: it must hold an object, not a list"),
    ("{}", 'is not COCO json: "images" is missing'),
    (change(("categories",), KeyError), 'is not COCO json: "categories" is missing'),
    (change(("annotations",), {}), 'is not COCO json: "annotations" must be a list, not an object'),
    (change(("images",), []), "there are no images in it"),
    (change(("categories",), []), "there are no categories in it"),
    (change(("images", 1), 3), "images[1] must be an object, not a number"),
    (change(("images", 1, "file_name"), KeyError), 'images[1] has no "file_name"'),
    (change(("images", 1, "file_name"), None), 'images[1]: "file_name" must be text, is None'),
    (change(("images", 1, "id"), None), 'images[1]: "id" must be an integer or text, is None'),
    (change(("images", 1, "id"), "7"), "some image ids are integers and some are text; they must all be of one kind"),
    (change(("categories", 1, "id"), "x"), """categories[1]: "id" must be an integer below 2^63, is 'x'"""),
    (change(("categories", 1, "id"), 2**63), 'categories[1]: "id" must be an integer below 2^63, is 92233'),
    (change(("images", 1, "id"), 0), "two images have the id 0"),
    (change(("images", 1, "width"), 0), "image 7 must have a width of 1 to 1000000 pixels, has 0"),
    (change(("images", 1, "width"), KeyError), "image 7 must have a width of 1 to 1000000 pixels, has None"),
    (change(("categories", 1, "id"), 90), "two categories have the id 90"),
    (change(("categories", 1, "name"), "whale"), 'two categories have the name "whale"'),
    (change(("categories", 0, "keypoints"), ["a"]), "its categories have different keypoints"),
    # an annotation
    (change(("annotations", 1, "image_id"), KeyError), 'annotations[1] has no "image_id"'),
    (change(("annotations", 1, "image_id"), 99), "annotation 5 belongs to image 99, which is not among the images"),
    (change(("annotations", 1, "category_id"), 1), "annotation 5 has category 1, which is not among the categories"),
    (change(("annotations", 1, "bbox"), [1, 1, 0, 4]), "annotation 5 has a box without area: bbox [1, 1, 0, 4]"),
    (change(("annotations", 1, "bbox"), [1, 1, 3, -4]), "annotation 5 has a box without area: bbox [1, 1, 3, -4]"),
    (change(("annotations", 1, "bbox"), [1, 1, 4]), "annotation 5 must have a bbox [x, y, width, height], has [1, 1,"),
    (change(("annotations", 1, "bbox"), [1, 1, 4, float("nan")]), "annotation 5 has a bbox with values that are not n"),
    (
        change(("annotations", 1, "bbox"), [1, 1, 1e9, 4]),
        "annotation 5 has a bbox with a value too large for any",
    ),
    (change(("annotations", 1, "bbox"), [25, 1, 4, 4]), "annotation 5 has a box outside its image of 20 x 10 pixels"),
    (
        change(("annotations", 1, "segmentation"), KeyError),
        "annotation 5 has no segmentation; a box alone does not",
    ),
    (change(("annotations", 1, "segmentation"), []), "annotation 5 has no segmentation; a box alone does not"),
    (change(("annotations", 1, "segmentation"), "mask"), "annotation 5 must have a list of polygons or an RLE object"),
    (change(("annotations", 1, "segmentation"), [[1, 1, 5, 5]]), "annotation 5 has a polygon of 2 points; it takes at"),
    (change(("annotations", 1, "segmentation"), [[1, 1]]), "annotation 5 has a polygon of 1 point; it takes at least"),
    (change(("annotations", 1, "segmentation"), [[1, 1, 5, 5, 2, 2, 9]]), "annotation 5 has a polygon of 7 numbers; x"),
    (change(("annotations", 1, "segmentation"), [[1, 1, 5, 5, 2, "x"]]), "annotation 5 has a polygon with values that"),
    (
        change(("annotations", 1, "segmentation"), [[1, 1, 5, 5, 2, 1e7]]),
        "annotation 5 has a polygon with a point far outside its image: (2, 1e+07)",
    ),
    (change(("annotations", 1, "segmentation"), [5, 6]), "annotation 5 must have polygons that are lists of numbers"),
    (
        change(("annotations", 1, "segmentation"), {**RLE, "size": [20, 10]}),
        "annotation 5 has an RLE of size 20 x 10 (height x width), but its image is 10 x 20",
    ),
    (change(("annotations", 1, "segmentation"), {**RLE, "size": 3}), "annotation 5 has an RLE whose size must be [h"),
    (
        change(("annotations", 1, "segmentation"), {**RLE, "counts": [0, 20]}),
        "annotation 5 has an RLE whose counts add up to 20 pixels; 10 x 20 are 200",
    ),
    (
        change(("annotations", 1, "segmentation"), {**RLE, "counts": "0do"}),
        "annotation 5 has an RLE whose counts cannot be decoded for 10 x 20 pixels",
    ),
    (
        change(("annotations", 1, "segmentation"), {**RLE, "counts": [20, -20, 200]}),
        "annotation 5 has an RLE whose counts cannot be decoded",
    ),
    (change(("annotations", 1, "segmentation"), {**RLE, "counts": [0, 2.5]}), "annotation 5 has an RLE whose counts "),
    (change(("annotations", 1, "segmentation"), {**RLE, "counts": None}), "annotation 5 has an RLE whose counts must"),
    (change(("annotations", 3, "segmentation"), [[4, 4, 8, 4, 9, 4]]), "annotation 8 has a segmentation without area"),
    (change(("annotations", 1, "iscrowd"), "no"), "annotation 5 must have 0 or 1 as iscrowd, has 'no'"),
    (change(("annotations", 1, "area"), "large"), "annotation 5 must have a number as area, has 'large'"),
    (change(("annotations", 1, "keypoints"), [1, 2, 2]), "annotation 5 must have 6 keypoint numbers (x, y, visibility"),
]


@pytest.mark.parametrize("content, message", BAD, ids=[message[:60] for _, message in BAD])
def test_bad_json_is_named(folder, content, message):
    """A single defect gives a message of one line."""
    with pytest.raises(InputError) as caught:
        open_coco(folder, content)
    assert str(caught.value).startswith(f"{folder / 'coco.json'}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content, message", BAD, ids=[message[:60] for _, message in BAD])
def test_training_evaluation_and_split_tell_a_defect_in_the_same_words(folder, content, message, capsys):
    if "no segmentation" in message:
        pytest.skip("a split needs no masks")
    path = folder / "coco.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as training:
        CocoDataset(folder / "images", path)
    if "file_name" not in message and "keypoint" not in message:  # evaluation of masks looks at neither
        with pytest.raises(InputError) as evaluation:
            coco_average_precision(path, [], "segm")
        assert str(training.value).startswith(str(evaluation.value))  # which has no option to leave anything out
    if "has None" not in message:  # split can do without sizes
        assert main(["split", str(path), "--output", str(folder / "parts")]) == 2
        assert str(training.value) in capsys.readouterr().err
    assert not (folder / "parts").exists()


def paths(value, path=()):
    """Every path into a nested value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*path, key))


@pytest.mark.parametrize("odd", [None, -1, 2**70, 1e300, float("inf"), True, "x", "", [], [[]], {}, KeyError], ids=repr)
def test_whatever_is_wrong_anywhere_is_an_input_error(folder, odd):
    """Each value of the json is replaced in turn: either the data can be used, or one line says what is wrong."""
    for path in list(paths(small_coco()))[1:]:
        try:
            dataset = CocoDataset(folder / "images", change(path, odd))
            samples = [dataset[i] for i in range(len(dataset))]
            assert all(np.isfinite(sample.boxes).all() for sample in samples)
        except InputError as error:
            assert len(str(error)) < 1500 and "Traceback" not in str(error)


def test_bad_files_are_named(folder):
    content = small_coco()
    with pytest.raises(InputError, match="absent.json: no such file of annotations"):
        CocoDataset(folder / "images", folder / "absent.json")
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="binary.json: is not json"):
        CocoDataset(folder / "images", folder / "binary.json")
    with pytest.raises(InputError, match="images"):
        CocoDataset(folder / "images", folder / "images")
    with pytest.raises(InputError, match="nowhere: no such folder of images"):
        CocoDataset(folder / "nowhere", content)
    (folder / "images" / "c.png").unlink()
    with pytest.raises(InputError, match=r"c\.png: no such image file; the annotations names? it as image 12"):
        CocoDataset(folder / "images", content)


def test_unreadable_and_wrong_pictures_are_named_when_they_are_read(folder):
    dataset = open_coco(folder, small_coco())
    (folder / "images" / "b.png").write_text("no picture")
    with pytest.raises(InputError, match=r"b\.png: not a readable image \(its format is unknown\)"):
        dataset[1]
    Image.new("RGB", (21, 10)).save(folder / "images" / "c.png")
    with pytest.raises(InputError, match=r"c\.png: is 21 x 10 pixels, but .*coco\.json says 20 x 10 for image 12"):
        dataset[2]
    with pytest.raises(IndexError):
        dataset[3]


# ------------------------------------------------------------------------------------------- real data


@needs_data
@pytest.mark.parametrize(
    "name, file, images, objects, crowds, classes",
    [
        ("coco_open", "instances_val2017.json", 39, 409, 6, 80),
        ("coco_open", "instances_train2017.json", 36, 406, 5, 80),
        ("coco_open", "person_keypoints_train2017.json", 20, 49, 2, 1),
        ("fruits_nuts", "instances.json", 14, 119, 0, 3),
        ("nuclei_dsb2018", "instances.json", 120, 3482, 0, 1),
    ],
)
def test_real_data(name, file, images, objects, crowds, classes):
    dataset = CocoDataset(DATA / name / "images", DATA / name / file)
    assert len(dataset) == images and len(dataset.class_names) == classes
    samples = [dataset[i] for i in range(0, images, 5)]
    boxes = sum(len(sample.boxes) for sample in samples)
    counted = [len([a for a in dataset.coco_dict["annotations"] if a["image_id"] == s.image_id]) for s in samples]
    assert boxes == sum(counted) and len(dataset.coco_dict["annotations"]) == objects
    assert sum(a["iscrowd"] for a in dataset.coco_dict["annotations"]) == crowds
    for sample in samples:
        for box, mask in zip(sample.boxes, sample.masks):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            tight = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            assert np.abs(box - tight).max() < 4.1  # bbox and mask speak of the same place


@needs_data
def test_masks_equal_pycocotools():
    from pycocotools.coco import COCO

    source = DATA / "coco_open" / "instances_val2017.json"
    dataset, coco = CocoDataset(DATA / "coco_open" / "images", source), COCO(source)
    for i in range(0, len(dataset), 7):
        sample = dataset[i]
        annotations = [a for a in coco.dataset["annotations"] if a["image_id"] == sample.image_id]
        for mask, annotation in zip(sample.masks, annotations):
            assert np.array_equal(mask, coco.annToMask(annotation))
            assert np.array_equal(mask, decode_segmentation(annotation["segmentation"], *mask.shape))
