"""What several test files share: small samples, options of a short training run, the step in a checkpoint's name."""

import json

import numpy as np
from PIL import Image

from minimask.structures import Sample

# The toy preset with few channels, and with two sizes of images: settings of `build`.
SMALL = dict(
    backbone=dict(channels=(8, 8, 16, 16), fpn_channels=16),
    heads=dict(box_width=32, mask_channels=(16,), mask_width=16),
    transform=dict(min_size=64, max_size=96),
)


def set_options(settings):
    """Settings of `build` as options of the command line: --set=backbone.fpn_channels=16 ..."""
    return [f"--set={group}.{name}={json.dumps(v)}" for group, values in settings.items() for name, v in values.items()]


# The model above and a batch of two images, as options of `minimask train`.
SMALL_RUN = [*set_options(SMALL), "--batch-size", "2", "--threads", "1"]

# A run of six steps with a checkpoint after every second one, as options of `minimask train`.
SHORT_RUN = [*SMALL_RUN, "--max-size", "1333", "--toy-size", "64", "--steps", "6", "--save-every", "2", "--seed", "3"]


def square_photos(folder, count):
    """Write photos of noise with one square each, 1.png, 2.png, ..., and their COCO file a.json.

    Returns the options of the command line that name them, a list of four texts.
    """
    folder.mkdir(exist_ok=True)
    images, annotations = [], []
    for i in range(1, count + 1):
        picture = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
        square, box = [10, 10, 40, 10, 40, 40, 10, 40], [10, 10, 30, 30]
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": box, "segmentation": [square]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "a.json").write_text(json.dumps(content))
    return ["--images", str(folder), "--annotations", str(folder / "a.json")]


def make_sample(height=40, width=60, objects=2, keypoints=None, seed=0):
    """A Sample with a random image and rectangular objects."""
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, max(1, width // 2), objects), rng.integers(0, max(1, height // 2), objects)
    x2, y2 = x1 + rng.integers(1, width // 2 + 1, objects), y1 + rng.integers(1, height // 2 + 1, objects)
    masks = np.zeros((objects, height, width), np.uint8)
    for g in range(objects):
        masks[g, y1[g] : y2[g], x1[g] : x2[g]] = 1
    points = None
    if keypoints:
        points = rng.uniform(1, 30, (objects, keypoints, 3)).astype(np.float32)
        points[..., 2] = rng.integers(0, 3, (objects, keypoints))
        points[points[..., 2] == 0] = 0
    return Sample(
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        boxes=np.stack([x1, y1, x2, y2], 1).astype(np.float32).reshape(-1, 4),
        labels=rng.integers(1, 4, objects),
        masks=masks,
        crowd=rng.random(objects) < 0.3,
        image_id=7 + seed,
        name=f"sample {seed}",
        keypoints=points,
    )


def step_of(path):
    """The step in the name of a checkpoint: 500 for checkpoint-00000500.npz."""
    return int(path.stem.removeprefix("checkpoint-"))
