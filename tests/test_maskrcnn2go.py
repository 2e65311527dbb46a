"""A network from another project: a small graph computed by hand, and the real one with its expected tensors and AP."""

import json
from pathlib import Path

import numpy as np
import pytest

from minimask.datasets.coco import CocoDataset
from minimask.datasets.photos import read_image
from minimask.datasets.segmentation import decode_segmentation
from minimask.errors import InputError
from minimask.evaluate import evaluate
from minimask.functional import sigmoid_array, softmax_array
from minimask.image import resized_size
from minimask.mask_head import paste_masks
from minimask.roi_align import roi_align_forward
from minimask.run.predict import predict_files
from minimask.weights.maskrcnn2go import MaskRCNN2Go, bbox_transform, box_with_nms_limit, generate_proposals, load

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
NETWORK, PHOTOS = DATA / "weights" / "maskrcnn2go", DATA / "coco_open"
needs_network = pytest.mark.skipif(
    not (NETWORK.is_dir() and PHOTOS.is_dir()), reason="the folder of real data is not there"
)


# --------------------------------------------------------------------------------------------- a small graph, by hand


def _conv(x, w, b, out, **settings):
    defaults = dict(kernel=1, stride=1, pad=0, groups=1, relu=False)
    return {"op": "conv", "x": x, "w": w, "b": b, "out": out, **defaults, **settings}


LEGACY = dict(legacy_plus_one=True, correct_transform_coords=True)
ALIGN = dict(pooled_h=3, pooled_w=3, spatial_scale=1 / 8, sampling_ratio=0, aligned=False)


def small_graph():
    """Every operation at least once: a map of stride 8 with 6 channels, 2 anchors, 2 categories, masks of 6 x 6."""
    return {
        "categories": [{"id": 7, "name": "crab"}, {"id": 9, "name": "whale"}],
        "ops": [
            _conv("data", "stem_w", "stem_b", "stem", kernel=8, stride=8, relu=True),
            _conv("stem", "deep_w", None, "deep", kernel=3, pad=1, groups=6),
            {"op": "add", "x": ["deep", "stem"], "out": "map"},
            {"op": "relu", "x": "map", "out": "map"},
            _conv("map", "logits_w", "logits_b", "logits"),
            _conv("map", "deltas_w", "deltas_b", "deltas"),
            {"op": "sigmoid", "x": "logits", "out": "scores"},
            {
                "op": "generate_proposals", "scores": "scores", "deltas": "deltas", "anchors": "anchor", "out": "rois",
                "stride": 8, "pre_nms_topN": 40, "post_nms_topN": 10, "nms_thresh": 0.6, "min_size": 0.0, **LEGACY,
            },
            {"op": "roi_align", "x": "map", "rois": "rois", "out": "roi_features", **ALIGN},
            {"op": "avg_pool", "x": "roi_features", "out": "pooled", "kernel": 2, "stride": 1},
            {"op": "fc", "x": "pooled", "w": "class_w", "b": "class_b", "out": "class_logits"},
            {"op": "softmax", "x": "class_logits", "out": "classes"},
            {"op": "fc", "x": "pooled", "w": "box_w", "b": "box_b", "out": "box_deltas"},
            {
                "op": "bbox_transform", "rois": "rois", "deltas": "box_deltas", "out": "boxes",
                "weights": [10.0, 10.0, 5.0, 5.0], **LEGACY,
            },
            {
                "op": "box_with_nms_limit", "scores": "classes", "boxes": "boxes", "out": "bbox_nms",
                "outputs": ["score_nms", "bbox_nms", "class_nms"],
                "score_thresh": 0.05, "nms": 0.3, "detections_per_im": 6,
            },
            {"op": "roi_align", "x": "map", "rois": "bbox_nms", "out": "mask_features", **ALIGN},
            {
                "op": "conv_transpose", "x": "mask_features", "w": "up_w", "b": "up_b", "out": "up",
                "kernel": 2, "stride": 2, "pad": 0,
            },
            _conv("up", "mask_w", "mask_b", "mask_logits"),
            {"op": "sigmoid", "x": "mask_logits", "out": "mask_fcn_probs"},
        ],
    }  # fmt: skip


def small_weights():
    shapes = {
        "stem_w": (6, 3, 8, 8), "stem_b": (6,), "deep_w": (6, 1, 3, 3),
        "logits_w": (2, 6, 1, 1), "logits_b": (2,), "deltas_w": (8, 6, 1, 1), "deltas_b": (8,),
        "class_w": (3, 24), "class_b": (3,), "box_w": (12, 24), "box_b": (12,),
        "up_w": (6, 5, 2, 2), "up_b": (5,), "mask_w": (3, 5, 1, 1), "mask_b": (3,),
    }  # fmt: skip
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, factor in (("stem_w", 0.01), ("deltas_w", 0.1), ("class_w", 0.1), ("box_w", 0.1)):
        weights[name] *= factor
    weights["anchor"] = np.array([[-8, -4, 15, 11], [-4, -8, 11, 15]], np.float32)
    return weights


def _torch_conv(x, w, b, stride=1, pad=0, groups=1):
    """A convolution with channels first, by definition: x (C, H, W), w (out, C / groups, kh, kw)."""
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad)))
    out, inside, kh, kw = w.shape
    h, width = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((out, h, width))
    for o in range(out):
        first = o // (out // groups) * inside
        for i in range(h):
            for j in range(width):
                part = x[first : first + inside, i * stride : i * stride + kh, j * stride : j * stride + kw]
                y[o, i, j] = (part * w[o]).sum()
    return y + (0 if b is None else b[:, None, None])


def _legacy_decode(delta, box, weights=(1, 1, 1, 1)):
    """One box as in Detectron, counting pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    width, height = x2 - x1 + 1, y2 - y1 + 1
    dx, dy, dw, dh = (float(v) / weight for v, weight in zip(delta, weights))
    x, y = x1 + 0.5 * width + dx * width, y1 + 0.5 * height + dy * height
    width, height = width * np.exp(min(dw, np.log(1000 / 16))), height * np.exp(min(dh, np.log(1000 / 16)))
    return np.array([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width - 1, y + 0.5 * height - 1])


def _legacy_clip(box, height, width):
    return np.minimum(np.maximum(box, 0), [width - 1, height - 1, width - 1, height - 1])


def _legacy_nms(boxes, scores, threshold, keep):
    """The kept indices, best first, of boxes (R, 4) that count pixels."""
    chosen = []
    for i in np.argsort(-scores, kind="stable"):
        for k in chosen:
            x1, y1 = np.maximum(boxes[i, :2], boxes[k, :2])
            x2, y2 = np.minimum(boxes[i, 2:], boxes[k, 2:])
            overlap = max(0, x2 - x1 + 1) * max(0, y2 - y1 + 1)
            areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (boxes[i], boxes[k])]
            if overlap / (sum(areas) - overlap) > threshold:
                break
        else:
            chosen.append(i)
    return chosen[:keep]


def test_a_small_graph_by_the_definitions():
    """The file's conventions (channels first, blue first, boxes that count pixels), compared with what runs here."""
    weights = small_weights()
    model = MaskRCNN2Go(small_graph(), weights)
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 72, 3)).astype(np.float32)
    scale = 0.75
    values = model.run(image, scale)

    def first(name):  # (1, H, W, C) -> (C, H, W)
        return values[name][0].transpose(2, 0, 1)

    def close(found, expected, tolerance=1e-4):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)

    stem = np.maximum(_torch_conv(image[0, :, :, ::-1].transpose(2, 0, 1), weights["stem_w"], weights["stem_b"], 8), 0)
    close(first("stem"), stem)
    assert stem.shape == (6, 6, 9) and stem.max() > 1
    feature = np.maximum(_torch_conv(stem, weights["deep_w"], None, pad=1, groups=6) + stem, 0)
    close(first("map"), feature)
    scores = 1 / (1 + np.exp(-_torch_conv(feature, weights["logits_w"], weights["logits_b"])))  # (2, 6, 9)
    deltas = _torch_conv(feature, weights["deltas_w"], weights["deltas_b"]).reshape(2, 4, 6, 9)
    close(first("scores"), scores)

    boxes = np.zeros((6, 9, 2, 4))
    for y, x, a in np.ndindex(6, 9, 2):
        moved = _legacy_decode(deltas[a, :, y, x], weights["anchor"][a] + 8 * np.array([x, y, x, y]))
        boxes[y, x, a] = _legacy_clip(moved, 48, 72)
    flat_scores = scores.transpose(1, 2, 0).reshape(-1)
    best = np.argsort(-flat_scores, kind="stable")[:40]
    kept = _legacy_nms(boxes.reshape(-1, 4)[best], flat_scores[best], 0.6, 10)
    close(values["rois"], boxes.reshape(-1, 4)[best][kept], 1e-3)
    assert len(kept) == 10

    none = np.zeros(10, np.int64)
    rois = values["rois"]
    features, _ = roi_align_forward.plain([values["map"]], rois, none, none, [1 / 8], 3, 0, False)
    close(values["roi_features"], features)
    channels_first = features.transpose(0, 3, 1, 2)  # (10, 6, 3, 3)
    windows = [channels_first[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 1) for j in (0, 1)]
    pooled = np.stack(windows, axis=-1).reshape(10, 24)  # (10, 6, 2, 2) in the order C, H, W
    classes = softmax_array(pooled @ weights["class_w"].T + weights["class_b"])
    close(values["classes"], classes)
    box_deltas = (pooled @ weights["box_w"].T + weights["box_b"]).reshape(10, 3, 4)
    moved = np.zeros((10, 3, 4))
    for r, c in np.ndindex(10, 3):
        box = _legacy_decode(box_deltas[r, c], rois[r] / scale, (10, 10, 5, 5))
        moved[r, c] = _legacy_clip(box, 64, 96) * scale
    close(values["boxes"].reshape(10, 3, 4), moved, 1e-3)

    found = []
    for c in (1, 2):
        good = np.flatnonzero(classes[:, c] > 0.05)
        found += [(classes[good[k], c], c, good[k]) for k in _legacy_nms(moved[good, c], classes[good, c], 0.3, 99)]
    found = sorted(found, reverse=True)[:6]
    assert len(found) == 6 and {c for _, c, _ in found} == {1, 2}
    close(values["score_nms"], [score for score, _, _ in found])
    assert values["class_nms"].tolist() == [c for _, c, _ in found]
    close(values["bbox_nms"], [moved[r, c] for _, c, r in found], 1e-3)

    up = np.zeros((6, 5, 6, 6))
    for (d, c, i, j), x in np.ndenumerate(values["mask_features"].transpose(0, 3, 1, 2)):
        up[d, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += x * weights["up_w"][c]
    up += weights["up_b"][:, None, None]
    logits = np.einsum("dchw,oc->dohw", up, weights["mask_w"][:, :, 0, 0]) + weights["mask_b"][:, None, None]
    close(values["mask_fcn_probs"].transpose(0, 3, 1, 2), sigmoid_array(logits))


def test_one_legacy_box():
    """An anchor of pixels 3 to 7 that does not move stays 3 to 7. Twice as wide, it is 0.5 to 9.5, counting pixels."""
    scores, anchors = np.full((1, 1, 1, 1), 0.9, np.float32), np.array([[3, 3, 7, 7]], np.float32)
    settings = dict(stride=16, pre_nms_topN=5, post_nms_topN=5, nms_thresh=0.7, min_size=0.0, **LEGACY)
    still = np.zeros((1, 1, 1, 4), np.float32)
    assert generate_proposals(scores, still, anchors, (20, 20, 1.0), **settings).tolist() == [[3, 3, 7, 7]]
    wide = np.array([0, 0, np.log(2), 0], np.float32).reshape(1, 1, 1, 4)
    found = generate_proposals(scores, wide, anchors, (20, 20, 1.0), **settings)
    np.testing.assert_allclose(found, [[0.5, 3, 9.5, 7]], atol=1e-6)
    # cut at the border: the last pixel of a picture of 9 is pixel 8
    found = generate_proposals(scores, wide, anchors, (20, 9, 1.0), **settings)
    np.testing.assert_allclose(found, [[0.5, 3, 8, 7]], atol=1e-6)


def test_overlap_counts_pixels():
    """Pixels 0 to 9 and 0 to 4 share 5 of 10 columns: 0.5. With real corners it would be 4 / 9 = 0.44."""
    scores = np.array([[0.1, 0.9], [0.2, 0.8]], np.float32)  # background, one class
    boxes = np.array([[0, 0, 0, 0, 0, 0, 9, 9], [0, 0, 0, 0, 0, 0, 4, 9]], np.float32)
    for threshold, count in ((0.51, 2), (0.49, 1), (0.46, 1)):
        found, _, classes = box_with_nms_limit(scores, boxes, 0.05, threshold, 100)
        assert len(found) == count and set(classes) == {1}


def test_small_proposals_are_left_out():
    """Pixels 3 to 7 are five: min_size 5 keeps them, 5.1 does not; in an image at twice its size, 2.6 does not."""
    scores, anchors = np.full((1, 1, 1, 1), 0.9, np.float32), np.array([[3, 3, 7, 7]], np.float32)
    settings = dict(stride=16, pre_nms_topN=5, post_nms_topN=5, nms_thresh=0.7, **LEGACY)
    still = np.zeros((1, 1, 1, 4), np.float32)
    for min_size, scale, count in ((5, 1.0, 1), (5.1, 1.0, 0), (2.4, 2.0, 1), (2.6, 2.0, 0)):
        found = generate_proposals(scores, still, anchors, (20, 20, scale), min_size=min_size, **settings)
        assert len(found) == count, (min_size, scale)


def test_the_photos_size_is_guessed():
    """427 x 640 pixels become 320 x 480. Divided by the scale, that is 427 x 640.5, so 641, whose last pixel is 640."""
    scale = 320 / 427
    rois, deltas = np.array([[10, 10, 1000, 1000]], np.float32), np.zeros((1, 4), np.float32)
    found = bbox_transform(rois, deltas, (320, 480, scale), weights=(10, 10, 5, 5), **LEGACY)
    np.testing.assert_allclose(found / scale, [[10 / scale, 10 / scale, 640, 426]], rtol=1e-6)


def test_pictures_of_different_sizes_do_not_disturb_each_other():
    """Padding is removed before the network runs. The results are boxes with real corners, in pixels of each image."""
    graph = small_graph()
    graph["ops"][7]["post_nms_topN"] = graph["ops"][14]["detections_per_im"] = 100
    model = MaskRCNN2Go(graph, small_weights())
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in ((20, 61, 3), (50, 40, 3))]
    batch = model.transform(images)
    assert batch.images.shape == (2, 400, 640, 3) and batch.sizes.tolist() == [[210, 640], [400, 320]]
    predictions = model.predict(images)
    for image, found, scale in zip(images, predictions, (640 / 61, 320 / 40)):
        values = model.run(model.transform([image]).images, scale)
        assert len(values["bbox_nms"]) > 5 and np.array_equal(found.scores, values["score_nms"])
        corners = values["bbox_nms"] / scale + np.array([0, 0, 1, 1])
        np.testing.assert_allclose(found.boxes, corners, rtol=0, atol=1e-4)
        soft = values["mask_fcn_probs"][np.arange(len(corners)), :, :, values["class_nms"]]
        masks = paste_masks(soft, found.boxes, *image.shape[:2], whole_pixels=False)
        assert np.array_equal(found.masks, masks) and masks.any()
    assert len(predictions[0].scores) != len(predictions[1].scores)


def test_nothing_found():
    graph = small_graph()
    graph["ops"][14]["score_thresh"] = 1.0
    (found,) = MaskRCNN2Go(graph, small_weights()).predict([np.zeros((40, 50, 3), np.uint8)])
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 40, 50) and found.soft_masks.shape == (0, 6, 6)


def test_resized_sizes_are_rounded():
    assert resized_size(427, 640, 320, 640, rounded=True) == (320, 480)  # 479.6
    assert resized_size(480, 640, 320, 640, rounded=True) == (320, 427)  # 426.67
    assert resized_size(559, 640, 320, 640, rounded=True) == (320, 366)  # 366.37
    assert resized_size(480, 640, 320, 640) == (320, 426)


# ------------------------------------------------------------------------------------------------------- broken graphs


@pytest.mark.parametrize(
    "number, change, message",
    [
        (3, {"op": "elu"}, "operation 3 (elu, out 'map'): must be one of conv, conv_transpose, add"),
        (1, {"w": "deeper_w"}, "operation 1 (conv, out 'deep'): needs 'deeper_w', which is neither a weight nor"),
        (2, {"x": ["deep", "scores"]}, "operation 2 (add, out 'map'): needs 'scores'"),
        (0, {"stride": None}, "operation 0 (conv, out 'stem'): missing a required argument: 'stride'"),
        (0, {"dilation": 2}, "operation 0 (conv, out 'stem'): got an unexpected keyword argument 'dilation'"),
        (0, {"kernel": 7}, "operation 0 (conv, out 'stem'): kernel is 7, but the weights have 8 x 8"),
        (1, {"groups": 3}, "operation 1 (conv, out 'deep'): conv2d: x must have shape (N, H, W, 3), got"),
        (4, {"w": "deltas_b"}, "operation 4 (conv, out 'logits'): w must be a weight with 4 axes, is 'deltas_b'"),
        (1, {"w": "stem"}, "operation 1 (conv, out 'deep'): w must be a weight with 4 axes, is 'stem'"),
        (1, {"x": ["stem", "stem"]}, "operation 1 (conv, out 'deep'): conv2d: x must have shape"),
        (6, {"x": "anchors"}, "operation 6 (sigmoid, out 'scores'): needs 'anchors'"),
        (3, {"op": ["relu"]}, "operation 3 (['relu'], out 'map'): must be one of"),
        (4, {"b": "deltas_b"}, "operation 4 (conv, out 'logits'): conv2d: b must"),
        (7, {"legacy_plus_one": False}, "operation 7 (generate_proposals, out 'rois'): legacy_plus_one"),
        (7, {"deltas": "logits"}, "operation 7 (generate_proposals, out 'rois')"),
        (8, {"pooled_w": 4}, "operation 8 (roi_align, out 'roi_features'): pooled_h and pooled_w must be equal"),
        (10, {"w": "box_w"}, "operation 10 (fc, out 'class_logits'): linear: x must be (R, K)"),
        (18, {"out": "masks"}, "no operation computes 'mask_fcn_probs'"),
        (17, {"w": "logits_w", "b": "logits_b", "x": "map"}, "has 2 categories, but there are masks for 1"),
    ],
)
def test_a_broken_graph_is_named(number, change, message):
    graph = small_graph()
    operation = graph["ops"][number]
    operation.update(change)
    for name in [name for name, value in change.items() if value is None]:
        del operation[name]
    with pytest.raises(InputError) as error:
        MaskRCNN2Go(graph, small_weights())
    assert message in str(error.value)


def test_weights_of_another_shape_are_named():
    weights = small_weights()
    weights["deep_w"] = weights["deep_w"][:5]
    with pytest.raises(InputError, match=r"graph.json, operation 1 \(conv, out 'deep'\)"):
        MaskRCNN2Go(small_graph(), weights)


def _write(folder, graph, weights):
    (folder / "graph.json").write_text(graph if isinstance(graph, str) else json.dumps(graph))
    np.savez(folder / "maskrcnn2go_float32.npz", **weights)


def test_load_reads_both_files(tmp_path):
    _write(tmp_path, small_graph(), small_weights())
    model, class_names, category_ids = load(tmp_path)
    assert class_names == ["crab", "whale"] and category_ids == [7, 9]
    image = np.random.default_rng(1).integers(0, 256, (33, 47, 3), np.uint8)
    (found,) = model.predict([image])
    (same,) = MaskRCNN2Go(small_graph(), small_weights()).predict([image])
    assert np.array_equal(found.boxes, same.boxes) and len(found.boxes) > 0


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(InputError, match="graph.json: cannot be read"):
        load(tmp_path)
    for text, message in (
        ("{", "is not json"),
        ("[]", 'must have a list "ops"'),
        ('{"ops": [{}]}', "objects with op and out"),
    ):
        _write(tmp_path, text, small_weights())
        with pytest.raises(InputError, match=message):
            load(tmp_path)
    _write(tmp_path, small_graph(), small_weights())
    file = tmp_path / "maskrcnn2go_float32.npz"
    content = file.read_bytes()
    for damaged in (b"", b"not a zip file", content[: len(content) // 2], content[:200] + b"?" + content[201:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="maskrcnn2go_float32.npz: cannot be read"):
            load(tmp_path)
    for bad in ("crab", np.nan):
        _write(tmp_path, small_graph(), {**small_weights(), "stem_b": np.full(6, bad)})
        with pytest.raises(InputError, match="stem_b must contain finite numbers"):
            load(tmp_path)


def test_it_is_for_inference():
    model = MaskRCNN2Go(small_graph(), small_weights())
    assert model.eval() is model and model.train(False) is model and not model.training
    assert model.to("cpu") is model
    with pytest.raises(InputError, match="runs on the CPU only, got device cuda"):
        model.to("cuda")
    with pytest.raises(ValueError, match="inference only"):
        model.train()


# ----------------------------------------------------------------------------------------------------- the real network


@pytest.fixture(scope="module")
def real():
    return load(NETWORK)


@needs_network
def test_every_stage_of_one_photo(real):
    """Images and boxes agree to 1e-3 gray levels or pixels, the rest to 1e-4 of the tensor's largest magnitude."""
    model, class_names, category_ids = real
    assert len(class_names) == 80 and (class_names[0], category_ids[79]) == ("person", 90)
    expected = np.load(NETWORK / "expected" / "stages_000000001268.npz")
    batch = model.transform([read_image(PHOTOS / "images" / "000000001268.jpg")])
    values = model.run(batch.images, 320 / 427)

    def check(name, found, absolute=None):
        tolerance = absolute or 1e-4 * np.abs(expected[name]).max()
        assert found.shape == expected[name].shape, name
        assert np.abs(found - expected[name]).max() <= tolerance, name

    check("data", batch.images[..., ::-1].transpose(0, 3, 1, 2), absolute=1e-3)
    for name in ("xif3_6", "rpn_cls_probs", "rpn_bbox_pred"):
        check(name, values[name].transpose(0, 3, 1, 2))
    check("rois", np.pad(values["rois"], ((0, 0), (1, 0))), absolute=1e-3)
    check("roi_features", values["roi_features"][:4].transpose(0, 3, 1, 2))
    check("cls_prob", values["cls_prob"])
    check("bbox_pred", values["bbox_pred"])
    found = np.column_stack([values[name] for name in ("score_nms", "class_nms", "bbox_nms")])
    assert np.array_equal(found[:, 1], expected["detections"][:, 1])
    assert np.abs(found[:, 0] - expected["detections"][:, 0]).max() <= 1e-4
    check("detections", found, absolute=1e-3)
    masks = values["mask_fcn_probs"].transpose(0, 3, 1, 2)
    check("mask_probs_of_class", masks[np.arange(32), values["class_nms"]])


@needs_network
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_average_precision_and_every_box_of_39_photos(real, tmp_path):
    """All twelve numbers for boxes. Masks are shifted by half a pixel compared to the original, which adds 0.001 AP."""
    model, class_names, category_ids = real
    dataset = CocoDataset(PHOTOS / "images", PHOTOS / "instances_val2017.json")
    numbers = evaluate(model, dataset, category_ids=category_ids, progress=False, results_dir=tmp_path)
    expected = json.loads((NETWORK / "expected" / "ap.json").read_text())["val2017"]
    for name, value in expected["bbox"].items():
        assert abs(numbers["bbox"][name] - value) <= 1e-4, (name, numbers["bbox"][name], value)
    assert abs(numbers["segm"]["AP"] - expected["segm"]["AP"]) <= 0.002, numbers["segm"]["AP"]

    found = json.loads((tmp_path / "bbox_results.json").read_text())
    theirs = json.loads((NETWORK / "expected" / "bbox_val2017.json").read_text())
    assert len(found) == len(theirs) == 1121
    equal = sum(any(_same(a, b) for b in found) for a in theirs)
    assert equal >= 0.99 * len(theirs), equal


def _same(a, b):
    near = np.abs(np.subtract(a["bbox"], b["bbox"])).max() <= 0.1
    names = ("image_id", "category_id")
    return near and abs(a["score"] - b["score"]) <= 1e-3 and all(a[name] == b[name] for name in names)


@needs_network
def test_masks_pasted_the_old_way(real):
    """Masks pasted between integer pixels, into boxes without the 1, equal those of the original pixel by pixel."""
    model, _, category_ids = real
    photo = read_image(PHOTOS / "images" / "000000001268.jpg")
    values = model.run(model.transform([photo]).images, 320 / 427)
    labels = values["class_nms"]
    soft = values["mask_fcn_probs"][np.arange(len(labels)), :, :, labels]
    masks = paste_masks(soft, values["bbox_nms"] / np.float32(320 / 427), *photo.shape[:2], whole_pixels=True)
    theirs = json.loads((NETWORK / "expected" / "segm_val2017.json").read_text())
    theirs = [entry for entry in theirs if entry["image_id"] == 1268]
    assert [category_ids[label - 1] for label in labels] == [entry["category_id"] for entry in theirs]
    expected = np.array([decode_segmentation(entry["segmentation"], *photo.shape[:2]) for entry in theirs])
    assert masks.sum() > 30_000 and (masks != expected).sum() <= 5


@needs_network
def test_predict_files_writes_pictures(real, tmp_path):
    model, class_names, category_ids = real
    photos = [PHOTOS / "images" / f"{number:012d}.jpg" for number in (1268, 166918, 183709)]
    model.name_classes(class_names, category_ids)
    written = predict_files(model, photos, tmp_path)
    assert [picture.name for _, picture, _ in written] == [f"{photo.stem}.png" for photo in photos]
    found = json.loads(written[0][2].read_text())["detections"]
    assert [(d["name"], d["category_id"]) for d in found[:2]] == [("handbag", 31), ("person", 1)]
    assert read_image(written[0][1]).shape[2] == 3
