"""What the golden files' operations are given; needs no torch: make_golden.py and the test make the same."""

import numpy as np

from tests.references import tiny

CONVOLUTIONS = {  # name: (x (N, H, W, Cin), w (kh, kw, Cin / groups, Cout), keywords)
    "conv_3x3": ((2, 7, 9, 5), (3, 3, 5, 6), dict(padding=1)),
    "conv_7x7_stride2": ((1, 15, 14, 3), (7, 7, 3, 8), dict(stride=2, padding=3)),
    "conv_1x1_stride2": ((2, 6, 5, 8), (1, 1, 8, 4), dict(stride=2)),
    "conv_dilated": ((1, 9, 8, 4), (3, 3, 4, 4), dict(padding=2, dilation=2)),
    "conv_groups": ((2, 6, 7, 8), (3, 3, 2, 12), dict(padding=1, groups=4)),
    "conv_depthwise_stride2": ((1, 8, 9, 6), (3, 3, 1, 6), dict(stride=2, padding=1, groups=6)),
}
TRANSPOSED = {  # name: (x, w (kh, kw, Cin, Cout / groups), keywords)
    "deconv_2x2": ((2, 4, 5, 6), (2, 2, 6, 5), dict(stride=2)),
    "deconv_4x4": ((1, 5, 4, 4), (4, 4, 4, 3), dict(stride=2, padding=1)),
    "deconv_output_padding": ((1, 3, 4, 4), (3, 3, 4, 2), dict(stride=2, padding=1, output_padding=1, groups=2)),
}
POOLS = {
    "pool_3x3": ((2, 9, 8, 4), dict(size=3, stride=2, padding=1)),
    "pool_2x2": ((1, 7, 6, 3), dict(size=2, stride=2, padding=0)),
}
ROI_ALIGNS = {
    f"roi_align_sampling{ratio}{'_aligned' if aligned else ''}": dict(sampling_ratio=ratio, aligned=aligned)
    for ratio in (0, 1, 2)
    for aligned in (False, True)
}


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


def roi_boxes():
    """Boxes on a 9 x 11 map of stride 4: inside, across and outside the border, empty, of negative size. (R, 4)."""
    return np.array(
        [
            [3.0, 5.0, 21.0, 30.0],
            [-8.0, -3.0, 12.0, 9.0],
            [30.0, 20.0, 60.0, 44.0],
            [80.0, 80.0, 99.0, 95.0],
            [10.0, 10.0, 10.0, 10.0],
            [0.0, 0.0, 44.0, 36.0],
            [17.3, 8.1, 18.9, 9.7],
            [20.0, 20.0, 12.0, 16.0],
        ]
    )


def crowded_boxes(count=120):
    """Boxes around a few centers with distinct scores: (count, 4) and (count,) float32."""
    rng = np.random.RandomState(0)
    center = rng.uniform(20, 80, (8, 2))[rng.randint(0, 8, count)] + rng.normal(0, 4, (count, 2))
    side = rng.uniform(10, 30, (count, 2))
    boxes = np.concatenate([center - side / 2, center + side / 2], axis=1).astype(np.float32)
    return boxes, (rng.permutation(count) / count).astype(np.float32)


def cropped_pictures():
    """Parts of the tiny model's pictures, (17, 13) and (12, 19), with boxes and masks."""
    images, truths = tiny.pictures()
    sizes = (17, 13), (12, 19)
    images = [image[:h, :w] for image, (h, w) in zip(images, sizes)]
    return images, [dict(boxes=t["boxes"], masks=t["masks"][:, :h, :w]) for t, (h, w) in zip(truths, sizes)]
