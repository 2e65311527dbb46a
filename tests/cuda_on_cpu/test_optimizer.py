"""GpuOptimizer against `Optimizer.step`, and what its step does with numbers that are not finite."""

import math

import numpy as np
import pytest

from minimask import optim
from minimask.machine.flat_parameters import FlatParameters
from minimask.machine.gpu_optimizer import GpuOptimizer
from minimask.tensor import Parameter

SHAPES = ((3, 5), (7,), (1,), (2, 64), (65, 3), (1000,))
OPTIMIZERS = {
    "SGD": lambda params: optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01, decay_all=False),
    "AdamW": lambda params: optim.AdamW(params, 0.01, weight_decay=0.1, decay_all=False),
}


def parameters(asarray, shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(asarray(rng.standard_normal(shape, dtype=np.float32))) for shape in shapes]


def gradients(step, shapes=SHAPES):
    rng = np.random.default_rng([1, step])
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def set_gradients(params, values, asarray):
    for p, value in zip(params, values):
        p.grad = None if value is None else asarray(value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_the_cpu(gpu, name):
    """Five steps, clipped and not, with changing rates, one parameter now and then without a gradient."""
    theirs = parameters(np.asarray)
    ours = parameters(gpu.asarray)
    cpu, card = OPTIMIZERS[name](theirs), GpuOptimizer(OPTIMIZERS[name](ours))
    for step in range(5):
        values = gradients(step)
        values[3] = values[3] if step % 2 else None
        set_gradients(theirs, values, np.asarray)
        set_gradients(ours, values, gpu.asarray)
        cpu.lr = card.optimizer.lr = 0.1 / (step + 1)
        limit = (None, 1.0, 100.0)[step % 3]
        norm = optim.gradient_norm(theirs)
        cpu.step(1.0 if limit is None else min(1.0, limit / (norm + 1e-6)))
        card.prepare_step()
        report = card.step(limit).get()
        np.testing.assert_allclose(report[0], norm, rtol=1e-6)
        assert report[1:3].tolist() == [1, -1]
    assert card.optimizer.steps == cpu.steps == 5
    for a, b in zip(theirs, ours):
        np.testing.assert_allclose(b.data.get(), a.data, rtol=1e-5, atol=1e-6)
    for key, array in cpu.state_dict().items():
        other = card.optimizer.state_dict()[key]
        np.testing.assert_allclose(other if key == "steps" else other.get(), array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_large_buffers(gpu, name):
    """More numbers than the threads of the 1,024 blocks of the norm process at once; only in the first schedule."""
    if gpu.__name__ != "cupy" and order(gpu):
        pytest.skip("one schedule is enough for a large array")
    shapes = ((1100, 1024),)
    theirs, ours = parameters(np.asarray, shapes), parameters(gpu.asarray, shapes)
    cpu, card = OPTIMIZERS[name](theirs), GpuOptimizer(OPTIMIZERS[name](ours))
    set_gradients(theirs, gradients(0, shapes), np.asarray)
    set_gradients(ours, gradients(0, shapes), gpu.asarray)
    norm = optim.gradient_norm(theirs)
    cpu.step(0.5 / (norm + 1e-6))
    card.prepare_step()
    np.testing.assert_allclose(card.step(0.5).get()[0], norm, rtol=1e-5)
    np.testing.assert_allclose(ours[0].data.get(), theirs[0].data, rtol=1e-5, atol=1e-6)


def order(gpu):
    """The stand-in's current schedule."""
    from tests.cuda_on_cpu import minicuda

    return minicuda.ORDER


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(gpu, name, bad):
    params = parameters(gpu.asarray)
    card = GpuOptimizer(OPTIMIZERS[name](params))
    set_gradients(params, gradients(0), gpu.asarray)
    card.prepare_step()
    card.step(5.0)
    before = [p.data.get() for p in params]
    state = [buffer.get() for buffer in card.buffers]
    values = gradients(1)
    values[4][60, 2] = values[5][999] = bad
    for step in range(2):  # the bad step and the one after it
        set_gradients(params, values if step == 0 else gradients(2), gpu.asarray)
        card.prepare_step()
        report = card.step(5.0).get()
        assert report[1] == 0 and not math.isfinite(report[0])
        assert report[2] == card.flat.starts[4] + 128 and card.flat.parameter_at(report[2]) == 4
    for a, p in zip(before, params):
        np.testing.assert_array_equal(p.data.get(), a)
    for a, buffer in zip(state, card.buffers):
        np.testing.assert_array_equal(buffer.get(), a)
    card.forget_failure()
    card.prepare_step()
    report = card.step(5.0).get()
    assert report[1:3].tolist() == [1, -1]
    assert (params[0].data.get() != before[0]).all()


def test_a_loss_that_is_not_finite_changes_nothing(gpu):
    params = parameters(gpu.asarray)
    sgd = GpuOptimizer(OPTIMIZERS["SGD"](params))
    before = sgd.flat.data.get()
    set_gradients(params, gradients(0), gpu.asarray)
    bad = [1.0] * 40 + [math.nan] * 30  # in the second warp, and beyond
    norm = math.sqrt(sum((g**2).sum() for g in gradients(0)))
    for losses, good in (([1.0, 2.0], 1), (bad, 0), ([1.0, 2.0], 0)):
        sgd.prepare_step()
        report = sgd.step(None, gpu.asarray(np.float32(losses))).get()
        np.testing.assert_allclose(report, [norm, good, -1, 1], rtol=1e-6)
        if losses == [1.0, 2.0] and good:
            assert (sgd.flat.data.get() != before).any()
            before = sgd.flat.data.get()
    np.testing.assert_array_equal(sgd.flat.data.get(), before)


def test_an_overflowing_square_names_no_parameter(gpu):
    params = parameters(gpu.asarray, ((2,),))
    sgd = GpuOptimizer(OPTIMIZERS["SGD"](params))
    params[0].grad = gpu.asarray(np.float32([1e20, 0]))
    sgd.prepare_step()
    report = sgd.step(5.0).get()
    assert report[:3].tolist() == [math.inf, 0, -1]


def test_steps_without_synchronization(gpu):
    if not hasattr(gpu, "no_sync"):
        pytest.skip("CuPy cannot tell when it waits")
    params = parameters(gpu.asarray)
    adamw = GpuOptimizer(OPTIMIZERS["AdamW"](params))
    values = [gpu.asarray(g) for g in gradients(0)]
    with gpu.no_sync():
        for _ in range(2):
            adamw.optimizer.zero_grad()
            for p, g in zip(params, values):
                (p * g).sum().backward()
            adamw.prepare_step()
            report = adamw.step(5.0)
    np.testing.assert_allclose(report.get()[0], math.sqrt(sum((g**2).sum() for g in gradients(0))), rtol=1e-6)


@pytest.mark.parametrize("sizes", [(1,), (5000, 64, 4096, 1, 8193), tuple(range(1, 140))])
def test_collect(gpu, sizes):
    """Several tiles per array, arrays of one number, more arrays than one launch takes, and one with strides."""
    params = [Parameter(gpu.asarray(np.zeros(size, np.float32))) for size in sizes]
    params.append(Parameter(gpu.asarray(np.zeros((3, 5), np.float32))))
    flat = FlatParameters(params)
    values = [np.arange(size, dtype=np.float32) + 10000 * i for i, size in enumerate(sizes)]
    for p, value in zip(params, values):
        p.grad = gpu.asarray(value)
    params[-1].grad = gpu.asarray(np.arange(15, dtype=np.float32).reshape(5, 3)).T
    flat.collect()
    expected = np.zeros(flat.gradients.size, np.float32)
    for start, value in zip(flat.starts, [*values, np.arange(15).reshape(5, 3).T.ravel()]):
        expected[start : start + len(value)] = value
    np.testing.assert_array_equal(flat.gradients.get(), expected)
    assert all(p.grad is p.grad_buffer for p in params)


def test_state_continues(gpu):
    """A state passed as NumPy arrays to another optimizer gives the same next step."""
    params = parameters(gpu.asarray)
    first = GpuOptimizer(OPTIMIZERS["AdamW"](params))
    set_gradients(params, gradients(0), gpu.asarray)
    first.prepare_step()
    first.step()
    others = [Parameter(gpu.asarray(p.data.get())) for p in params]
    second = OPTIMIZERS["AdamW"](others)
    state = {k: v if isinstance(v, np.ndarray) else v.get() for k, v in first.optimizer.state_dict().items()}
    second.load_state_dict(state)
    for card in (first, GpuOptimizer(second)):
        set_gradients(card.optimizer.params, gradients(1), gpu.asarray)
        card.prepare_step()
        card.step()
    for p, other in zip(params, others):
        np.testing.assert_array_equal(other.data.get(), p.data.get())


def test_replaced_arrays_are_refused(gpu):
    params = parameters(gpu.asarray)
    sgd = GpuOptimizer(OPTIMIZERS["SGD"](params))
    params[1].data = gpu.asarray(np.zeros(7, np.float32))
    with pytest.raises(RuntimeError, match="array was replaced"):
        sgd.step()


def test_unsupported_parameters_are_refused(gpu):
    params = [Parameter(gpu.asarray(np.zeros(3)))]
    with pytest.raises(TypeError, match="SGD or AdamW with float32"):
        GpuOptimizer(OPTIMIZERS["SGD"](params))
