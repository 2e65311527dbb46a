"""The trained model that comes with the project finds what is in scenes it has not seen."""

from minimask import course
from minimask.datasets.toy import ToyScenes
from minimask.evaluate import evaluate


def test_shipped_weights_are_small_and_good():
    assert course.TOY_WEIGHTS.stat().st_size < 4e6
    model, class_names = course.toy_model()
    scenes = ToyScenes(split="test", size=128, count=60)
    assert class_names == list(scenes.class_names)
    scores = evaluate(model, scenes, progress=False)
    # Measured on 200 scenes: 0.709, 0.633, 0.650. Sixty scatter by about 0.02.
    assert scores["bbox"]["AP"] > 0.65
    assert scores["segm"]["AP"] > 0.58
    assert scores["keypoints"]["AP"] > 0.58
