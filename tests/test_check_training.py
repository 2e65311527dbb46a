"""Checks of notebook 12: right answers pass, typical wrong ones are named, and the text has the talk's numbers."""

import numpy as np

from tests import answers


def fit(x, t, w, rate, steps):
    for _ in range(steps):
        w = w - rate * x.T @ (x @ w - t) / len(x)
    return w.copy()


def rate_at(step, steps, rate, warm_up, milestones):
    factor = 0.001 + 0.999 * step / warm_up if step < warm_up else 1.0
    for part in milestones:
        if step >= part * steps:
            factor *= 0.1
    return rate * factor


def clip_gradients(gradients, most):
    length = np.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, most / (length + 1e-6)) for g in gradients]


def adamw_step(p, g, m, v, t, rate, beta1, beta2, eps, decay):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    move = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p - rate * decay * p - rate * move, m, v


def batch_places(step, batch_size, count):
    row = step * batch_size + np.arange(batch_size)
    return np.stack([row // count, row % count], axis=1)


RIGHT = dict(fit=fit, rate_at=rate_at, clip_gradients=clip_gradients, adamw_step=adamw_step, batch_places=batch_places)


def adding_up(x, t, w, rate, steps):
    gradient = 0
    for _ in range(steps):
        gradient = gradient + x.T @ (x @ w - t) / len(x)
        w = w - rate * gradient
    return w.copy()


def in_place(x, t, w, rate, steps):
    for _ in range(steps):
        w -= rate * x.T @ (x @ w - t) / len(x)
    return w.copy()


def uncorrected(p, g, m, v, t, rate, beta1, beta2, eps, decay):
    return adamw_step(p, g, m, v, 10**9, rate, beta1, beta2, eps, decay)


WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("fit", adding_up, "three steps", "gradients add up from step to step"),
    ("fit", in_place, "three steps", "It changes its argument 'w' in place"),
    ("fit", lambda x, t, w, rate, n: fit(x, t, w, -rate, n), "three steps", "go against the gradient"),
    ("fit", lambda x, t, w, rate, n: fit(x, t, w, rate * len(x), n), "three steps", "the loss is the mean"),
    ("rate_at", lambda s, n, r, w, m: rate_at(s, n, r, 0, m), "the first step", "the warm-up is missing"),
    (
        "rate_at",
        lambda s, n, r, w, m: rate_at(s, 1, r, w, m),
        "halfway through the warm-up",
        "milestones treated as step numbers",
    ),
    ("rate_at", lambda s, n, r, w, m: rate_at(s, n, r, w, m[:1]), "after both", "only the first milestone"),
    ("rate_at", lambda s, n, r, w, m: r * s / w if s < w else rate_at(s, n, r, 0, m), "the first step", "begins at 0"),
    (
        "clip_gradients",
        lambda g, most: [clip_gradients([a], most)[0] for a in g],
        "two arrays",
        "each array clipped on its own, which changes the",
    ),
    ("clip_gradients", lambda g, most: [np.clip(a, -most, most) for a in g], "two arrays", "each number clipped"),
    ("clip_gradients", lambda g, most: [a * most / 13 for a in g], "short enough", "short ones stay as they are"),
    ("clip_gradients", lambda g, most: g[0] * most, "two arrays", "expected 2 results"),
    ("adamw_step", uncorrected, "the tenth step", "averages without bias correction, m / (1 - beta1^t)"),
    ("adamw_step", lambda p, g, *a: adamw_step(p, g + a[-1] * p, *a[:-1], 0.0), "the tenth step", "Adam with L2"),
    ("adamw_step", lambda *a: adamw_step(*a[:-1], 0.0), "the tenth step", "no weight decay"),
    ("adamw_step", lambda *a: adamw_step(*a)[0], "the tenth step", "expected 3 results (p, m, v)"),
    (
        "batch_places",
        lambda s, n, count: batch_places(s, n, count)[:, ::-1].copy(),
        "10 samples",
        "place and epoch swapped: the epoch comes first",
    ),
    ("batch_places", lambda s, n, count: batch_places(s, n, count).astype(float), "10 samples", "holds floating-point"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_notebook_has_the_talks_numbers():
    shown = answers.shown_in("12_training", "TALK")
    assert shown == {  # slides T16 and T17: box AP and AP50 on COCO, ResNet-101-FPN
        "Faster R-CNN w FPN": (36.2, 59.1),
        "Faster R-CNN, RoIAlign": (37.3, 59.6),
        "Mask R-CNN": (38.2, 60.3),
    }
