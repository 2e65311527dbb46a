"""Optimisers, learning-rate schedules, gradient clipping."""

import math

import numpy as np

from minimask.device import array_module, on_cpu


class Optimiser:
    """Holds the parameters and, for each, named state arrays; `step()` updates the parameters from their gradients.

    `lr` is an attribute and may be set before each step. A parameter without a gradient is left as it is.
    Weight decay is not applied to parameters of one dimension (biases and normalisation), as detectors do, unless
    `decay_all` is set.
    """

    state_names = ()

    def __init__(self, params, lr, weight_decay, decay_all):
        self.params = list(params)
        if not self.params:
            raise ValueError("optimiser: params must hold at least one parameter, got none")
        if not (lr >= 0 and math.isfinite(lr)):
            raise ValueError(f"optimiser: lr must be a number >= 0, got {lr}")
        if not weight_decay >= 0:
            raise ValueError(f"optimiser: weight_decay must be >= 0, got {weight_decay}")
        self.lr = lr
        self.weight_decay = weight_decay
        self.decay_all = decay_all
        self.steps = 0
        self.state = {name: [array_module(p.data).zeros_like(p.data) for p in self.params] for name in self.state_names}

    def zero_grad(self):
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def step(self, scale=1.0):
        """One update; every gradient is multiplied by `scale` on the way (gradient clipping without another pass)."""
        self.steps += 1
        for i, p in enumerate(self.params):
            if p.grad is not None:
                decay = self.weight_decay if self.decay_all or p.ndim > 1 else 0.0
                fast = on_cpu(p.data) and p.dtype == "float32" and p.data.flags.c_contiguous
                update = self.update_fast if fast else self.update
                update(p.data, p.grad, *(self.state[name][i] for name in self.state_names), decay, scale)

    def state_dict(self):
        """name -> array: the state of each parameter by its position, and the number of steps."""
        state = {f"{name}.{i}": array for name in self.state_names for i, array in enumerate(self.state[name])}
        state["steps"] = array_module(self.params[0].data).asarray(self.steps)
        return state

    def load_state_dict(self, state):
        """Take over a state that `state_dict` gave. Raises ValueError where names or shapes do not fit."""
        own = self.state_dict()
        if set(own) != set(state):
            raise ValueError(f"optimiser: state has other names: {sorted(set(own) ^ set(state))[:3]}")
        for name, array in own.items():
            if array.shape != state[name].shape:
                raise ValueError(f"optimiser: state {name} must have shape {array.shape}, got {state[name].shape}")
        for name, array in own.items():
            array[...] = state[name]
        self.steps = int(state["steps"])


class SGD(Optimiser):
    """velocity = momentum velocity + g + weight_decay p;  p -= lr velocity  (torch's form of momentum)."""

    state_names = ("velocity",)

    def __init__(self, params, lr, momentum=0.9, weight_decay=1e-4, decay_all=True):
        super().__init__(params, lr, weight_decay, decay_all)
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum

    def update(self, p, g, velocity, decay, scale):
        velocity *= self.momentum
        velocity += g * scale + decay * p
        p -= self.lr * velocity

    def update_fast(self, p, g, velocity, decay, scale):
        from minimask.kernels import optimiser as kernel

        settings = np.array([self.lr, self.momentum, decay, scale], np.float32)
        kernel.sgd(p.reshape(-1), g.reshape(-1), velocity.reshape(-1), settings)


class AdamW(Optimiser):
    """m, v = moving averages of g, g^2;  p = (1 - lr weight_decay) p - lr m^ / (sqrt(v^) + eps)  (Loshchilov &
    Hutter 2019).
    """

    state_names = ("m", "v")

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, decay_all=True):
        super().__init__(params, lr, weight_decay, decay_all)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas must be in [0, 1), got {betas}")
        self.betas, self.eps = betas, eps

    def corrections(self):
        """1 / (1 - beta^steps): the averages start at 0, and this takes that bias out."""
        return [1 / (1 - beta**self.steps) for beta in self.betas]

    def update(self, p, g, m, v, decay, scale):
        beta1, beta2 = self.betas
        correction1, correction2 = self.corrections()
        g = g * scale
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * g * g
        p *= 1 - self.lr * decay
        p -= self.lr * (m * correction1) / ((v * correction2) ** 0.5 + self.eps)

    def update_fast(self, p, g, m, v, decay, scale):
        from minimask.kernels import optimiser as kernel

        averages = [x for beta in self.betas for x in (beta, 1 - beta)]
        settings = [self.lr, *averages, self.eps, 1 - self.lr * decay, scale, *self.corrections()]
        arrays = (a.reshape(-1) for a in (p, g, m, v))
        kernel.adamw(*arrays, np.array(settings, np.float32))


def gradient_norm(params):
    """The length of all gradients taken as one vector: sqrt(sum of squares), a float."""
    total = 0.0
    for p in params:
        if p.grad is not None:
            flat = p.grad.reshape(-1)
            total += float(flat @ flat)
    return math.sqrt(total)


def clip_gradients(params, max_norm):
    """Scale all gradients so that their norm is at most `max_norm`; returns the norm before."""
    params = list(params)
    norm = gradient_norm(params)
    if norm > max_norm:
        for p in params:
            if p.grad is not None:
                p.grad *= max_norm / (norm + 1e-6)
    return norm


# ----------------------------------------------------------------------------- schedules: factors of the learning rate


def warm_up_factor(step, steps, start=0.001):
    """Grows linearly from `start` at step 0 to 1 at step `steps`."""
    return 1.0 if step >= steps else start + (1 - start) * step / steps


def step_factor(progress, milestones=(0.67, 0.89), gamma=0.1):
    """gamma^(how many milestones `progress` in [0, 1] has passed)."""
    return gamma ** len([m for m in milestones if progress >= m])


def cosine_factor(progress, end=0.0):
    """From 1 at progress 0 along half a cosine to `end` at progress 1."""
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
