"""The keypoint branch: network, targets and decoding, against numbers by hand, array code and torchvision."""

import json

import numpy as np
import pytest
from PIL import Image

from minimask import nn
from minimask.__main__ import main
from minimask.keypoint_head import (
    KeypointHead,
    KeypointPredictor,
    bicubic_matrix,
    cubic,
    decode_keypoints,
    find_peaks,
    keypoint_targets,
)
from minimask.losses import keypoint_loss
from minimask.run.folder import newest_settings
from minimask.tensor import Tensor, no_grad
from tests.gradcheck import check_gradients
from tests.helpers import SMALL_RUN


def theirs(name):
    """Torch, and a function of torchvision's detection code."""
    torch = pytest.importorskip("torch")
    return torch, getattr(pytest.importorskip("torchvision.models.detection.roi_heads"), name)


# ------------------------------------------------------------------------------------------------------------- network


def test_parameter_names_are_torchvisions():
    heads = nn.Module()
    heads.keypoint_head, heads.keypoint_predictor = KeypointHead(4), KeypointPredictor(512, 17)
    shapes = {name: array.shape for name, array in heads.state_dict().items()}
    names = [f"keypoint_head.{i}.{part}" for i in range(0, 16, 2) for part in ("weight", "bias")]
    names += ["keypoint_predictor.kps_score_lowres.weight", "keypoint_predictor.kps_score_lowres.bias"]
    assert list(shapes) == names
    assert shapes["keypoint_head.0.weight"] == (3, 3, 4, 512) and shapes["keypoint_head.14.bias"] == (512,)
    assert shapes["keypoint_predictor.kps_score_lowres.weight"] == (4, 4, 512, 17)


def test_network_equals_torchvision():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchvision.models.detection.keypoint_rcnn")
    rng = np.random.default_rng(0)
    head, predictor = KeypointHead(6, (5, 4)), KeypointPredictor(4, 3)
    their_head, their_predictor = theirs.KeypointRCNNHeads(6, (5, 4)), theirs.KeypointRCNNPredictor(4, 3)
    for module, their_module in ((head, their_head), (predictor, their_predictor)):
        state = their_module.state_dict()
        assert list(state) == list(module.state_dict())
        for name, parameter in module.named_parameters():
            parameter.data[...] = rng.standard_normal(parameter.shape) * 0.3
            order = (3, 2, 0, 1) if module is head else (2, 3, 0, 1)  # (out, in, h, w), transposed (in, out, h, w)
            state[name].copy_(torch.tensor(parameter.data.transpose(order) if parameter.ndim == 4 else parameter.data))
    x = rng.standard_normal((2, 14, 14, 6)).astype(np.float32)
    with torch.no_grad():
        expected = their_predictor(their_head(torch.tensor(x.transpose(0, 3, 1, 2)))).numpy().transpose(0, 2, 3, 1)
    with no_grad():
        found = predictor(head(Tensor(x))).data
    assert found.shape == (2, 56, 56, 3) and abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_of_the_network():
    head, predictor = KeypointHead(2, (3,)).to(np.float64), KeypointPredictor(3, 2).to(np.float64)
    x = np.random.default_rng(0).standard_normal((1, 3, 3, 2))
    check_gradients(lambda x: predictor(head(x)), x, name="keypoint branch")


def test_it_learns_where_a_point_is():
    # The keypoint is at the only bright cell of the feature map. Plain gradient descent.
    head, predictor = KeypointHead(1, (8,)), KeypointPredictor(8, 1)
    cells = np.random.default_rng(1).integers(2, 12, (16, 2))
    x = np.zeros((16, 14, 14, 1), np.float32)
    x[np.arange(16), cells[:, 1], cells[:, 0]] = 1
    boxes = np.tile(np.array([0, 0, 14, 14], np.float32), (1, 16, 1))
    points = np.concatenate([cells + 0.6, np.full((16, 1), 2)], axis=1).astype(np.float32)
    places, visible = keypoint_targets(points[None, :, None], boxes, np.arange(16)[None])
    losses = []
    for _ in range(60):
        loss = keypoint_loss(predictor(head(Tensor(x))), places[0], visible[0])
        loss.backward()
        losses.append(loss.item())
        for module in (head, predictor):
            for _, parameter in module.named_parameters():
                parameter.data -= 1.0 * parameter.grad
                parameter.grad = None
    # Guessing among all 3136 positions costs ln 3136 = 8.05, among the 16 positions of the right cell ln 16 = 2.8.
    assert losses[0] > 7 and losses[-1] < 3.5
    with no_grad():
        found = decode_keypoints(predictor(head(Tensor(x))).data, boxes[0])
    assert abs(found[:, 0, :2] - points[:, :2]).max() < 0.6


# ------------------------------------------------------------------------------------------------------------- targets


# x, y and visibility of a keypoint in the box (10, 20)-(38, 34), whose cells are 1/2 x 1/4 pixel; its position in the
# map, and whether it counts. The numbers are those of keypoints_to_heatmap in torchvision 0.28.
TARGETS = [
    ([17.2, 20.3, 2], 1 * 56 + 14, True),
    ([17.2, 20.3, 1], 1 * 56 + 14, True),  # hidden, but labeled
    ([17.2, 20.3, 0], 0, False),  # not labeled
    ([10, 20, 2], 0, True),  # the first cell
    ([38, 34, 2], 55 * 56 + 55, True),  # on the right and lower border: the last cell
    ([38, 20, 2], 55, True),
    ([37.99, 33.99, 2], 55 * 56 + 55, True),
    ([38.01, 25, 2], 0, False),  # outside
    ([9.99, 25, 2], 0, False),
    ([20, 19.9, 2], 0, False),
    ([20, 34.1, 2], 0, False),
    ([0, 0, 0], 0, False),
]


def test_target_worked_numbers():
    keypoints = np.array([[[point for point, _, _ in TARGETS]]], np.float32)
    boxes = np.array([[[10, 20, 38, 34]]], np.float32)
    places, visible = keypoint_targets(keypoints, boxes, np.zeros((1, 1), int))
    assert places.dtype == np.int64 and visible.dtype == bool
    assert places[0, 0].tolist() == [place for _, place, _ in TARGETS]
    assert visible[0, 0].tolist() == [seen for _, _, seen in TARGETS]


def target_case(seed=0):
    """Two images with three objects of four keypoints; boxes inside, across the border, of size 0, and at keypoints."""
    rng = np.random.default_rng(seed)
    keypoints = np.concatenate([rng.uniform(0, 50, (2, 3, 4, 2)), rng.integers(0, 3, (2, 3, 4, 1))], axis=3)
    keypoints = np.round(keypoints * 4) / 4  # some are then exactly on a border
    low = rng.uniform(-5, 30, (2, 40, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 40, (2, 40, 2))], axis=2)
    boxes[:, ::2] = np.round(boxes[:, ::2] * 4) / 4
    matches = rng.integers(0, 3, (2, 40))
    for s in range(4):  # boxes with a keypoint at their lower right corner
        boxes[:, s, 2:] = keypoints[0, matches[0, s], s, :2]
        boxes[:, s, :2] = boxes[:, s, 2:] - 7
    boxes[:, 4] = [25, 25, 25, 25]
    boxes[:, 5] = [keypoints[0, matches[0, 5], 0, 0], 0, keypoints[0, matches[0, 5], 0, 0], 50]  # no width
    return keypoints.astype(np.float32), boxes.astype(np.float32), matches


@pytest.mark.parametrize("size", [1, 28, 56])
def test_targets_equal_torchvision(size):
    torch, keypoints_to_heatmap = theirs("keypoints_to_heatmap")
    for seed in range(5):
        keypoints, boxes, matches = target_case(seed)
        places, visible = keypoint_targets(keypoints, boxes, matches, size)
        assert visible.any() and not visible.all()
        for n in range(2):
            of_boxes = torch.tensor(keypoints[n][matches[n]])
            expected, valid = keypoints_to_heatmap(of_boxes, torch.tensor(boxes[n]), size)
            np.testing.assert_array_equal(visible[n], valid.numpy() > 0)
            np.testing.assert_array_equal(places[n], expected.numpy())


def test_targets_of_objects_without_keypoints_and_of_padding():
    keypoints, boxes, matches = target_case()
    keypoints[0] = 0  # an image of people without any label
    matches[1] = -1
    with np.errstate(all="raise"):
        places, visible = keypoint_targets(keypoints, boxes, matches)
    assert not visible[0].any() and not places[0].any()
    assert places.min() >= 0 and places.max() < 56 * 56


# -------------------------------------------------------------------------------------------------------------- decode


def waves(r, k, size=56):
    """Maps (r, size, size, k) with a single peak each, the same on every machine."""
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    phase = np.arange(r * k).reshape(r, 1, 1, k)
    near = np.hypot(x[:, :, None] - (7 * phase + 3) % size, y[:, :, None] - (11 * phase + 5) % size)
    return (5 - near * 0.4 + np.sin(0.9 * x[:, :, None] + 0.7 * y[:, :, None] + phase)).astype(np.float32)


BOXES = [
    [3.2, 4.1, 30.7, 33.3],
    [-5, -6, 12, 14],  # partly outside
    [10, 10, 10, 10],  # of size 0: treated as one pixel
    [5, 5, 5.4, 9],  # narrower than a pixel
    [100, 100, 612.5, 733.1],
    [9, 9, 7, 8],  # corners exchanged: treated as one pixel
    [1, 2, 2600.3, 40.2],  # huge
]

# x, y, logit that heatmaps_to_keypoints of torchvision 0.28 computes for waves(7, 2) and BOXES.
DECODED = [
    [[5.655357, 7.506666, 5.215647], [8.601786, 12.37333, 5.462331]],
    [[-0.5, 3.5, 4.892231], [2.5, 7.5, 5.409683]],
    [[10.5, 10.5, -4.519542], [10.5, 10.5, -6.297104]],
    [[5.5, 6.5, -1.391213], [5.5, 6.5, -4.145165]],
    [[145.4557, 539.8746, 5.185389], [197.405, 648.7199, 5.99382]],
    [[9.5, 9.5, -6.248462], [9.5, 9.5, -1.627542]],
    [[1487.1, 19.14103, 5.718885], [1760.026, 25.99744, 5.436617]],
]


def test_decode_worked_numbers():
    logits = np.full((2, 56, 56, 1), -1, np.float32)
    logits[0, 28, 14], logits[1, 0, 55] = 3, 2
    # In a box of 56 x 56 pixels, each pixel is a cell, and the keypoint is at its center.
    found = decode_keypoints(logits, np.array([[10, 20, 66, 76], [0, 0, 56, 56]], np.float32))
    np.testing.assert_allclose(found[:, 0], [[24.5, 48.5, 3], [55.5, 0.5, 2]])
    # Of equal logits, the first in reading order wins.
    flat = decode_keypoints(np.ones((1, 56, 56, 2), np.float32), np.array([[4, 4, 60, 60]], np.float32))
    np.testing.assert_allclose(flat[0], [[4.5, 4.5, 1]] * 2)
    twice = np.full((1, 56, 56, 1), -1, np.float32)
    twice[0, [5, 30], [40, 10], 0] = 3
    np.testing.assert_allclose(decode_keypoints(twice, np.array([[0, 0, 56, 56]], np.float32)), [[[40.5, 5.5, 3]]])
    np.testing.assert_allclose(find_peaks.plain(twice, np.array([[56, 56]])), [[[40, 5, 3]]])
    # A box 2.5 pixels wide is treated as 3 pixels of width 2.5 / 3; a peak in the middle of the map gives the second.
    peak = -abs(np.arange(56) - 27.5).astype(np.float32)
    middle = decode_keypoints((peak[:, None] + peak)[None, :, :, None], np.array([[10, 0, 12.5, 1]], np.float32))
    np.testing.assert_allclose(middle[0, 0, :2], [10 + 1.5 * 2.5 / 3, 0.5], rtol=1e-6)


def test_bicubic_weights():
    d = np.array([0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(cubic(d), [1, 0.59375, 0, -0.09375, 0], atol=1e-15)
    np.testing.assert_allclose(bicubic_matrix(5, 5, dtype=np.float64), np.eye(5), atol=1e-15)
    matrix = bicubic_matrix(56, 131, dtype=np.float64)
    np.testing.assert_allclose(matrix.sum(1), 1)  # a constant stays constant
    # Halfway between cells, the weights are -3/32, 19/32, 19/32, -3/32; cells beyond the border repeat the border.
    np.testing.assert_allclose(bicubic_matrix(4, 2, dtype=np.float64)[0], [0.5, 0.59375, -0.09375, 0], atol=1e-15)


def test_decode_equals_numbers_of_torchvision():
    found = decode_keypoints(waves(len(BOXES), 2), np.array(BOXES, np.float32))
    np.testing.assert_allclose(found, DECODED, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [2, 7, 56])
def test_decode_equals_its_array_code_and_torchvision(size):
    logits = np.random.default_rng(size).standard_normal((len(BOXES), size, size, 3)).astype(np.float32)
    boxes = np.array(BOXES, np.float32)
    found = decode_keypoints(logits, boxes)
    assert found.dtype == np.float32
    pixels = np.ceil(np.maximum(boxes[:, 2:] - boxes[:, :2], 1)).astype(np.int64)
    np.testing.assert_allclose(find_peaks(logits, pixels), find_peaks.plain(logits, pixels), atol=1e-4)
    torch, heatmaps_to_keypoints = theirs("heatmaps_to_keypoints")
    points, scores = heatmaps_to_keypoints(torch.tensor(logits.transpose(0, 3, 1, 2)), torch.tensor(boxes))
    np.testing.assert_allclose(found[..., :2], points[..., :2].numpy(), atol=1e-3)
    np.testing.assert_allclose(found[..., 2], scores.numpy(), atol=1e-4)


def test_decode_of_no_boxes_in_double_precision_and_of_nan_boxes():
    logits, boxes = waves(len(BOXES), 2), np.array(BOXES, np.float32)
    assert decode_keypoints(logits[:0], boxes[:0]).shape == (0, 2, 3)
    double = decode_keypoints(logits[:2].astype(np.float64), boxes[:2].astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, decode_keypoints(logits[:2], boxes[:2]), atol=1e-4)
    boxes[0] = np.nan
    found = decode_keypoints(logits, boxes)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0, :, :2], 0.5)


def test_messages():
    keypoints, boxes, matches = target_case()
    with pytest.raises(ValueError, match=r"keypoints must have room for an object, got shape \(2, 0, 4, 3\)"):
        keypoint_targets(keypoints[:, :0], boxes, matches)
    with pytest.raises(ValueError, match=r"matches must have shape \(2, 40\), got \(2, 39\)"):
        keypoint_targets(keypoints, boxes, matches[:, 1:])
    logits = np.zeros((3, 4, 4, 3))
    with pytest.raises(ValueError, match=r"boxes must have shape \(3, 4\), got \(2, 4\)"):
        decode_keypoints(logits, np.zeros((2, 4)))
    with pytest.raises(ValueError, match="boxes must be at most 65536 pixels wide, got 100000"):
        decode_keypoints(logits, np.array([[0, 0, 1e5, 1]] * 3))


# -------------------------------------------------------------------------------------------------- from the terminal

SMALL_KEYPOINTS = [*SMALL_RUN, "--set=heads.keypoint_channels=[16]"]


def write_people(folder, labeled):
    """Two photos with two people of three keypoints each; for people who are not `labeled`, no keypoint is known."""
    (folder / "photos").mkdir()
    person = {"id": 1, "name": "person", "keypoints": ["head", "left_foot", "right_foot"], "skeleton": [[1, 2], [1, 3]]}
    coco = {"images": [], "annotations": [], "categories": [person]}
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "photos" / f"{i}.png")
        coco["images"].append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
        for x in (4, 34):
            known = [x + 10, 6, 2, x + 4, 54, 1, x + 16, 54, 2] if labeled[len(coco["annotations"])] else [0] * 9
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [x, 4, 20, 54],
                    "area": 1080,
                    "iscrowd": 0,
                    "segmentation": [[x, 4, x + 20, 4, x + 20, 58, x, 58]],
                    "keypoints": known,
                    "num_keypoints": 3 * labeled[len(coco["annotations"])],
                }
            )
    (folder / "people.json").write_text(json.dumps(coco))
    return ["--images", str(folder / "photos"), "--annotations", str(folder / "people.json")]


def run(*argv):
    assert main([str(a) for a in argv]) == 0


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_drawn_scenes_from_training_to_pictures(tmp_path, capsys):
    run("train", "--keypoints", "--output", tmp_path / "run", "--toy-size", 64, "--steps", 2, *SMALL_KEYPOINTS)
    assert all(4 < record["loss_keypoint"] < 12 for record in log_of(tmp_path / "run"))
    saved = newest_settings(tmp_path / "run")
    assert saved["keypoint_names"][0] == "nose" and saved["skeleton"][0] == [0, 1]
    assert saved["model"]["heads"]["keypoints"] == 8
    run("train", "--output", tmp_path / "run", "--resume")  # no step is left to do, but the model is built again
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    run("predict", tmp_path / "photo.png", "--weights", tmp_path / "run", "--output", tmp_path / "out", "--score", 0)
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert record["keypoint_names"] == saved["keypoint_names"]
    assert record["detections"] and all(len(found["keypoints"]) == 24 for found in record["detections"])
    x = np.array([found["keypoints"][0::3] for found in record["detections"]])
    boxes = np.array([found["box"] for found in record["detections"]])
    assert (x >= boxes[:, :1] - 1).all() and (x <= boxes[:, 2:3] + 1).all()


@pytest.mark.parametrize("labeled", [(1, 0, 1, 0), (1, 1, 0, 0), (0, 0, 0, 0)])
def test_people_without_keypoints_among_others(tmp_path, labeled):
    data = write_people(tmp_path, labeled)
    check = ["--val-annotations", tmp_path / "people.json", "--validate-every", 2]
    run("train", "--keypoints", *data, *check, "--output", tmp_path / "run", "--steps", 2, *SMALL_KEYPOINTS)
    first, _, validation = log_of(tmp_path / "run")
    assert (first["loss_keypoint"] > 4) == any(labeled) and first["gradient_norm"] > 0
    assert validation["validation_loss_keypoint"] >= 0
    assert (validation["validation_keypoint_AP"] == -1) == (not any(labeled))
    run("evaluate", "--weights", tmp_path / "run", *data)
    numbers = json.loads((tmp_path / "run" / "evaluation" / "average_precision.json").read_text())
    assert list(numbers) == ["bbox", "segm", "keypoints"]


def test_data_without_keypoints_is_named(tmp_path, capsys):
    data = write_people(tmp_path, (1, 1, 1, 1))
    file = tmp_path / "people.json"
    content = json.loads(file.read_text())
    other = json.loads(file.read_text())
    other["categories"][0]["keypoints"] = ["head", "left_hand", "right_hand"]
    (tmp_path / "other.json").write_text(json.dumps(other))
    validation = ["--val-annotations", str(tmp_path / "other.json"), "--validate-every", "1"]
    train = ["train", "--keypoints", "--output", str(tmp_path / "run"), *SMALL_KEYPOINTS]
    assert main([*train, *data, *validation]) == 2
    assert "other.json: must have the keypoints head, left_foot, right_foot" in capsys.readouterr().err
    del content["categories"][0]["keypoints"]
    file.write_text(json.dumps(content))
    assert main([*train, *data]) == 2
    assert 'people.json has a list "keypoints" with their names' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_maps_that_are_not_square_are_enlarged_along_each_axis():
    with no_grad():
        assert KeypointPredictor(2, 3)(Tensor(np.zeros((1, 4, 6, 2), np.float32))).shape == (1, 16, 24, 3)


def test_the_last_object_has_targets_too():
    keypoints = np.array([[[[1.0, 1, 2]], [[30.0, 30, 2]]]])
    boxes = np.array([[[0.0, 0, 40, 40]]])
    for match, place in ((0, 0), (1, 3 * 4 + 3)):
        places, visible = keypoint_targets(keypoints, boxes, np.array([[match]]), size=4)
        assert places.tolist() == [[[place]]] and visible.all()


def test_shapes_of_boxes_and_logits_are_checked():
    with pytest.raises(ValueError, match=r"keypoint_targets: boxes must have shape \(1, S, 4\), got \(2, 1, 4\)"):
        keypoint_targets(np.zeros((1, 1, 1, 3)), np.zeros((2, 1, 4)), np.zeros((2, 1), int))
    with pytest.raises(ValueError, match=r"decode_keypoints: logits must have shape \(R, H, W, K\), got \(1, 3, 3\)"):
        decode_keypoints(np.zeros((1, 3, 3)), np.zeros((1, 4)))
