"""Modules: names, state, training and inference, messages; layers against torch."""

import numpy as np
import pytest

from minimask import nn
from minimask.errors import InputError
from minimask.tensor import Tensor
from tests.gradcheck import check_gradients


def net():
    nn.seed_initializers(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, relu=True), nn.ModuleList([nn.Linear(4, 2)]))


def test_names():
    expected = ["0.weight", "0.bias", "1.weight", "1.bias", "2.0.weight", "2.0.bias"]
    assert [name for name, _ in net().named_parameters()] == expected
    assert [name for name, *_ in net().named_buffers()] == ["1.running_mean", "1.running_var"]


def test_state_round_trip_copies():
    a, b = net(), net()
    a[0].weight.data += 1
    a[1].running_mean += 2
    expected = a[0].weight.data.copy()
    state = a.state_dict()
    b.load_state_dict(state)
    state["0.weight"][...] = 5
    assert (b[0].weight.data == expected).all() and (b[1].running_mean == 2).all()


def test_load_refuses_what_does_not_fit_and_changes_nothing():
    model = net()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    good = {k: v + 1 for k, v in before.items()}
    with pytest.raises(InputError, match=r"1 missing \(first \['0.bias'\]\), 0 unknown"):
        model.load_state_dict({k: v for k, v in good.items() if k != "0.bias"})
    with pytest.raises(InputError, match=r"0 missing .* 1 unknown \(first \['extra'\]\)"):
        model.load_state_dict({**good, "extra": np.zeros(1)})
    with pytest.raises(InputError, match=r"2.0.bias must be \(2,\), got \(3,\)"):
        model.load_state_dict({**good, "2.0.bias": np.zeros(3)})
    assert all((model.state_dict()[k] == v).all() for k, v in before.items())


def test_seed_decides_the_weights():
    a, b = net(), net()
    assert all((x == y).all() for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    nn.seed_initializers(1)
    assert (nn.Conv2d(3, 8, 3).weight.data != a[0].weight.data).any()


def test_initial_spread():
    nn.seed_initializers(0)
    assert nn.Conv2d(64, 64, 3).weight.data.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert nn.Linear(300, 300).weight.data.max() == pytest.approx(np.sqrt(3 / 300), rel=0.01)


def test_train_and_eval_reach_every_module():
    model = net().eval()
    assert not any(m.training for m in model.modules())
    assert all(m.training for m in model.train().modules())


def test_freeze():
    model = net()
    model[0].freeze()
    assert len(model.parameters()) == 4


def test_batch_norm_trains_and_infers_like_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 8))
    ours, theirs = nn.BatchNorm2d(8).to(np.float64), torch.nn.BatchNorm2d(8).double()
    for mode in (True, True, False):
        ours.train(mode), theirs.train(mode)
        expected = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
        np.testing.assert_allclose(ours(Tensor(x)).data, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.running_mean, theirs.running_mean, atol=1e-12)
    np.testing.assert_allclose(ours.running_var, theirs.running_var, atol=1e-12)


def test_group_norm_equals_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 8))
    expected = torch.nn.GroupNorm(4, 8).double()(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = nn.GroupNorm(8, groups=4).to(np.float64)(Tensor(x)).data
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0, atol=1e-10)


def test_a_small_network_has_the_right_gradients():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, relu=True), nn.ConvTranspose2d(4, 3, 2, 2, relu=True), nn.GroupNorm(3, groups=1)
    ).to(np.float64)
    check_gradients(model, np.random.default_rng(0).standard_normal((1, 3, 4, 2)), name="network")


def test_messages():
    with pytest.raises(ValueError, match="groups 3 must divide the channels 4 and 8"):
        nn.Conv2d(4, 8, 1, groups=3)
    with pytest.raises(ValueError, match="groups 8 must divide the channels 12"):
        nn.GroupNorm(12)


def test_repr_is_a_tree_with_shapes_and_numbers_of_parameters():
    lines = [line.split(maxsplit=2) for line in repr(net()).splitlines()]
    assert lines[0] == ["Sequential", "250", "parameters"]
    assert lines[1] == ["0:", "Conv2d", lines[1][2]] and lines[1][2].split("  ")[0] == "weight (3, 3, 3, 8), bias (8,)"
    assert repr(net()).splitlines()[-1].startswith("    0: Linear")
    assert [int(line.split()[-1]) for line in repr(net()).splitlines()[1:]] == [224, 16, 10, 10]
