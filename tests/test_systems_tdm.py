"""Top-down modulation and the Inception-ResNet of G-RMI: numbers by hand, and a short training."""

import numpy as np
import pytest

import minimask
from minimask.datasets.toy import ToyScenes
from minimask.mask_rcnn import sampling_generator
from minimask.systems.inception_resnet import Block, InceptionResNet, Reduction, crop_and_resize
from minimask.systems.tdm import TopDown
from minimask.tensor import Tensor

SMALL = {
    "backbone": {"channels": [8, 8, 16, 16]},
    "rpn": {"pre_nms": [60, 60], "post_nms": [30, 30]},
    "roi": {"samples": 16},
    "heads": {"box_width": 32, "mask_channels": [16], "mask_width": 16},
    "transform": {"min_size": 64, "max_size": 64},
}


def set_center(conv, matrix):
    """Make a convolution multiply each pixel's channels by a matrix (in, out), and nothing else."""
    conv.weight.data[...] = 0
    middle = conv.weight.shape[0] // 2
    conv.weight.data[middle, middle] = matrix


def test_top_down_by_hand():
    tdm = TopDown([1, 1], lateral_channels=1, channels=1)
    set_center(tdm.top, [[10]])
    set_center(tdm.lateral[0], [[2]])
    set_center(tdm.join[0], [[1], [3]])  # the enlarged map, and three times the lateral one
    set_center(tdm.out, [[1]])
    fine, coarse = np.arange(16.0).reshape(1, 4, 4, 1), np.array([[1.0, 2], [3, -4]]).reshape(1, 2, 2, 1)
    found = tdm([Tensor(fine), Tensor(coarse)]).data[0, :, :, 0]
    enlarged = np.array([[10, 10, 20, 20]] * 2 + [[30, 30, 0, 0]] * 2)  # relu(10 * -4) = 0
    np.testing.assert_allclose(found, enlarged + 6 * np.arange(16).reshape(4, 4))


def test_the_lateral_convolution_comes_after_the_enlarged_map_in_the_concatenation():
    tdm = TopDown([1, 1], lateral_channels=3, channels=2)
    assert tdm.join[0].weight.shape == (3, 3, 5, 2)


def test_block_by_hand():
    block = Block(4, "batch", dilation=1, scale=0.5).eval()
    for branch, factor in zip(block.branches, (1, 2, 3)):
        for layer in branch if hasattr(branch, "__iter__") else [branch]:
            layer.conv.weight.data[...] = 0
            layer.norm.eps = 0
        last = list(branch)[-1] if hasattr(branch, "__iter__") else branch
        set_center(last.conv, np.zeros(last.conv.weight.shape[2:]))
        last.norm.bias.data[...] = factor  # each branch gives its factor at every pixel
    set_center(block.join, np.array([[1.0], [10], [100], [1000]]) * [1, 0, 0, -1])
    x = np.ones((1, 2, 2, 4), np.float32)
    joined = 1 + 2 * 10 + 3 * 100 + 3 * 1000  # the third branch has two channels
    found = block(Tensor(x)).data
    np.testing.assert_allclose(found, np.broadcast_to([1 + joined / 2, 1, 1, 0], x.shape), rtol=1e-5)


@pytest.mark.parametrize("stride, side", [(1, 9), (2, 5)])
def test_reduction_has_the_size_of_a_convolution_of_its_stride(stride, side):
    reduction = Reduction(3, 10, "batch", stride)
    assert reduction(Tensor(np.ones((2, 9, 9, 3), np.float32))).shape == (2, side, side, 10)


def test_levels_have_the_strides_and_channels_that_the_body_says():
    body = InceptionResNet((8, 8, 16, 32), dilate_c5=True)
    assert body.strides == [2, 4, 8, 8]
    levels = body(Tensor(np.zeros((1, 64, 32, 3), np.float32)))
    assert [x.shape for x in levels] == [
        (1, 64 // stride, 32 // stride, channels) for stride, channels in zip(body.strides, body.out_channels)
    ]


def test_crop_and_resize_takes_the_largest_of_four_samples():
    ramp = np.tile(np.arange(8.0), (8, 1))[None, :, :, None]
    zero = np.zeros(1, int)
    found = crop_and_resize([Tensor(ramp)], np.array([[0.5, 0.5, 4.5, 4.5]]), zero, zero, [1.0], 2)
    np.testing.assert_allclose(found.data[0, :, :, 0], [[1.5, 3.5]] * 2)  # samples at 0.5, 1.5 and 2.5, 3.5


@pytest.mark.parametrize("name", ["tdm", "g_rmi"])
def test_training_lowers_the_loss_and_the_checkpoint_comes_back(tmp_path, name):
    groups = {**SMALL, "heads": {"box_width": 32}} if name == "g_rmi" else SMALL
    model = minimask.build(name, classes=["cat", "dog", "duck"], **groups)
    stride = 4 if name == "tdm" else 8
    assert list(model.roi_strides) == [stride]
    scenes = ToyScenes("train", size=64, count=4)
    batch = model.transform([scenes[i] for i in range(4)])
    features = model.features(Tensor(batch.images))
    assert len(features) == 1 and features[0].shape[1:3] == (64 // stride, 64 // stride)

    before = {key: loss.item() for key, loss in model.losses(batch, sampling_generator(0, 0)).items()}
    assert ("loss_mask" in before) == (name == "tdm")
    run = minimask.train(model, scenes, steps=60, batch_size=4, learning_rate=3e-3, output=tmp_path / "run", quiet=True)
    again = minimask.load(run.folder)
    np.testing.assert_array_equal(again.detect(batch).boxes, model.detect(batch).boxes)

    after = {key: loss.item() for key, loss in model.losses(batch, sampling_generator(0, 0)).items()}
    assert after["loss_objectness"] < 0.6 * before["loss_objectness"]
    assert after["loss_classifier"] < 0.8 * before["loss_classifier"]
