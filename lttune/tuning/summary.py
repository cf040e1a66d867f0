"""What a confirmation says: means, deviations, and paired differences with their intervals.

The interval is Student's t at 95 % over the differences of runs that share a seed; an interval that holds 0 means that
no difference is shown.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lttune.evaluation.report import HEADLINE

ARMS = ("trial_0", "best", "optimiser_only")
# Each is the second arm minus the first.
DIFFERENCES = {
    "difference": ("trial_0", "best"),
    "difference_optimiser": ("trial_0", "optimiser_only"),
    "difference_loss": ("optimiser_only", "best"),
}
# Two-sided 95 % quantiles of Student's t, by degrees of freedom: pairs less one.
_T_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def summarise(state: Mapping[str, Any]) -> dict[str, Any]:
    """Means, standard deviations and paired differences of a confirmation, by limit of detections.

    Args:
        state: see `Confirmation.state`.

    Returns:
        Per limit: `stage1`; per arm `mean` and `std` of each headline metric over the runs that did not fail; and where
        both arms were run, `difference` (best minus trial 0), `difference_optimiser` (optimiser only minus trial 0) and
        `difference_loss` (best minus optimiser only), each as `paired_difference` gives it. What has no ground truth,
        or too few runs, is NaN.
    """
    return {str(limit): _summary_at(str(limit), state) for limit in state["limits"]}


def _summary_at(limit: str, state: Mapping[str, Any]) -> dict[str, Any]:
    stage1 = state.get("stage1", {}).get(limit, {})
    summary: dict[str, Any] = {"stage1": {key: _number(stage1.get(key)) for key in HEADLINE}}
    # A failed run leaves NaN in its seed's place, so that pairs stay pairs.
    columns = {
        arm: {
            key: [_number(runs.get(str(seed), {}).get(limit, {}).get(key)) for seed in state["seeds"]]
            for key in HEADLINE
        }
        for arm, runs in state["runs"].items()
    }
    for arm in ARMS:
        if arm in columns:
            summary[arm] = {key: _spread(column) for key, column in columns[arm].items()}
    for name, (first, second) in DIFFERENCES.items():
        if first in columns and second in columns:
            summary[name] = {key: paired_difference(columns[first][key], columns[second][key]) for key in HEADLINE}
    return summary


def paired_difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Second minus first: `mean`, `low` and `high` of its 95 % interval, and `is_shown`, whether that leaves 0 out.

    A pair with NaN is left out; fewer than two pairs give NaN and show nothing.
    """
    differences = np.subtract(second, first)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "is_shown": False}
    mean = float(np.mean(differences))
    half = float(_T_QUANTILES[len(differences) - 1] * np.std(differences, ddof=1) / math.sqrt(len(differences)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "is_shown": abs(mean) > half}


def _spread(column: Sequence[float]) -> dict[str, float]:
    known = [value for value in column if math.isfinite(value)]
    return {
        "mean": float(np.mean(known)) if known else math.nan,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else math.nan,
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value
