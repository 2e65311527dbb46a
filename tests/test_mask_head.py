"""The mask branch: network, targets and pasting, against numbers by hand, array code and torchvision."""

import numpy as np
import pytest

from minimask import nn
from minimask.image import ImageTransform
from minimask.losses import mask_loss
from minimask.mask_head import (
    FCNMaskHead,
    MaskPredictor,
    MLPMaskHead,
    mask_probabilities,
    mask_targets,
    paste_masks,
    restore,
    stretch,
)
from minimask.structures import Detections
from minimask.tensor import Tensor, no_grad

# ------------------------------------------------------------------------------------------------------------- network


def test_parameter_names_are_torchvisions():
    heads = nn.Module()
    heads.mask_head, heads.mask_predictor = FCNMaskHead(4, (6, 6)), MaskPredictor(6, 5, 3)
    shapes = {name: array.shape for name, array in heads.state_dict().items()}
    assert shapes == {
        "mask_head.0.0.weight": (3, 3, 4, 6),
        "mask_head.0.0.bias": (6,),
        "mask_head.1.0.weight": (3, 3, 6, 6),
        "mask_head.1.0.bias": (6,),
        "mask_predictor.conv5_mask.weight": (2, 2, 6, 5),
        "mask_predictor.conv5_mask.bias": (5,),
        "mask_predictor.mask_fcn_logits.weight": (1, 1, 5, 3),
        "mask_predictor.mask_fcn_logits.bias": (3,),
    }


def test_shapes_and_a_predictor_that_is_given_the_labels():
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((3, 14, 14, 4)).astype(np.float32))
    predictor = MaskPredictor(6, 5, 3)
    predictor.mask_fcn_logits.bias.data[:] = 0.1, 0.2, 0.3
    labels = np.array([2, 0, 1])
    with no_grad():
        features = FCNMaskHead(4, (6, 6))(x)
        assert features.shape == (3, 14, 14, 6)
        assert FCNMaskHead(4, ())(x) is x
        every, one = predictor(features), predictor(features, labels)
        assert every.shape == (3, 28, 28, 3) and one.shape == (3, 28, 28, 1)
        for r, label in enumerate(labels):
            np.testing.assert_allclose(one.data[r, :, :, 0], every.data[r, :, :, label], atol=1e-5)
        np.testing.assert_allclose(
            mask_probabilities(one.data, labels), mask_probabilities(every.data, labels), atol=1e-6
        )
        assert MLPMaskHead(14 * 14 * 4, 8, 3)(x).shape == (3, 28, 28, 3)
        assert predictor(Tensor(features.data[:0]), labels[:0]).shape == (0, 28, 28, 1)


def test_mask_head_trains():
    head, predictor = FCNMaskHead(2, (4, 4)), MaskPredictor(4, 4, 2)
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 4, 4, 2)).astype(np.float32))
    loss = mask_loss(predictor(head(x)), np.array([1, 1]), np.ones((2, 8, 8), np.float32), np.array([True, True]))
    loss.backward()
    for module in (head, predictor):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and np.abs(parameter.grad).max() > 0, name


def test_probabilities():
    logits = np.random.default_rng(0).standard_normal((2, 3, 3, 4))
    labels = np.array([1, 3])
    sigmoid = mask_probabilities(logits, labels)
    np.testing.assert_allclose(sigmoid[1], 1 / (1 + np.exp(-logits[1, :, :, 3])))
    softmax = mask_probabilities(logits, labels, "softmax")
    e = np.exp(logits[0])
    np.testing.assert_allclose(softmax[0], e[:, :, 1] / e.sum(-1))
    np.testing.assert_allclose(mask_probabilities(logits[..., :1], labels)[1], 1 / (1 + np.exp(-logits[1, :, :, 0])))


# ------------------------------------------------------------------------------------------------------------- targets


def target_case(seed=0):
    rng = np.random.default_rng(seed)
    masks = (rng.random((2, 3, 40, 50)) < 0.5).astype(np.uint8)
    masks[0, 0] = 1
    boxes = np.array(
        [
            [[3.2, 4.1, 30.7, 33.3], [-5, -6, 12, 14], [40, 30, 70, 90], [0, 0, 50, 40], [5, 5, 5, 5]],
            [[0, 0, 0, 0], [100, 100, 120, 130], [-90, -80, -30, -20], [10.1, 10.2, 10.9, 11.1], [-400, -3, 400, 9]],
        ],
        np.float32,
    )
    return masks, boxes, rng.integers(0, 3, (2, 5))


def test_target_worked_numbers():
    masks = np.zeros((1, 1, 8, 8), np.uint8)
    masks[0, 0, :, :4] = 1  # the left half
    boxes = np.array([[[0, 0, 8, 8], [0, 0, 4, 4], [4, 4, 8, 8]]], np.float32)
    targets = mask_targets(masks, boxes, np.zeros((1, 3), int), size=4)
    # Bins are 2 pixels wide, sampled at 0.5 and 1.5, 2.5 and 3.5, ... Halfway between pixels 3 and 4, the mask is 1/2.
    np.testing.assert_allclose(targets[0, 0], np.tile([1, 0.75, 0, 0], (4, 1)))
    np.testing.assert_allclose(targets[0, 1], np.tile([1, 1, 1, 0.5], (4, 1)))
    assert not targets[0, 2].any() and targets.dtype == np.float32


@pytest.mark.parametrize("size", [1, 7, 28])
def test_targets_equal_their_array_code(size):
    masks, boxes, matches = target_case()
    targets = mask_targets(masks, boxes, matches, size)
    aligned = mask_targets(masks, boxes, matches, size, aligned=True)
    np.testing.assert_allclose(aligned, mask_targets.plain(masks, boxes, matches, size, True), atol=1e-5)
    assert np.isfinite(targets).all() and targets.min() >= 0 and targets.max() <= 1 + 1e-6
    np.testing.assert_allclose(targets, mask_targets.plain(masks, boxes, matches, size), atol=1e-5)
    binary = mask_targets(masks, boxes, matches, size, binary=True)
    np.testing.assert_array_equal(binary, targets >= 0.5)
    assert mask_targets(masks, boxes[:, :0], matches[:, :0], size).shape == (2, 0, size, size)
    np.testing.assert_array_equal(mask_targets(masks > 0, boxes, matches, size), targets)


def test_targets_of_nan_boxes_and_of_matches_that_are_padding():
    masks, boxes, matches = target_case()
    boxes[0, 0], boxes[1, 1, 2], matches[:] = np.nan, np.inf, -1
    assert np.isfinite(mask_targets(masks, boxes, matches, 7)).all()
    masks, boxes, matches = target_case()
    matches[:] = -1
    expected = mask_targets.plain(masks, boxes, matches, 7)
    np.testing.assert_allclose(mask_targets(masks, boxes, matches, 7), expected, atol=1e-5)


def test_targets_equal_torchvision():
    torch = pytest.importorskip("torch")
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    masks, boxes, matches = target_case()
    targets = mask_targets(masks, boxes, matches, 28)
    for n in range(2):
        expected = roi_heads.project_masks_on_boxes(
            torch.tensor(masks[n]), torch.tensor(boxes[n]), torch.tensor(matches[n]), 28
        )
        np.testing.assert_allclose(targets[n], expected.numpy(), atol=1e-5)


def test_messages():
    masks, boxes, matches = target_case()
    with pytest.raises(ValueError, match=r"mask_targets: matches must have shape \(2, 5\), got \(2, 4\)"):
        mask_targets(masks, boxes, matches[:, :4])
    with pytest.raises(ValueError, match="mask_targets: masks must have room for at least one object"):
        mask_targets(masks[:, :0], boxes, matches)
    with pytest.raises(ValueError, match=r"paste_masks: boxes must have shape \(2, 4\), got \(3, 4\)"):
        paste_masks(np.zeros((2, 3, 3)), np.zeros((3, 4)), 5, 5)


# --------------------------------------------------------------------------------------------------------------- paste


def paste_case():
    boxes = [[3.2, 4.1, 30.7, 33.3], [-5, -6, 12, 14], [40, 30, 70, 90], [0, 0, 50, 40], [5, 5, 5, 5]]
    boxes += [[100, 100, 120, 130], [-90, -80, -30, -20], [10.1, 10.2, 10.9, 11.1], [-40, -3, 140, 9], [9, 9, 7, 8]]
    masks = np.random.default_rng(2).random((len(boxes), 28, 28)).astype(np.float32)
    return masks, np.array(boxes, np.float32)


def test_paste_worked_number():
    # A full mask of 28 x 28 cells in the box (4, 4)-(18, 18), 14 pixels wide, ends within one pixel of the box.
    mask = np.ones((1, 28, 28), np.float32)
    pasted = paste_masks(mask, np.array([[4.0, 4, 18, 18]], np.float32), 24, 30)
    assert pasted.shape == (1, 24, 30) and pasted.dtype == bool
    assert pasted[0, 4:18, 4:18].all() and not pasted[0, :3].any() and not pasted[0, :, 20:].any()
    soft = paste_masks(mask, np.array([[4.0, 4, 18, 18]], np.float32), 24, 30, threshold=None)
    assert soft.dtype == np.float32 and soft.max() == 1
    np.testing.assert_array_equal(soft >= 0.5, pasted)
    assert paste_masks(mask[:0], np.zeros((0, 4), np.float32), 5, 6).shape == (0, 5, 6)


def test_aligned_targets_and_exact_paste_recover_small_masks():
    # Objects of 5 to 16 pixels with their true boxes and perfect predictions: pasting recovers the cropped mask only if
    # both account for half pixels. (With torchvision's conventions, the average IoU of the same masks is 0.80.)
    rng, overlap = np.random.default_rng(0), {True: [], False: []}
    for _ in range(40):
        (w, h), (x, y) = rng.integers(5, 17, 2), rng.integers(2, 14, 2)
        mask = np.zeros((1, 1, 40, 40), np.uint8)
        inside = np.hypot(*np.meshgrid(np.linspace(-1, 1, w), np.linspace(-1, 1, h))) <= 1.1
        mask[0, 0, y : y + h, x : x + w] = inside
        box = np.array([[[x, y, x + w, y + h]]], np.float32)
        for aligned in (True, False):
            targets = mask_targets(mask, box, np.zeros((1, 1), int), 28, aligned)
            found = paste_masks(targets[0], box[0], 40, 40, whole_pixels=not aligned)[0]
            overlap[aligned].append((found & (mask[0, 0] > 0)).sum() / (found | (mask[0, 0] > 0)).sum())
    assert np.mean(overlap[True]) > 0.99 > 0.85 > np.mean(overlap[False])


@pytest.mark.parametrize("whole_pixels", [True, False])
def test_paste_equals_its_array_code(whole_pixels):
    masks, boxes = paste_case()
    soft = paste_masks(masks, boxes, 40, 50, threshold=None, whole_pixels=whole_pixels)
    np.testing.assert_allclose(soft, paste_masks.plain(masks, boxes, 40, 50, None, whole_pixels), atol=1e-5)
    hard = paste_masks(masks, boxes, 40, 50, threshold=0.3, whole_pixels=whole_pixels)
    np.testing.assert_array_equal(hard, soft >= 0.3)
    # Away from the threshold, rounding does not matter.
    expected = paste_masks.plain(masks, boxes, 40, 50, 0.3, whole_pixels)
    assert (hard != expected)[abs(soft - 0.3) > 1e-5].sum() == 0


def test_paste_of_nan_boxes():
    masks, boxes = paste_case()
    boxes[0], boxes[1, 2], boxes[2] = np.nan, np.inf, 1e30
    assert np.isfinite(paste_masks(masks, boxes, 4, 5, threshold=None)).all()


@pytest.mark.parametrize("size", [1, 14, 28])
def test_paste_equals_torchvision(size):
    torch = pytest.importorskip("torch")
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    _, boxes = paste_case()
    masks = np.random.default_rng(size).random((len(boxes), size, size)).astype(np.float32)
    # torchvision itself fails for boxes that do not touch the image, because it slices from a negative index.
    touching = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (boxes[:, 0] < 50) & (boxes[:, 1] < 40)
    masks, boxes = masks[touching], boxes[touching]
    soft = paste_masks(masks, boxes, 40, 50, threshold=None)
    expected = roi_heads.paste_masks_in_image(torch.tensor(masks[:, None]), torch.tensor(boxes), (40, 50))
    np.testing.assert_allclose(soft, expected[:, 0].numpy(), atol=1e-5)


# ------------------------------------------------------------------------------------------------ the original image


def test_restore_scales_back_and_pastes():
    batch = ImageTransform(64, 128)([np.zeros((32, 48, 3), np.uint8)])
    detections = Detections(
        boxes=np.array([[[16, 8, 48, 40], [0, 0, 0, 0]]], np.float32),
        labels=np.array([[2, 0]]),
        scores=np.array([[0.9, 0]], np.float32),
        valid=np.array([[True, False]]),
        masks=np.ones((1, 2, 28, 28), np.float32),
        keypoints=np.array([[[[20, 10, 0.7]], [[0, 0, 0]]]], np.float32),
    )
    (found,) = restore(detections, batch)
    assert found.boxes.tolist() == [[8, 4, 24, 20]]
    assert found.labels.tolist() == [2] and found.masks.shape == (1, 32, 48)
    assert np.allclose(found.keypoints, [[[10, 5, 0.7]]])
    inside = np.zeros((32, 48), bool)
    inside[5:19, 9:23] = True
    assert found.masks[0][inside].all()
    assert not found.masks[0][:3].any() and not found.masks[0][22:].any() and not found.masks[0][:, 26:].any()


def test_restore_of_no_detections():
    batch = ImageTransform(64, 128)([np.zeros((32, 48, 3), np.uint8)])
    nothing = Detections(
        boxes=np.zeros((1, 3, 4), np.float32),
        labels=np.zeros((1, 3), np.int64),
        scores=np.zeros((1, 3), np.float32),
        valid=np.zeros((1, 3), bool),
        masks=np.zeros((1, 3, 28, 28), np.float32),
    )
    (found,) = restore(nothing, batch)
    assert found.masks.shape == (0, 32, 48) and found.boxes.shape == (0, 4)


@pytest.mark.parametrize("paste", [paste_masks, paste_masks.plain])
@pytest.mark.parametrize("whole_pixels", [True, False])
def test_paste_cuts_each_axis_at_its_own_side(whole_pixels, paste):
    """In a wide image a box that leaves it on the right is cut at the width, one that leaves it below at the height."""
    full, arguments = np.ones((1, 8, 8), np.float32), dict(whole_pixels=whole_pixels)
    right = paste(full, np.array([[20.0, 2, 60, 6]]), 8, 40, **arguments)[0]
    below = paste(full, np.array([[30.0, 5, 36, 60]]), 8, 40, **arguments)[0]
    assert right.shape == below.shape == (8, 40)
    assert right[3:5, 22:].all() and not right[:, :18].any()
    assert below[7, 31:35].all() and not below[:, :28].any() and not below[:3].any()
    assert paste(full, np.array([[20.0, 2, 60, 6]]), 40, 8, **arguments).sum() == 0  # right of a narrow image


def test_stretch_by_hand():
    rows, weights = stretch(2, 1.0, 5.0, 4)
    # Two cells over 1 .. 5, centers at 2 and 4; pixels 1, 2 and 3 have their centers at 1.5, 2.5 and 3.5.
    assert rows == slice(1, 4)
    np.testing.assert_allclose(weights, [[1, 0], [0.75, 0.25], [0.25, 0.75]])
    assert stretch(2, -3.0, 0.0, 4)[0] == slice(0, 0) and stretch(2, 9.0, 12.0, 4)[0] == slice(4, 4)


@pytest.mark.parametrize("paste", [paste_masks, paste_masks.plain])
def test_a_value_at_the_threshold_belongs_to_the_mask(paste):
    half = np.full((1, 4, 4), 0.5, np.float32)
    box = np.array([[0.0, 0, 8, 8]], np.float32)
    assert paste(half, box, 8, 8, whole_pixels=False)[0, 3:5, 3:5].all()
    assert not paste(half, box, 8, 8, threshold=np.nextafter(0.5, 1), whole_pixels=False).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_hidden_layers_of_the_mlp_have_a_relu(sign):
    """fc2 gives -1 if fc1 gives 1, or 0 if fc1 gives -1, which becomes 0: without the ReLU of fc1 it would be 1."""
    head = MLPMaskHead(4, 4, 1, size=2)
    head.fc1.weight.data[...], head.fc2.weight.data[...] = sign * np.eye(4), -np.eye(4)
    head.logits.weight.data[...] = np.eye(4)
    assert not head(Tensor(np.ones((1, 2, 2, 1), np.float32))).data.any()


def test_targets_have_28_cells_by_default():
    assert mask_targets(*target_case()).shape == (2, 5, 28, 28)


@pytest.mark.parametrize("paste", [paste_masks, paste_masks.plain])
def test_a_mask_far_from_the_corner_of_the_image(paste):
    pasted = paste(np.ones((1, 8, 8), np.float32), np.array([[300.0, 200, 340, 230]]), 250, 400)[0]
    assert pasted[201:229, 301:339].all() and not pasted[:198].any() and not pasted[:, :298].any()


@pytest.mark.parametrize("paste", [paste_masks, paste_masks.plain])
def test_whole_pixels_reach_one_further_right_and_down(paste):
    """With its border the mask of 2 x 2 cells lies on 0 to 8, which is cut to the pixels 0 to 8, around 4."""
    pasted = paste(np.ones((1, 2, 2), np.float32), np.array([[2.0, 2, 6, 6]]), 12, 12, threshold=None)[0]
    np.testing.assert_allclose(pasted, pasted.T, atol=1e-6)
    np.testing.assert_array_equal(pasted[4] > 0, [False] + [True] * 7 + [False] * 4)
    np.testing.assert_allclose(pasted[4, 1:8], pasted[4, 7:0:-1], atol=1e-6)


def test_restored_masks_begin_at_one_half():
    batch = ImageTransform(32, 32)([np.zeros((32, 32, 3), np.uint8)])
    for whole_image, shape in ((False, (1, 2, 28, 28)), (True, (1, 2, 32, 32))):
        detections = Detections(
            boxes=np.array([[[4, 4, 28, 28], [4, 4, 28, 28]]], np.float32),
            labels=np.ones((1, 2), int),
            scores=np.ones((1, 2), np.float32),
            valid=np.ones((1, 2), bool),
            masks=np.broadcast_to(np.float32([0.6, 0.4]).reshape(1, 2, 1, 1), shape),
            whole_image=whole_image,
        )
        (found,) = restore(detections, batch)
        assert found.masks[0, 16, 16] and not found.masks[1].any()
