"""Operations and the whole model against torchvision: against golden files, and the library itself if installed."""

from pathlib import Path

import numpy as np
import pytest

from minimask import boxes as box_ops
from minimask.convolution import conv2d, conv_transpose2d, max_pool2d
from minimask.device import generator
from minimask.image import ImageTransform
from minimask.mask_rcnn import build
from minimask.normalization import batch_norm, group_norm
from minimask.roi_align import roi_align
from minimask.structures import Sample
from minimask.tensor import Tensor
from minimask.weights import from_torchvision, to_torchvision
from tests.references import tiny
from tests.references.operation_inputs import (
    CONVOLUTIONS,
    POOLS,
    ROI_ALIGNS,
    TRANSPOSED,
    cropped_pictures,
    crowded_boxes,
    normal,
    roi_boxes,
)
from tests.references.stages import gradient_errors

FOLDER = Path(__file__).parent / "references"


def golden(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def operations():
    return golden("operations")


def leaf(*shape, seed=0):
    return Tensor(normal(*shape, seed=seed), requires_grad=True)


def check(expected, name, y, **inputs):
    """Assert that y and the gradient of every input equal the golden ones (float64)."""
    y.backward(normal(*y.shape, seed=9))
    results = {"y": y.data, **{f"g{key}": tensor.grad for key, tensor in inputs.items()}}
    for key, value in results.items():
        np.testing.assert_allclose(value, expected[f"{name}.{key}"], rtol=1e-10, atol=1e-10, err_msg=f"{name}.{key}")


# ---------------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(operations, name):
    x_shape, w_shape, keywords = CONVOLUTIONS[name]
    x, w, b = leaf(*x_shape), leaf(*w_shape, seed=1), leaf(w_shape[3], seed=2)
    check(operations, name, conv2d(x, w, b, **keywords), x=x, w=w, b=b)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolution(operations, name):
    x_shape, w_shape, keywords = TRANSPOSED[name]
    x, w, b = leaf(*x_shape), leaf(*w_shape, seed=1), leaf(w_shape[3] * keywords.get("groups", 1), seed=2)
    check(operations, name, conv_transpose2d(x, w, b, **keywords), x=x, w=w, b=b)


@pytest.mark.parametrize("name", [*CONVOLUTIONS, *TRANSPOSED])
def test_convolutions_in_float32(operations, name):
    """float32, for which some have kernels, differs only by rounding."""
    x_shape, w_shape, keywords = CONVOLUTIONS.get(name) or TRANSPOSED[name]
    function = conv2d if name in CONVOLUTIONS else conv_transpose2d
    x, w = (Tensor(normal(*shape, seed=i).astype(np.float32), True) for i, shape in enumerate((x_shape, w_shape)))
    outputs = operations[f"{name}.gb"].size
    y = function(x, w, Tensor(normal(outputs, seed=2).astype(np.float32)), **keywords)
    y.backward(normal(*y.shape, seed=9).astype(np.float32))
    for key, value in (("y", y.data), ("gx", x.grad), ("gw", w.grad)):
        expected = operations[f"{name}.{key}"]
        assert value.dtype == np.float32
        assert np.abs(value - expected).max() < 1e-5 * np.abs(expected).max(), f"{name}.{key}"


@pytest.mark.parametrize("name", POOLS)
def test_max_pool(operations, name):
    x_shape, keywords = POOLS[name]
    x = leaf(*x_shape)
    check(operations, name, max_pool2d(x, **keywords), x=x)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(operations, training):
    name = f"batch_norm_{'training' if training else 'inference'}"
    x, gamma, beta = leaf(2, 5, 4, 6), leaf(6, seed=1), leaf(6, seed=2)
    mean, variance = normal(6, seed=3), normal(6, seed=4) ** 2 + 0.5
    y = batch_norm(x, gamma, beta, mean, variance, training=training)
    check(operations, name, y, x=x, gamma=gamma, beta=beta)
    np.testing.assert_allclose(mean, operations[f"{name}.running_mean"], rtol=1e-12)
    np.testing.assert_allclose(variance, operations[f"{name}.running_var"], rtol=1e-12)


def test_group_norm(operations):
    x, gamma, beta = leaf(2, 5, 4, 6), leaf(6, seed=1), leaf(6, seed=2)
    check(operations, "group_norm", group_norm(x, gamma, beta, groups=3), x=x, gamma=gamma, beta=beta)


@pytest.mark.parametrize("name", ROI_ALIGNS)
def test_roi_align(operations, name):
    x, boxes = leaf(2, 9, 11, 3), roi_boxes()
    index, levels = np.arange(len(boxes)) % 2, np.zeros(len(boxes), np.int64)
    y = roi_align([x], boxes, index, levels, [0.25], size=4, **ROI_ALIGNS[name])
    check(operations, name, y, x=x)


def test_nms():
    expected = golden("suppression")
    boxes, scores = crowded_boxes()
    every = np.ones((1, len(boxes)), bool)
    for threshold in (0.3, 0.7):
        kept, valid = box_ops.nms(boxes[None], scores[None], every, threshold)
        np.testing.assert_array_equal(kept[valid], expected[f"nms_{threshold}"])
    classes = np.arange(len(boxes))[None] % 3
    kept, valid = box_ops.nms(boxes[None], scores[None], every, 0.5, groups=classes)
    np.testing.assert_array_equal(kept[valid], expected["nms_classes"])


def samples(images, truths, labels=None):
    return [
        Sample(
            image=image, boxes=truth["boxes"], labels=truth.get("labels", np.ones(len(truth["boxes"]), np.int64)),
            masks=truth["masks"], crowd=np.zeros(len(truth["boxes"]), bool), image_id=i, name=f"picture {i}",
            keypoints=truth.get("keypoints"),
        )
        for i, (image, truth) in enumerate(zip(images, truths))
    ]  # fmt: skip


def test_transform():
    expected = golden("transform")
    batch = ImageTransform(min_size=20, max_size=30)(samples(*cropped_pictures()))
    np.testing.assert_array_equal(batch.sizes, expected["sizes"])
    np.testing.assert_allclose(batch.images, expected["images"], atol=2e-5)
    for i in (0, 1):
        count, height, width = expected[f"masks{i}"].shape
        np.testing.assert_allclose(batch.boxes[i, :count], expected[f"boxes{i}"], rtol=1e-5)
        np.testing.assert_array_equal(batch.masks[i, :count, :height, :width], expected[f"masks{i}"])


# --------------------------------------------------------------------------------------------------------------- model


def tiny_model(dtype, seed=tiny.SEED):
    model = build("toy", num_classes=tiny.CLASSES, **tiny.SETTINGS)
    shapes = {name: array.shape for name, array in to_torchvision(model.state_dict()).items()}
    model.load_state_dict(from_torchvision(tiny.state(shapes, seed)))
    return model.to(dtype)


def check_detections(expected, dtype, seed=tiny.SEED):
    images, _ = tiny.pictures(seed)
    found = tiny_model(dtype, seed).predict(images)
    for i, (image, prediction) in enumerate(zip(images, found)):
        np.testing.assert_array_equal(prediction.labels, expected[f"labels{i}"])
        np.testing.assert_allclose(prediction.scores, expected[f"scores{i}"], atol=1e-4)
        np.testing.assert_allclose(prediction.boxes, expected[f"boxes{i}"], atol=1e-4 * max(image.shape))
        np.testing.assert_allclose(prediction.soft_masks, expected[f"probabilities{i}"], atol=1e-4)
        places, scores = expected[f"keypoints{i}"][..., :2], expected[f"keypoints{i}"][..., 2]
        np.testing.assert_allclose(prediction.keypoints[..., :2], places, atol=1e-4 * max(image.shape))
        np.testing.assert_allclose(prediction.keypoints[..., 2], scores, atol=1e-4 * np.abs(scores).max())
        count = len(prediction.labels) * image.shape[0] * image.shape[1]
        masks = np.unpackbits(expected[f"masks{i}"], count=count).reshape(prediction.masks.shape)
        assert (
            prediction.masks != masks
        ).mean() < 1e-4  # a pixel of exactly 1/2 may be on either side of the threshold


def check_training(expected, dtype, seed=tiny.SEED):
    """Assert that losses agree to a relative 1e-5, and gradients to 1e-3 (see `gradient_errors`)."""
    model = tiny_model(dtype, seed).train()
    losses = model(model.transform(samples(*tiny.pictures(seed))), rng=generator(0))
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert loss.data == pytest.approx(expected[name], rel=1e-5), name
    start = "gradient "
    gradients = {key.removeprefix(start): value for key, value in expected.items() if key.startswith(start)}
    for name, error in gradient_errors(model, gradients).items():
        assert error < 1e-3, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_model_finds_what_torchvision_finds(dtype):
    check_detections(golden("detections"), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_and_gradients_are_torchvisions(dtype):
    check_training(golden("training"), dtype)


def test_the_layout_of_weights_and_its_inverse():
    state = build("toy", num_classes=3).state_dict()
    theirs = to_torchvision(state)
    assert theirs["backbone.body.conv1.weight"].shape == (32, 3, 3, 3)
    assert theirs["roi_heads.box_head.fc6.weight"].shape == (256, 64 * 7 * 7)
    assert theirs["roi_heads.mask_predictor.conv5_mask.weight"].shape == (64, 64, 2, 2)
    back = from_torchvision({**theirs, "backbone.body.bn1.num_batches_tracked": np.zeros(())})
    assert back.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


# ------------------------------------------------------------------------------------------------- torchvision, if here


@pytest.fixture(scope="module")
def make_golden():
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from tests.references import make_golden

    return make_golden


def test_golden_files_are_what_torchvision_computes(make_golden):
    for name, make in make_golden.FILES.items():
        stored, fresh = golden(name), make()
        assert stored.keys() == fresh.keys()
        for key, value in fresh.items():
            np.testing.assert_allclose(stored[key], value, rtol=1e-5, atol=1e-6, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("seed", [2, 3])
def test_other_weights_and_pictures(make_golden, seed):
    check_detections(make_golden.detections(seed), np.float64, seed)
    check_training(make_golden.training(seed), np.float64, seed)
