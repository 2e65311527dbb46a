"""ResNet, ResNeXt and FPN: names and results as in torchvision, strides, frozen norms folded into convolutions."""

import numpy as np
import pytest

from minimask import backbone as backbone_module
from minimask import nn
from minimask.fpn import FPN
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients

SMALL = dict(channels=(8, 8, 16, 16), layers=(1, 1, 1, 1))


def to_ours(state):
    """Convert torch's state dict to ours: OIHW to HWIO, without counters."""
    return {
        name: value.numpy().transpose(2, 3, 1, 0) if value.ndim == 4 else value.numpy()
        for name, value in state.items()
        if "num_batches" not in name
    }


def randomize(module, seed=0):
    """Fill every array of a torch module with random numbers, so that no value is a special case."""
    torch = pytest.importorskip("torch")
    g = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.dtype.is_floating_point:
            if "running_var" in name:
                value.copy_(torch.rand(value.shape, generator=g) + 0.5)
            elif value.ndim == 1:
                value.copy_(torch.randn(value.shape, generator=g) * 0.2 + ("weight" in name))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_equals_torchvision(name, norm):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    norm_layer = torchvision.ops.FrozenBatchNorm2d if norm == "frozen" else torch.nn.BatchNorm2d
    theirs = getattr(torchvision.models, name)(weights=None, norm_layer=norm_layer).double().eval()
    randomize(theirs)
    ours = backbone_module.resnet(name, norm).to(np.float64).eval()
    ours.load_state_dict({k: v for k, v in to_ours(theirs.state_dict()).items() if not k.startswith("fc.")})
    image = np.random.default_rng(0).standard_normal((1, 37, 64, 3))
    found = ours(Tensor(image))
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(torch.tensor(image).permute(0, 3, 1, 2)))))
    for i, level in enumerate(found):
        x = getattr(theirs, f"layer{i + 1}")(x)
        expected = x.detach().permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(level.data, expected, rtol=0, atol=1e-10 * abs(expected).max())


def test_fpn_equals_torchvision():
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    pool = torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
    theirs = torchvision.ops.FeaturePyramidNetwork([8, 16, 24], 12, pool).double()
    ours = FPN([8, 16, 24], 12).to(np.float64)
    ours.load_state_dict(to_ours(theirs.state_dict()))
    rng = np.random.default_rng(0)
    levels = [rng.standard_normal((2, *size, c)) for size, c in (((13, 22), 8), ((7, 11), 16), ((4, 6), 24))]
    expected = theirs({str(i): torch.tensor(x).permute(0, 3, 1, 2) for i, x in enumerate(levels)})
    for found, value in zip(ours([Tensor(x) for x in levels]), expected.values()):
        np.testing.assert_allclose(found.data, value.detach().permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "settings, strides", [({}, [4, 8, 16, 32]), ({"dilate_c5": True}, [4, 8, 16, 16]), ({"stages": 3}, [4, 8, 16])]
)
@pytest.mark.parametrize("stem", ["large", "small"])
def test_strides(settings, strides, stem):
    model = backbone_module.ResNet(**SMALL, stem=stem, norm="frozen", **settings)
    levels = model(Tensor(np.ones((1, 64, 96, 3), np.float32)))
    assert model.strides == strides
    expected = [(1, 64 // s, 96 // s, c) for s, c in zip(strides, model.out_channels)]
    assert [x.shape for x in levels] == expected


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_folding_changes_nothing(norm):
    rng = np.random.default_rng(0)
    conv, layer = nn.Conv2d(4, 6, 3, padding=1, bias=False), backbone_module.make_norm(norm, 6, relu=True)
    for array in layer.state_dict().values():
        array[...] = rng.uniform(0.5, 1.5, array.shape)
    conv.to(np.float64), layer.to(np.float64).eval()
    x, residual = Tensor(rng.standard_normal((2, 5, 7, 4))), Tensor(rng.standard_normal((2, 5, 7, 6)))
    plain = layer(conv(x), residual=residual)
    folded = backbone_module.conv_norm(conv, layer, x, residual=residual)
    np.testing.assert_allclose(folded.data, plain.data, rtol=0, atol=1e-12)
    check_gradients(
        lambda x, w: backbone_module.conv_norm(_with_weight(conv, w), layer, x), x.data, conv.weight.data[:, :, :, :6]
    )


def _with_weight(conv, w):
    conv.weight = w
    return conv


def test_the_stride_is_in_the_chosen_convolution():
    for in_1x1, first in ((False, 1), (True, 2)):
        block = backbone_module.Bottleneck(16, 8, 2, "frozen", stride_in_1x1=in_1x1)
        assert (block.conv1.settings["stride"], block.conv2.settings["stride"]) == (first, 3 - first)


def test_messages():
    with pytest.raises(ValueError, match="backbone must be one of resnet18, .* got 'vgg'"):
        backbone_module.resnet("vgg")
    with pytest.raises(ValueError, match='norm must be "batch", "frozen" or "group", got \'layer\''):
        backbone_module.make_norm("layer", 8)
