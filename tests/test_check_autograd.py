"""Checks of notebook 01: right answers pass, and typical wrong ones are named."""

import numpy as np

from minimask.check import autograd as topic
from tests import answers


def multiply_backward(gy, a, b):
    return gy * b, gy * a


def graph_gradients(inputs, slopes):
    gradients = np.zeros(len(inputs))
    gradients[-1] = 1
    for node in reversed(range(len(inputs))):
        for source, slope in zip(inputs[node], slopes[node]):
            gradients[source] += slope * gradients[node]
    return gradients


def unbroadcast(gradient, shape):
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    for axis, n in enumerate(shape):
        if n == 1:
            gradient = gradient.sum(axis=axis, keepdims=True)
    return gradient


def matmul_backward(gy, a, b):
    return gy @ b.T, a.T @ gy


def numeric_gradient(f, x, cotangent, step):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = ((f(above) - f(below)) * cotangent).sum() / (2 * step)
    return gradient


def softmax_backward(gy, y):
    return y * (gy - (gy * y).sum(axis=-1, keepdims=True))


def swish(x, gy):
    s = 1 / (1 + np.exp(-x))
    return x * s, gy * (s + x * s * (1 - s))


def momentum_step(p, g, velocity, lr, momentum):
    velocity = momentum * velocity + g
    return p - lr * velocity, velocity


RIGHT = dict(
    multiply_backward=multiply_backward,
    graph_gradients=graph_gradients,
    unbroadcast=unbroadcast,
    matmul_backward=matmul_backward,
    numeric_gradient=numeric_gradient,
    softmax_backward=softmax_backward,
    swish=swish,
    momentum_step=momentum_step,
)


def assigned(inputs, slopes):
    gradients = np.zeros(len(inputs))
    gradients[-1] = 1
    for node in reversed(range(len(inputs))):
        for source, slope in zip(inputs[node], slopes[node]):
            gradients[source] = slope * gradients[node]
    return gradients


def in_place(f, x, cotangent, step):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        x[index] += step
        above = f(x)
        x[index] -= 2 * step
        gradient[index] = ((above - f(x)) * cotangent).sum() / (2 * step)
    return gradient


def momentum_in_place(p, g, velocity, lr, momentum):
    velocity *= momentum
    velocity += g
    return p - lr * velocity, velocity


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("multiply_backward", lambda gy, a, b: (gy * a, gy * b), "2 times 3", "Result 1 (ga) at [0] is 2, expected 3."),
    ("multiply_backward", lambda gy, a, b: (1 * b, 1 * a), "arrives is not 1", "not multiplied by gy"),
    ("multiply_backward", lambda gy, a, b: gy * b, "2 times 3", "expected 2 results (ga, gb)"),
    ("graph_gradients", assigned, "x times x", "`=` instead of `+=`"),
    ("graph_gradients", lambda i, s: graph_gradients(i[::-1], s), "a chain of three", "graph_gradients"),
    ("unbroadcast", lambda g, shape: g, "a bias (3,) added", "has shape (4, 3), expected (3,)"),
    ("unbroadcast", lambda g, shape: unbroadcast(g, shape) * np.prod(shape) / g.size, "a bias (3,)", "the average"),
    (
        "unbroadcast",
        lambda g, shape: g[0] if g.ndim == 2 and shape == (3,) else unbroadcast(g, shape),
        "a bias (3,)",
        "the gradient of one copy",
    ),
    ("unbroadcast", lambda g, shape: unbroadcast(g, shape).squeeze(), "a column (4, 1)", "expected (4, 1)"),
    ("matmul_backward", lambda gy, a, b: (gy @ b, a @ gy), "square", "the matrices are not transposed"),
    ("matmul_backward", lambda gy, a, b: (b.T @ gy, gy @ a.T), "square", "the factors are in the wrong order"),
    ("matmul_backward", lambda gy, a, b: (gy * b, gy * a), "square", "element by element (*)"),
    ("numeric_gradient", lambda f, x, c, h: numeric_gradient(f, x + h / 2, c, h / 2), "cubes", "only the step up"),
    ("numeric_gradient", lambda f, x, c, h: 2 * numeric_gradient(f, x, c, h), "cubes", "although x moved by two"),
    (
        "numeric_gradient",
        lambda f, x, c, h: numeric_gradient(f, x, np.ones_like(c), h),
        "with a cotangent",
        "the cotangent is missing",
    ),
    ("numeric_gradient", in_place, "cubes", "changes its argument 'x' in place"),
    ("softmax_backward", lambda gy, y: np.zeros_like(gy), "two numbers", "pass a check with a plain sum"),
    ("softmax_backward", lambda gy, y: gy * y * (1 - y), "two numbers", "as for the sigmoid"),
    ("softmax_backward", lambda gy, y: y * (gy - (gy * y).sum()), "rows, each on its own", "one sum over all rows"),
    ("softmax_backward", lambda gy, y: gy - (gy * y).sum(-1, keepdims=True), "two numbers", "factor y is missing"),
    ("swish", lambda x, gy: (x * sigmoid(x), gy * sigmoid(x)), "around 0", "the sigmoid depends on x, too"),
    ("swish", lambda x, gy: (x * sigmoid(x), swish(x, 1 + 0 * gy)[1]), "not 1", "not multiplied by gy"),
    ("swish", lambda x, gy: (sigmoid(x), gy), "at 0", "Result 1 (y) at [0] is 0.5, expected 0"),
    ("momentum_step", lambda p, g, v, lr, m: (p + lr * (m * v + g), m * v + g), "at rest", "a step uphill"),
    ("momentum_step", lambda p, g, v, lr, m: (p - lr * v, m * v + g), "at rest", "a step with the old velocity"),
    ("momentum_step", lambda p, g, v, lr, m: (p - lr * g, m * v + g), '"moving"', "a step without the momentum"),
    ("momentum_step", momentum_in_place, "at rest", "changes its argument 'velocity' in place"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_every_check_of_the_topic_is_here():
    assert {check.name for check in vars(topic).values() if getattr(check, "cases", None)} == set(RIGHT)
