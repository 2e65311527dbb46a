"""The mask and keypoint branches on the GPU: targets, losses and results equal those on the CPU; nothing waits."""

from contextlib import nullcontext

import numpy as np
import pytest

from minimask import nn
from minimask.keypoint_head import KeypointPredictor, keypoint_targets
from minimask.losses import keypoint_loss
from minimask.mask_head import MaskPredictor, mask_probabilities
from minimask.tensor import Tensor, no_grad


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_masks_of_the_predicted_classes(gpu, kind):
    rng = np.random.default_rng(0)
    nn.seed_initializers(0)
    predictor = MaskPredictor(4, 4, 3)
    x, labels = rng.standard_normal((5, 3, 3, 4)).astype(np.float32), np.array([2, 0, 1, 1, 2])

    def masks(x, labels):
        with no_grad():
            logits = predictor(Tensor(x), labels if kind == "sigmoid" else None)
            return mask_probabilities(logits.data, labels, kind)

    expected = masks(x, labels)
    predictor.to("cuda")
    x, labels = gpu.asarray(x), gpu.asarray(labels)
    with getattr(gpu, "no_sync", nullcontext)():
        found = masks(x, labels)
    np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-6)


def test_keypoints_learn(gpu):
    rng = np.random.default_rng(1)
    nn.seed_initializers(1)
    predictor = KeypointPredictor(4, 3)
    x = rng.standard_normal((4, 2, 2, 4)).astype(np.float32)
    keypoints = rng.uniform(0, 40, (2, 3, 3, 3)).astype(np.float32)  # two images, three objects, three keypoints
    keypoints[..., 2] = rng.integers(0, 3, (2, 3, 3))
    boxes = np.array([[[0, 0, 30, 40], [10, 5, 35, 35]], [[5, 5, 5, 5], [0, 10, 40, 30]]], np.float32)
    keypoints[0, 1, 0, :2] = 30, 40  # on the corner of its box
    matches = np.array([[1, 0], [2, 1]])

    def learn(x, keypoints, boxes, matches):
        places, visible = keypoint_targets(keypoints, boxes, matches, 8)
        x = Tensor(x, requires_grad=True)
        loss = keypoint_loss(predictor(x), places.reshape(4, 3), visible.reshape(4, 3))
        loss.backward()
        weight = predictor.kps_score_lowres.weight
        gradient, weight.grad = weight.grad, None
        return places, visible, loss.data, x.grad, gradient

    expected = learn(x, keypoints, boxes, matches)
    predictor.to("cuda")
    arrays = [gpu.asarray(a) for a in (x, keypoints, boxes, matches)]
    with getattr(gpu, "no_sync", nullcontext)():
        found = learn(*arrays)
    assert expected[1].any() and not expected[1].all()
    np.testing.assert_array_equal(found[0].get(), expected[0])
    np.testing.assert_array_equal(found[1].get(), expected[1])
    for ours, theirs in zip(found[2:], expected[2:]):
        np.testing.assert_allclose(ours.get(), theirs, rtol=1e-5, atol=1e-6)
