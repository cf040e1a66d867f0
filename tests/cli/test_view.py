"""What a person sees of trials: columns, epochs, and lines elsewhere than on a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from lttune.cli.view import LiveView, PlainView, number, page, trial_table
from lttune.types import StudyResult, TrialResult


def trial(n: int, state: Any = "COMPLETE", **params: Any) -> TrialResult:
    return TrialResult(number=n, state=state, params=params, metrics={"AP": 10.0 + n}, seconds=3.0)


TWO_METHODS = [
    trial(0, method="acsl", **{"loss.score_threshold": 0.7, "optim.lr": 0.01}),
    trial(1, method="loce", **{"loss.momentum": 0.9, "optim.lr": 0.02}),
]
EMPTY = StudyResult(study="mine", objective={"metric": "AP", "mode": "max"}, best=None)


def text(renderable: Any, width: int = 140) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=40)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def live(width: int = 140) -> LiveView:
    return LiveView(Console(file=io.StringIO(), width=width, height=40))


def start(view: LiveView | PlainView, epochs: int | None) -> None:
    view.search_starts(study="mine", trials=4, epochs=epochs, metric="AP", mode="max", finished=EMPTY)


@pytest.mark.parametrize(("value", "shown"), [(1.25, "1.2"), (-0.04, "0.0"), (None, "–"), (float("nan"), "–")])
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_several_methods_have_a_column_and_what_they_share_comes_first() -> None:
    *_, head, first, second = text(trial_table(TWO_METHODS, best=1))
    assert head.split() == [
        "trial",
        "state",
        "AP",
        "AP_r",
        "AP_c",
        "AP_f",
        "time",
        "method",
        "lr",
        "threshold",
        "momentum",
    ]
    assert first.split()[6:] == ["3", "s", "acsl", "0.01", "0.7"]
    assert second.split()[7:] == ["3", "s", "loce", "0.02", "0.9"]


def test_one_method_has_no_column() -> None:
    assert "method" not in " ".join(text(trial_table([trial(0, **{"optim.lr": 0.1})], best=0)))


def test_a_narrow_terminal_keeps_the_method() -> None:
    lines = text(trial_table(TWO_METHODS, best=1, width=60), width=60)
    assert "method" in lines[-3]
    assert "momentum" not in " ".join(lines)


def test_the_start_names_the_epochs_where_all_trials_have_as_many(capsys: pytest.CaptureFixture[str]) -> None:
    for epochs in (8, 1, None):
        start(PlainView(), epochs)
    lines = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["study mine: 4 trials of 8 epochs", "study mine: 4 trials of 1 epoch", "study mine: 4 trials"]


def test_lines_of_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    start(view, None)
    view.trial_starts(1, TWO_METHODS[1].params, epochs=2)
    view.trial_ends(TWO_METHODS[1])
    lines = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
    assert lines[1] == "trial 1 starts: method loce, momentum 0.9, lr 0.02"
    assert lines[2] == "trial 1 COMPLETE: AP 11.0, AP_r –, AP_c –, AP_f – (3 s); best: trial 1"


def test_the_table_shows_each_trials_own_epochs() -> None:
    view = live()
    start(view, None)
    view.trial_starts(0, TWO_METHODS[0].params, epochs=8)
    view.trial_reports(0, 8, {"AP": 10.0}, 2.0)
    view.trial_ends(TWO_METHODS[0])
    view.trial_starts(1, TWO_METHODS[1].params, epochs=2)
    view.trial_reports(1, 1, {"AP": 11.0}, 2.0)
    lines = text(view._render())
    assert next(line for line in lines if "COMPLETE" in line).split()[3] == "8/8"
    assert next(line for line in lines if "RUNNING" in line).split()[2] == "1/2"


def test_a_trial_that_ended_before_the_resume_may_have_had_any_number_of_epochs() -> None:
    for epochs, shown in ((8, "8/8"), (None, "")):
        view = live()
        earlier = StudyResult(study="mine", objective=EMPTY.objective, best=0, trials=(TWO_METHODS[0],))
        view.search_starts(study="mine", trials=4, epochs=epochs, metric="AP", mode="max", finished=earlier)
        line = next(line for line in text(view._render()) if "COMPLETE" in line)
        assert (shown in line.split()) == bool(shown)
        assert ("/" in line) == bool(shown)


def test_the_confirmation_has_a_bar_whose_length_may_grow() -> None:
    view = live()
    view.progress("confirmation", 3, 6)
    view.progress("confirmation", 6, 16)
    line = next(line for line in text(view._render()) if "confirmation" in line)
    assert "6/16" in line


def test_pages_are_wide_where_there_is_no_terminal() -> None:
    assert page().width == 140
