"""Is a difference shown? Paired seeds: both rows of a pair see the same scenes in the same order, seed by seed.

Twice the standard error is a weak test with few seeds. Where there is no difference at all, chance passes it, with
either sign, in 18 % of the cases with 3 seeds, in 12 % with 5, and in 8 % with 10 (Student's t distribution).
"""

import math
from dataclasses import dataclass

import numpy as np

LEAST_SEEDS = 3


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one claim.

    difference: mean of (better - worse) over the seeds that both rows have.
    error: its standard error; None for a single seed.
    relative: the mean of better divided by that of worse, minus 1; None if that of worse is 0.
    text: "shown", "not shown", "opposite", or "too few seeds".
    seeds: how many there are.
    needed: how many would show a difference of this size with this spread; None unless it is not shown, or if it is 0.
    """

    difference: float
    error: float | None
    relative: float | None
    text: str
    seeds: int
    needed: int | None = None

    def __str__(self):
        hint = "" if self.needed is None else f" ({self.needed} would be needed)"
        return f"{self.text}, {self.seeds} seed{'s' * (self.seeds != 1)}{hint}"


def mean_and_error(values):
    """The mean of numbers and its standard error, which is None for a single one."""
    values = np.asarray(values, float)
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), error


def judge(worse, better):
    """The Verdict on two dicts from seed to number. Raises ValueError if they have no seed in common.

    A difference is shown if it is more than twice its standard error, over at least 3 seeds.
    """
    seeds = sorted(set(worse) & set(better))
    if not seeds:
        raise ValueError(f"judge: no seed in common: {sorted(worse)} and {sorted(better)}")
    mean, error = mean_and_error([better[seed] - worse[seed] for seed in seeds])
    before = float(np.mean([worse[seed] for seed in seeds]))
    numbers = mean, error, mean / before if before else None
    if len(seeds) < LEAST_SEEDS:
        return Verdict(*numbers, "too few seeds", len(seeds))
    if abs(mean) > 2 * error:
        return Verdict(*numbers, "shown" if mean > 0 else "opposite", len(seeds))
    spread = error * math.sqrt(len(seeds))
    return Verdict(*numbers, "not shown", len(seeds), math.floor((2 * spread / mean) ** 2) + 1 if mean else None)
