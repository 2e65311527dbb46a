"""Mutants that no test can kill, because the program does the same with them: see mutate.py.

Per module a list of (the line as it is, the line as it is changed, why it makes no difference). Of a statement that
takes several lines, its first.
"""

EQUIVALENT = {
    "losses": [
        (
            "loss = xp.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta)",
            "loss = xp.where(size <= beta, d * d * (0.5 / beta), size - 0.5 * beta)",
            "both parts are beta / 2 where they meet",
        ),
    ],
    "targets": [
        (
            "positives, is_positive = smallest(xp.where(labels == 1, priority, 2), max_positives)  # (N, P)",
            "positives, is_positive = smallest(xp.where(labels == 1, priority, 3), max_positives)  # (N, P)",
            "priorities are below 1, so that any number from 2 on means never",
        ),
        (
            "background, is_background = smallest(xp.where(labels == 0, priority, 2), count)  # (N, S)",
            "background, is_background = smallest(xp.where(labels == 0, priority, 3), count)  # (N, S)",
            "priorities are below 1, so that any number from 2 on means never",
        ),
        (
            "is_background &= xp.arange(count) < count - found  # they take the places that are left",
            "pass  # they take the places that are left",
            "positives come first in the stable order, which is then cut to the count",
        ),
    ],
}
