"""The steps of an optimizer on a GPU, all parameters at once and without waiting for the GPU.

All parameters lie in one array, all gradients in another, so a step is three launches, as many as for one parameter:
the norm of the gradient, the factor it is scaled with, the update. Nothing comes back to the host.
"""

import math

import numpy as np

from minimask.device import array_module
from minimask.kernels import optimizer_cuda as kernels
from minimask.machine.flat_parameters import CHUNK, FlatParameters
from minimask.optim import SGD, AdamW


class GpuOptimizer:
    """Takes the steps of an SGD or AdamW whose parameters are float32 on a GPU.

    optimizer: its learning rate, number of steps, state and `state_dict` stay in use; the parameters and the state
        become views of flat buffers.
    flat: the FlatParameters.
    Raises TypeError for another optimizer or other parameters.
    """

    def __init__(self, optimizer):
        if not isinstance(optimizer, (SGD, AdamW)) or any(p.dtype != np.float32 for p in optimizer.params):
            raise TypeError("GpuOptimizer: needs an SGD or AdamW with float32 parameters")
        self.optimizer = optimizer
        self.flat = FlatParameters(optimizer.params)
        xp = array_module(self.flat.data)

        self.buffers = []
        for name, arrays in optimizer.state.items():
            buffer = xp.zeros_like(self.flat.data)
            views = [self.flat.view(buffer, i) for i in range(len(arrays))]
            for view, array in zip(views, arrays):
                view[...] = array
            optimizer.state[name] = views
            self.buffers.append(buffer)

        self.rates = xp.zeros(3, np.float32)  # learning rate, and AdamW's two corrections
        self.report = xp.asarray([0.0, 1.0, -1.0, 1.0])  # norm, finite, place, scale: see `step`
        self.place = xp.full(1, 2**31 - 1, np.int32)  # for the kernels: the first chunk that is not finite
        self.decays = {}  # which parameters have a gradient -> the weight decay of each chunk

    def prepare_step(self):
        """Before each `step`: count it, and send the learning rate and the corrections to the GPU.

        This is not part of what a CUDA graph captures, so the graph can be launched again with another learning rate.
        """
        optimizer = self.optimizer
        optimizer.steps += 1
        corrections = [1.0, 1.0]
        if isinstance(optimizer, AdamW):
            corrections = [1 / (1 - beta**optimizer.steps) for beta in optimizer.betas]
        kernels.set_rates(self.rates, optimizer.lr, *corrections)

    def step(self, max_norm=None, losses=None):
        """`Optimizer.step` with the gradient clipped to the norm `max_norm`, without waiting for the GPU.

        losses: float32 array on the GPU, any shape, that must be finite too.

        Returns `report`, always the same float64 array (4,) on the GPU: the norm of all gradients before clipping; 1
        while norm and losses are finite, otherwise 0; the position in `flat.gradients` of the first 64 numbers with one
        that is not finite, or -1; the factor of the gradient. Once the second number is 0, neither this step nor those
        after it change anything until `forget_failure`: the host may read the report of one step while the GPU
        is at the next.
        Raises RuntimeError if a parameter's array was replaced.
        """
        flat, optimizer = self.flat, self.optimizer
        flat.collect()
        decay = self._decay_of_chunks()
        limit = math.inf if max_norm is None else max_norm
        kernels.clip(flat.gradients, decay, losses, limit, self.place, self.report)

        arrays = flat.data, flat.gradients, *self.buffers, decay, self.rates, self.report
        if isinstance(optimizer, AdamW):
            kernels.adamw(*arrays, optimizer.betas, optimizer.eps)
        else:
            kernels.sgd(*arrays, optimizer.momentum)
        return self.report

    def forget_failure(self):
        """Let `step` go on after a step that was not finite."""
        self.report[1] = 1.0

    def _decay_of_chunks(self):
        """The weight decay of every 64 numbers of the buffers, -1 where there is no gradient: (P / 64,) on the GPU.

        It is copied to the GPU when first needed: once, if the same parameters have gradients in every step.
        """
        params = self.optimizer.params
        present = tuple(p.grad is not None for p in params)
        if present not in self.decays:
            decay = [self.optimizer.decay_of(p) if there else -1.0 for p, there in zip(params, present)]
            decay = np.repeat(np.float32(decay), np.diff(self.flat.starts) // CHUNK)
            self.decays[present] = array_module(self.flat.data).asarray(decay)
        return self.decays[present]
