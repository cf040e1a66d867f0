"""Intervals by hand, and the expected best against every draw there is."""

import itertools
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lttune.reporting.statistics import difference, estimate, expected_best

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=7)


def test_mean_and_interval_of_five_values() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None
    # Student's t with 4 degrees of freedom times the standard error, sqrt(2.5 / 5).
    assert (found.mean, found.num) == (3.0, 5)
    assert found.high - 3.0 == pytest.approx(2.776 * math.sqrt(0.5))
    assert 3.0 - found.low == pytest.approx(2.776 * math.sqrt(0.5))


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    found = estimate([4.0])
    assert found is not None
    assert (found.mean, found.num) == (4.0, 1)
    assert math.isnan(found.low)
    assert not found.is_shown
    assert estimate([]) is None


def test_an_undefined_metric_stays_undefined() -> None:
    found = estimate([math.nan] * 5)
    assert found is not None
    assert math.isnan(found.mean)


def test_differences_are_paired_by_seed() -> None:
    first = {1: 10.0, 2: 20.0, 3: 30.0, 9: -500.0}
    second = {3: 31.1, 1: 11.0, 2: 21.2}
    found = difference(first, second)
    assert found is not None
    assert found.mean == pytest.approx(1.1)
    assert (found.num, found.is_shown) == (3, True)
    assert difference(first, {7: 1.0}) is None


def test_an_interval_that_holds_0_shows_nothing() -> None:
    found = difference({1: 0.0, 2: 0.0, 3: 0.0}, {1: 1.0, 2: -0.5, 3: 0.2})
    assert found is not None
    assert not found.is_shown


@given(VALUES, st.data(), st.sampled_from(["max", "min"]))
def test_expected_best_is_the_mean_over_every_draw(
    values: list[float], data: st.DataObject, mode: Literal["max", "min"]
) -> None:
    num = data.draw(st.integers(1, len(values)))
    pick = max if mode == "max" else min
    slow = np.mean([pick(draw) for draw in itertools.combinations(values, num)])
    assert expected_best(values, num, mode=mode) == pytest.approx(slow, abs=1e-9)
