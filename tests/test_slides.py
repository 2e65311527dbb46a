"""The code reproduces the numbers on the slides. Each test names its slide: L is the lecture, T the authors' talk."""

import numpy as np
import pytest

from minimask.losses import mask_loss
from minimask.mask_head import FCNMaskHead, MaskPredictor, mask_probabilities, paste_masks
from minimask.roi_align import bilinear, map_boxes, roi_align, sampling_points
from minimask.tensor import Tensor, no_grad

ROIS = np.array([[112, 45, 219, 213], [268, 44, 361, 280], [67, 106, 177, 195]], np.float64)  # L10
SCALE = 1 / 16
K, S = 3, 2  # bins per axis, and samples per bin and axis


def crop(features, pooling="max"):
    """RoIAlign of the RoIs of L10 with the settings of the lecture: features (H, W, C) of stride 16 -> (3, K, K, C)."""
    zero = np.zeros(len(ROIS), int)
    return roi_align([features[None]], ROIS, zero, zero, [SCALE], K, S, pooling=pooling).data


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((24, 32, 5))  # an image of 384 x 512 pixels at stride 16


def test_L10_three_rois():
    _, extent = map_boxes(ROIS, 1.0)
    assert extent.tolist() == [[107, 168], [93, 236], [110, 89]]


def test_L11_k_x_k_x_c_features_for_each_roi(features):
    assert crop(features).shape == (3, 3, 3, 5)
    constant = np.arange(5.0) + 0 * features  # channel c is c everywhere
    np.testing.assert_allclose(crop(constant), np.broadcast_to(np.arange(5.0), (3, 3, 3, 5)), atol=1e-12)


def test_L12_the_four_steps_are_roi_align(features):
    for roi, found in zip(ROIS, crop(features)):
        points = sampling_points(roi, SCALE, K, S)  # steps 1 to 3: map, divide, place
        values = bilinear(features, points)  # step 3: interpolate (3, 3, 2, 2, 5)
        np.testing.assert_allclose(found, values.max((2, 3)), atol=1e-12)  # step 4: pool


def test_L13_map_107x168_to_6_7x10_5():
    corner, extent = map_boxes(ROIS[0], SCALE)
    assert corner.tolist() == [7, 2.8125]
    assert extent.tolist() == [6.6875, 10.5]
    assert extent.round(1).tolist() == [6.7, 10.5]


def test_L14_bins_of_2_2_x_3_5():
    _, extent = map_boxes(ROIS[0], SCALE)
    np.testing.assert_allclose(extent / K, [2.2291667, 3.5], atol=1e-7)
    centers = sampling_points(ROIS[0], SCALE, K, 1)[:, :, 0, 0]  # a single sample per bin is at its center
    np.testing.assert_allclose(np.diff(centers[0, :, 0]), 2.2291667, atol=1e-7)  # neighbors in one row
    np.testing.assert_allclose(np.diff(centers[:, 0, 1]), 3.5)
    assert np.floor(10 * np.diff(centers[0, :, 0])).tolist() == [22, 22]  # 2.2


def test_L15_sampling_points_are_centroids_of_2_x_2_cells():
    points = sampling_points(ROIS[0], SCALE, K, S)
    assert points.shape == (3, 3, 2, 2, 2)
    corner, extent = map_boxes(ROIS[0], SCALE)
    bin_size = extent / K
    for row, column, a, b in np.ndindex(3, 3, 2, 2):
        cell = corner + bin_size * [column + b / 2, row + a / 2]  # its upper left corner
        np.testing.assert_allclose(points[row, column, a, b], cell + bin_size / 4)
    np.testing.assert_allclose(points[0, 0, 0, 0], [7 + 6.6875 / 12, 2.8125 + 10.5 / 12])


def test_L16_bilinear_interpolation_of_a_sample(features):
    x, y = sampling_points(ROIS[0], SCALE, K, S)[0, 0, 0, 0]  # 7.557, 3.6875: between columns 7, 8 and rows 3, 4
    u, v = x - 7, y - 3
    a, b, c, d = features[3, 7], features[3, 8], features[4, 7], features[4, 8]
    expected = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
    np.testing.assert_allclose(bilinear(features, np.array([x, y])), expected)


def test_L17_maximum_or_average_of_each_bin_channel_by_channel(features):
    values = bilinear(features, sampling_points(ROIS[1], SCALE, K, S))
    for i, j, channel in np.ndindex(3, 3, 5):
        four = values[i, j, :, :, channel]
        assert crop(features, "max")[1, i, j, channel] == pytest.approx(four.max())
        assert crop(features, "average")[1, i, j, channel] == pytest.approx(four.mean())


def test_L20_the_class_branch_chooses_among_bg_cat_dog_duck():
    logits = np.zeros((4, 28, 28, 4))
    for c in range(4):
        logits[..., c] = c - 1.5
    cat, dog, duck = 1, 2, 3
    chosen = mask_probabilities(logits, np.array([cat, cat, dog, duck]))  # L04: the labels of the four objects
    np.testing.assert_allclose(chosen[:, 0, 0], 1 / (1 + np.exp([0.5, 0.5, -0.5, -1.5])))


def test_L21_L23_L25_four_convolutions_14x14_to_28x28_x_classes():
    head, predictor = FCNMaskHead(8, (8,) * 4), MaskPredictor(8, 8, 4)
    x = Tensor(np.zeros((2, 14, 14, 8), np.float32))
    with no_grad():
        x = head(x)
        assert len(head) == 4 and x.shape == (2, 14, 14, 8)
        assert predictor.conv5_mask(x).shape == (2, 28, 28, 8)
        assert predictor(x).shape == (2, 28, 28, 4)


def test_L28_average_binary_cross_entropy_over_28x28():
    rng = np.random.default_rng(1)
    predicted, truth = rng.uniform(0.01, 0.99, (28, 28)), (rng.random((28, 28)) < 0.5).astype(float)
    total = 0.0
    for y, x in np.ndindex(28, 28):
        p, t = predicted[y, x], truth[y, x]
        total += t * np.log(p) + (1.0 - t) * np.log(1.0 - p)
    assert loss_of(predicted, truth) == pytest.approx(-total / (28 * 28), rel=1e-12)


def test_L29_worked_terms():
    predicted, truth = np.array([0.1, 0.7, 0.5, 0.8]), np.array([0.0, 1.0, 1.0, 1.0])
    terms = [0.1053605, 0.3566749, 0.6931472, 0.2231436]  # -log of 0.9, 0.7, 0.5 and 0.8
    for p, t, term in zip(predicted, truth, terms):
        assert loss_of(np.array([[p]]), np.array([[t]])) == pytest.approx(term, abs=1e-7)
    assert loss_of(predicted.reshape(2, 2), truth.reshape(2, 2)) == pytest.approx(sum(terms) / 4, abs=1e-7)
    # The dots on the slide: the same four points in a 28 x 28 map whose other points are predicted with certainty.
    whole, whole_truth = np.full((28, 28), 1e-12), np.zeros((28, 28))
    whole[0, :4], whole_truth[0, :4] = predicted, truth
    assert loss_of(whole, whole_truth) == pytest.approx(1.3783262 / 784, abs=1e-9)


def loss_of(predicted, truth):
    """L_mask of one RoI: the average over its map, by the formula and by what training computes."""
    logits = np.log(predicted / (1 - predicted))[None, :, :, None]
    one, valid = np.ones(1, int), np.ones(1, bool)
    by_formula = -np.mean(truth * np.log(predicted) + (1 - truth) * np.log(1 - predicted))
    assert mask_loss(Tensor(logits), one, truth[None], valid).item() == pytest.approx(by_formula, abs=1e-12)
    return by_formula


def test_T12_28x28_prediction_resized_soft_prediction_final_mask():
    prediction = np.zeros((1, 28, 28), np.float32)
    prediction[0, 7:21, 7:21] = 1  # the middle half in both directions
    box = np.array([[10, 10, 66, 66]], np.float32)  # 56 x 56 pixels: each cell becomes 2 x 2
    soft = paste_masks(prediction, box, 80, 80, threshold=None)[0]
    final = paste_masks(prediction, box, 80, 80)[0]
    assert soft.shape == final.shape == (80, 80) and final.dtype == bool
    assert ((soft > 0) & (soft < 1)).any()  # soft at the border
    np.testing.assert_array_equal(final, soft >= 0.5)
    assert final[26:50, 26:50].all() and not final[:23].any() and not final[:, 53:].any()
