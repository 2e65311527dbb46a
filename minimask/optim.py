"""Optimizers, learning-rate schedules, gradient clipping.

On a GPU all parameters lie in one array, all gradients in another (`FlatParameters`), and a step is three launches, as
many as for one parameter: the norm of the gradient, what it is scaled with, the update. Nothing comes back to the host.
"""

import math

import numpy as np

from minimask.device import array_module, fits_gpu_kernel, kernels, on_cpu

CHUNK = 64  # numbers: a parameter begins at a multiple of it in its buffer, as CHUNK in kernels/optimizer.cu


class FlatParameters:
    """Moves the arrays of some parameters into one flat array, and has a place for their gradients in another.

    data, gradients: (P,) arrays of the parameters' dtype. From now on `p.data` is a view of data; after `collect`,
    `p.grad` is a view of gradients. Each parameter begins at a multiple of 64 numbers; the numbers between them are 0.
    The gradients of a parameter that `backward` has not reached mean nothing.
    Raises ValueError if the parameters are of several dtypes.
    """

    def __init__(self, params):
        self.params = list(params)
        xp, dtype = array_module(self.params[0].data), self.params[0].dtype
        if any(p.dtype != dtype for p in self.params):
            raise ValueError(f"FlatParameters: all must have one dtype, got {sorted({str(p.dtype) for p in params})}")
        chunks = [-(-p.size // CHUNK) for p in self.params]
        self.starts = CHUNK * np.cumsum([0, *chunks])  # the last: the size of the whole
        self.data, self.gradients = xp.zeros(int(self.starts[-1]), dtype), xp.zeros(int(self.starts[-1]), dtype)
        for i, p in enumerate(self.params):
            view = self.view(self.data, i)
            view[...] = p.data
            p.data, p.grad_buffer = view, self.view(self.gradients, i)
        self.views = [p.data for p in self.params]
        self.collect()

    def view(self, buffer, i):
        """The part of a buffer (P,) that belongs to parameter i, in its shape."""
        p, start = self.params[i], int(self.starts[i])
        return buffer[start : start + p.size].reshape(p.shape)

    def parameter_at(self, position):
        """The index of the parameter that a position in the buffers belongs to."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def collect(self):
        """Bring all gradients to their places. Raises RuntimeError if p.data was replaced."""
        if any(p.data is not view for p, view in zip(self.params, self.views)):
            raise RuntimeError("FlatParameters: a parameter's array was replaced; move a model before training it")
        away = [i for i, p in enumerate(self.params) if p.grad is not None and p.grad is not p.grad_buffer]
        if fits_gpu_kernel(self.data):  # a launch for 128 of them
            gradients, starts = [self.params[i].grad for i in away], self.starts[away].tolist()
            kernels("optimizer", self.data).collect(gradients, starts, self.gradients)
        else:
            for i in away:
                self.params[i].grad_buffer[...] = self.params[i].grad
        for i in away:
            self.params[i].grad = self.params[i].grad_buffer


class Optimizer:
    """Holds the parameters and, for each, named state arrays; `step()` updates the parameters from their gradients.

    `lr` is an attribute and may be set before each step. A parameter without a gradient is left as it is.
    Weight decay is not applied to parameters of one dimension (biases and normalization), as detectors do, unless
    `decay_all` is set. Parameters on a GPU (float32) are moved to `flat`, and there is `step_on_device`.
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
        self.lr = lr
        self.weight_decay = weight_decay
        self.decay_all = decay_all
        self.steps = 0
        if fits_gpu_kernel(self.params[0].data):
            self._lie_flat()
        else:
            self.flat = None
            zeros = array_module(self.params[0].data).zeros_like
            self.state = {name: [zeros(p.data) for p in self.params] for name in self.state_names}

    def zero_grad(self):
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def step(self, scale=1.0):
        """One update; every gradient is multiplied by `scale` on the way (gradient clipping without another pass)."""
        self.steps += 1
        settings = {}  # weight decay -> what the kernel takes
        for i, p in enumerate(self.params):
            if p.grad is not None:
                decay, arrays = self._decay(p), (p.data, p.grad, *(self.state[name][i] for name in self.state_names))
                if p.data.dtype == np.float32 and p.data.flags.c_contiguous and on_cpu(p.data):
                    if decay not in settings:
                        settings[decay] = np.array(self.kernel_settings(decay, scale), np.float32)
                    self.update_by_kernel(*(a.reshape(-1) for a in arrays), settings[decay])
                else:
                    self.update(*arrays, decay, scale)

    def _lie_flat(self):
        xp = array_module(self.params[0].data)
        self.flat = FlatParameters(self.params)
        self.buffers = [xp.zeros_like(self.flat.data) for _ in self.state_names]
        views = [[self.flat.view(buffer, i) for i in range(len(self.params))] for buffer in self.buffers]
        self.state = dict(zip(self.state_names, views))
        self.rates = xp.zeros(3, np.float32)  # learning rate, two corrections
        self.report = xp.asarray([0.0, 1.0, -1.0, 1.0])  # norm, finite, place, scale: see step_on_device
        self.place = xp.full(1, 2**31 - 1, np.int32)  # the kernels' own: the first chunk that is not finite
        self.decays = {}  # which parameters have a gradient -> the weight decay of each CHUNK

    def prepare_step(self):
        """Before each `step_on_device`: count it, and tell the card learning rate and corrections.

        Not part of what a CUDA graph captures, so that a graph can be launched again with another learning rate.
        """
        self.steps += 1
        kernels("optimizer", self.rates).set_rates(self.rates, self.lr, *self.corrections())

    def step_on_device(self, max_norm=None, losses=None):
        """`step` on the card, with the gradient clipped to the norm `max_norm`; without waiting for it.

        losses: float32 array on the card, any shape, that must be finite too. Returns `report`, a float64 array on the
        card, always the same: the norm of all gradients before clipping; 1 while norm and losses are finite, else 0;
        where in `flat.gradients` the first 64 numbers with one that is not finite begin, else -1; the scale. If the
        second is 0, nothing was changed by this step and nothing will be by those that follow, until `forget_failure`:
        the host may look at the report of a step while the card is at the next one.
        Raises RuntimeError if a parameter's array was replaced since the optimizer was made.
        """
        flat = self.flat
        flat.collect()
        decay = self._decay_of_chunks()
        module = kernels("optimizer", flat.data)
        limit = math.inf if max_norm is None else max_norm
        module.clip(flat.gradients, decay, losses, limit, self.place, self.report)
        self.update_flat(module, decay)
        return self.report

    def forget_failure(self):
        """Let `step_on_device` go on after a step that was not finite."""
        self.report[1] = 1.0

    def _decay_of_chunks(self):
        """The weight decay of every 64 numbers of the buffer, -1 where there is no gradient: (P / 64,) on the card.

        Copied to the card when it is first needed: once, for a model's parameters have gradients in each step.
        """
        present = tuple(p.grad is not None for p in self.params)
        if present not in self.decays:
            decay = [self._decay(p) if there else -1.0 for p, there in zip(self.params, present)]
            decay = np.repeat(np.float32(decay), np.diff(self.flat.starts) // CHUNK)
            self.decays[present] = array_module(self.flat.data).asarray(decay)
        return self.decays[present]

    def _decay(self, p):
        return self.weight_decay if self.decay_all or p.ndim > 1 else 0.0

    def corrections(self):
        """What the averages in the state are multiplied with."""
        return [1.0, 1.0]

    def state_dict(self):
        """name -> array: the state of each parameter by its position, and the number of steps."""
        state = {f"{name}.{i}": array for name in self.state_names for i, array in enumerate(self.state[name])}
        state["steps"] = np.asarray(self.steps)
        return state

    def load_state_dict(self, state):
        """Take over a state that `state_dict` gave. Raises ValueError where names or shapes do not fit."""
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

    def kernel_settings(self, decay, scale):
        return [self.lr, self.momentum, decay, scale]

    def update_by_kernel(self, p, *arrays):
        kernels("optimizer", p).sgd(p, *arrays)

    def update_flat(self, module, decay):
        flat = self.flat
        module.sgd(flat.data, flat.gradients, *self.buffers, decay, self.rates, self.report, self.momentum)


class AdamW(Optimizer):
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

    def kernel_settings(self, decay, scale):
        averages = [x for beta in self.betas for x in (beta, 1 - beta)]
        return [self.lr, *averages, self.eps, 1 - self.lr * decay, scale, *self.corrections()]

    def update_by_kernel(self, p, *arrays):
        kernels("optimizer", p).adamw(p, *arrays)

    def update_flat(self, module, decay):
        flat = self.flat
        arrays = flat.data, flat.gradients, *self.buffers, decay, self.rates, self.report
        module.adamw(*arrays, self.betas, self.eps)


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
