"""Training steps on the CPU, one after the other; machine/gpu_steps.py offers the same methods for a card."""

import contextlib

import numpy as np

from minimask.device import on_cpu
from minimask.errors import InputError
from minimask.machine import distributed
from minimask.run.log import StepReport


class StepsOnCpu(contextlib.nullcontext):
    """Takes one training step after the other.

    training_step: the function of train.py.
    model, optimizer, settings: as that function takes them.
    """

    def __init__(self, training_step, model, optimizer, settings):
        super().__init__()
        self.training_step = training_step
        self.model, self.optimizer, self.settings = model, optimizer, settings

    def batches(self, batches):
        """The batches of an iterator, on the device where the model is."""
        return batches

    def run(self, batch, step):
        """Take step `step` on `batch`.

        Returns the reports that are ready now, a list of StepReport: here always that of this step.
        Raises NotFiniteError.
        """
        batch = distributed.same_size(batch)
        losses, norm = self.training_step(self.model, batch, self.optimizer, self.settings, step)
        return [StepReport(step, len(batch.images), self.optimizer.lr, losses, norm)]

    def rest(self):
        """The reports that no `run` has returned yet: none."""
        return []


def steps_for(training_step, model, optimizer, settings, cuda_graph=False):
    """What takes the steps: StepsOnCpu or, if the model is on a card, gpu_steps.StepsOnGpu.

    Raises InputError if `cuda_graph` is set on the CPU, or if a model on a card is not float32.
    """
    if on_cpu(optimizer.params[0].data):
        if cuda_graph:
            raise InputError("training: CUDA graphs need a GPU (device cuda)")
        return StepsOnCpu(training_step, model, optimizer, settings)
    if optimizer.params[0].dtype != np.float32:
        raise InputError(f"training: on a GPU parameters must be float32, got {optimizer.params[0].dtype}")
    from minimask.machine.gpu_steps import StepsOnGpu  # only here: it needs CuPy

    return StepsOnGpu(model, optimizer, settings, cuda_graph)
