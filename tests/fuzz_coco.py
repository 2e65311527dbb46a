"""Changed COCO files: reading one may raise InputError or OSError, nothing else, and not take long or much memory.

python -m tests.fuzz_coco --count 5000      a long run; tests/test_fuzzing.py does a short one
"""

import copy
import json
import random
from functools import partial
from pathlib import Path

from PIL import Image

from minimask.datasets.coco import CocoDataset, split
from minimask.datasets.coco_file import finite, read_coco
from minimask.errors import InputError
from minimask.evaluate import coco_average_precision
from tests.fuzzing import main

WIDTH, HEIGHT = 20, 10
ODD = [
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**63, 2**70, 10**400, 1e7, 1e10, 1e300, float("nan"), float("inf")),
    *("", "0", "1", "x", "no", "30", "\u00e9", "\ud800", "a" * 500, "../x.png", "\0"),
    *([], [[]], [[], []], {}, {"size": 5}, [1, 2, 3, 4, 5, 6], [[1, 2], [3, 4], [5, 6]], [[1e10, 1, 2, 2, 3, 3]]),
    *({"size": [HEIGHT, WIDTH], "counts": [200]}, {"size": [10, 20], "counts": "0do"}, {"size": [2**40, 2**40]}),
]


def sound():
    """A file with a polygon, compressed and plain run lengths, a crowd, and keypoints."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(3)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b", "keypoints": ["l", "r"], "skeleton": [[1, 2]]}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]},
            {
                "id": 2,
                "image_id": 0,
                "category_id": 2,
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 20, 180]},
                "keypoints": [2, 3, 2, 4, 4, 1],
                "num_keypoints": 2,
                "area": 20,
                "iscrowd": 0,
            },
            {
                "id": 3,
                "image_id": 2,
                "category_id": 1,
                "bbox": [0, 0, 2, 10],
                "iscrowd": 1,
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": "0d0d5"},
            },
        ],
    }


def results():
    """Detections for the same images."""
    return [
        {
            "image_id": 0,
            "category_id": 2,
            "score": 0.5,
            "bbox": [1, 1, 4, 4],
            "segmentation": [[1, 1, 5, 1, 5, 5]],
            "keypoints": [2, 3, 1, 4, 4, 1],
        }
    ]


def mutate(value, rng):
    """Change one to four places of a nested value at random."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 4)):
        places = list(_places(value))
        if not places:
            break
        parent, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.6:
            parent[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.8:
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(rng.choice([*ODD, parent[key]])))
        else:
            parent[key] = [parent[key]]
    return value


def _places(value):
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def prepare(folder, seed):
    """Returns a function that reads changed file `number` in every way that the package does: see fuzzing.py."""
    folder = Path(folder)
    for number in range(3):  # the images that the files name
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{number}.png")

    def attempt(number):
        rng, wrong = random.Random(1_000_000 * seed + number), []
        path = folder / "a.json"
        path.write_bytes(_changed_file(rng))
        found = mutate(results(), rng)
        ends = {name: _outcome(name, way, wrong) for name, way in _ways(folder, path, found).items()}
        return ends["train"], wrong

    return attempt


def _changed_file(rng):
    text = bytearray(json.dumps(mutate(sound(), rng)).encode())
    if rng.random() < 0.2:  # damaged bytes
        for _ in range(rng.randint(1, 5)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    return text


def _ways(folder, path, found):
    """Everything that the package does with such a file, name -> function."""

    def train(**options):
        dataset = CocoDataset(folder, path, **options)
        str(dataset.problems)
        for index in range(len(dataset)):
            dataset[index]
        for kind in ("bbox", "segm"):
            coco_average_precision(dataset.coco_dict, [], kind)

    return {
        "train": train,
        "skip_bad": lambda: train(skip_bad=True, keypoints=False),
        "split": lambda: json.dumps(split(finite(read_coco(path)[0]), 2), allow_nan=False),
        **{f"truth {kind}": partial(coco_average_precision, path, [], kind) for kind in ("bbox", "segm", "keypoints")},
        **{f"results {kind}": partial(coco_average_precision, sound(), found, kind) for kind in ("bbox", "segm")},
    }


def _outcome(name, way, wrong):
    """How one way ends; a wrong end is added to `wrong`."""
    try:
        way()
        return "read"
    except (InputError, OSError) as error:
        if not str(error).encode("utf-8", "backslashreplace").strip():
            wrong.append((name, f"message: {error!r}"))
        return type(error).__name__
    except Exception as error:
        wrong.append((name, f"{type(error).__name__}: {error}"))
        return "failed"


if __name__ == "__main__":
    raise SystemExit(main(prepare, "COCO files"))
