"""The feature pyramid: numbers worked out by hand, the top-down path, the initialization, and gradients."""

import numpy as np
import pytest

from minimask import nn
from minimask.fpn import FPN
from minimask.tensor import Tensor


def small_fpn(in_channels=(1, 1), channels=1, pool=True):
    nn.seed_initializers(0)
    return FPN(in_channels, channels, pool)


def set_block(block, weight, bias=0.0):
    block[0].weight.data[...] = weight
    block[0].bias.data[...] = bias


def identity(channels=1):
    """A 3x3 kernel that copies its map."""
    kernel = np.zeros((3, 3, channels, channels))
    kernel[1, 1] = np.eye(channels)
    return kernel


def test_each_level_is_its_lateral_plus_the_enlarged_coarser_one():
    """One channel by hand: P3 = 10 C3 + 1, and P2 = 2 C2 + 3 + P3, with each cell of P3 copied to 2 x 2 cells."""
    fpn = small_fpn()
    set_block(fpn.inner_blocks[0], 2.0, 3.0)
    set_block(fpn.inner_blocks[1], 10.0, 1.0)
    for block in fpn.layer_blocks:
        set_block(block, identity())
    fine = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
    coarse = np.float32([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)

    p2, p3, p4 = (x.data[0, :, :, 0] for x in fpn([Tensor(fine), Tensor(coarse)]))
    np.testing.assert_array_equal(p3, [[11, 21], [31, 41]])
    expected = 2 * fine[0, :, :, 0] + 3 + np.kron(p3, np.ones((2, 2)))
    np.testing.assert_array_equal(p2, expected)
    assert p2[0, 0] == 2 * 0 + 3 + 11 and p2[3, 3] == 2 * 15 + 3 + 41
    np.testing.assert_array_equal(p4, [[11]])  # every second cell of P3


def test_the_3x3_convolution_reads_the_sum_and_the_top_down_path_is_not_smoothed():
    """A smoothing kernel of 2 doubles both levels. If the smoothed P3 were passed down, P2 would be larger by P3."""
    fpn = small_fpn(pool=False)
    for block in fpn.inner_blocks:
        set_block(block, 1.0)
    for block in fpn.layer_blocks:
        set_block(block, 2 * identity())
    fine, coarse = np.full((1, 4, 4, 1), 5, np.float32), np.full((1, 2, 2, 1), 7, np.float32)
    p2, p3 = fpn([Tensor(fine), Tensor(coarse)])
    np.testing.assert_array_equal(p3.data, np.full((1, 2, 2, 1), 14))
    np.testing.assert_array_equal(p2.data, np.full((1, 4, 4, 1), 2 * (5 + 7)))


def test_sizes_that_are_not_doubles_take_the_nearest_cell():
    """5 rows are filled from 3: row i takes row floor(3 i / 5), so 0, 0, 1, 1, 2."""
    fpn = small_fpn(pool=False)
    set_block(fpn.inner_blocks[0], 0.0)
    set_block(fpn.inner_blocks[1], 1.0)
    for block in fpn.layer_blocks:
        set_block(block, identity())
    coarse = np.float32([10, 20, 30]).reshape(1, 3, 1, 1)
    p2, _ = fpn([Tensor(np.zeros((1, 5, 1, 1), np.float32)), Tensor(coarse)])
    np.testing.assert_array_equal(p2.data.ravel(), [10, 10, 20, 20, 30])


@pytest.mark.parametrize(("size", "expected"), [(4, [0, 2]), (5, [0, 2, 4]), (1, [0])])
def test_p6_is_every_second_cell(size, expected):
    fpn = small_fpn((1,))
    set_block(fpn.inner_blocks[0], 1.0)
    set_block(fpn.layer_blocks[0], identity())
    x = np.arange(size, dtype=np.float32).reshape(1, size, 1, 1)
    assert [float(v) for v in fpn([Tensor(x)])[-1].data.ravel()] == expected


def test_weights_are_drawn_as_torchvision_draws_them():
    """Kaiming's uniform distribution with a = 1, whose bound is sqrt(3 / fan_in); biases are 0."""
    fpn = small_fpn((16, 64), channels=32)
    for blocks, fan_in in ((fpn.inner_blocks, (16, 64)), (fpn.layer_blocks, (9 * 32, 9 * 32))):
        for block, fan in zip(blocks, fan_in):
            bound, weight = (3 / fan) ** 0.5, block[0].weight.data
            assert 0.97 * bound < abs(weight).max() <= bound
            assert abs(weight.std() / (bound / 3**0.5) - 1) < 0.1  # the standard deviation of a uniform distribution
            assert not block[0].bias.data.any()


def test_gradients_reach_every_level_and_every_weight():
    """Compared with finite differences in float64, with a random cotangent for each level."""
    rng = np.random.default_rng(3)
    fpn = small_fpn((2, 3), channels=2).to("float64")
    levels = [Tensor(rng.normal(size=(1, side, side, c)), requires_grad=True) for side, c in ((4, 2), (2, 3))]
    cotangents = [rng.normal(size=p.shape) for p in fpn(levels)]

    def value():
        return sum(float((p.data * c).sum()) for p, c in zip(fpn(levels), cotangents))

    total = sum((p * Tensor(c)).sum() for p, c in zip(fpn(levels), cotangents))
    total.backward()
    for tensor in [*levels, *fpn.parameters()]:
        for _ in range(4):
            at = tuple(int(rng.integers(n)) for n in tensor.shape)
            before, step = tensor.data[at], 1e-6
            tensor.data[at] = before + step
            above = value()
            tensor.data[at] = before - step
            below = value()
            tensor.data[at] = before
            assert abs((above - below) / (2 * step) - tensor.grad[at]) < 1e-7


def test_256_channels_and_a_coarser_level_by_default():
    fpn = FPN([3, 5])
    assert [block[0].weight.shape for block in fpn.inner_blocks] == [(1, 1, 3, 256), (1, 1, 5, 256)]
    assert [block[0].weight.shape for block in fpn.layer_blocks] == [(3, 3, 256, 256)] * 2
    assert fpn.pool


def test_p6_skips_every_second_row_and_column():
    fpn = small_fpn((1,))
    set_block(fpn.inner_blocks[0], 1.0)
    set_block(fpn.layer_blocks[0], identity())
    x = np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1)
    np.testing.assert_array_equal(fpn([Tensor(x)])[-1].data[0, :, :, 0], [[0, 2, 4], [10, 12, 14]])
