"""Lengths of time, what is spent, and what is projected."""

import pytest

from lttune.errors import InputError
from lttune.tuning.budget import Budget, Projection, duration_text, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h30m", 9000), ("45m", 2700), ("90s", 90), ("90", 90), ("1d 12h", 129_600), ("0.5h", 1800), ("1H", 3600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(duration_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-3m", "3 weeks", "30m2h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="2h30m"):
        parse_duration(text)


def test_a_budget_is_spent_when_one_limit_is() -> None:
    budget = Budget(seconds=60, gpu_hours=2)
    assert budget.spent(seconds=59, gpu_hours=1.9) is None
    assert budget.spent(seconds=60, gpu_hours=0) == "--time 1m is over"
    assert budget.spent(seconds=1, gpu_hours=2.5) == "--gpu-hours 2 are spent"
    assert Budget().spent(seconds=1e9, gpu_hours=1e9) is None


def test_a_projection_says_how_far_a_budget_reaches() -> None:
    projection = Projection(trial_seconds=1800, num_trials=20, num_runs=4, at_a_time=4, gpus=0.5, cpus=2)
    assert projection.seconds == 3 * 3600
    assert projection.hours == (24, 6)
    text = projection.text(Budget())
    assert text.endswith("30m each, 4 at a time: 3h, 6 GPU hours")
    text = projection.text(Budget(seconds=5400, gpu_hours=2), spent_gpu_hours=0.5)
    assert "--time is enough for about 12 of these 24" in text
    assert "--gpu-hours are enough for about 6 of these 24" in text
