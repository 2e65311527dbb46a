"""Conventions in which implementations differ, often by half a pixel, each with an example worked out by hand."""

import copy
import json

import numpy as np
import pytest

from minimask.anchors import AnchorGenerator, cell_anchors
from minimask.conventions import CONVENTIONS, resolve
from minimask.device import generator
from minimask.errors import InputError
from minimask.mask_head import mask_targets, restore
from minimask.mask_rcnn import build
from minimask.structures import Batch, Detections
from minimask.tensor import Tensor
from minimask.trace import Trace

NAMES = ("torchvision", "detectron2", "paper")
SMALL = dict(
    preset="resnet50_fpn",
    num_classes=2,
    backbone=dict(channels=(8, 8, 8, 8), layers=(1, 1, 1, 1), fpn_channels=8),
    roi=dict(samples=16),
    heads=dict(box_width=16, mask_channels=(8,), mask_width=8),
    transform=dict(min_size=64, max_size=96),
    rpn=dict(samples=32, pre_nms=(60, 60), post_nms=(30, 30)),
)


@pytest.fixture(scope="module")
def models():
    return {name: build(**SMALL, conventions=name) for name in NAMES}


def by_name(torchvision, detectron2, paper):
    """The parameters of a test: each convention with its expected result."""
    return pytest.mark.parametrize("name, expected", list(zip(NAMES, (torchvision, detectron2, paper))))


def ramp(height, width):
    """A map (1, height, width, 8) whose cells in column x hold x, so a sampled value reveals where it was sampled."""
    columns = np.arange(width, dtype=np.float32)[:, None]
    return Tensor(np.ascontiguousarray(np.broadcast_to(columns, (1, height, width, 8))))


# ----------------------------------------------------------------------------------------------------- half a pixel


@by_name(torchvision=[3, 4], detectron2=[2.5, 3.5], paper=[3, 4])
def test_where_a_box_is_read(models, name, expected):
    """A box from pixel 10 to 18 on a map of stride 4, in two bins of one cell each.

    It begins at 10 / 4 = 2.5 cells, and the centers of its bins are half a cell and one and a half cells further: 3 and
    4, if cell 3 is at position 3. But cell 3 covers pixels 12 to 16 and its center is pixel 14, while the center of the
    first bin is pixel 12. Subtracting half a cell gives 2.5, between cell 2 (pixel 10) and cell 3 (pixel 14).
    """
    features = [ramp(16, 16), ramp(8, 8), ramp(4, 4), ramp(2, 2)]
    box, image = np.array([[10, 10, 18, 18]], np.float32), np.zeros(1, int)
    x = models[name].pool(features, box, image, 2, "box").data
    np.testing.assert_allclose(x[0, :, :, 0], [expected, expected])


@by_name(torchvision=3, detectron2=2.125, paper=3)
def test_a_box_smaller_than_a_cell(models, name, expected):
    """A box from pixel 10 to 11 is a quarter of a cell wide. Not aligned, it is widened to a whole cell: 2.5 + 1 / 2.

    Aligned, it is read where it is: 2.5 - 0.5 + 1 / 8.
    """
    features = [ramp(16, 16), ramp(8, 8), ramp(4, 4), ramp(2, 2)]
    x = models[name].pool(features, np.array([[10, 10, 11, 11]], np.float32), np.zeros(1, int), 1, "box").data
    assert x[0, 0, 0, 0] == expected


# ------------------------------------------------------------------------------------------------ place of the stride


def block_of_ones(model):
    """The first block of stage 2 (stride 2; 32 channels to 8, 8 and 32) with weights of 1 and norms without effect."""
    block = copy.deepcopy(model.backbone.body.layer2[0])
    for conv in (block.conv1, block.conv2, block.conv3, block.downsample[0]):
        conv.weight.data[...] = 1
    for norm in (block.bn1, block.bn2, block.bn3, block.downsample[1]):
        norm.eps = 0
    return block


@by_name(
    torchvision={1: [[64, 64], [64, 64]], 2: [[0, 0], [0, 65]]},
    detectron2={1: [[0, 0], [0, 0]], 2: [[64, 64], [64, 65]]},
    paper={1: [[0, 0], [0, 0]], 2: [[64, 64], [64, 65]]},
)
def test_what_a_bottleneck_makes_of_one_cell(models, name, expected):
    """Cell (1, 1), or (2, 2), of the input is 1 in one of 32 channels, the rest are 0. What are the first 2 x 2 cells?

    Each path contributes 64: the first 1x1 turns the 1 into a 1 in 8 channels, and the 3x3 and the last 1x1 sum over 8
    channels each. Stride in the 3x3: cell i of the output sees the rows 2 i - 1 to 2 i + 1. Cells 0 and 1 see row 1,
    and only cell 1 sees row 2. Stride in the 1x1: it reads the rows 0, 2, 4 and never row 1; row 2 becomes row 1, which
    the 3x3 passes to the cells 0, 1 and 2. In both cases, the shortcut (a 1x1 with stride 2) adds 1 at (1, 1) for cell
    (2, 2).
    """
    block = block_of_ones(models[name])
    for cell, wanted in expected.items():
        x = np.zeros((1, 6, 6, 32), np.float32)
        x[0, cell, cell, 5] = 1
        y = block(Tensor(x)).data
        assert y.shape == (1, 3, 3, 32)
        assert y[0, :2, :2, 9].tolist() == wanted


@by_name(torchvision=3136, detectron2=784, paper=784)
def test_how_many_cells_a_bottleneck_sees(models, name, expected):
    """Cells that are seen have a gradient: all 56 x 56 = 3136, or only every second one in both directions, 784."""
    x = Tensor(np.ones((1, 56, 56, 32), np.float32), requires_grad=True)
    y = block_of_ones(models[name])(x)
    y.backward(np.ones(y.shape, np.float32))
    assert (x.grad != 0).sum() == 32 * expected


# ---------------------------------------------------------------------------------------------------------- anchors

SHAPES = [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)]  # for an image of 800 x 1088


@by_name(
    torchvision=[[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]],
    detectron2=[[-22.6274, -11.3137, 22.6274, 11.3137], [-16, -16, 16, 16], [-11.3137, -22.6274, 11.3137, 22.6274]],
    paper=[[-22, -10, 26, 14], [-14, -14, 18, 18], [-10, -22, 14, 26]],
)
def test_first_anchors(models, name, expected):
    """Size 32, ratios 1/2, 1 and 2, stride 4, at the corner of the image.

    32 sqrt 2 x 32 / sqrt 2 = 45.2548 x 22.6274 (Detectron2). Half of that, 22.63 and 11.31, rounds to 23 and 11
    (torchvision). In cells of 4 pixels it is 5.66 x 2.83: the width rounds to 6, the height is 6 / 2 = 3; times 8 that
    makes 48 x 24, around the center of the first cell, pixel 2 (the first release).
    """
    anchors = models[name].rpn.anchor_generator(SHAPES, (800, 1088))
    np.testing.assert_allclose(anchors[0][:3], expected, atol=1e-4)
    right = anchors[0][3:6] - anchors[0][:3]
    assert right.tolist() == [[4, 0, 4, 0]] * 3


@by_name(torchvision=(1024, 732), detectron2=(1024, 768), paper=(1056, 800))
def test_center_of_the_last_anchors(models, name, expected):
    """The coarsest level has 13 x 17 cells of 64 pixels, and the last one is (12, 16).

    800 / 13 rounded down is 61, and 1088 / 17 is 64: x = 16 * 64 = 1024, y = 12 * 61 = 732 (torchvision). With a stride
    of 64 in both directions, y = 768; at the center of the cell, 32 pixels further, it is (1056, 800).
    """
    last = models[name].rpn.anchor_generator(SHAPES, (800, 1088))[4][-3:]
    assert ((last[:, :2] + last[:, 2:]) / 2).tolist() == [list(expected)] * 3


def test_anchors_of_the_first_release():
    """The table that the code of Ren et al. prints for stride 16, sizes 128, 256, 512 and ratios 1/2, 1, 2.

    It counts pixels from 1 and includes both ends: its x1 = -83 is the corner -84, its x2 = 100 the corner 100.
    """
    table = [
        [-83, -39, 100, 56],
        [-175, -87, 192, 104],
        [-359, -183, 376, 200],
        [-55, -55, 72, 72],
        [-119, -119, 136, 136],
        [-247, -247, 264, 264],
        [-35, -79, 52, 96],
        [-79, -167, 96, 184],
        [-167, -343, 184, 360],
    ]
    found = cell_anchors((128, 256, 512), (0.5, 1.0, 2.0), "cells", 16)
    assert found.tolist() == (np.array(table) - [1, 1, 0, 0]).tolist()


@pytest.mark.parametrize("rounding, start", [("none", 0), ("cells", 32)])
@pytest.mark.parametrize("flat", [True, False])
def test_stride_of_an_image_that_is_one_cell_high(rounding, start, flat):
    """For 32 x 320 pixels, the coarsest map is 1 x 5. Its row seems 32 pixels high, but the stride is 320 / 5 = 64."""
    shape, size = ((1, 5), (32, 320)) if flat else ((5, 1), (320, 32))
    (anchors,) = AnchorGenerator(((512,),), (1.0,), rounding)([shape], size)
    along = 0 if flat else 1
    assert ((anchors[:, :2] + anchors[:, 2:]) / 2)[:, along].tolist() == [start + 64 * i for i in range(5)]


# ----------------------------------------------------------------------------------------------------- mask targets


@by_name(torchvision=[0.3, 0.7], detectron2=[0, 1], paper=[0, 1])
def test_target_of_a_cell_that_is_partly_covered(models, name, expected):
    """A box of 10 pixels in two cells of 5. The object is 7 or 9 pixels wide, so it covers 2 or 4 of the second cell.

    That cell has five samples. Aligned, they are the centers of its pixels: 2 / 5 = 0.4 and 4 / 5 = 0.8. Not aligned,
    they are half a pixel further, each between two pixels: (1 + 0.5) / 5 = 0.3 and (1 + 1 + 1 + 0.5) / 5 = 0.7. A
    binary target is 1 if this average is at least 0.5.
    """
    model = models[name]
    masks = np.zeros((1, 2, 10, 12), np.uint8)
    masks[0, 0, :, :7] = masks[0, 1, :, :9] = 1
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 10]]], np.float32)
    binary = model.conventions["binary_mask_targets"]
    targets = mask_targets(masks, boxes, np.array([[0, 1]]), 2, model.conventions["aligned"], binary)
    np.testing.assert_allclose(targets[0, :, 0], [[1, expected[0]], [1, expected[1]]], atol=1e-6)


def test_aligned_targets_that_are_not_binary():
    """The numbers 0.4 and 0.8 of the docstring above, which no convention produces."""
    masks = np.zeros((1, 2, 10, 12), np.uint8)
    masks[0, 0, :, :7] = masks[0, 1, :, :9] = 1
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 10]]], np.float32)
    targets = mask_targets(masks, boxes, np.array([[0, 1]]), 2, aligned=True, binary=False)
    np.testing.assert_allclose(targets[0, :, 0], [[1, 0.4], [1, 0.8]], atol=1e-6)


@by_name(torchvision=False, detectron2=True, paper=True)
def test_targets_in_training(models, name, expected):
    """An object of 41 x 33 pixels whose 28 x 28 target has partly covered cells at its border."""
    mask = np.zeros((1, 1, 64, 64), np.uint8)
    mask[0, 0, 10:43, 8:49] = np.tri(33, 41, dtype=np.uint8)
    sizes, valid = np.full((1, 2), 64), np.ones((1, 1), bool)
    images = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    batch = Batch(
        images,
        sizes,
        sizes,
        [0],
        ["a"],
        np.array([[[8, 10, 49, 43]]], np.float32),
        np.ones((1, 1), np.int64),
        mask,
        crowd=~valid,
        valid=valid,
    )
    with Trace() as stages:
        models[name].losses(batch, generator(0, 0))
    targets = stages["mask_targets"][stages["roi_positive"][:, : stages["mask_targets"].shape[1]]]
    assert len(targets) and targets.max() == 1 and targets.min() == 0
    assert np.isin(targets, (0, 1)).all() == expected


# ------------------------------------------------------------------------------------------------------------ paste


@by_name(torchvision=[1 / 3, 1, 1, 1 / 3], detectron2=[0, 1, 1, 0], paper=[1 / 3, 1, 1, 1 / 3])
def test_paste_into_a_box_between_pixels(models, name, expected):
    """A full mask of 28 cells in a box from 10.9 to 26.9. What are the pixels 10, 11, 26 and 27?

    With a border of one empty cell, there are 30 cells, from 18.9 - 8 * 30 / 28 = 10.329 to 27.471. If the mask is
    pasted exactly there, a pixel is 1.75 cells wide. The center of pixel 10 is 0.171 pixels or 0.3 cells from the left
    edge, in the outer half of the empty cell: 0. Pixel 11 is 2.05 cells from the edge, in a full cell: 1. In whole
    pixels, the mask extends from 10 to 28: 18 pixels, each 5 / 3 cells wide. The center of pixel 10 is 5 / 6 cells from
    the edge, a third of the way from the center of the empty cell (1 / 2) to that of the full one (3 / 2): 1 / 3.
    """
    pasted = paste(models[name], [10.9, 10.9, 26.9, 26.9], threshold=None)
    np.testing.assert_allclose(pasted[18, [10, 11, 26, 27]], expected, atol=1e-4)


@by_name(torchvision=(10, 26), detectron2=(11, 26), paper=(10, 26))
def test_width_of_a_pasted_mask(models, name, expected):
    """A full mask in a box of 16 pixels, from 10.55 to 26.55: its first and its last pixel.

    16 pixels have their centers in the box, 11 to 26. In whole pixels, 18.55 -+ 8.571 is 9.979 to 27.121, which becomes
    9 to 28, 19 pixels for 30 cells. The center of pixel 10 is 1.5 * 30 / 19 = 2.37 cells from the left edge, so it is
    full; that of pixel 27 is 0.79 cells from the right edge, closer to the empty cell. That makes 17 pixels.
    """
    row = np.flatnonzero(paste(models[name], [10.55, 10.55, 26.55, 26.55], threshold=0.5)[18])
    assert (row[0], row[-1]) == expected and len(row) == expected[1] - expected[0] + 1


def paste(model, box, threshold):
    """Paste a full mask into `box` in an image of 64 x 64 as `predict` does, with the conventions of the model."""
    sizes = np.full((1, 2), 64)
    batch = Batch(np.zeros((1, 64, 64, 3), np.float32), sizes, sizes)
    model.eval()
    found = model.detect(batch)
    model.train()
    full = Detections(
        np.array([[box]], np.float32),
        np.ones((1, 1), int),
        np.ones((1, 1), np.float32),
        np.ones((1, 1), bool),
        np.ones((1, 1, 28, 28), np.float32),
        whole_pixels=found.whole_pixels,
    )
    return restore(full, batch, threshold)[0].masks[0]


# --------------------------------------------------------------------------------------------------------- settings


def test_one_switch_changes_one_thing():
    model = build(**SMALL, conventions=dict(name="detectron2", aligned=False, anchor_rounding="cells"))
    assert model.conventions == {**CONVENTIONS["detectron2"], "aligned": False, "anchor_rounding": "cells"}
    assert model.rpn.anchor_generator.rounding == "cells"
    again = build(**json.loads(json.dumps(model.settings)))
    assert again.conventions == model.conventions and again.settings["conventions"]["name"] == "detectron2"


def test_stride_is_a_setting_of_the_backbone():
    model = build(**SMALL, conventions="detectron2")
    assert model.backbone.body.layer2[0].conv1.settings["stride"] == 2
    assert model.backbone.body.layer2[0].conv2.settings["stride"] == 1
    model = build(**SMALL, conventions=dict(name="detectron2", stride_in_1x1=False))
    assert model.backbone.body.layer2[0].conv1.settings["stride"] == 1
    assert model.conventions["stride_in_1x1"] is False


def test_messages():
    with pytest.raises(InputError, match="conventions must be one of torchvision, detectron2, paper, got 'caffe'"):
        resolve("caffe")
    with pytest.raises(InputError, match="anchor_rounding must be one of none, pixels, cells, got 'half'"):
        resolve("paper", anchor_rounding="half")
    with pytest.raises(InputError, match="aligned must be one of False, True, got 'yes'"):
        resolve("paper", aligned="yes")
