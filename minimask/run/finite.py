"""Stops a run at the first number that is NaN or infinite, and names the step, the images and the culprit."""

import math

from minimask.device import array_module
from minimask.errors import InputError
from minimask.machine import distributed


class NotFiniteError(InputError):
    """A loss or a gradient became NaN or infinite."""


def check_losses(step, losses, images):
    """Check that every part of the loss is finite.

    step: index of the step, from 0.
    losses: dict from the name of each part to its value.
    images: names of the images in this worker's batch.

    Raises NotFiniteError that names the parts that are not.
    """
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        verb = "is" if len(bad) == 1 else "are"
        raise NotFiniteError(
            f"step {step + 1}: {' and '.join(bad)} {verb} not finite ({values}) on the images {_all_names(images)}"
        )


def check_gradient(step, norm, model, images):
    """Check that the gradient, of length `norm`, is finite.

    Raises NotFiniteError that names the first parameter of `model` whose gradient is not.
    """
    if math.isfinite(norm):
        return
    with_gradient = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    bad = [name for name, grad in with_gradient if not array_module(grad).isfinite(grad).all()]
    raise gradient_error(step, bad[0] if bad else None, images)


def gradient_error(step, name, images):
    """The NotFiniteError about the gradient of the parameter `name`, or of all parameters together (None)."""
    name = name or "all parameters together (its square is too large)"
    return NotFiniteError(f"step {step + 1}: the gradient of {name} is not finite on the images {_all_names(images)}")


def advice(learning_rate):
    """What to try after a NotFiniteError."""
    return f"try a lower learning rate (it was {learning_rate:g}), and look at these images and their annotations"


def _all_names(images):
    return ", ".join(distributed.all_of(images))
