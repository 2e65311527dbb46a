"""Optimizers and schedules against their formulas, and against torch if it is installed."""

import numpy as np
import pytest

from minimask import optim
from minimask.machine.flat_parameters import FlatParameters
from minimask.tensor import Parameter


def run(make, dtype, steps=5, seed=0):
    """Take a few steps on two parameters with random gradients. Returns the parameters."""
    rng = np.random.default_rng(seed)
    params = [Parameter(rng.standard_normal(shape).astype(dtype)) for shape in ((3, 5), (7,))]
    optimizer = make(params)
    for _ in range(steps):
        for p in params:
            p.grad = rng.standard_normal(p.shape).astype(dtype)
        optimizer.step()
    return [p.data for p in params], optimizer


OPTIMIZERS = {
    "SGD": (
        lambda params: optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01),
        dict(momentum=0.9, weight_decay=0.01),
    ),
    "AdamW": (lambda params: optim.AdamW(params, 0.1, weight_decay=0.01), dict(weight_decay=0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_torch(name):
    torch = pytest.importorskip("torch")
    make, settings = OPTIMIZERS[name]
    ours, _ = run(make, np.float64)
    rng = np.random.default_rng(0)
    theirs = [torch.tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((3, 5), (7,))]
    optimizer = getattr(torch.optim, name)(theirs, 0.1, **settings)
    for _ in range(5):
        for p in theirs:
            p.grad = torch.tensor(rng.standard_normal(tuple(p.shape)))
        optimizer.step()
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1e-12)


def test_kernels_equal_the_array_code():
    """One update in float32, compared with the same in float64."""
    rng = np.random.default_rng(0)
    arrays = p, g, m, v = rng.standard_normal((4, 1001))
    v[:] = abs(v)
    for rule, count, settings in (
        (optim.sgd_update, 3, (0.1, 0.9, 0.01, 0.5)),
        (optim.adamw_update, 4, (3, 0.1, (0.9, 0.999), 1e-8, 0.01, 0.5)),
    ):
        found, expected = [a.astype(np.float32) for a in arrays[:count]], [a.copy() for a in arrays[:count]]
        rule(*found, *settings)
        rule.plain(*expected, *settings)
        for one, other in zip(found, expected):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_in_float32_equal_float64(name):
    for a, b in zip(run(OPTIMIZERS[name][0], np.float32)[0], run(OPTIMIZERS[name][0], np.float64)[0]):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6)


def test_sgd_by_hand():
    p = Parameter(np.array([1.0]))
    sgd = optim.SGD([p], lr=0.1, momentum=0.5, weight_decay=0.0)
    for expected in (0.9, 0.75):  # velocity 1 then 1.5
        p.grad = np.array([1.0])
        sgd.step()
        assert p.data[0] == pytest.approx(expected, abs=1e-12)


def test_decay_spares_biases():
    weight, bias = Parameter(np.ones((2, 2))), Parameter(np.ones(2))
    sgd = optim.SGD([weight, bias], lr=1.0, momentum=0.0, weight_decay=0.25, decay_all=False)
    for p in (weight, bias):
        p.grad = np.zeros_like(p.data)
    sgd.step()
    assert (weight.data == 0.75).all() and (bias.data == 1).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_continues_bit_for_bit(name):
    make = OPTIMIZERS[name][0]
    whole, _ = run(make, np.float32, steps=6)
    rng = np.random.default_rng(0)
    params = [Parameter(rng.standard_normal(shape).astype(np.float32)) for shape in ((3, 5), (7,))]
    first = make(params)
    for step in range(6):
        if step == 3:
            second = make(params)
            second.load_state_dict({k: v.copy() for k, v in first.state_dict().items()})
            first = second
        for p in params:
            p.grad = rng.standard_normal(p.shape).astype(np.float32)
        first.step()
    for a, b in zip(whole, params):
        assert (a == b.data).all()


def test_gradient_norm():
    a, b, without = Parameter(np.zeros(2)), Parameter(np.zeros((1, 1))), Parameter(np.zeros(3))
    a.grad, b.grad = np.array([3.0, 4.0]), np.array([[12.0]])
    assert optim.gradient_norm([a, b, without]) == 13.0


def test_schedules():
    assert optim.warm_up_factor(0, 10, 0.1) == 0.1
    assert optim.warm_up_factor(5, 10, 0.0) == 0.5
    assert optim.warm_up_factor(10, 10) == 1.0
    assert [optim.step_factor(p, (0.5, 0.75)) for p in (0, 0.5, 0.8)] == pytest.approx([1, 0.1, 0.01])
    assert optim.cosine_factor(0) == 1 and optim.cosine_factor(0.5) == pytest.approx(0.5)
    assert optim.cosine_factor(1, end=0.1) == pytest.approx(0.1)
    assert optim.cosine_factor(0.5, end=0.1) == pytest.approx(0.55)


def test_defaults():
    """He et al. 2017, section 3.1: momentum 0.9, decay 0.0001; AdamW as in Loshchilov and Hutter 2019."""
    p = Parameter(np.zeros(2))
    sgd, adam = optim.SGD([p], 0.1), optim.AdamW([p], 0.1)
    assert (sgd.momentum, sgd.weight_decay, sgd.decay_all, sgd.steps) == (0.9, 1e-4, True, 0)
    assert (adam.betas, adam.eps, adam.weight_decay, adam.decay_all) == ((0.9, 0.999), 1e-8, 1e-2, True)


def test_bad_settings_are_named():
    p = Parameter(np.zeros(2))
    with pytest.raises(ValueError, match="at least one parameter"):
        optim.SGD([], 0.1)
    with pytest.raises(ValueError, match="lr must be a number >= 0, got -1"):
        optim.SGD([p], -1)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1"):
        optim.SGD([p], 0.1, momentum=1)
    with pytest.raises(ValueError, match="other names"):
        optim.SGD([p], 0.1).load_state_dict({"velocity.1": np.zeros(2)})


def test_flat_parameters():
    """Data and gradients are views of two buffers; `collect` copies the gradients of `backward` to their buffer."""
    first, second = Parameter(np.arange(6.0).reshape(2, 3)), Parameter(np.ones(65))
    flat = FlatParameters([first, second])
    assert flat.data.shape == flat.gradients.shape == (192,)
    assert flat.data[:8].tolist() == [0, 1, 2, 3, 4, 5, 0, 0] and flat.data[64:129].sum() == 65 == flat.data[64:].sum()
    assert [flat.parameter_at(position) for position in (0, 63, 64, 191)] == [0, 0, 1, 1]
    for total in (2, 4):
        (first * 2.0).sum().backward()
        flat.collect()
        assert np.shares_memory(first.grad, flat.gradients) and second.grad is None
        assert flat.gradients[:6].tolist() == [total] * 6 and (flat.gradients[6:] == 0).all()
    second.grad = np.full(65, 3.0)
    flat.collect()
    assert np.shares_memory(second.grad, flat.gradients) and flat.gradients[64:].sum() == 195
    optim.SGD([first, second], lr=1.0, momentum=0.0, weight_decay=0.0).step()
    assert flat.data[:6].tolist() == [-4, -3, -2, -1, 0, 1] and (flat.data[64:129] == -2).all()
    with pytest.raises(ValueError, match="one dtype"):
        FlatParameters([first, Parameter(np.ones(2, np.float32))])
