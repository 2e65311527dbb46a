"""Optimizers: SGD and AdamW, gradient clipping, and schedules of the learning rate.

An update rule is a function of raw arrays that changes a parameter and its state in place. An `Optimizer` holds the
state of all parameters and calls the rule for each of them.
"""

import math

import numpy as np

from minimask.device import accelerated, array_module

# ------------------------------------------------------------------------------------------------------------ the rules


@accelerated("optimizer")
def sgd_update(p, g, velocity, lr, momentum=0.9, weight_decay=0.0, scale=1.0):
    """Stochastic gradient descent with momentum, in torch's form; changes p and velocity.

    velocity = momentum velocity + g + weight_decay p;  p = p - lr velocity.
    scale: a factor of g (clipping multiplies the gradient here, without another pass over it).
    """
    velocity *= momentum
    velocity += g * scale + weight_decay * p
    p -= lr * velocity


@accelerated("optimizer")
def adamw_update(p, g, m, v, step, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, scale=1.0):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); changes p, m and v.

    m and v are moving averages of g and g^2. They start at 0, which the division by 1 - beta^step corrects.
    p = (1 - lr weight_decay) p - lr m^ / (sqrt(v^) + eps).
    step: how many updates with this one, from 1.  scale: a factor of g.
    """
    beta1, beta2 = betas
    g = g * scale
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g

    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    p *= 1 - lr * weight_decay
    p -= lr * m_hat / (v_hat**0.5 + eps)


# ------------------------------------------------------------------------------------------------------------- clipping


def gradient_norm(params):
    """The length of all gradients taken as one vector: sqrt(sum of squares), a float."""
    total = 0.0
    for p in params:
        if p.grad is not None:
            flat = p.grad.reshape(-1)
            total += float(flat @ flat)
    return math.sqrt(total)


# ------------------------------------------------------------------------------ schedules: factors of the learning rate


def warm_up_factor(step, steps, start=0.001):
    """Grows linearly from `start` at step 0 to 1 at step `steps`."""
    return 1.0 if step >= steps else start + (1 - start) * step / steps


def step_factor(progress, milestones=(0.67, 0.89), gamma=0.1):
    """gamma^n, where n is the number of milestones that `progress` in [0, 1] has passed."""
    return gamma ** len([m for m in milestones if progress >= m])


def cosine_factor(progress, end=0.0):
    """Falls along half a cosine from 1 at progress 0 to `end` at progress 1."""
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


# ----------------------------------------------------------------------------------------------------------- optimizers


class Optimizer:
    """Holds the parameters and their state; `step()` updates the parameters from their gradients.

    params: Tensors that require gradients. A parameter whose grad is None is left alone.
    lr: the learning rate, an attribute that may be set before each step.
    decay_all: whether weight decay also applies to parameters of one dimension (biases and normalization), which
        detectors usually spare.

    `state[name]` is a list of arrays, one per parameter. Raises ValueError for settings that make no sense.
    """

    state_names = ()

    def __init__(self, params, lr, weight_decay, decay_all):
        self.params = list(params)
        if not self.params:
            raise ValueError("optimizer: params must hold at least one parameter, got none")
        if not (lr >= 0 and math.isfinite(lr)):
            raise ValueError(f"optimizer: lr must be a number >= 0, got {lr}")
        if not weight_decay >= 0:
            raise ValueError(f"optimizer: weight_decay must be >= 0, got {weight_decay}")
        self.lr, self.weight_decay, self.decay_all = lr, weight_decay, decay_all
        self.steps = 0
        zeros = array_module(self.params[0].data).zeros_like
        self.state = {name: [zeros(p.data) for p in self.params] for name in self.state_names}

    def zero_grad(self):
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def step(self, scale=1.0):
        """One update of every parameter that has a gradient. scale: a factor of all gradients."""
        self.steps += 1
        for i, p in enumerate(self.params):
            if p.grad is not None:
                state = [self.state[name][i] for name in self.state_names]
                self.update(p.data, p.grad, *state, self.decay_of(p), scale)

    def update(self, p, g, *state_and_settings):
        """Change the array p and its state for the gradient g."""
        raise NotImplementedError

    def decay_of(self, p):
        """The weight decay of a parameter."""
        return self.weight_decay if self.decay_all or p.ndim > 1 else 0.0

    def state_dict(self):
        """Arrays by name: the state of each parameter as `velocity.0`, `velocity.1`, ..., and the number of steps."""
        state = {f"{name}.{i}": array for name in self.state_names for i, array in enumerate(self.state[name])}
        state["steps"] = np.asarray(self.steps)
        return state

    def load_state_dict(self, state):
        """Copy in a state that `state_dict` returned. Raises ValueError if names or shapes do not fit."""
        own = self.state_dict()
        if set(own) != set(state):
            raise ValueError(f"optimizer: state has other names: {sorted(set(own) ^ set(state))[:3]}")
        for name, array in own.items():
            if array.shape != state[name].shape:
                raise ValueError(f"optimizer: state {name} must have shape {array.shape}, got {state[name].shape}")
        for name, array in own.items():
            array[...] = array_module(array).asarray(state[name])
        self.steps = int(state["steps"])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: see `sgd_update`."""

    state_names = ("velocity",)

    def __init__(self, params, lr, momentum=0.9, weight_decay=1e-4, decay_all=True):
        super().__init__(params, lr, weight_decay, decay_all)
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum

    def update(self, p, g, velocity, weight_decay, scale):
        sgd_update(p, g, velocity, self.lr, self.momentum, weight_decay, scale)


class AdamW(Optimizer):
    """Adam with decoupled weight decay: see `adamw_update`."""

    state_names = ("m", "v")

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, decay_all=True):
        super().__init__(params, lr, weight_decay, decay_all)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas must be in [0, 1), got {betas}")
        self.betas, self.eps = betas, eps

    def update(self, p, g, m, v, weight_decay, scale):
        adamw_update(p, g, m, v, self.steps, self.lr, self.betas, self.eps, weight_decay, scale)
