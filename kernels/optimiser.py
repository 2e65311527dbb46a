"""Optimiser steps in one pass over memory: each parameter, its gradient and its state are read and written once."""

import numpy as np
from numba import njit, prange


@njit(cache=True, fastmath={"contract"})
def _sgd_part(p, g, velocity, lr, momentum, weight_decay, scale):
    for i in range(p.size):
        velocity[i] = momentum * velocity[i] + (g[i] * scale + weight_decay * p[i])
        p[i] -= lr * velocity[i]


@njit(cache=True, parallel=True)
def sgd(p, g, velocity, lr, momentum, weight_decay, scale, threads):
    """velocity = momentum velocity + (scale g + weight_decay p);  p -= lr velocity.  Flat float32 arrays."""
    for t in prange(threads):
        a, b = t * p.size // threads, (t + 1) * p.size // threads
        _sgd_part(p[a:b], g[a:b], velocity[a:b], lr, momentum, weight_decay, scale)


@njit(cache=True, fastmath={"contract"})
def _adamw_part(p, g, m, v, lr, beta1, rest1, beta2, rest2, eps, decay, scale, correction1, correction2):
    for i in range(p.size):
        gradient = g[i] * scale
        m[i] = beta1 * m[i] + rest1 * gradient
        v[i] = beta2 * v[i] + rest2 * gradient * gradient
        p[i] = decay * p[i] - lr * (m[i] * correction1) / (np.sqrt(v[i] * correction2) + eps)


@njit(cache=True, parallel=True)
def adamw(p, g, m, v, lr, beta1, rest1, beta2, rest2, eps, decay, scale, correction1, correction2, threads):
    """m, v = moving averages of g and g^2;  p = decay p - lr m^ / (sqrt(v^) + eps).  Flat float32 arrays.

    rest = 1 - beta comes from outside: in float32 that subtraction would lose four digits.
    """
    for t in prange(threads):
        a, b = t * p.size // threads, (t + 1) * p.size // threads
        _adamw_part(
            p[a:b], g[a:b], m[a:b], v[a:b], lr, beta1, rest1, beta2, rest2, eps, decay, scale, correction1, correction2
        )


def warm_up():
    """Call each kernel once."""
    f = np.float32
    a = [np.zeros(4, f) for _ in range(4)]
    sgd(a[0], a[1], a[2], f(0), f(0), f(0), f(1), 1)
    adamw(a[0], a[1], a[2], a[3], f(0), f(0), f(1), f(0), f(1), f(1), f(1), f(1), f(1), f(1), 1)
