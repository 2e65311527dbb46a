"""Optimizer updates in one pass over memory: each parameter, its gradient and its state are read and written once.

sgd_update moves 5, adamw_update 7 numbers per parameter.
"""

from functools import lru_cache

import numpy as np
from numba import njit

from minimask.device import takes
from minimask.kernels.parallel import run


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def sgd_part(t, parts, arrays, numbers):
    """The update of thread t's share; settings: lr, momentum, weight decay, scale."""
    p, g, velocity, settings = arrays[:4]
    lr, momentum, weight_decay, scale = settings[0], settings[1], settings[2], settings[3]
    a, b = t * p.size // parts, (t + 1) * p.size // parts
    p, g, velocity = p[a:b], g[a:b], velocity[a:b]
    for i in range(p.size):
        velocity[i] = momentum * velocity[i] + (g[i] * scale + weight_decay * p[i])
        p[i] -= lr * velocity[i]


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def adamw_part(t, parts, arrays, numbers):
    """The update of thread t's share. 1 - beta is a setting, because that subtraction in float32 loses four digits."""
    p, g, m, v, settings = arrays[:5]
    lr, beta1, rest1, beta2, rest2, eps = settings[0], settings[1], settings[2], settings[3], settings[4], settings[5]
    decay, scale, correction1, correction2 = settings[6], settings[7], settings[8], settings[9]
    a, b = t * p.size // parts, (t + 1) * p.size // parts
    p, g, m, v = p[a:b], g[a:b], m[a:b], v[a:b]
    for i in range(p.size):
        gradient = g[i] * scale
        m[i] = beta1 * m[i] + rest1 * gradient
        v[i] = beta2 * v[i] + rest2 * gradient * gradient
        p[i] = decay * p[i] - lr * (m[i] * correction1) / (np.sqrt(v[i] * correction2) + eps)


def _fits(p, *_, **__):
    return p.dtype == np.float32 and p.flags.c_contiguous


@takes(_fits)
def sgd_update(p, g, velocity, lr, momentum=0.9, weight_decay=0.0, scale=1.0):
    """See `minimask.optim.sgd_update`."""
    arrays = [a.reshape(-1) for a in (p, g, velocity)]
    run(sgd_part, (*arrays, _settings(lr, momentum, weight_decay, scale)), ())


@takes(_fits)
def adamw_update(p, g, m, v, step, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, scale=1.0):
    """See `minimask.optim.adamw_update`."""
    beta1, beta2 = betas
    corrections = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    settings = _settings(lr, beta1, 1 - beta1, beta2, 1 - beta2, eps, 1 - lr * weight_decay, scale, *corrections)
    arrays = [a.reshape(-1) for a in (p, g, m, v)]
    run(adamw_part, (*arrays, settings), ())


@lru_cache(maxsize=4)
def _settings(*numbers):
    """The numbers that a part takes; the same for most parameters of a step."""
    return np.array(numbers, np.float32)


def warm_up():
    """Compile the kernels, or load them from the cache."""
    p, g, m, v = (np.zeros(4, np.float32) for _ in range(4))
    sgd_update(p, g, m, 0.1)
    adamw_update(p, g, m, v, 1, 0.1)
