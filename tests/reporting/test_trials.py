"""Trials as Optuna draws them."""

from typing import Any

import pytest
from optuna.trial import TrialState

from lttune.reporting.trials import drawable, importances, read_trials, two_metrics, varied


def test_a_copy_has_short_names_and_the_same_numbers(make_study: Any) -> None:
    record = make_study("mine", tuned=(50.0, None, 51.0))
    trials = read_trials(record)
    study = drawable(trials, "max")
    copies = study.get_trials()
    assert [trial.state for trial in copies] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert set(copies[2].params) == {
        "score threshold",
        "background ratio rare",
        "background ratio common",
        "background ratio frequent",
        "lr",
    }
    assert copies[2].params["lr"] == trials[2].params["optim.lr"]
    assert copies[2].intermediate_values == {1: 50.0, 2: 51.0}
    assert study.best_trial.number == 2


def test_a_study_that_has_not_begun_has_no_trials(make_study: Any) -> None:
    assert read_trials(make_study("new", tuned=())) == []


def test_pairs_of_metrics_leave_out_what_is_undefined(make_study: Any) -> None:
    trials = read_trials(make_study("mine", tuned=(50.0, None, 51.0)))
    trials[0].user_attrs["metrics"] = {**trials[0].user_attrs["metrics"], "AP_r": None}
    front = two_metrics(trials, "AP_r", "AP_f")
    assert [trial.user_attrs["number"] for trial in front.get_trials()] == [2]


def test_importances_are_shares(make_study: Any) -> None:
    study = drawable(read_trials(make_study("mine")), "max")
    common, names = varied(study)
    assert common == names
    found = importances(study, common)
    assert list(found) == common
    assert sum(found.values()) == pytest.approx(1)


def test_one_trial_varies_nothing(make_study: Any) -> None:
    study = drawable(read_trials(make_study("mine", tuned=(50.0,))), "max")
    assert varied(study) == ([], [])
    assert importances(study, []) == {}


def test_conditional_parameters_are_not_common(make_study: Any) -> None:
    trials = read_trials(make_study("mine"))
    for trial in trials[:2]:
        del trial.params["optim.lr"], trial.distributions["optim.lr"]
    common, names = varied(drawable(trials, "max"))
    assert "lr" not in common
    assert names == [*common, "lr"]
