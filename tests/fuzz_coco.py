"""Changes COCO files at random and reads them: anything but an InputError or an OSError is a defect of the reader.

    python -m tests.fuzz_coco --count 5000

prints every seed that ended otherwise. tests/test_coco_fuzz.py runs a few.
"""

import argparse
import copy
import json
import random
import tempfile
import time
import traceback
from pathlib import Path

from PIL import Image

from minimask.datasets.coco import CocoDataset, split
from minimask.datasets.coco_file import finite, read_coco
from minimask.errors import InputError
from minimask.evaluate import coco_average_precision

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


def attempt(folder, seed):
    """Read one changed file in every way that the package does. Raises what is neither InputError nor OSError."""
    rng = random.Random(seed)
    content = mutate(sound(), rng)
    text = json.dumps(content).encode()
    if rng.random() < 0.2:  # damaged bytes
        text = bytearray(text)
        for _ in range(rng.randint(1, 5)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    path = folder / "a.json"
    path.write_bytes(text)
    found = mutate(results(), rng)

    def train(**options):
        dataset = CocoDataset(folder, path, **options)
        str(dataset.problems)
        for index in range(len(dataset)):
            dataset[index]
        for kind in ("bbox", "segm"):
            coco_average_precision(dataset.coco_dict, [], kind)

    ways = [
        train,
        lambda: train(skip_bad=True, keypoints=False),
        lambda: json.dumps(split(finite(read_coco(path)[0]), 2), allow_nan=False),
        *(lambda kind=kind: coco_average_precision(path, [], kind) for kind in ("bbox", "segm", "keypoints")),
        *(lambda kind=kind: coco_average_precision(sound(), found, kind) for kind in ("bbox", "segm")),
    ]
    for way in ways:
        try:
            way()
        except (InputError, OSError) as error:
            str(error).encode("utf-8", "backslashreplace")


def photos(folder):
    """The images that the files name."""
    for number in range(3):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{number}.png")


def main():
    """Try `count` files, print what ended wrong and what took over 5 s."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    bad = slow = 0
    with tempfile.TemporaryDirectory() as folder:
        photos(Path(folder))
        for seed in range(args.seed, args.seed + args.count):
            start = time.perf_counter()
            try:
                attempt(Path(folder), seed)
            except Exception:
                bad += 1
                print(f"seed {seed}\n{traceback.format_exc(limit=-3)}", flush=True)
            if time.perf_counter() - start > 5:
                slow += 1
                print(f"seed {seed}: {time.perf_counter() - start:.1f} s", flush=True)
    print(f"{args.count} files: {bad} ended wrong, {slow} took over 5 s")


if __name__ == "__main__":
    main()
