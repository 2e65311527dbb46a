"""Checks of notebook 01: gradients by hand, on a graph, through broadcasting, by finite differences; a step of SGD.

`gy` is always the gradient that arrives at a result, `gx` (or ga, gb) the one that is passed on to an input.
"""

import numpy as np

from minimask import functional, optim, tensor
from minimask.check.engine import Check


def _cubes(x):
    return x**3


def _products_of_neighbors(x):
    return x[:-1] * x[1:]


def _row_sums_of_squares(x):
    return (x * x).sum(axis=1)


def _graph_gradients(inputs, slopes, add=True):
    """add: False for the wrong answer that keeps only what the last path sent."""
    gradients = np.zeros(len(inputs))
    gradients[-1] = 1
    for node in reversed(range(len(inputs))):
        for source, slope in zip(inputs[node], slopes[node]):
            gradients[source] = add * gradients[source] + slope * gradients[node]
    return gradients


def _graph_gradients_oldest_first(inputs, slopes):
    gradients = np.zeros(len(inputs))
    gradients[-1] = 1
    for node in range(len(inputs)):
        for source, slope in zip(inputs[node], slopes[node]):
            gradients[source] += slope * gradients[node]
    return gradients


def _random_graph(rng):
    count = int(rng.integers(3, 8))
    inputs = [tuple(int(i) for i in rng.integers(0, node, 2)) if node > 1 else () for node in range(count)]
    return dict(inputs=inputs, slopes=[tuple(float(s) for s in rng.integers(-3, 4, len(i))) for i in inputs])


def _unbroadcast(gradient, shape, add=np.sum):
    extra = gradient.ndim - len(shape)
    axes = *range(extra), *(extra + i for i, n in enumerate(shape) if n == 1)
    return add(gradient, axis=axes, keepdims=True).reshape(shape)


def _random_broadcast(rng):
    shape = rng.integers(1, 4, rng.integers(1, 4))
    kept = np.where(rng.random(len(shape)) < 0.5, 1, shape)[int(rng.integers(len(shape))) :]
    return dict(gradient=rng.standard_normal(shape), shape=tuple(int(n) for n in kept))


def _differences(f, x, cotangent, step, below=1.0, divide=2.0):
    """below: how many steps to go down. divide: by how many steps the difference is divided."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        change = np.zeros_like(x)
        change[index] = step
        difference = f(x + change) - f(x - below * change)
        gradient[index] = (difference * cotangent).sum() / (divide * step)
    return gradient


def _softmax_backward(gy, y):
    softmax = functional.Softmax(-1)
    softmax.y = y
    return softmax.backward(gy)[0]


def _swish(x, gy):
    s = functional.sigmoid_array(x)
    return x * s, gy * (s + x * s * (1 - s))


def _momentum_step(p, g, velocity, lr, momentum):
    parameter = tensor.Parameter(p.copy())
    parameter.grad = g
    optimizer = optim.SGD([parameter], lr, momentum, weight_decay=0.0)
    optimizer.state["velocity"] = [velocity.copy()]
    optimizer.step()
    return parameter.data, optimizer.state["velocity"][0]


# --------------------------------------------------------------------------------------------------------------- cases

_rng = np.random.default_rng(1)


def _normal(*shape):
    return _rng.standard_normal(shape)


def _probabilities(*shape):
    return functional.softmax_array(_normal(*shape))


# -------------------------------------------------------------------------------------------------------------- checks

multiply_backward = Check(
    reference=lambda gy, a, b: (gy * b, gy * a),
    cases={
        "one product, 2 times 3": dict(gy=np.array([1.0]), a=np.array([2.0]), b=np.array([3.0])),
        "the gradient that arrives is not 1": dict(gy=np.array([10.0]), a=np.array([2.0]), b=np.array([3.0])),
        "arrays, element by element": dict(gy=_normal(2, 3), a=_normal(2, 3), b=_normal(2, 3)),
    },
    random=lambda rng: dict(gy=rng.standard_normal(4), a=rng.standard_normal(4), b=rng.standard_normal(4)),
    covers="single numbers and arrays",
    results=("ga", "gb"),
    mistakes={
        "ga and gb swapped: the gradient of a is b times gy": lambda gy, a, b: (gy * a, gy * b),
        "the local derivatives, not multiplied by gy": lambda gy, a, b: (1 * b, 1 * a),
        "both gradients are a b gy": lambda gy, a, b: (gy * a * b, gy * a * b),
    },
)

graph_gradients = Check(
    reference=_graph_gradients,
    cases={
        "a chain of three": dict(inputs=[(), (0,), (1,)], slopes=[(), (2.0,), (5.0,)]),
        "two leaves meet": dict(inputs=[(), (), (0, 1)], slopes=[(), (), (3.0, -2.0)]),
        "x times x: one node is the input of another twice": dict(inputs=[(), (0, 0)], slopes=[(), (3.0, 3.0)]),
        "a diamond: two paths lead to node 0": dict(
            inputs=[(), (0,), (0,), (1, 2)], slopes=[(), (2.0,), (10.0,), (1.0, 1.0)]
        ),
        "a short and a long path, with more nodes below the point where they meet": dict(
            inputs=[(), (0,), (1,), (2,), (1, 3)], slopes=[(), (2.0,), (3.0,), (4.0,), (5.0, 1.0)]
        ),
        "a node that the last one does not depend on": dict(inputs=[(), (0,), (0,)], slopes=[(), (7.0,), (2.0,)]),
    },
    random=_random_graph,
    covers="chains, leaves that meet, several paths between two nodes, unused nodes",
    mistakes={
        "a node keeps only what the last path sent: `=` instead of `+=`": lambda i, s: _graph_gradients(i, s, False),
        "the oldest node first: its gradient is passed on before it is complete": _graph_gradients_oldest_first,
    },
)

unbroadcast = Check(
    reference=tensor.unbroadcast,
    cases={
        "nothing was broadcast": dict(gradient=_normal(2, 3), shape=(2, 3)),
        "a bias (3,) added to each of four rows": dict(gradient=np.arange(12.0).reshape(4, 3), shape=(3,)),
        "a column (4, 1) added to three columns": dict(gradient=np.arange(12.0).reshape(4, 3), shape=(4, 1)),
        "one number added to every element": dict(gradient=_normal(4, 3), shape=()),
        "a bias on feature maps": dict(gradient=_normal(2, 3, 4, 5), shape=(5,)),
        "an extra axis in front and one of length 1": dict(gradient=_normal(2, 3, 4), shape=(3, 1)),
        "an axis of length 1 that stays 1": dict(gradient=_normal(2, 1, 4), shape=(1, 4)),
    },
    random=_random_broadcast,
    covers="rows, columns, single numbers, several axes at once",
    view_allowed=True,
    mistakes={
        "the average over the copies instead of their sum": lambda g, shape: _unbroadcast(g, shape, np.mean),
        "the gradient of one copy: every copy had an effect, so all of them count": lambda g, shape: _unbroadcast(
            g, shape, lambda a, axis, keepdims: a[tuple(slice(1) if i in axis else slice(None) for i in range(a.ndim))]
        ),
    },
)

matmul_backward = Check(
    reference=lambda gy, a, b: (gy @ b.T, a.T @ gy),
    cases={
        "square matrices": dict(
            gy=np.array([[1.0, 2], [0, 1]]), a=np.array([[1.0, 2], [3, 4]]), b=np.array([[5.0, 6], [7, 8]])
        ),
        "(2, 3) times (3, 4)": dict(gy=_normal(2, 4), a=_normal(2, 3), b=_normal(3, 4)),
        "a row times a column": dict(gy=_normal(1, 1), a=_normal(1, 3), b=_normal(3, 1)),
        "a column times a row": dict(gy=_normal(3, 4), a=_normal(3, 1), b=_normal(1, 4)),
    },
    random=lambda rng: dict(
        gy=rng.standard_normal((2, 3)), a=rng.standard_normal((2, 5)), b=rng.standard_normal((5, 3))
    ),
    covers="square and other matrices, rows and columns",
    results=("ga", "gb"),
    mistakes={
        "the matrices are not transposed": lambda gy, a, b: (gy @ b, a @ gy),
        "the factors are in the wrong order": lambda gy, a, b: (b.T @ gy, gy @ a.T),
        "ga and gb swapped": lambda gy, a, b: (a.T @ gy, gy @ b.T),
        "products element by element (*) instead of matrix products (@)": lambda gy, a, b: (gy * b, gy * a),
    },
)

numeric_gradient = Check(
    reference=_differences,
    cases={
        "cubes, with a large step": dict(f=_cubes, x=np.array([2.0, -1.0]), cotangent=np.ones(2), step=0.1),
        "cubes, with a cotangent": dict(f=_cubes, x=np.array([2.0, -1.0]), cotangent=np.array([1.0, -3.0]), step=0.1),
        "a result shorter than x": dict(f=_products_of_neighbors, x=_normal(4), cotangent=_normal(3), step=0.01),
        "a matrix": dict(f=_row_sums_of_squares, x=_normal(2, 3), cotangent=_normal(2), step=0.01),
        "softmax": dict(f=functional.softmax_array, x=_normal(2, 3), cotangent=_normal(2, 3), step=0.01),
    },
    covers="vectors and matrices, results of a different shape, random cotangents",
    mistakes={
        "only the step up: the difference of a step up and a step down is more accurate": lambda f, x, c, h: (
            _differences(f, x, c, h, below=0.0, divide=1.0)
        ),
        "the difference divided by one step, although x moved by two": lambda f, x, c, h: _differences(
            f, x, c, h, divide=1.0
        ),
        "a plain sum: the cotangent is missing": lambda f, x, c, h: _differences(f, x, np.ones_like(c), h),
    },
)

softmax_backward = Check(
    reference=_softmax_backward,
    cases={
        "two numbers": dict(gy=np.array([1.0, 0.0]), y=np.array([0.25, 0.75])),
        "rows, each on its own": dict(gy=_normal(2, 3), y=_probabilities(2, 3)),
        "the same gradient everywhere: the result is 0": dict(gy=np.ones((2, 3)), y=_probabilities(2, 3)),
        "three axes": dict(gy=_normal(2, 3, 4), y=_probabilities(2, 3, 4)),
    },
    random=lambda rng: dict(gy=rng.standard_normal((3, 4)), y=functional.softmax_array(rng.standard_normal((3, 4)))),
    covers="vectors, rows, more axes",
    mistakes={
        "zeros, which would pass a check with a plain sum, but learn nothing": lambda gy, y: np.zeros_like(gy),
        "each number on its own, as for the sigmoid: here each result depends on all numbers of its row": (
            lambda gy, y: gy * y * (1 - y)
        ),
        "one sum over all rows: each row has its own softmax": lambda gy, y: y * (gy - (gy * y).sum()),
        "the last factor y is missing": lambda gy, y: gy - (gy * y).sum(-1, keepdims=True),
    },
)

swish = Check(
    reference=_swish,
    cases={
        "at 0": dict(x=np.array([0.0]), gy=np.array([1.0])),
        "around 0": dict(x=np.array([-2.0, -1.0, 1.0, 2.0]), gy=np.ones(4)),
        "with a gradient that is not 1": dict(x=_normal(2, 3), gy=_normal(2, 3)),
        "far from 0": dict(x=np.array([-30.0, 30.0]), gy=np.array([2.0, 3.0])),
    },
    random=lambda rng: dict(x=3 * rng.standard_normal((2, 3)), gy=rng.standard_normal((2, 3))),
    covers="around 0 and far from it",
    results=("y", "gx"),
    mistakes={
        "only the gradient of the factor x: the sigmoid depends on x, too": lambda x, gy: (
            _swish(x, gy)[0],
            gy * functional.sigmoid_array(x),
        ),
        "only the gradient of the sigmoid: there is the factor x, too": lambda x, gy: (
            _swish(x, gy)[0],
            gy * x * functional.sigmoid_array(x) * (1 - functional.sigmoid_array(x)),
        ),
        "a gradient that is not multiplied by gy": lambda x, gy: (_swish(x, gy)[0], _swish(x, np.ones_like(gy))[1]),
    },
)

momentum_step = Check(
    reference=_momentum_step,
    cases={
        "the first step, starting at rest": dict(
            p=np.array([1.0]), g=np.array([2.0]), velocity=np.array([0.0]), lr=0.1, momentum=0.9
        ),
        "moving": dict(p=np.array([1.0]), g=np.array([2.0]), velocity=np.array([10.0]), lr=0.1, momentum=0.9),
        "no momentum": dict(p=_normal(3), g=_normal(3), velocity=_normal(3), lr=0.5, momentum=0.0),
        "no gradient: the parameter keeps rolling": dict(
            p=_normal(2), g=np.zeros(2), velocity=_normal(2), lr=0.1, momentum=0.5
        ),
    },
    random=lambda rng: dict(
        p=rng.standard_normal(3),
        g=rng.standard_normal(3),
        velocity=rng.standard_normal(3),
        lr=float(rng.uniform()),
        momentum=float(rng.uniform()),
    ),
    covers="starting at rest and moving, with and without momentum",
    results=("p", "velocity"),
    mistakes={
        "a step uphill: the gradient points to where the loss grows": lambda p, g, v, lr, m: (
            p + lr * (m * v + g),
            m * v + g,
        ),
        "a step without the momentum": lambda p, g, v, lr, m: (p - lr * g, m * v + g),
        "a step with the old velocity": lambda p, g, v, lr, m: (p - lr * v, m * v + g),
        "an average, momentum v + (1 - momentum) g, which makes the steps smaller": lambda p, g, v, lr, m: (
            p - lr * (m * v + (1 - m) * g),
            m * v + (1 - m) * g,
        ),
        "the learning rate inside the velocity": lambda p, g, v, lr, m: (p - (m * v + lr * g), m * v + lr * g),
    },
)
