"""Drawn scenes: the same on every call, with ground truth of what is visible, within the limits of the docstrings."""

import json
import time

import numpy as np
import pytest

from minimask.datasets.animals import CLASSES, KEYPOINTS, SKELETON, draw_animal
from minimask.datasets.augmentation import flip
from minimask.datasets.coco import to_coco
from minimask.datasets.scenes import Scene
from minimask.datasets.sprites import Sprite
from minimask.datasets.toy import ToyScenes
from minimask.errors import InputError

# pycocotools still implements __array__ as in NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def pieces(mask):
    """The number of parts of a mask that do not touch along an edge."""
    left, count = mask.astype(bool), 0
    while left.any():
        part = np.zeros_like(left)
        part[tuple(np.argwhere(left)[0])] = True
        size = 0
        while part.sum() > size:
            size = part.sum()
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            part = grown & left
        left, count = left & ~part, count + 1
    return count


@pytest.mark.parametrize("case", [None, "crowded", "disconnected", "small"])
@pytest.mark.parametrize("size", [64, 128, 200])
def test_ground_truth_is_consistent(case, size):
    scenes = ToyScenes("train", size, case=case)
    for i in range(12):
        sample = scenes[i]
        count = len(sample.boxes)
        assert 1 <= count <= 6
        assert sample.image.shape == (size, size, 3) and sample.image.dtype == np.uint8
        assert sample.image.flags.c_contiguous
        assert sample.boxes.shape == (count, 4) and sample.boxes.dtype == np.float32
        assert sample.masks.shape == (count, size, size) and sample.masks.dtype == np.uint8
        assert sample.masks.max() == 1 and sample.masks.sum(0).max() == 1  # each pixel shows at most one object
        assert sample.labels.min() >= 1 and sample.labels.max() <= 3 and not sample.crowd.any()
        for mask, (x1, y1, x2, y2) in zip(sample.masks, sample.boxes.astype(int)):
            assert mask.sum() >= 4
            assert mask[y1:y2, x1:x2].sum() == mask.sum()  # nothing outside the box ...
            edges = mask[y1, x1:x2], mask[y2 - 1, x1:x2], mask[y1:y2, x1], mask[y1:y2, x2 - 1]
            assert all(edge.any() for edge in edges)  # ... and no smaller box would do


def test_keypoints_are_honest():
    scenes, seen = ToyScenes("train", 128), np.zeros(3, int)
    for i in range(40):
        sample = scenes[i]
        assert sample.keypoints.shape == (len(sample.boxes), len(KEYPOINTS), 3)
        for g, points in enumerate(sample.keypoints):
            for x, y, visibility in points:
                seen[int(visibility)] += 1
                if visibility == 0:
                    assert x == y == 0
                    continue
                assert 0 <= x < 128 and 0 <= y < 128
                others = np.delete(sample.masks, g, 0)[:, int(y), int(x)].any()
                near = sample.masks[g, max(0, int(y) - 3) : int(y) + 4, max(0, int(x) - 3) : int(x) + 4].any()
                if visibility == 2:
                    assert near or others
                elif sample.masks[g, int(y), int(x)]:
                    raise AssertionError("a hidden keypoint lies on the visible part of its object")
    assert seen.min() > 20 and seen[2] > 5 * seen[1]


def test_a_scene_is_a_function_of_seed_split_and_index():
    first, again = ToyScenes("train", 96, seed=3), ToyScenes("train", 96, count=7, seed=3)
    again[1]
    for name in ("image", "boxes", "masks", "keypoints", "labels"):
        assert np.array_equal(getattr(first[5], name), getattr(again[5], name))
    others = [ToyScenes("val", 96, seed=3)[5], ToyScenes("train", 96, seed=4)[5], first[6]]
    others.append(ToyScenes("train", 96, seed=3, case="small")[5])
    assert all(not np.array_equal(first[5].image, other.image) for other in others)


def test_sizes_counts_and_classes_are_spread():
    scenes = ToyScenes("test", 128)
    counts, longest, labels = [], [], []
    for i in range(100):
        sample = scenes[i]
        counts.append(len(sample.boxes))
        longest += ((sample.boxes[:, 2:] - sample.boxes[:, :2]).max(1) / 128).tolist()
        labels += sample.labels.tolist()
    assert set(counts) == {1, 2, 3, 4, 5, 6}
    assert min(longest) > 1 / 16  # an eighth, of which a half may be hidden
    assert max(longest) <= 2 / 3 + 2 / 128
    assert max(longest) > 0.5 and min(longest) < 0.16
    assert np.bincount(labels, minlength=4)[1:].min() > 0.2 * len(labels)


def test_objects_are_at_least_half_visible():
    """An object in front that would hide more than half of another is refused; one that hides exactly half is not."""
    scene = Scene(20, np.zeros((3, 20, 20), np.float32), [], np.full((20, 20), -1, np.int16), [])

    def block(width, left, label=1):
        solid = np.ones((8, width), bool)
        return Sprite(np.zeros((3, 8, width), np.float32), solid.astype(np.float32), solid, None, label, left, 2)

    scene.add(block(8, 4))
    assert scene.fits(block(4, 4)) and not scene.fits(block(5, 4))
    scene.add(block(4, 4))
    assert not scene.fits(block(1, 8)) and scene.fits(block(1, 4))
    assert not scene.fits(block(8, 15)) and not scene.fits(block(4, 40))  # mostly or completely outside
    assert not scene.fits(block(3, 9, label=0))  # other things must not hide more than half either


def test_crowded_is_one_category_close_together():
    for i in range(15):
        sample = ToyScenes("val", 128, case="crowded")[i]
        assert len(sample.boxes) >= 3 and len(set(sample.labels.tolist())) == 1


def test_disconnected_has_an_instance_in_pieces():
    for i in range(25):
        sample = ToyScenes("val", 96, case="disconnected")[i]
        assert max(pieces(mask) for mask in sample.masks) >= 2


def test_small_is_small():
    for i in range(15):
        sample = ToyScenes("val", 128, case="small")[i]
        assert ((sample.boxes[:, 2:] - sample.boxes[:, :2]).max(1) <= 0.17 * 128 + 2).all()


@pytest.mark.parametrize("label", [1, 2, 3])
def test_animals_vary_in_pose_and_color(label):
    drawings = [draw_animal(label, np.random.default_rng(i)) for i in range(20)]
    assert len({len(drawing.shapes) for drawing in drawings}) > 2
    assert len({drawing.shapes[-3][1] for drawing in drawings} | {d.shapes[0][1] for d in drawings}) > 10
    for drawing in drawings:
        assert set(drawing.keypoints) <= set(KEYPOINTS) and {"nose", "chest", "back", "tail"} <= set(drawing.keypoints)
        points = np.concatenate([shape for shape, _, _ in drawing.shapes])
        assert np.isfinite(points).all()
        for x, y in drawing.keypoints.values():
            assert (points.min(0) - 0.02 <= (x, y)).all() and ((x, y) <= points.max(0) + 0.02).all()


def test_names():
    scenes = ToyScenes("val", 64, count=3)
    assert scenes.class_names == CLASSES == ("cat", "dog", "duck") and scenes.category_ids == (1, 2, 3)
    assert [KEYPOINTS[k] for k in scenes.keypoint_order] == [
        "nose", "right_eye", "left_eye", "chest", "back", "tail", "right_foot", "left_foot",
    ]  # fmt: skip
    assert all(0 <= a < len(KEYPOINTS) and 0 <= b < len(KEYPOINTS) for a, b in SKELETON)
    assert scenes[2].name == "toy val 2" and scenes[2].image_id == 2
    assert ToyScenes("val", 64, case="small")[0].name == "toy val 0 small"


def test_a_mirrored_cat_keeps_its_left_eye_on_its_left():
    """Seen from the front, an animal's left eye is on the viewer's right, in a scene and in its mirror image."""
    scenes, left, right = ToyScenes("train", 128), KEYPOINTS.index("left_eye"), KEYPOINTS.index("right_eye")
    checked = 0
    for i in range(30):
        for sample in (scenes[i], flip(scenes[i], scenes.keypoint_order)):
            both = (sample.keypoints[:, left, 2] > 0) & (sample.keypoints[:, right, 2] > 0)
            assert (sample.keypoints[both, left, 0] > sample.keypoints[both, right, 0]).all()
            checked += both.sum()
    assert checked > 40


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(split="training"), "split must be one of train, val, test, got 'training'"),
        (dict(case="dense"), "case must be one of None, crowded, disconnected, small, got 'dense'"),
        (dict(size=8), "size must be 32 to 2048 pixels, got 8"),
        (dict(count=-1), "must not be negative, got -1 and 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        ToyScenes(**settings)


def test_index_beyond_the_end():
    scenes = ToyScenes("val", 64, count=2)
    assert len(list(scenes)) == 2
    for index in (2, -1):
        with pytest.raises(IndexError):
            scenes[index]


def test_to_coco():
    from pycocotools import mask as rle

    scenes = ToyScenes("val", 64, count=9)
    truth = json.loads(json.dumps(to_coco(scenes, 4)))
    assert [image["id"] for image in truth["images"]] == [0, 1, 2, 3]
    assert [category["name"] for category in truth["categories"]] == ["cat", "dog", "duck"]
    assert truth["categories"][0]["keypoints"] == list(KEYPOINTS)
    assert [annotation["id"] for annotation in truth["annotations"]][:2] == [1, 2]
    assert len(truth["annotations"]) == sum(len(scenes[i].boxes) for i in range(4))
    sample = scenes[2]
    mine = [annotation for annotation in truth["annotations"] if annotation["image_id"] == 2]
    for g, annotation in enumerate(mine):
        x, y, w, h = annotation["bbox"]
        assert [x, y, x + w, y + h] == sample.boxes[g].tolist()
        assert annotation["area"] == sample.masks[g].sum() and annotation["iscrowd"] == 0
        assert np.array_equal(rle.decode(annotation["segmentation"]), sample.masks[g])
        assert annotation["num_keypoints"] == (sample.keypoints[g, :, 2] > 0).sum()
    assert len(scenes.to_coco()["images"]) == 9


def test_perfect_results_score_one():
    """Ground truth used as results has an average precision of 1, so ids, areas and masks are right."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = to_coco(ToyScenes("val", 64), 5)
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    for kind in ("bbox", "segm"):
        keys = ("image_id", "category_id", "bbox" if kind == "bbox" else "segmentation")
        results = coco.loadRes([{**{k: a[k] for k in keys}, "score": 0.9} for a in truth["annotations"]])
        evaluation = COCOeval(coco, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"]
        most = precision[..., 0, -1]  # all sizes, 100 detections per image
        assert most[most > -1].min() == 1


def test_drawing_is_fast():
    scenes = ToyScenes("train", 128)
    scenes[0]
    begin = time.process_time()
    for i in range(1, 31):
        scenes[i]
    assert (time.process_time() - begin) / 30 < 0.02  # seconds of one core per scene; usually 0.004
