"""Numbers and names as people read them."""

import math

import pytest

from lttune.reporting.text import duration, number, short_names


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (math.nan, "–"), (55.25, "55.2"), (0.0, "0.0"), (-1.26, "-1.3")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (3725, "1:02:05")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_names_are_short_where_they_stay_different() -> None:
    assert short_names(["loss.score_threshold", "optim.lr", "stage1.lr"]) == {
        "loss.score_threshold": "score threshold",
        "optim.lr": "optim.lr",
        "stage1.lr": "stage1.lr",
    }
    assert short_names(["loss.gamma [method=rog.x]"]) == {"loss.gamma [method=rog.x]": "gamma [method=rog.x]"}
