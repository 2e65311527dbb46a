"""The trained model that comes with minimask finds the objects in scenes that it has not seen."""

import minimask
from minimask.evaluate import evaluate
from minimask.weights import toy_weights


def test_the_toy_weights_are_small_and_good():
    assert toy_weights().stat().st_size < 4e6
    model, scenes = minimask.load("toy"), minimask.datasets.toy("test", count=60)
    assert model.class_names == list(scenes.class_names) and model.keypoint_names == list(scenes.keypoint_names)
    scores = evaluate(model, scenes, progress=False)
    # Measured on 200 scenes: 0.709, 0.633, 0.650. On sixty scenes, these numbers vary by about 0.02.
    assert scores["bbox"]["AP"] > 0.65
    assert scores["segm"]["AP"] > 0.58
    assert scores["keypoints"]["AP"] > 0.58
