"""Anchors: numbers worked out by hand, their order, and torchvision if it is installed."""

import numpy as np
import pytest

from minimask.anchors import AnchorGenerator, cell_anchors


def test_cell_anchors_worked_number():
    cell = cell_anchors(32, (0.5, 1.0, 2.0))
    assert cell.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert cell.dtype == np.float32
    assert cell_anchors((8, 16), (1.0,)).tolist() == [[-4, -4, 4, 4], [-8, -8, 8, 8]]
    with pytest.raises(ValueError, match="cell_anchors: sizes and ratios must be positive"):
        cell_anchors((0,), (1.0,))


def test_order_is_y_then_x_then_anchor():
    anchors = AnchorGenerator(sizes=((8, 16),), ratios=(1.0,))
    assert anchors.per_location == [2]
    (found,) = anchors([(2, 3)], (32, 96))  # strides 16 down, 32 right
    assert found.shape == (12, 4) and found.dtype == np.float32
    assert found[0].tolist() == [-4, -4, 4, 4]  # centered at the corner of the image, not half a stride away from it
    assert found[1].tolist() == [-8, -8, 8, 8]
    assert found[2].tolist() == [28, -4, 36, 4]  # the next cell to the right
    assert found[6].tolist() == [-4, 12, 4, 20]  # the first cell of the next row


def test_stride_follows_the_padded_size():
    anchors = AnchorGenerator(sizes=((64,),), ratios=(1.0,))
    (found,) = anchors([(13, 17)], (800, 1088))
    assert found[17].tolist() == [-32, 61 - 32, 32, 61 + 32]  # 800 // 13 = 61, not 64


def test_anchors_are_kept_for_each_shape():
    anchors = AnchorGenerator(sizes=((8,), (16,)))
    first = anchors([(4, 4), (2, 2)], (32, 32))
    assert all(a is b for a, b in zip(first, anchors(((4, 4), (2, 2)), (32, 32))))
    # The first anchor of the second row is 12 x 6 pixels, centered at (0, 8), or (0, 16) if the vertical stride is 16.
    assert first[0][12].tolist() == [-6, 5, 6, 11]
    assert anchors([(4, 4), (2, 2)], (64, 32))[0][12].tolist() == [-6, 13, 6, 19]


def test_the_number_of_levels_must_fit():
    with pytest.raises(ValueError, match="AnchorGenerator: made for 5 levels, got 1 shapes"):
        AnchorGenerator()([(4, 4)], (32, 32))
    with pytest.raises(ValueError, match="AnchorGenerator: 1 levels of sizes but 2 of ratios"):
        AnchorGenerator(((8,),), ((1.0,), (2.0,)))


def test_anchors_equal_torchvision():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchAnchors
    from torchvision.models.detection.image_list import ImageList

    sizes, ratios = ((32,), (64,), (128, 150), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5
    shapes = [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)]
    maps = [torch.zeros(1, 1, h, w) for h, w in shapes]
    images = ImageList(torch.zeros(1, 3, 800, 1088), [(800, 1067)])
    expected = TorchAnchors(sizes, ratios)(images, maps)[0].numpy()
    found = AnchorGenerator(sizes, ratios)(shapes, (800, 1088))
    assert [len(level) for level in found] == [h * w * (6 if i == 2 else 3) for i, (h, w) in enumerate(shapes)]
    np.testing.assert_array_equal(np.concatenate(found), expected)
