"""The tiny Mask R-CNN and the two pictures from which the golden files were computed, as functions of fixed seeds.

Needs only NumPy. Random numbers come from RandomState, whose stream never changes, so no weights need to be stored.
"""

import zlib

import numpy as np

CLASSES = 5
SETTINGS = dict(  # for minimask.mask_rcnn.build("toy", num_classes=CLASSES, **SETTINGS)
    backbone=dict(channels=(8, 8, 16, 16), stem="small", fpn_channels=16),
    rpn=dict(
        first_level=0,
        anchor_sizes=((16,), (24,), (40,), (64,)),
        samples=100_000,
        positive_fraction=0.5,
        pre_nms=(60, 60),
        post_nms=(50, 50),
    ),
    # All RoIs are kept, and all positive ones, so nothing depends on random sampling.
    roi=dict(samples=100_000, positive_fraction=1.0, canonical_size=64),
    heads=dict(box_width=24, mask_channels=(16, 16), mask_width=16, keypoints=3, keypoint_channels=(16, 16)),
    conventions=dict(aligned=False, whole_pixels=True),  # torchvision's
    detection=dict(max_detections=12),
    transform=dict(min_size=96, max_size=128),
)

SEED = 1  # with this seed, all classes are found
SCALES = {  # factors for layers' weights: they keep residual sums small and spread scores and boxes
    "bn2.weight": 0.3,
    "rpn.head.cls_logits.weight": 0.5,
    "rpn.head.bbox_pred.weight": 0.1,
    "roi_heads.box_predictor.cls_score.weight": 0.5,
    "roi_heads.box_predictor.bbox_pred.weight": 0.15,
}

RESNET50 = dict(  # for build("resnet50_fpn", num_classes=91, **RESNET50)
    rpn=dict(pre_nms=(100, 100), post_nms=(50, 50)),
    detection=dict(max_detections=10),
    transform=dict(min_size=128, max_size=192),
)


def state(shapes, seed=SEED):
    """Float32 arrays for name -> shape, in torchvision's layout; each depends only on its name, shape and the seed."""
    return {name: _array(name, tuple(shape), seed) for name, shape in shapes.items()}


def _array(name, shape, seed):
    rng = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))
    if len(shape) > 1:
        fan_in = np.prod(shape[1:])
        values = rng.uniform(-1, 1, shape) * np.sqrt(6 / fan_in)  # variance 2 / fan_in
    elif name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.uniform(-0.2, 0.2, shape)
    for ending, scale in SCALES.items():
        if name.endswith(ending):
            values = values * scale
    return values.astype(np.float32)


def pictures(seed=SEED):
    """Two (H, W, 3) uint8 images of different sizes, and their objects as dicts of boxes, labels, masks, keypoints."""
    rng = np.random.RandomState(seed)
    images, truths = [], []
    for height, width, count in ((64, 80, 3), (70, 56, 2)):
        image = rng.uniform(0, 120, (height, width, 3))
        y, x = np.mgrid[:height, :width]
        masks = []
        for _ in range(count):
            cy, cx = rng.uniform(0.25, 0.75) * height, rng.uniform(0.25, 0.75) * width
            mask = ((y - cy) / rng.uniform(8, 20)) ** 2 + ((x - cx) / rng.uniform(8, 20)) ** 2 < 1
            image[mask] += rng.uniform(0, 120, 3)
            masks.append(mask)
        boxes = [[x[m].min(), y[m].min(), x[m].max() + 1, y[m].max() + 1] for m in masks]
        images.append(image.astype(np.uint8))
        truths.append(
            dict(
                boxes=np.array(boxes, np.float32),
                labels=rng.randint(1, CLASSES, count).astype(np.int64),
                masks=np.array(masks).astype(np.uint8),
                keypoints=_keypoints(np.array(boxes, np.float32), seed),
            )
        )
    return images, truths


def _keypoints(boxes, seed):
    """(G, 3, 3): three random points in each box, the first visible, the second not labeled, the third hidden."""
    shares = np.random.RandomState(seed).uniform(0, 1, (len(boxes), 3, 2))
    places = boxes[:, None, :2] + shares * (boxes[:, None, 2:] - boxes[:, None, :2])
    visibility = np.broadcast_to(np.array([[2], [0], [1]]), (len(boxes), 3, 1))
    return np.concatenate([places, visibility], axis=2).astype(np.float32)
