"""Checks of notebook 12: the training loop, the learning rate, clipping, a step of AdamW, the samples of a step.

p is a parameter, g its gradient. Steps count from 0, AdamW's t from 1.
"""

import numpy as np

from minimask import optim
from minimask.check.engine import Check
from minimask.tensor import Parameter

_rng = np.random.default_rng(12)

# ------------------------------------------------------------------------------------------------------------ the loop


def _fit(x, t, w, rate, steps, average=True, forget=True):
    """forget: False for gradients that add up from step to step."""
    w, gradient = w.copy(), np.zeros_like(w)
    for _ in range(steps):
        gradient = gradient * (not forget) + x.T @ (x @ w - t) / (len(x) if average else 1)
        w = w - rate * gradient
    return w


def _line(rng, steps):
    return dict(
        x=rng.standard_normal((6, 2)), t=rng.standard_normal(6), w=rng.standard_normal(2), rate=0.1, steps=steps
    )


fit = Check(
    reference=_fit,
    cases={
        "three steps": _line(_rng, 3),
        "one number, one step: 1 - 0.1 * 4": dict(
            x=np.array([[2.0]]), t=np.array([0.0]), w=np.array([1.0]), rate=0.1, steps=1
        ),
        "no step": _line(_rng, 0),
        "already at the minimum: the gradient is 0": dict(
            x=np.array([[1.0], [2.0]]), t=np.array([3.0, 6.0]), w=np.array([3.0]), rate=0.1, steps=5
        ),
    },
    random=lambda rng: _line(rng, int(rng.integers(1, 20))),
    covers="zero, one and many steps",
    mistakes={
        "gradients add up from step to step: each step starts from zero (zero_grad)": lambda *a: _fit(*a, forget=False),
        "the gradient of the sum: the loss is the mean over the samples": lambda *a: _fit(*a, average=False),
        "a step uphill: go against the gradient": lambda x, t, w, rate, steps: _fit(x, t, w, -rate, steps),
        "one step too many": lambda x, t, w, rate, steps: _fit(x, t, w, rate, steps + 1),
        "always one step, regardless of `steps`": lambda x, t, w, rate, steps: _fit(x, t, w, rate, 1),
        "the derivative of e^2: the derivative of half the square is e, without a 2": lambda x, t, w, rate, steps: _fit(
            x, t, w, 2 * rate, steps
        ),
    },
)

# --------------------------------------------------------------------------------------------------- the learning rate


def _rate(step, steps, rate, warm_up, milestones, start=0.001):
    return rate * optim.warm_up_factor(step, warm_up, start) * optim.step_factor(step / steps, milestones)


def _of(step, steps=100, rate=0.01, warm_up=20, milestones=(0.67, 0.89)):
    return dict(step=step, steps=steps, rate=rate, warm_up=warm_up, milestones=milestones)


rate_at = Check(
    reference=_rate,
    cases={
        "the first step: a thousandth": _of(0),
        "halfway through the warm-up": _of(10),
        "the warm-up is over": _of(20),
        "just before the first milestone": _of(66),
        "at the first milestone": _of(67),
        "after both": _of(95),
        "no warm-up": _of(0, warm_up=0),
        "no milestones": _of(99, milestones=()),
        "a milestone within the warm-up: both count": _of(16, steps=30, milestones=(0.5,)),
    },
    random=lambda rng: _of(int(rng.integers(200)), 200, 0.02, int(rng.integers(0, 60)), (0.3, 0.6, 0.9)),
    covers="before, at and after each change; no warm-up; no milestones",
    mistakes={
        "a warm-up that begins at 0, which wastes the first step": lambda *a: _rate(*a, start=0.0),
        "the warm-up is missing": lambda step, steps, rate, warm_up, m: _rate(step, steps, rate, 0, m),
        "the warm-up is one step late: step `warm_up` has the whole rate": lambda s, n, r, w, m: (
            _rate(max(s - 1, 0), n, r, w, ()) * _rate(s, n, 1.0, 0, m)
        ),
        "milestones treated as step numbers: they are fractions of the run": lambda s, n, r, w, m: (
            _rate(s, n, r, w, ()) * 0.1 ** sum(s >= x for x in m)
        ),
        "only the first milestone": lambda s, n, r, w, m: _rate(s, n, r, w, m[:1]),
        "a milestone takes effect one step late: it counts from step = fraction * steps on": lambda s, n, r, w, m: (
            _rate(s, n, r, w, ()) * 0.1 ** sum(s / n > x for x in m)
        ),
        "the warm-up replaces the milestones: both count": lambda s, n, r, w, m: (
            _rate(s, n, r, w, ()) if s < w else _rate(s, n, r, w, m)
        ),
    },
)

# ------------------------------------------------------------------------------------------------------------ clipping


def _length(gradients):
    return np.sqrt(sum((g**2).sum() for g in gradients))


def _clip(gradients, most):
    length = _length(gradients)
    return [g * min(1.0, most / length) if length else g for g in gradients]


def _each(gradients, most):
    return [_clip([g], most)[0] for g in gradients]


clip_gradients = Check(
    reference=_clip,
    cases={
        "two arrays with a total length of 13, to 2.6": dict(
            gradients=[np.array([3.0, 4.0]), np.array([[12.0]])], most=2.6
        ),
        "short enough: nothing changes": dict(gradients=[np.array([3.0, 4.0]), np.array([[12.0]])], most=20.0),
        "all zero": dict(gradients=[np.zeros(2), np.zeros((1, 2))], most=1.0),
        "one array": dict(gradients=[np.array([-30.0, 40.0])], most=5.0),
    },
    random=lambda rng: dict(
        gradients=[rng.standard_normal(n) for n in ((2, 3), (4,), (1, 2, 2))], most=float(rng.uniform(0.5, 5))
    ),
    rtol=1e-5,
    covers="long, short and zero gradients of several shapes",
    results=("the first array", "the second array"),
    view_allowed=True,
    mistakes={
        "each array clipped on its own, which changes the direction": _each,
        "each number clipped, which changes the direction": lambda g, most: [np.clip(a, -most, most) for a in g],
        "every gradient scaled to that length: short ones stay as they are": lambda g, most: [
            a * most / max(_length(g), 1e-12) for a in g
        ],
        "the square of the length instead of the length": lambda g, most: [
            a * min(1.0, most / max(_length(g) ** 2, 1e-12)) for a in g
        ],
    },
)

# --------------------------------------------------------------------------------------------------------------- AdamW


def _adamw(p, g, m, v, t, rate, beta1, beta2, eps, decay):
    optimizer = optim.AdamW([Parameter(p)], rate, (beta1, beta2), eps, decay)
    optimizer.steps = t
    p, m, v = p.copy(), m.copy(), v.copy()
    optimizer.update(p, g, m, v, decay, 1.0)
    return p, m, v


def _adam_l2(p, g, m, v, t, rate, beta1, beta2, eps, decay):
    return _adamw(p, g + decay * p, m, v, t, rate, beta1, beta2, eps, 0.0)


def _with(step, **changed):
    """AdamW with p computed differently, by step(...) from the new m and v."""

    def wrong(p, g, m, v, t, rate, beta1, beta2, eps, decay):
        _, m, v = _adamw(p, g, m, v, t, rate, beta1, beta2, eps, decay)
        return step(p, m, v, m / (1 - beta1**t), v / (1 - beta2**t), rate, eps, decay), m, v

    return wrong


def _state(rng, t, decay=0.01, n=3):
    return dict(
        p=rng.standard_normal(n),
        g=rng.standard_normal(n),
        m=0.5 * rng.standard_normal(n),
        v=rng.uniform(0.1, 1, n),
        t=t,
        rate=0.01,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        decay=decay,
    )


_FIRST = dict(
    p=np.array([1.0, 2.0]),
    g=np.array([0.001, -50.0]),
    m=np.zeros(2),
    v=np.zeros(2),
    t=1,
    rate=0.01,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    decay=0.0,
)

adamw_step = Check(
    reference=_adamw,
    cases={
        "the tenth step": _state(_rng, 10),
        "the first step: every number moves by the learning rate": _FIRST,
        "no gradient: the averages decay": {**_state(_rng, 3), "g": np.zeros(3)},
        "weight decay alone": {**_FIRST, "g": np.zeros(2), "decay": 0.1},
        "a large eps": {**_state(_rng, 2), "eps": 0.5},
    },
    random=lambda rng: _state(rng, int(rng.integers(1, 30)), float(rng.uniform(0, 0.1)), int(rng.integers(1, 5))),
    covers="the first and later steps, weight decay, eps",
    results=("p", "m", "v"),
    mistakes={
        "averages without bias correction, m / (1 - beta1^t) and v / (1 - beta2^t)": _with(
            lambda p, m, v, fair_m, fair_v, rate, eps, decay: p - rate * decay * p - rate * m / (np.sqrt(v) + eps)
        ),
        "v without the square root: it is an average of squares": _with(
            lambda p, m, v, fair_m, fair_v, rate, eps, decay: p - rate * decay * p - rate * fair_m / (fair_v + eps)
        ),
        "eps inside the square root": _with(
            lambda p, m, v, fair_m, fair_v, rate, eps, decay: (
                p - rate * decay * p - rate * fair_m / np.sqrt(fair_v + eps)
            )
        ),
        "weight decay is not multiplied by the learning rate": _with(
            lambda p, m, v, fair_m, fair_v, rate, eps, decay: p - decay * p - rate * fair_m / (np.sqrt(fair_v) + eps)
        ),
        "no weight decay": _with(
            lambda p, m, v, fair_m, fair_v, rate, eps, decay: p - rate * fair_m / (np.sqrt(fair_v) + eps)
        ),
        "weight decay added to the gradient: that is Adam with L2; AdamW keeps it out of m and v": _adam_l2,
        "a step uphill": _with(
            lambda p, m, v, fair_m, fair_v, rate, eps, decay: (
                p - rate * decay * p + rate * fair_m / (np.sqrt(fair_v) + eps)
            )
        ),
    },
)

# ------------------------------------------------------------------------------------------- which samples a step sees


def _places(step, batch_size, count):
    return np.array([divmod(step * batch_size + i, count) for i in range(batch_size)])


def _every_epoch_from_its_start(step, batch_size, count):
    """Drops the last batch of each epoch if it is not full."""
    epoch, batch = divmod(step, max(count // batch_size, 1))
    return np.array([(epoch, (batch * batch_size + i) % count) for i in range(batch_size)])


batch_places = Check(
    reference=_places,
    cases={
        "10 samples, batches of 4: step 2 ends in the next epoch": dict(step=2, batch_size=4, count=10),
        "the first step": dict(step=0, batch_size=4, count=10),
        "step 7": dict(step=7, batch_size=4, count=10),
        "batches that fit": dict(step=5, batch_size=5, count=10),
        "a batch larger than the dataset": dict(step=1, batch_size=7, count=3),
        "a batch of one": dict(step=12, batch_size=1, count=5),
    },
    random=lambda rng: dict(
        step=int(rng.integers(100)), batch_size=int(rng.integers(1, 9)), count=int(rng.integers(1, 20))
    ),
    covers="batches that fit, and batches that reach into the next epoch",
    grid=(0, 1),
    mistakes={
        "the epoch of the first sample used for the whole batch": lambda step, n, count: np.array(
            [(step * n // count, (step * n + i) % count) for i in range(n)]
        ),
        "the last batch of an epoch is dropped, instead of filled up with samples of the next epoch": (
            _every_epoch_from_its_start
        ),
        "place and epoch swapped: the epoch comes first": lambda step, n, count: _places(step, n, count)[:, ::-1],
        "steps counted from 1": lambda step, n, count: _places(step - 1, n, count) if step else _places(1, n, count),
        "places do not start again in the next epoch": lambda step, n, count: np.array(
            [((step * n + i) // count, step * n + i) for i in range(n)]
        ),
    },
)
