"""Training steps of the small model on the GPU and on the CPU, and their comparison."""

import numpy as np

from minimask.machine.cpu_steps import StepsOnCpu
from minimask.machine.gpu_steps import Draws, StepsOnGpu
from minimask.mask_rcnn import sampling_generator
from minimask.train import make_optimizer, rate_factor, sum_of, training_step
from tests.cuda_on_cpu.small_model import RATE, no_sync, scenes, settings, small_model


def make_steps(gpu, model, count, loader=None, make=StepsOnGpu, **options):
    """Take the first `count` steps, each with its own learning rate; no step may wait. Returns the steps' reports."""
    chosen = settings()
    optimizer = make_optimizer(model, chosen)
    finished = []
    with make(model, optimizer, chosen, **options) as steps:
        batches = steps.batches((loader or scenes(model)).iterate(0))
        for step in range(count):
            optimizer.lr = RATE * rate_factor(chosen, step, step / 20)
            batch = next(batches)
            with no_sync(gpu, events=True):  # events are allowed: they are needed to read the previous step's report
                finished += steps.run(batch, step)
        finished += steps.rest()
        batches.close()
    return finished


def make_steps_on_cpu(model, count, loader=None):
    """Take the same steps on the CPU. Returns their reports."""
    chosen = settings()
    optimizer = make_optimizer(model, chosen)
    steps, loader, finished = StepsOnCpu(training_step, model, optimizer, chosen), loader or scenes(model), []
    for step in range(count):
        optimizer.lr = RATE * rate_factor(chosen, step, step / 20)
        finished += steps.run(loader.batch(step), step)
    return finished


def assert_same_steps(found, expected, tolerance=1e-5):
    """Assert that the reports of two runs agree."""
    assert [f.step for f in found] == list(range(len(expected)))
    for ours, theirs in zip(found, expected):
        assert (ours.images, ours.learning_rate) == (theirs.images, theirs.learning_rate)
        assert list(ours.losses) == list(theirs.losses)
        np.testing.assert_allclose(list(ours.losses.values()), list(theirs.losses.values()), tolerance, tolerance)
        np.testing.assert_allclose(ours.gradient_norm, theirs.gradient_norm, rtol=10 * tolerance)


def check_training_steps(gpu, count):
    """Losses, gradient norms, weights and running statistics after `count` steps equal the CPU's. Nothing waits."""
    cpu, card = small_model(), small_model().to("cuda")
    expected = make_steps_on_cpu(cpu, count)
    assert_same_steps(make_steps(gpu, card, count), expected)
    assert len({sum(e.losses.values()) for e in expected}) == count
    theirs, before = cpu.state_dict(), small_model().state_dict()
    for name, array in card.state_dict().items():
        assert np.abs(theirs[name] - before[name]).max() > 1e-4, name  # training changes all of them
        np.testing.assert_allclose(array.get(), theirs[name], atol=2e-3, err_msg=name)


def check_losses_and_gradients(gpu, cpu, card, batch, tolerance):
    """The losses and gradients of two equal models on one batch agree; on the card nothing waits.

    tolerance: of a gradient, as a share of the largest number in its array.
    """
    on_card = batch.to("cuda")
    expected = cpu.losses(batch, sampling_generator(0, 0))
    sum_of(expected).backward()
    with no_sync(gpu):
        found = card.losses(on_card, Draws(sampling_generator(0, 0)))
        sum_of(found).backward()
    for name, loss in expected.items():
        np.testing.assert_allclose(found[name].data.get(), loss.data, rtol=1e-5, atol=1e-6, err_msg=name)
    parameters = dict(card.named_parameters())
    for name, parameter in cpu.named_parameters():
        if parameter.grad is not None:
            bound = tolerance * np.abs(parameter.grad).max() + 1e-7
            np.testing.assert_allclose(parameters[name].grad.get(), parameter.grad, atol=bound, err_msg=name)
