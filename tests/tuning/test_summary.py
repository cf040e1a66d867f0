"""Means, standard deviations and intervals of paired runs, against numbers worked by hand."""

import math
from typing import Any

import pytest

from lttune.tuning.summary import paired_difference, summarise

SEEDS = [1, 2, 3, 4, 5]


def runs(ap: list[float]) -> dict[str, Any]:
    """By seed, at two limits: the second has one point less; no rare category."""
    return {
        str(seed): {
            limit: {"AP": value - less, "AP_r": None, "AP_c": value, "AP_f": value}
            for limit, less in (("20", 0.0), ("300", 1.0))
        }
        for seed, value in zip(SEEDS, ap, strict=True)
    }


def state_of(**arms: list[float]) -> dict[str, Any]:
    return {
        "seeds": SEEDS,
        "limits": [20, 300],
        "stage1": runs([7.0] * 5)["1"],
        "runs": {arm: runs(values) for arm, values in arms.items()},
    }


def test_a_difference_that_is_shown() -> None:
    # Differences 1 to 5: mean 3, standard deviation sqrt(2.5); half is 2.776 * sqrt(2.5) / sqrt(5) = 1.96293.
    found = paired_difference([10.0, 10.0, 10.0, 10.0, 10.0], [11.0, 12.0, 13.0, 14.0, 15.0])
    assert found["mean"] == pytest.approx(3.0)
    assert found["low"] == pytest.approx(1.03707, abs=1e-5)
    assert found["high"] == pytest.approx(4.96293, abs=1e-5)
    assert found["is_shown"] is True


def test_a_difference_that_is_not_shown() -> None:
    # Differences -1, 0, 1, 2, 3: mean 1, the same half.
    found = paired_difference([1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    assert found["low"] == pytest.approx(-0.96293, abs=1e-5)
    assert found["is_shown"] is False


def test_a_loss_is_shown_as_well() -> None:
    assert paired_difference([5.0, 6.0, 7.0, 8.0, 9.0], [1.0, 2.1, 2.9, 4.0, 5.0])["is_shown"] is True


def test_pairing_takes_out_what_the_seeds_share() -> None:
    found = paired_difference([10.0, 20.0, 30.0, 40.0, 50.0], [11.0, 21.0, 31.0, 41.0, 51.0])
    assert (found["mean"], found["low"], found["high"], found["is_shown"]) == (1.0, 1.0, 1.0, True)


def test_equal_runs_show_nothing() -> None:
    assert paired_difference([3.0] * 5, [3.0] * 5)["is_shown"] is False


def test_a_pair_with_a_failed_run_is_left_out_and_widens_the_interval() -> None:
    # Differences 1, 3: mean 2, standard deviation sqrt(2); half is 12.706 * sqrt(2) / sqrt(2).
    found = paired_difference([10.0, math.nan, 10.0], [11.0, 12.0, 13.0])
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((2.0, -10.706, 14.706))
    assert found["is_shown"] is False


def test_a_single_pair_shows_nothing() -> None:
    found = paired_difference([10.0, math.nan], [11.0, 12.0])
    assert math.isnan(found["mean"])
    assert found["is_shown"] is False


def test_summary() -> None:
    summary = summarise(state_of(trial_0=[10.0] * 5, best=[11.0, 12.0, 13.0, 14.0, 15.0]))
    assert list(summary) == ["20", "300"]
    part = summary["20"]
    assert list(part) == ["stage1", "trial_0", "best", "difference"]
    assert part["stage1"]["AP"] == 7.0
    assert part["trial_0"]["AP"] == {"mean": 10.0, "std": 0.0}
    assert part["best"]["AP"]["mean"] == 13.0
    assert part["best"]["AP"]["std"] == pytest.approx(math.sqrt(2.5))
    assert part["difference"]["AP"]["mean"] == pytest.approx(3.0)
    assert part["difference"]["AP"]["is_shown"] is True
    assert summary["300"]["best"]["AP"]["mean"] == 12.0
    assert summary["300"]["stage1"]["AP"] == 6.0


def test_the_gain_is_split_between_optimiser_and_loss() -> None:
    trial_0, optimiser_only = [10.0, 11.0, 12.0, 13.0, 14.0], [11.0, 12.1, 12.9, 14.0, 15.0]
    best = [11.5, 11.6, 13.4, 13.5, 15.5]
    part = summarise(state_of(trial_0=trial_0, best=best, optimiser_only=optimiser_only))["20"]
    whole, of_optimiser, of_loss = (
        part[name]["AP"] for name in ("difference", "difference_optimiser", "difference_loss")
    )
    assert whole["mean"] == pytest.approx(1.1)
    assert of_optimiser["mean"] == pytest.approx(1.0)
    assert of_loss["mean"] == pytest.approx(0.1)
    assert (of_optimiser["is_shown"], of_loss["is_shown"]) == (True, False)


def test_a_metric_without_ground_truth_stays_undefined() -> None:
    part = summarise(state_of(trial_0=[10.0] * 5, best=[11.0] * 5))["20"]
    assert math.isnan(part["stage1"]["AP_r"])
    assert math.isnan(part["best"]["AP_r"]["mean"])
    assert math.isnan(part["difference"]["AP_r"]["mean"])
    assert part["difference"]["AP_r"]["is_shown"] is False


def test_failed_runs_are_left_out() -> None:
    state = state_of(trial_0=[10.0, 20.0, 30.0, 40.0, 50.0], best=[11.0, 22.0, 33.0, 44.0, 55.0])
    del state["runs"]["trial_0"]["5"], state["runs"]["best"]["1"], state["stage1"]
    part = summarise(state)["20"]
    assert math.isnan(part["stage1"]["AP"])
    assert part["trial_0"]["AP"]["mean"] == 25.0
    assert part["difference"]["AP"]["mean"] == pytest.approx(3.0)  # of seeds 2, 3 and 4
    state["runs"]["best"] = {}
    part = summarise(state)["20"]
    assert math.isnan(part["best"]["AP"]["mean"])
    assert part["difference"]["AP"]["is_shown"] is False


def test_the_best_trial_may_be_trial_0() -> None:
    assert list(summarise(state_of(trial_0=[10.0] * 5))["20"]) == ["stage1", "trial_0"]
