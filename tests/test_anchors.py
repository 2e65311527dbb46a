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


def test_the_caller_may_change_the_list_of_levels():
    anchors = AnchorGenerator(sizes=((8,),))
    anchors([(4, 4)], (32, 32)).clear()
    assert len(anchors([(4, 4)], (32, 32))) == 1


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("sizes, ratios", [(-8, 1.0), ([8, 0], 1.0), ([[8]], 1.0), (8, 0.0), (8, [1, 0]), (8, [[1.0]])])
def test_sizes_and_ratios_that_cannot_be(sizes, ratios):
    with pytest.raises(ValueError, match="cell_anchors: sizes and ratios must be positive numbers, got"):
        cell_anchors(sizes, ratios)


def test_roundings_worked_number():
    """Size 32 with ratio 0.5: 45.25 x 22.63, or 6 x 3 for a cell of 4 pixels, enlarged eight times."""
    exact = 16 * np.sqrt([2, 0.5, 2, 0.5]) * [-1, -1, 1, 1]
    np.testing.assert_allclose(cell_anchors(32, 0.5, "none"), [exact], rtol=1e-6)
    np.testing.assert_array_equal(cell_anchors(32, 0.5, "cells", stride=4), [[-22, -10, 26, 14]])
    # Ordered by ratio, then by size; for ratio 2, 2.83 x 5.66 becomes 3 x 6.
    expected = [[-22, -10, 26, 14], [-46, -22, 50, 26], [-10, -22, 14, 26], [-22, -46, 26, 50]]
    np.testing.assert_array_equal(cell_anchors((32, 64), (0.5, 2.0), "cells", stride=4), expected)


@pytest.mark.parametrize("rounding, offset", [("none", 0), ("cells", 8)])
def test_strides_are_powers_of_two_unless_pixels_are_rounded(rounding, offset):
    """The maps have 2 x 4 cells: of 10 x 16 pixels, since the image has been cut off below."""
    (found,) = AnchorGenerator(((8,),), (1.0,), rounding)([(2, 4)], (20, 64))
    centers = (found[:, :2] + found[:, 2:]) / 2
    np.testing.assert_array_equal(centers[[0, 1, 4]], offset + np.array([[0, 0], [16, 0], [0, 16]]))
    (found,) = AnchorGenerator(((8,),), (1.0,), rounding)([(4, 2)], (64, 20))  # 16 x 10 pixels
    np.testing.assert_array_equal((found[2, :2] + found[2, 2:]) / 2, [offset, offset + 16])


def test_sizes_and_ratios_by_default():
    """Of the levels P2 to P6: Lin et al. 2017, section 4.1."""
    anchors = AnchorGenerator()
    assert anchors.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert anchors.ratios == ((0.5, 1.0, 2.0),) * 5 and anchors.per_location == [3] * 5
    assert anchors.rounding == "pixels"
    assert AnchorGenerator(((8,), (8, 16)), [[1.0], [1.0, 2.0]]).per_location == [1, 4]


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
