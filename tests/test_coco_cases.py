"""What people's exports and annotation tools write: each either works, or ends in one message that says what to do.

Every case changes a small sound data set in one way. Training, evaluation, and `split` read it through the same reader.
"""

import copy
import json
import unicodedata

import numpy as np
import pytest

from minimask.__main__ import main
from minimask.datasets.coco import CocoDataset, split
from minimask.errors import InputError
from minimask.evaluate import _scored, coco_average_precision
from minimask.run.report_mistakes import find_mistakes
from tests.coco_changes import (
    HEIGHT,
    IMAGES,
    WIDTH,
    as_rle,
    corners,
    each,
    first,
    images,
    keypoints,
    normalized,
    renumbered,
    save,
    sound,
    without,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(IMAGES):
        save(tmp_path, f"img{i}.png", i)
    return tmp_path


# ------------------------------------------------------------------------------------------- what is read, and how

READ = {
    "plain": (lambda c: None, None),
    "ids from 0": (renumbered(lambda i: i - 1), None),
    "ids that are text": (renumbered(lambda i: f"frame_{i}"), None),
    "ids with a point": (renumbered(float), None),
    "ids of 64 bits": (renumbered(lambda i: i if i % 2 else 2**63 + i), None),
    "ids of categories that are text": (each(category_id=lambda a: str(a["category_id"])), None),
    "one id for all annotations": (each(id=1), None),
    "a flat polygon": (each(segmentation=lambda a: a["segmentation"][0]), "12 x segmentation that is one flat polygon"),
    "pairs": (
        each(segmentation=lambda a: [np.reshape(a["segmentation"][0], (-1, 2)).tolist()]),
        "12 x polygon of [x, y] pairs",
    ),
    "one polygon of pairs": (
        each(segmentation=lambda a: np.reshape(a["segmentation"][0], (-1, 2)).tolist()),
        "12 x polygon of [x, y] pairs",
    ),
    "closed": (each(segmentation=lambda a: [a["segmentation"][0] + a["segmentation"][0][:2]]), None),
    "an empty polygon too": (each(segmentation=lambda a: [*a["segmentation"], []]), "12 x empty polygon"),
    "polygons of text": (
        each(segmentation=lambda a: [[str(v) for v in a["segmentation"][0]]]),
        "12 x polygon whose numbers are written as text",
    ),
    "RLE as text": (each(segmentation=as_rle(True)), None),
    "RLE as a list": (each(segmentation=as_rle(False)), None),
    "boxes of text": (each(bbox=lambda a: [str(v) for v in a["bbox"]]), "12 x bbox whose numbers are written as text"),
    "no boxes": (without("annotations", "bbox"), None),
    "no area, no iscrowd": (without("annotations", "area", "iscrowd"), None),
    "null": (each(area=None, iscrowd=None, bbox=None), None),
    "area as text": (each(area="5"), "12 x area that is written as text"),
    "iscrowd false": (each(iscrowd=False), None),
    "iscrowd 0.0": (each(iscrowd=0.0), None),
    "iscrowd as text": (each(iscrowd="0"), "12 x iscrowd that is written as text"),
    "iscrowd False as text": (each(iscrowd="False"), "12 x iscrowd that is written as text"),
    "sizes with a point": (images(width=96.0, height=64.0), None),
    "no sizes": (without("images", "width", "height"), None),
    "sizes null": (images(width=None, height=None), None),
    "over the border": (first(segmentation=[[-5, 20, 40, 20, 40, 50, -5, 50]], bbox=[-5, 20, 45, 30]), None),
    "an unused category of the same name": (
        lambda c: c["categories"].insert(0, {"id": 0, "name": "box"}),
        'unused category with the name of another one: "box" (id 0)',
    ),
    "names in any script": (lambda c: c["categories"][0].update(name="étoile 星 🌟"), None),
    "info of any kind": (lambda c: c.update(info=None, licenses="MIT"), None),
    "keypoints": (keypoints(), None),
    "skeleton from 0": (keypoints(skeleton=((0, 1),)), "1 x skeleton that counts from 0"),
    "a visibility that is null": (keypoints(points=(12, 22, 2, 30, 30, None)), "6 x keypoint with null"),
    "no keypoint labeled": (keypoints(points=(0, 0, 0, 0, 0, 0)), None),
    "keypoints without names": (each(keypoints=[5, 5, 2]), None),
    "folders in the names": (images(file_name=lambda n, i: f"train/{i['file_name']}"), None),
    "backslashes": (images(file_name=lambda n, i: f"..\\media\\{i['file_name']}"), None),
    "Windows paths": (images(file_name=lambda n, i: f"C:\\Users\\me\\{i['file_name']}"), None),
    "absolute paths": (images(file_name=lambda n, i: f"/home/me/{i['file_name']}"), None),
    "a query": (images(file_name=lambda n, i: f"/data/local-files/?d=x/{i['file_name']}"), None),
    "upper case": (images(file_name=lambda n, i: i["file_name"].upper()), "6 x image whose file name is written diff"),
}


@pytest.mark.parametrize("name", READ)
def test_what_needs_no_guess_is_read(name, folder):
    apply, note = READ[name]
    content = sound()
    apply(content)
    before = copy.deepcopy(content)
    path = folder / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")

    dataset = CocoDataset(folder / "images", path)
    dataset.check_learnable()
    report = str(dataset.problems)
    assert note in report if note else not report, report
    assert len(dataset.problems) == 0 and content == before
    expected = CocoDataset(folder / "images", sound())
    for index in range(IMAGES):
        ours, plain = dataset[index], expected[index]
        if name != "over the border" or index:
            np.testing.assert_array_equal(ours.masks, plain.masks)
            np.testing.assert_array_equal(ours.boxes, plain.boxes)
        assert ours.labels.tolist() == [1, 2] and not ours.crowd.any()

    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9, "segmentation": a["segmentation"]}
        for a in dataset.coco_dict["annotations"]
    ]
    assert coco_average_precision(dataset.coco_dict, perfect, "segm")["AP"] == pytest.approx(1)
    assert main(["split", str(path), "--every", "2", "--output", str(folder / "parts")]) == 0


@pytest.mark.parametrize("number", ["frame_{}".format, lambda i: 2**63 + i])
def test_mistakes_in_images_whose_ids_are_text_or_hashes(number):
    content = sound()
    renumbered(number)(content)
    scoring = {"bbox": _scored(content, [], "bbox")}
    missed = find_mistakes(scoring, {1: "box", 2: "tri"})["missed"]
    assert len(missed) == 12 and missed[0].image_id in {number(i + 1) for i in range(IMAGES)}


def test_text_of_other_programs(folder):
    text = json.dumps(sound())
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / "a.json").write_bytes(text.encode(encoding))
        assert len(CocoDataset(folder / "images", folder / "a.json")) == IMAGES
    (folder / "a.json").write_bytes(text.replace("tri", "B\u00fcgel").encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 text: line 1 has the byte 0xfc.; save it as UTF-8"):
        CocoDataset(folder / "images", folder / "a.json")


def test_file_names_are_found_in_another_unicode_form_and_with_percent_signs(folder):
    content = sound()
    names = ["caf\u00e9 0.png", "image 1.png"]
    for name in names:
        save(folder, name)
    content["images"][0]["file_name"] = unicodedata.normalize("NFD", names[0])
    content["images"][1]["file_name"] = "image%201.png"
    dataset = CocoDataset(folder / "images", content)
    assert [path.name for path in dataset.files[:2]] == names
    assert "2 x image whose file name is written differently" in str(dataset.problems)


def test_two_files_that_could_be_meant_are_not_guessed_between(folder):
    content = sound()
    content["images"][0]["file_name"] = "PHOTO.png"
    for name in ("photo.png", "Photo.png"):
        save(folder, name)
    with pytest.raises(InputError, match="PHOTO.png: no such image file"):
        CocoDataset(folder / "images", content)


# ------------------------------------------------------------------------------------------- what is refused

REFUSED = {
    "two images of one id": (lambda c: c["images"][1].update(id=1), "two images have the id 1"),
    "empty segmentations": (
        lambda c: [a.update(segmentation=[]) for a in c["annotations"][:2]],
        "2 x object without a segmentation: annotation 1 (image 1), annotation 2 (image 1)",
    ),
    "segmentations null": (each(segmentation=None), "12 x object without a segmentation"),
    "a polygon of 4 numbers": (
        lambda c: c["annotations"][0]["segmentation"].append([1, 1, 5, 5]),
        "annotation 1 has a polygon of 2 points; it takes at least 3",
    ),
    "a box without width": (first(bbox=[11, 35, 0, 24]), "annotation 1 has a box without area"),
    "everything in parts of the image": (each(segmentation=normalized), "12 x polygon in parts of the image (0 to 1)"),
    "a line": (first(segmentation=[[10, 10, 20, 10, 15, 10]]), "annotation 1 has a segmentation without area"),
    "a sliver": (first(segmentation=[[10, 10.1, 20, 10.1, 20, 10.2]]), "annotation 1 has a segmentation without area"),
    "a polygon far away": (first(segmentation=[[300, 300, 320, 300, 320, 320]]), "a point far outside its image"),
    "a polygon beside the image": (first(segmentation=[[100, 10, 120, 10, 120, 30]]), "without area"),
    "a point of 1e10": (first(segmentation=[[1, 1, 1e10, 1, 1, 1e10]]), "a value too large for any image: 1e+10"),
    "RLE of a turned image": (
        each(segmentation=lambda a: {"size": [WIDTH, HEIGHT], "counts": [0, WIDTH * HEIGHT]}),
        "12 x RLE whose size is not that of its image",
    ),
    "RLE that is none": (
        each(segmentation={"size": [HEIGHT, WIDTH], "counts": "\u00e9!"}),
        "12 x RLE whose counts cannot be decoded",
    ),
    "RLE size 5": (first(segmentation={"size": 5, "counts": "0"}), "an RLE whose size must be [height, width]"),
    "iscrowd no": (first(iscrowd="no"), "annotation 1 must have 0 or 1 as iscrowd, has 'no'"),
    "area NaN": (first(area=float("nan")), "annotation 1 must have a number as area, has nan"),
    "bbox NaN": (first(bbox=[1, 1, 5, float("nan")]), "annotation 1 has a bbox with values that are not numbers"),
    "all crowds": (each(iscrowd=1, segmentation=as_rle(True)), "all of its 12 objects are crowds (iscrowd 1)"),
    "no objects": (lambda c: c["annotations"].clear(), "nothing to learn: none of its 6 images has an object"),
    "no categories": (lambda c: c.pop("categories"), 'is not COCO json: "categories" is missing'),
    "an unknown category": (each(category_id=7), "12 x annotation of a category that is not listed"),
    "an unknown image": (first(image_id=77), "annotation 1 belongs to image 77, which is not among the images"),
    "exchanged sizes": (images(width=HEIGHT, height=WIDTH), "6 x photo of another size than the file says: img0.png"),
    "a missing photo": (lambda c: c["images"][3].update(file_name="no.png"), "no.png: no such image file"),
    "all photos missing": (images(file_name=lambda n, i: f"x{n}.png"), "none of the other 5"),
    "two folders, one file": (
        images(file_name=lambda n, i: f"video{'AB'[n // 3]}/img{n % 3}.png"),
        "6 x image whose file would be that of another image",
    ),
    "other sizes of keypoints": (keypoints(points=(1, 1, 2)), "6 x another number of keypoints"),
    "sizes of text": (images(width="wide"), "6 x image with a size that is none"),
}


def open_for_training(folder, path, **options):
    dataset = CocoDataset(folder / "images", path, **options)
    dataset.check_learnable()
    return dataset


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_told_in_one_report(name, folder, capsys):
    apply, message = REFUSED[name]
    content = sound()
    apply(content)
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as training:
        open_for_training(folder, path)
    assert message in str(training.value)

    for kind in ("bbox", "segm", "keypoints"):  # evaluation reads it, or refuses it as well
        try:
            coco_average_precision(path, [], kind)
        except InputError:
            pass
    data = ["--images", str(folder / "images"), "--annotations", str(path)]
    assert main(["inspect", *data, "--output", str(folder / "seen")]) == 2
    more = ["--keypoints"] if "keypoints" in message else []
    assert main(["train", *data, *more, "--output", str(folder / "run"), "--preset", "toy", "--steps", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error and not (folder / "run").exists()
    assert main(["split", str(path), "--output", str(folder / "parts")]) in (0, 2)


FILES = {
    "a trailing comma": ('{"images": [],}', "is not json"),
    "results": ([{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 1, 2, 2]}], "holds results"),
    "labelme": ({"shapes": [], "imagePath": "a.png"}, "annotations of labelme, not COCO json.*minimask import"),
    "VIA": ({"_via_img_metadata": {}, "_via_settings": {}}, "annotations of VIA, not COCO json.*minimask import"),
    "panoptic": ({**sound(), "annotations": [{"segments_info": [], "image_id": 1}]}, "panoptic json"),
    "deep": ("[" * 100_000, "is not COCO json .nested too deep"),
    "digits": ('{"images": ' + "1" * 5000 + "}", "is not COCO json|must be a list"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_recognized(name, folder):
    content, message = FILES[name]
    path = folder / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message):
        CocoDataset(folder / "images", path)
    with pytest.raises(InputError):
        coco_average_precision(path, [], "segm")


def test_a_folder_of_labelme_is_recognized(folder):
    shapes = {"shapes": [{"label": "a", "points": [[1, 1], [5, 1], [5, 5]], "shape_type": "polygon"}]}
    (folder / "images" / "img0.json").write_text(json.dumps({**shapes, "imagePath": "img0.png"}))
    with pytest.raises(InputError, match="it holds annotations of labelme; .* minimask import"):
        CocoDataset(folder / "images", folder / "images")


def test_keypoints_are_not_looked_at_when_only_masks_are_trained(folder):
    content = sound()
    keypoints(points=(1, 1, 2))(content)  # another number than the category names
    content["categories"][1]["keypoints"] = ["c"]  # and another list
    with pytest.raises(InputError, match="different keypoints"):
        CocoDataset(folder / "images", content)
    dataset = CocoDataset(folder / "images", content, keypoints=False)
    assert dataset.keypoint_names is None and dataset[0].keypoints is None
    assert coco_average_precision(content, [], "segm")["AP"] == 0


# ------------------------------------------------------------------------------------------- what is probably wrong

DOUBTED = {
    "corners": (each(bbox=corners), "12 x bbox written as x1, y1, x2, y2"),
    "normalized": (
        each(bbox=lambda a: [a["bbox"][k] / (WIDTH, HEIGHT)[k % 2] for k in range(4)]),
        "12 x bbox in parts of the image",
    ),
    "stale": (each(bbox=lambda a: [v / 2 for v in a["bbox"]]), "12 x bbox of another image size"),
    "elsewhere": (first(bbox=[60, 1, 5, 5]), "1 x bbox and segmentation in different places: annotation 1 (image 1)"),
    "one file twice": (
        lambda c: c["images"][1].update(file_name="img0.png"),
        "1 x file listed as several images: img0.png (images 1 and 2)",
    ),
}


@pytest.mark.parametrize("name", DOUBTED)
def test_what_is_probably_wrong_is_told_and_used(name, folder, capsys):
    apply, message = DOUBTED[name]
    content = sound()
    apply(content)
    dataset = CocoDataset(folder / "images", content)
    assert "probably wrong" in str(dataset.problems) and message in str(dataset.problems)
    assert len(dataset.problems) == 0


def test_split_keeps_one_file_on_one_side():
    content = sound()
    for n, image in enumerate(content["images"]):
        image["file_name"] = f"img{n // 2}.png"
    train, val = ({image["file_name"] for image in part["images"]} for part in split(content, 2))
    assert train == {"img1.png"} and val == {"img0.png", "img2.png"}


def test_an_unused_category_of_a_validation_file_is_left_out(folder):
    content = sound()
    content["categories"].append({"id": 9, "name": "root"})
    dataset = CocoDataset(folder / "images", content, class_names=("tri", "box"))
    assert dataset.class_names == ("tri", "box") and dataset[0].labels.tolist() == [2, 1]
    content["categories"][0]["name"] = "Box"
    with pytest.raises(InputError, match='has a category "Box", which is not one of tri, box; did you mean box'):
        CocoDataset(folder / "images", content, class_names=("tri", "box"))
