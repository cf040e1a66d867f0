"""Means over seeds with their intervals, paired differences, and what a search of another length would have found."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lttune.tuning.summary import paired_difference


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval; the ends are NaN for a single value, and all is NaN where a metric is undefined."""

    mean: float
    low: float
    high: float
    num: int  # values it is of

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out: of a difference, whether there is one."""
        return self.low > 0 or self.high < 0


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean of values that differ by their seeds alone; None without any."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        mean = known[0] if known else math.nan
        return Estimate(mean=mean, low=math.nan, high=math.nan, num=len(known)) if values else None
    found = paired_difference([0.0] * len(known), known)
    return Estimate(mean=found["mean"], low=found["low"], high=found["high"], num=len(known))


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """Second minus first, over the seeds that both have; None where they share none."""
    return estimate([second[seed] - first[seed] for seed in first if seed in second])


def expected_best(values: Sequence[float], num_trials: int, *, mode: Literal["max", "min"]) -> float:
    """The best of `num_trials` values that are drawn from these without replacement, on average.

    Of n out of N values, the i-th smallest is the largest in C(i - 1, n - 1) of the C(N, n) draws.
    """
    total = len(values)
    assert 1 <= num_trials <= total
    worst_first = sorted(values, reverse=mode == "min")
    draws = math.comb(total, num_trials)
    return sum(math.comb(i, num_trials - 1) / draws * value for i, value in enumerate(worst_first))
