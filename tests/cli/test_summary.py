"""What is said of a confirmation: the verdict, how the gain splits, and which runs failed."""

import math
from typing import Any

import pytest

from lttune.cli.summary import failed_runs, verdict


def difference(mean: float, half: float) -> dict[str, Any]:
    return {"AP": {"mean": mean, "low": mean - half, "high": mean + half, "is_shown": abs(mean) > half}}


def part(whole: float, optimiser: float, loss: float, half: float = 0.3) -> dict[str, Any]:
    return {
        "difference": difference(whole, half),
        "difference_optimiser": difference(optimiser, half),
        "difference_loss": difference(loss, half),
    }


def test_trial_0_is_best() -> None:
    assert verdict({}, 0) == ["The best trial is trial 0, the published values: the search found nothing better."]


@pytest.mark.parametrize(
    ("mean", "said"),
    [
        (0.5, "AP: trial 7 is 0.5 above trial 0 (five paired seeds, interval without 0)."),
        (-0.5, "AP: trial 7 is 0.5 below trial 0 (five paired seeds, interval without 0)."),
        (0.2, "AP: no difference shown between trial 7 and trial 0 (five paired seeds)."),
        (math.nan, "AP: too few runs of trial 7 and trial 0 ended well to compare them."),
    ],
)
def test_without_a_third_arm_there_is_one_line(mean: float, said: str) -> None:
    assert verdict({"difference": difference(mean, 0.3)}, 7) == [said]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            part(0.5, 0.4, 0.1),
            "Of the gain of 0.5, 0.4 [0.1, 0.7] is the optimiser's, 0.1 [-0.2, 0.4] the loss's: only the optimiser's "
            "is shown.",
        ),
        (
            part(0.5, 0.0, 0.5),
            "Of the gain of 0.5, 0.0 [-0.3, 0.3] is the optimiser's, 0.5 [0.2, 0.8] the loss's: only the loss's is "
            "shown.",
        ),
        (
            part(1.0, 0.5, 0.5),
            "Of the gain of 1.0, 0.5 [0.2, 0.8] is the optimiser's, 0.5 [0.2, 0.8] the loss's: both are shown.",
        ),
        (
            part(-0.2, -0.04, -0.16),
            "Of the difference of -0.2, 0.0 [-0.3, 0.3] is the optimiser's, -0.2 [-0.5, 0.1] the loss's: no difference "
            "shown for either.",
        ),
    ],
)
def test_the_gain_splits_between_optimiser_and_loss(found: dict[str, Any], said: str) -> None:
    assert verdict(found, 7)[1] == said


def test_the_choice_of_another_method_is_not_called_the_optimisers() -> None:
    assert verdict(part(2.5, 2.5, 0.0), 23, of_another_method=True)[1] == (
        "Of the gain of 2.5, 2.5 [2.2, 2.8] is the method's and the optimiser's, 0.0 [-0.3, 0.3] the loss values': "
        "only the method's and the optimiser's is shown."
    )


def test_failed_runs_are_named_with_their_reasons() -> None:
    assert failed_runs({}) == []
    reasons = {"trial_0": {"1": "the loss became nan", "2": "the loss became nan"}, "best": {"3": "its worker died"}}
    assert failed_runs(reasons) == [
        "Confirmation of trial 0: 2 runs failed and are left out: the loss became nan",
        "Confirmation of the best trial: 1 run failed and is left out: its worker died",
    ]
