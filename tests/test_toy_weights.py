"""The small trained model that comes with minimask finds the animals in scenes it has not seen."""

import minimask
from minimask.datasets.toy import ToyScenes
from minimask.evaluate import evaluate
from minimask.weights import toy_weights


def test_shipped_weights_are_small_and_good():
    assert toy_weights().stat().st_size < 4e6
    model = minimask.load("toy")
    scenes = ToyScenes(split="test", size=128, count=60)
    assert list(model.class_names) == list(scenes.class_names)
    scores = evaluate(model, scenes, progress=False)
    # Measured on 200 scenes: 0.709, 0.633, 0.650. On sixty the numbers scatter by about 0.02.
    assert scores["bbox"]["AP"] > 0.65
    assert scores["segm"]["AP"] > 0.58
    assert scores["keypoints"]["AP"] > 0.58
