"""Optimizer steps in one pass over memory: each parameter, its gradient and its state are read and written once.

Every function takes flat float32 arrays and the settings as a float32 array (float32: what each number is multiplied
with). Moves: sgd 5, adamw 7 numbers for each parameter.
"""

import numpy as np
from numba import njit

from minimask.kernels.parallel import run


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _sgd_part(t, parts, arrays, numbers):
    p, g, velocity, settings = arrays[:4]
    lr, momentum, weight_decay, scale = settings[0], settings[1], settings[2], settings[3]
    a, b = t * p.size // parts, (t + 1) * p.size // parts
    p, g, velocity = p[a:b], g[a:b], velocity[a:b]
    for i in range(p.size):
        velocity[i] = momentum * velocity[i] + (g[i] * scale + weight_decay * p[i])
        p[i] -= lr * velocity[i]


def sgd(p, g, velocity, settings):
    """velocity = momentum velocity + (scale g + weight_decay p);  p -= lr velocity.

    settings: lr, momentum, weight_decay, scale.
    """
    run(_sgd_part, (p, g, velocity, settings), ())


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _adamw_part(t, parts, arrays, numbers):
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


def adamw(p, g, m, v, settings):
    """m, v = moving averages of g and g^2;  p = decay p - lr m^ / (sqrt(v^) + eps).

    settings: lr, beta1, 1 - beta1, beta2, 1 - beta2, eps, decay, scale, and what m and v are multiplied with to take
    out that they began at 0. 1 - beta comes from outside: in float32 that subtraction would lose four digits.
    """
    run(_adamw_part, (p, g, m, v, settings), ())


def warm_up():
    """Call each kernel once."""
    arrays = [np.zeros(4, np.float32) for _ in range(4)]
    sgd(*arrays[:3], np.ones(4, np.float32))
    adamw(*arrays, np.ones(10, np.float32))
