"""Datasets: drawn scenes (toy), photos with a COCO json (coco), and the loader that batches them.

A data set is anything with `len(dataset)` and `dataset[i]`, a Sample, and the attributes class_names and category_ids.
`toy(...)` and `coco(...)` make the usual ones; the modules of the same names hold their classes:
`from minimask.datasets.toy import ToyScenes`.
"""

from minimask.run.package import functions_first

__all__ = ["coco", "toy"]

SCENES = {"train": 2000, "val": 200, "test": 200}  # how many scenes are drawn


def toy(split="train", size=128, count=None, seed=0, case=None):
    """Drawn scenes of cats, dogs and ducks, with masks and keypoints: a ToyScenes.

    split: "train", "val" or "test"; no two splits share a scene.
    size: height and width of a scene in pixels.
    count: number of scenes; by default 2000 to train on, 200 to validate and to test on.
    seed: another seed gives other scenes.
    case: None, or one of the talk's special cases: "crowded", "disconnected" or "small".
    Raises InputError if a value is out of its range.
    """
    from minimask.datasets.toy import ToyScenes

    return ToyScenes(split, size, SCENES.get(split, 0) if count is None else count, seed, case)


def coco(images, annotations, classes=None, keypoints=True, skip_bad=False, quiet=False):
    """Your own photos with their objects in COCO's format: a CocoDataset.

    images: the folder of the photos.
    annotations: path of the json, or its content as a dict.
    classes: the names of labels 1, 2, ..., if they should be those of a model: coco(..., classes=model.class_names).
    keypoints: whether to read the objects' keypoints; False for a model that learns none.
    skip_bad: leave out annotations and images that cannot be used, instead of refusing the file.
    quiet: do not print what was left out and what is probably wrong; the data set has it as `problems`.
    Raises InputError with all that cannot be used.
    """
    from minimask.datasets.coco import CocoDataset
    from minimask.run.messages import say_problems

    dataset = CocoDataset(images, annotations, class_names=classes, keypoints=keypoints, skip_bad=skip_bad)
    if not quiet:
        say_problems(dataset)
    return dataset


functions_first(__name__, ("toy", "coco"))
