"""Validation during training: the loss on data that the model does not train on."""

import collections
import contextlib

from minimask.machine.process import tuned_process
from minimask.mask_rcnn import sampling_generator


@tuned_process()
def validation_loss(model, loader, steps, seed=0):
    """The mean of each part of the loss over `steps` batches of `loader`, in inference mode and without gradients.

    Returns a dict from name to float; "loss" is the sum of all parts.
    """
    sums = collections.Counter()
    with model.inference(), contextlib.closing(loader.iterate(0)) as batches:
        for step in range(steps):
            losses = model.losses(next(batches), sampling_generator(seed, step))
            sums.update({name: loss.item() for name, loss in losses.items()})
    means = {name: value / steps for name, value in sums.items()}
    return {"loss": sum(means.values()), **means}
