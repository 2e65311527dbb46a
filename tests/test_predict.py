"""Photos in, pictures and json out: every kind of photo, names that clash, bad photos, full disks."""

import collections
import errno
import json
import os

import numpy as np
import pytest
from PIL import Image

from minimask.datasets.segmentation import rle_counts
from minimask.datasets.toy import ToyScenes
from minimask.errors import InputError
from minimask.evaluate import evaluate
from minimask.image import ImageTransform
from minimask.mask_rcnn import build
from minimask.run import files, predict
from minimask.run.photo_paths import find_photos, passed_text
from minimask.run.predict import coco_results, predict_files
from minimask.run.predictor import Predictor
from minimask.structures import Detections


class Finder(Predictor):
    """A stand-in for a model: one object in the left half, one in the lower right quarter, one it is not sure of."""

    boxes = np.array([(0, 0, 0.5, 1), (0.5, 0.5, 1, 1), (0.2, 0.2, 0.4, 0.4)], np.float32)
    labels = np.array([2, 3, 1])
    scores = np.array([0.7, 0.9, 0.3], np.float32)
    class_names = ("cat", "dog", "duck")

    def __init__(self, masks=True, keypoints=False):
        self.transform = ImageTransform(min_size=48, max_size=96)
        self.masks, self.keypoints, self.seen = masks, keypoints, []

    def detect(self, batch):
        self.seen.append(batch.images)
        n, d = len(batch.images), len(self.boxes)
        height, width = batch.sizes[0]
        boxes = self.boxes * (width, height, width, height)
        points = np.concatenate([boxes[:, :2], boxes[:, 2:]], 1).reshape(d, 2, 2)
        return Detections(
            boxes[None].repeat(n, 0).astype(np.float32),
            self.labels[None].repeat(n, 0),
            self.scores[None].repeat(n, 0),
            np.ones((n, d), bool),
            np.ones((n, d, 28, 28), np.float32) if self.masks else None,
            np.pad(points, ((0, 0), (0, 0), (0, 1)), constant_values=2)[None].astype(np.float32)
            if self.keypoints
            else None,
        )


def _photo(path, size=(40, 60), color=(10, 200, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), color, np.uint8)).save(path)
    return path


def _read(path):
    return json.loads(path.read_text())


# -------------------------------------------------------------------------------- what is written


def test_picture_and_json(tmp_path):
    photo = _photo(tmp_path / "in" / "a.jpg")
    model = Finder().name_classes(["cat", "dog", "duck"], [10, 20, 30])
    written = predict_files(model, [photo], tmp_path / "out")
    assert written == [(photo, tmp_path / "out" / "a.png", tmp_path / "out" / "a.json")]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "a.png"]
    record = _read(tmp_path / "out" / "a.json")
    assert (record["height"], record["width"], record["photo"]) == (40, 60, str(photo.resolve()))
    best, second = record["detections"]  # the third scores below 0.5
    assert (best["name"], best["label"], best["category_id"]) == ("duck", 3, 30)
    assert best["score"] == pytest.approx(0.9) and second["score"] == pytest.approx(0.7)
    assert best["box"] == pytest.approx([30, 20, 60, 40]) and best["bbox"] == pytest.approx([30, 20, 30, 20])
    assert best["segmentation"]["size"] == [40, 60]
    runs = rle_counts(best["segmentation"]["counts"])
    assert runs.sum() == 2400 and 500 <= runs[1::2].sum() <= 700
    picture = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert picture.shape[1] % 60 == 0 and picture.shape[1] > 600


def test_threshold(tmp_path):
    photo = _photo(tmp_path / "a.png")
    for threshold, count in ((0.0, 3), (0.3, 3), (0.8, 1), (0.95, 0)):
        out = tmp_path / f"out{threshold}"
        predict_files(Finder(), [photo], out, score_threshold=threshold)
        assert len(_read(out / "a.json")["detections"]) == count


def test_without_masks_and_with_keypoints(tmp_path):
    photo = _photo(tmp_path / "a.png")
    model = Finder(masks=False, keypoints=True)
    model.skeleton, model.keypoint_names = [(0, 1)], ("nose", "tail")
    predict_files(model, [photo], tmp_path / "out")
    record = _read(tmp_path / "out" / "a.json")
    best = record["detections"][0]
    assert record["keypoint_names"] == ["nose", "tail"]
    assert "segmentation" not in best and best["category_id"] == 3
    assert best["keypoints"] == pytest.approx([30, 20, 2, 60, 40, 2])


def test_photos_are_read_as_a_person_sees_them(tmp_path):
    rows = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))
    color = np.dstack([rows, rows, rows])
    Image.fromarray(rows).save(tmp_path / "gray.png")
    Image.fromarray(np.dstack([color, np.full((40, 60), 255, np.uint8)])).save(tmp_path / "alpha.png")
    Image.fromarray(rows.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(color).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    model = Finder()
    predict_files(model, [tmp_path / f"{n}.png" for n in ("gray", "alpha", "deep")], tmp_path / "out")
    assert (model.seen[0] == model.seen[1]).all() and np.abs(model.seen[0] - model.seen[2]).max() < 0.05
    predict_files(model, [tmp_path / "turned.jpg"], tmp_path / "out")
    record = _read(tmp_path / "out" / "turned.json")
    assert (record["height"], record["width"]) == (60, 40)


def test_one_pixel_and_large_photos(tmp_path, monkeypatch):
    _photo(tmp_path / "dot.png", size=(1, 1))
    _photo(tmp_path / "wide.png", size=(30, 9000))
    monkeypatch.setattr(predict, "MASK_BYTES", 30 * 9000)  # one mask at a time
    predict_files(Finder(), [tmp_path / "dot.png", tmp_path / "wide.png"], tmp_path / "out")
    assert (_read(tmp_path / "out" / "dot.json")["height"]) == 1
    record = _read(tmp_path / "out" / "wide.json")
    assert [d["name"] for d in record["detections"]] == ["duck", "dog"]
    assert record["detections"][0]["segmentation"]["size"] == [30, 9000]
    assert record["detections"][0]["box"] == pytest.approx([4500, 15, 9000, 30], rel=0.02)
    assert Image.open(tmp_path / "out" / "wide.png").width == 3000


# -------------------------------------------------------------------------------- names


def test_same_names_in_different_folders(tmp_path):
    photos = [_photo(tmp_path / folder / "x.png") for folder in ("a", "b", "c/b")] + [_photo(tmp_path / "a" / "x.jpg")]
    written = predict_files(Finder(), photos, tmp_path / "out")
    assert [picture.name for _, picture, _ in written] == ["x.png", "b-x.png", "x-2.png", "a-x.png"]
    again = predict_files(Finder(), photos, tmp_path / "out")
    assert again == written  # each photo has its results' names for good
    assert len(os.listdir(tmp_path / "out")) == 8
    later = predict_files(Finder(), photos[::-1], tmp_path / "out")
    assert later == written[::-1]


def test_later_photos_of_the_same_name_do_not_overwrite(tmp_path):
    first, second = _photo(tmp_path / "a" / "x.png"), _photo(tmp_path / "b" / "x.png")
    predict_files(Finder(), [first], tmp_path / "out")
    before = (tmp_path / "out" / "x.json").read_bytes()
    predict_files(Finder(), [second], tmp_path / "out")
    assert (tmp_path / "out" / "x.json").read_bytes() == before
    assert _read(tmp_path / "out" / "b-x.json")["photo"] == str(second.resolve())


def test_photos_and_other_files_are_never_overwritten(tmp_path):
    photo = _photo(tmp_path / "album" / "x.png")
    before = photo.read_bytes()
    written = predict_files(Finder(), [photo], tmp_path / "album")
    assert photo.read_bytes() == before
    assert written[0][1].name == "album-x.png"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.json").write_text('{"mine": 1}')
    assert predict_files(Finder(), [photo], tmp_path / "out")[0][1].name == "album-x.png"
    assert (tmp_path / "out" / "x.json").read_text() == '{"mine": 1}'


def test_names_that_differ_in_case_only(tmp_path):
    photos = [_photo(tmp_path / "a" / "x.png"), _photo(tmp_path / "b" / "X.png")]
    written = predict_files(Finder(), photos, tmp_path / "out")
    assert [picture.name for _, picture, _ in written] == ["x.png", "b-X.png"]


def test_folders(tmp_path):
    for name in ("b.png", "a.jpg", "c.TIF", ".hidden.png"):
        _photo(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "more").mkdir()
    assert [p.name for p in find_photos([tmp_path])] == ["a.jpg", "b.png", "c.TIF"]
    assert [p.name for p in find_photos([tmp_path / "b.png", tmp_path])] == ["b.png", "a.jpg", "c.TIF"]
    first = predict_files(Finder(), [tmp_path], tmp_path)
    second = predict_files(Finder(), [tmp_path], tmp_path)  # its own results are no photos
    assert first == second and len(first) == 3
    with pytest.raises(InputError, match="no photos found in .*more"):
        predict_files(Finder(), [tmp_path / "more"], tmp_path / "out")
    with pytest.raises(InputError, match="no photos found in an empty list"):
        find_photos([])


def test_what_is_passed_over_is_counted_and_sub_folders_are_taken_on_request(tmp_path):
    for name in ("a.jpg", "more/b.png", "more/deep/c.tif"):
        _photo(tmp_path / name)
    for name in ("x.heic", "y.heic", "z.jp2", "LICENSE"):
        (tmp_path / name).write_text("")
    passed = collections.Counter()
    assert [p.name for p in find_photos([tmp_path], passed=passed)] == ["a.jpg"]
    assert passed_text(passed) == "2 .heic files, 1 .jp2 file, 1 file without an ending, 1 sub-folder"
    assert [p.name for p in find_photos([tmp_path], recursive=True)] == ["a.jpg", "b.png", "c.tif"]
    with pytest.raises(InputError, match=r"no photos found in .*deep.none.* \(passed over: 1 .heic file\)"):
        (tmp_path / "deep none").mkdir()
        (tmp_path / "deep none" / "x.heic").write_text("")
        find_photos([tmp_path / "deep none"])


def test_patterns(tmp_path):
    for name in ("a1.jpg", "a2.jpg", "b.jpg", "c[1].jpg"):
        _photo(tmp_path / name)
    assert [p.name for p in find_photos([str(tmp_path / "a*.jpg")])] == ["a1.jpg", "a2.jpg"]
    assert [p.name for p in find_photos([tmp_path / "c[1].jpg"])] == ["c[1].jpg"]  # a file of that name
    with pytest.raises(InputError, match="no such photo or folder"):
        find_photos([str(tmp_path / "z*.jpg")])


def test_pages_of_a_tiff(tmp_path):
    shades = [Image.fromarray(np.full((40, 60), value, np.uint8)) for value in (10, 120, 240)]
    shades[0].save(tmp_path / "stack.tif", save_all=True, append_images=shades[1:])
    model = Finder()
    written = predict_files(model, [tmp_path / "stack.tif"], tmp_path / "out")
    assert [record.name for _, _, record in written] == [f"stack-page{n}.json" for n in (1, 2, 3)]
    assert [_read(record)["page"] for _, _, record in written] == [1, 2, 3]
    means = [images.mean() for images in model.seen]
    assert means[0] < means[1] < means[2]
    assert predict_files(Finder(), [tmp_path / "stack.tif"], tmp_path / "out") == written


def test_results_of_a_photo_that_has_moved_keep_their_name(tmp_path):
    photo = _photo(tmp_path / "a" / "x.png")
    predict_files(Finder(), [photo], tmp_path / "out")
    (tmp_path / "b").mkdir()
    moved = photo.rename(tmp_path / "b" / "x.png")
    assert predict_files(Finder(), [moved], tmp_path / "out")[0][1].name == "x.png"
    assert len(os.listdir(tmp_path / "out")) == 2


def test_results_in_cocos_format(tmp_path):
    model = Finder().name_classes(["cat", "dog", "duck"], [10, 20, 30])
    names = ("000000000139.jpg", "000000000007.jpg")
    written = predict_files(model, [_photo(tmp_path / name) for name in names], tmp_path / "out")
    found = coco_results(written)
    assert [(e["image_id"], e["category_id"]) for e in found] == [(139, 30), (139, 20), (7, 30), (7, 20)]
    assert found[0]["bbox"] == pytest.approx([30, 20, 30, 20]) and found[0]["segmentation"]["size"] == [40, 60]
    assert found[0]["file_name"] == names[0]
    written = predict_files(model, [_photo(tmp_path / "x.jpg"), _photo(tmp_path / "7.jpg")], tmp_path / "out")
    assert [e["image_id"] for e in coco_results(written)] == [1, 1, 2, 2]


def test_nan_is_refused(tmp_path):
    for value in (np.nan, np.inf):
        picture = np.full((20, 30), value, np.float32)
        Image.fromarray(picture).save(tmp_path / "a.tif")
        with pytest.raises(InputError, match="a.tif"):
            predict_files(Finder(), [tmp_path / "a.tif"], tmp_path / "out")
        with pytest.raises(ValueError, match="the array holds NaN or infinity"):
            Finder().predict(picture)


# -------------------------------------------------------------------------------- bad photos, full disks


def test_a_path_that_does_not_exist_stops_before_anything(tmp_path):
    good = _photo(tmp_path / "good.png")
    with pytest.raises(InputError, match="none.png: no such photo or folder"):
        predict_files(Finder(), [good, tmp_path / "none.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_photo_is_named_and_the_others_are_done(tmp_path):
    good = [_photo(tmp_path / "a.png"), _photo(tmp_path / "z.png")]
    bad = tmp_path / "bad.png"
    bad.write_bytes(good[0].read_bytes()[:60])
    out = tmp_path / "out"
    out.mkdir()
    (out / "bad.png").write_bytes(b"earlier")
    with pytest.raises(InputError, match="bad.png: .*2 other photos are done") as error:
        predict_files(Finder(), [good[0], bad, good[1]], out)
    assert "a.png" not in str(error.value).replace("bad.png", "")
    assert sorted(os.listdir(out)) == ["a.json", "a.png", "bad.png", "z.json", "z.png"]
    assert (out / "bad.png").read_bytes() == b"earlier"


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_leaves_earlier_results(tmp_path, monkeypatch, after):
    photo, out = _photo(tmp_path / "a.png"), tmp_path / "out"
    predict_files(Finder(), [photo], out)
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}
    count, write = [0], files._write_through

    def limited(path, data):
        count[0] += 1
        if count[0] > after:
            path.write_bytes(data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(files, "_write_through", limited)
    with pytest.raises(InputError, match=r"out.a\.(png|json): could not be written \(No space left on device\)"):
        predict_files(Finder(), [photo], out, score_threshold=0.8)
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before


# -------------------------------------------------------------------------------- the real model


def test_an_untrained_model_from_end_to_end(tmp_path):
    scenes = ToyScenes("test", size=80, count=2)
    sizes, every_box = dict(min_size=64, max_size=64), dict(score_threshold=0.0)
    model = build("toy", classes=scenes.class_names, transform=sizes, detection=every_box)
    photo = tmp_path / "scene.png"
    Image.fromarray(scenes[1].image).save(photo)
    predict_files(model, [photo], tmp_path / "out", score_threshold=0.0)
    record = _read(tmp_path / "out" / "scene.json")
    height, width = scenes[1].image.shape[:2]
    assert record["detections"]
    for found in record["detections"]:
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 < x2 <= width + 1e-3 and 0 <= y1 < y2 <= height + 1e-3
        assert found["segmentation"]["size"] == [height, width]
        assert found["name"] in scenes.class_names
    numbers = evaluate(model, scenes, progress=False, results_dir=tmp_path)
    assert all(-1 <= value <= 1 for kind in ("bbox", "segm") for value in numbers[kind].values())
    assert numbers["bbox"]["AP"] >= 0
