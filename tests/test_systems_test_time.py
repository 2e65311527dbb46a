"""Test time augmentation and box refinement: views and their way back, averages by hand, a trained model."""

import numpy as np
import pytest

import minimask
from minimask.datasets.toy import ToyScenes
from minimask.run.model_settings import DetectionSettings
from minimask.structures import Batch, Detections
from minimask.systems.test_time import Augmented, merge, mirrored, mirrored_back, resized


def detections(boxes, scores, labels, masks=None):
    """Detections of one image, all valid."""
    boxes = np.array([boxes], np.float32)
    masks = None if masks is None else np.array([masks], np.float32)
    valid = np.ones(boxes.shape[:2], bool)
    return Detections(boxes, np.array([labels]), np.array([scores], np.float32), valid, masks, whole_pixels=False)


def test_views_by_hand():
    images = np.arange(12.0, dtype=np.float32).reshape(1, 2, 6, 1).repeat(3, axis=3)
    batch = Batch(images=images, sizes=np.array([[2, 4]]), original_sizes=np.array([[2, 4]]))
    assert mirrored(batch).images[0, :, :, 0].tolist() == [[3, 2, 1, 0, 0, 0], [9, 8, 7, 6, 0, 0]]

    view, factors = resized(batch, 2)
    assert view.images.shape == (1, 32, 32, 3) and view.sizes.tolist() == [[4, 8]]
    assert factors.tolist() == [0.5] * 4
    np.testing.assert_allclose(view.images[0, 0, :3, 0], [0, 0.25, 0.75])
    assert resized(batch, 1)[0] is batch

    found = mirrored_back(detections([[0, 1, 3, 2]], [1], [1], [[[1, 2], [3, 4]]]), batch.sizes)
    assert found.boxes[0].tolist() == [[1, 1, 4, 2]] and found.masks[0, 0].tolist() == [[2, 1], [4, 3]]


def test_merging_by_hand():
    first = detections([[0, 0, 10, 10], [50, 50, 60, 60]], [0.6, 0.9], [1, 1], [np.ones((2, 2)), np.ones((2, 2))])
    second = detections([[0, 0, 10, 12], [0, 0, 10, 10]], [0.2, 0.5], [1, 2], [np.zeros((2, 2)), np.ones((2, 2))])
    found = merge([first, second], 3, DetectionSettings())
    assert found.valid[0].tolist() == [True] * 3 + [False] * 5
    assert found.labels[0, :4].tolist() == [1, 1, 2, 0]
    np.testing.assert_allclose(found.scores[0, :4], [0.9, 0.6, 0.5, 0])
    # The box of class 1 at the upper left: 10 and 12 with weights 0.6 and 0.2; class 2 is not asked.
    np.testing.assert_allclose(found.boxes[0, 1], [0, 0, 10, 10.5], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[0, 2], [0, 0, 10, 10], rtol=1e-6)
    # The voter's mask is 0; the detection's own mask counts 0.6 of 0.8.
    np.testing.assert_allclose(found.masks[0, 1], 0.75, rtol=1e-6)
    np.testing.assert_allclose(found.masks[0, 2], 1, rtol=1e-6)


@pytest.fixture(scope="module")
def scenes():
    return ToyScenes("test", size=128, count=8)


@pytest.fixture(scope="module")
def model():
    return minimask.load("toy")


def test_one_plain_view_changes_nothing_but_boxes_that_overlap(model, scenes):
    batch = model.transform([scenes[i] for i in range(4)])
    plain, again = model.detect(batch), Augmented(model, flip=False).detect(batch)
    np.testing.assert_array_equal(again.valid, plain.valid)
    np.testing.assert_allclose(again.scores, plain.scores, rtol=1e-6)
    np.testing.assert_allclose(again.boxes, plain.boxes, atol=1e-3)  # after NMS at 0.5 each box has one voter
    np.testing.assert_allclose(again.masks[plain.valid], plain.masks[plain.valid], atol=0.01)


def test_a_mirrored_scene_gives_the_mirrored_objects(model, scenes):
    batch = model.transform([scenes[i] for i in range(2)])
    found = Augmented(model, flip=False).detect(mirrored(batch))
    expected = Augmented(model).look(mirrored(batch), 1, True)  # mirrored twice: the scene itself
    plain = mirrored_back(model.detect(batch), batch.sizes)
    np.testing.assert_allclose(expected.boxes, plain.boxes, atol=1e-3)
    assert found.valid.any()


@pytest.mark.parametrize("settings", [{}, {"scales": (1.0, 1.25), "flip": False}, {"flip": False, "refine": 1}])
def test_average_precision_stays_high(model, scenes, settings):
    plain = minimask.evaluate(model, scenes, quiet=True)
    better = minimask.evaluate(Augmented(model, **settings), scenes, quiet=True)
    for kind in ("bbox", "segm"):
        assert better[kind]["AP50"] > plain[kind]["AP50"] - 0.05 and plain[kind]["AP50"] > 0.8


def test_predictions_have_names_and_masks_of_the_image(model, scenes):
    found = Augmented(model).predict(scenes[0].image)
    assert found.masks.shape[1:] == (128, 128) and set(found.names) <= {"cat", "dog", "duck"}


def test_what_cannot_be_augmented_is_refused(model):
    with pytest.raises(minimask.errors.InputError, match="scales must be positive"):
        Augmented(model, scales=())
    with pytest.raises(minimask.errors.InputError, match="FCN has no boxes"):
        Augmented(minimask.build("fcn"))
    with pytest.raises(minimask.errors.InputError, match="FCIS cannot refine boxes"):
        Augmented(minimask.build("fcis"), refine=1)
