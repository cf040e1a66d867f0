"""A study's storage is the truth: what was asked and told is there again, whatever was killed in between."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lttune.errors import SpecError, StudyError
from lttune.spec.parameters import Scalar
from lttune.spec.search import SearchSpec
from lttune.tuning.study import StudyFolder, StudyStore, find_study, known_studies

OpenStore = Callable[..., StudyStore]
Params = dict[str, Scalar]


def with_search(spec: SearchSpec, **changes: Any) -> SearchSpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update=changes)})


def with_mode(spec: SearchSpec, mode: str) -> SearchSpec:
    return spec.model_copy(update={"objective": spec.objective.model_copy(update={"mode": mode})})


def draw(store: StudyStore, result_of: Any, number_of_trials: int, ap: float = 1.0) -> list[Params]:
    """Parameters of trials that are asked for and end one after the other."""
    drawn = []
    for _ in range(number_of_trials):
        number = store.ask()
        drawn.append(store.parameters(number))
        store.tell(result_of(number, ap * number))
    return drawn


# ---- asking


def test_trial_0_has_the_defaults_and_the_rest_lie_in_their_ranges(
    open_store: OpenStore, spec: SearchSpec, result_of: Any
) -> None:
    drawn = draw(open_store(spec), result_of, 6)
    assert drawn[0] == spec.defaults() == {"loss.score_threshold": 0.7, "schedule.epochs": 3, "optim.lr": 0.01}
    assert len({tuple(params.values()) for params in drawn}) == 6
    for params in drawn:
        assert 0.05 <= params["loss.score_threshold"] <= 0.95  # type: ignore[operator]
        assert params["schedule.epochs"] in (1, 2, 3, 4)
        assert 1e-3 <= params["optim.lr"] <= 0.1  # type: ignore[operator]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_draws_are_a_function_of_seed_and_number(
    sampler: str, open_store: OpenStore, spec: SearchSpec, result_of: Any
) -> None:
    spec = with_search(spec, sampler=sampler)
    unbroken = draw(open_store(spec, "unbroken"), result_of, 6)
    broken = draw(open_store(spec, "broken"), result_of, 2)
    broken += draw(open_store(spec, "broken"), result_of, 1)
    broken += draw(open_store(spec, "broken"), result_of, 3)
    assert broken == unbroken
    other = draw(open_store(with_search(spec, seed=8), "other"), result_of, 6)
    assert other[0] == unbroken[0]
    assert all(first != second for first, second in zip(other[1:], unbroken[1:], strict=True))


def test_random_draws_do_not_depend_on_results(open_store: OpenStore, spec: SearchSpec, result_of: Any) -> None:
    spec = with_search(spec, sampler="random")
    assert draw(open_store(spec, "up"), result_of, 5, ap=1) == draw(open_store(spec, "down"), result_of, 5, ap=-1)


def test_a_trial_that_was_asked_for_before_a_kill_gets_the_same_values(open_store: OpenStore, spec: SearchSpec) -> None:
    unbroken = open_store(spec, "unbroken")
    expected = [unbroken.parameters(unbroken.ask()) for _ in range(3)]
    broken = open_store(spec, "broken")
    for _ in range(3):
        broken.ask()  # and killed before its values were drawn
    again = open_store(spec, "broken")
    assert again.unfinished() == [0, 1, 2]
    assert [again.parameters(number) for number in again.unfinished()] == expected
    assert [again.parameters(number) for number in again.unfinished()] == expected


# ---- several methods


def test_every_methods_published_values_are_run_first(
    open_store: OpenStore, methods_spec: SearchSpec, result_of: Any
) -> None:
    drawn = draw(open_store(methods_spec), result_of, 6)
    assert drawn[:2] == methods_spec.initial()
    assert [params["method"] for params in drawn[:2]] == ["loce", "acsl"]
    assert drawn[0] == methods_spec.defaults() == {"method": "loce", "optim.lr": 0.002, "loss.momentum": 0.9}
    assert {params["method"] for params in drawn[2:]} <= {"loce", "acsl"}


def test_what_another_method_has_is_not_sampled(
    open_store: OpenStore, methods_spec: SearchSpec, result_of: Any
) -> None:
    store = open_store(with_search(methods_spec, sampler="random"))
    drawn = draw(store, result_of, 12)
    assert {params["method"] for params in drawn[2:]} == {"loce", "acsl"}
    for params in drawn:
        own, low, high = {"acsl": ("loss.score_threshold", 1e-3, 0.1), "loce": ("loss.momentum", 1e-4, 0.01)}[
            str(params["method"])
        ]
        assert set(params) == {"method", "optim.lr", own}
        assert low <= params["optim.lr"] <= high  # type: ignore[operator]
    # The storage tells alternatives of one key apart; people see the key.
    assert [dict(trial.params) for trial in store.results().trials] == drawn
    stored = {name for trial in store._trials() for name in trial.params if name.startswith("optim.lr")}
    assert stored == {"optim.lr [method=acsl]", "optim.lr [method=loce]"}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_methods_are_drawn_by_seed_and_number_too(
    sampler: str, open_store: OpenStore, methods_spec: SearchSpec, result_of: Any
) -> None:
    spec = with_search(methods_spec, sampler=sampler)
    unbroken = draw(open_store(spec, "unbroken"), result_of, 6)
    broken = draw(open_store(spec, "broken"), result_of, 1)
    broken += draw(open_store(spec, "broken"), result_of, 3)
    broken += draw(open_store(spec, "broken"), result_of, 2)
    assert broken == unbroken


def test_a_driver_that_is_killed_between_two_of_the_first_trials_loses_and_doubles_none(
    open_store: OpenStore, methods_spec: SearchSpec, result_of: Any
) -> None:
    first = draw(open_store(methods_spec, "whole"), result_of, 4)
    journal = open_store(methods_spec, "broken").folder.journal
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3  # the study, and a trial of each method
    for kept in (1, 2):
        journal.write_bytes(b"".join(lines[:kept]))
        again = open_store(methods_spec, "broken")
        assert [trial.state.name for trial in again._trials()] == ["WAITING", "WAITING"]
    assert draw(open_store(methods_spec, "broken"), result_of, 4) == first


# ---- telling


def test_ends_are_there_again(open_store: OpenStore, spec: SearchSpec, result_of: Any) -> None:
    store = open_store(spec)
    for _ in range(5):
        store.parameters(store.ask())
    store.tell(result_of(0, 41.5, seconds=2.5, fidelity="cached", applied_hash="abc"))
    store.report(1, 1, 20.0)
    store.tell(result_of(1, 20.0, "PRUNED"))
    store.tell(result_of(2, None, "FAIL", reason="the loss became nan"))
    again = open_store(spec)
    trials = again.results().trials
    assert [trial.state for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING"]
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert (trials[0].metrics, trials[0].seconds, trials[0].fidelity) == ({"AP": 41.5}, 2.5, "cached")
    assert trials[0].applied_hash == "abc"
    assert trials[0].params == spec.defaults()
    assert trials[1].metrics == {"AP": 20.0}
    assert trials[2].reason == "the loss became nan"
    assert again.unfinished() == [3, 4]
    assert again.num_asked() == 5
    assert again.ask() == 5


def test_the_first_end_of_a_trial_stays(open_store: OpenStore, spec: SearchSpec, result_of: Any) -> None:
    store = open_store(spec)
    store.ask()
    store.tell(result_of(0, 10.0))
    store.tell(result_of(0, 20.0))
    store.tell(result_of(0, None, "FAIL", reason="late"))
    store.report(0, 9, 5.0)
    (trial,) = open_store(spec).results().trials
    assert (trial.state, trial.metrics, trial.reason) == ("COMPLETE", {"AP": 10.0}, None)


def test_undefined_metrics_come_back_as_nan(open_store: OpenStore, spec: SearchSpec, result_of: Any) -> None:
    store = open_store(spec)
    store.ask()
    store.report(0, 1, math.nan)
    metrics = {"AP": 10.0, "AP_r": math.nan, "AP_c": math.inf}
    store.tell(replace(result_of(0, 10.0), metrics=metrics))
    metrics = open_store(spec).results().trials[0].metrics
    assert metrics["AP"] == 10.0
    assert math.isnan(metrics["AP_r"])
    assert math.isnan(metrics["AP_c"])


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [1.0, 3.0, 2.0], 1),
        ("min", [2.0, 3.0, 1.0], 2),
        ("max", [-1.0, 0.0, -2.0], 1),
        ("min", [1.0, 0.0, 2.0], 1),
        ("max", [0.0, 0.0, 0.0], 0),
        ("min", [5.0, 5.0, 6.0], 0),
    ],
)
def test_best(
    mode: str, values: list[float], best: int, open_store: OpenStore, spec: SearchSpec, result_of: Any
) -> None:
    store = open_store(with_mode(spec, mode))
    assert store.results().best is None
    for value in values:
        store.tell(result_of(store.ask(), value))
    store.tell(result_of(store.ask(), 99.0 if mode == "max" else -99.0, "PRUNED"))
    store.tell(result_of(store.ask(), None, "FAIL"))
    result = store.results()
    assert result.best == best
    assert result.best_trial is not None
    assert result.best_trial.metrics["AP"] == values[best]
    assert result.objective == {"metric": "AP", "mode": mode}


# ---- the file


def test_a_half_written_last_line_is_cut_off(open_store: OpenStore, spec: SearchSpec, result_of: Any) -> None:
    store = open_store(spec)
    store.tell(result_of(store.ask(), 10.0))
    journal = store.folder.journal
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "torn')
    again = open_store(spec)
    assert journal.read_bytes().startswith(whole)
    assert b"torn" not in journal.read_bytes()
    again.tell(result_of(again.ask(), 20.0))
    assert [trial.metrics["AP"] for trial in open_store(spec).results().trials] == [10.0, 20.0]


def test_a_reader_sees_what_a_living_driver_writes(open_store: OpenStore, spec: SearchSpec, result_of: Any) -> None:
    store = open_store(spec)
    store.tell(result_of(store.ask(), 10.0))
    before = store.folder.journal.read_bytes()
    reader = StudyStore(StudyFolder(store.folder.path), spec, is_driver=False)
    assert reader.results() == store.results()
    assert store.folder.journal.read_bytes() == before
    store.parameters(store.ask())
    assert [trial.state for trial in reader.results().trials] == ["COMPLETE", "RUNNING"]


# ---- the folder


def test_a_second_driver_is_told_who_holds_the_study(open_store: OpenStore, spec: SearchSpec) -> None:
    folder = open_store(spec).folder
    second = StudyFolder(folder.path)
    assert second.is_driven()
    with pytest.raises(
        StudyError, match=r"^study 'study' is driven by process \d+ on .* since .*; wait for it or stop"
    ):
        second.acquire()
    folder.release()
    assert not second.is_driven()
    second.acquire()
    second.release()


def test_a_folder_keeps_its_spec(tmp_path: Path, spec: SearchSpec) -> None:
    folder = StudyFolder(tmp_path / "mine")
    assert not folder.exists
    folder.create(spec)
    assert StudyFolder(tmp_path / "mine").load_spec() == spec
    assert folder.checkpoint(12) == tmp_path / "mine" / "checkpoints" / "0012.pt"
    assert folder.run_checkpoint("best", 3) == tmp_path / "mine" / "confirmation" / "best-3" / "run.pt"
    with pytest.raises(StudyError, match=r"^study 'mine' exists in .*; continue it with `lttune resume mine`, or name"):
        folder.create(spec)
    folder.spec_path.write_text(folder.spec_path.read_text().replace("trials:", "trails:"))
    with pytest.raises(SpecError, match="trails: unknown key"):
        folder.load_spec()


def test_what_cannot_be_exported(open_store: OpenStore, spec: SearchSpec, result_of: Any) -> None:
    store = open_store(spec)
    folder = store.folder
    store.parameters(store.ask())
    with pytest.raises(StudyError, match=r"study 'study' has no COMPLETE trial yet\. See: lttune status study"):
        folder.read_trial(spec, "best")
    with pytest.raises(StudyError, match="trial 0 of 'study' is RUNNING; choose a COMPLETE one"):
        folder.read_trial(spec, "0")
    with pytest.raises(StudyError, match="study 'study' has no trial 5; it has 1"):
        folder.read_trial(spec, "5")
    store.tell(result_of(0, 0.0))
    assert folder.read_trial(spec, "best").number == folder.read_trial(spec, "0").number == 0


def test_looks_at_the_report_half_are_listed(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.look_at_report(by="export", what="trial 3")
    folder.look_at_report(by="evaluate", what="split report")
    lines = [json.loads(line) for line in (tmp_path / "report_looks.jsonl").read_text().splitlines()]
    assert [(line["by"], line["what"]) for line in lines] == [("export", "trial 3"), ("evaluate", "split report")]


def test_studies_are_found_by_name_and_by_path(
    tmp_path: Path, spec: SearchSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("second", "first"):
        StudyFolder(tmp_path / name).create(spec)
    assert [folder.name for folder in known_studies(tmp_path)] == ["first", "second"]
    assert find_study("first", tmp_path).path == tmp_path / "first"
    assert find_study(str(tmp_path / "first"), tmp_path / "elsewhere").path == tmp_path / "first"
    monkeypatch.chdir(tmp_path)
    assert find_study("first", tmp_path / "elsewhere").path == tmp_path / "first"
    with pytest.raises(StudyError, match=r"^there is no study 'frist' in .*\. Did you mean 'first'\?$"):
        find_study("frist", tmp_path).load_spec()
    with pytest.raises(StudyError, match=r"^there is no study 'x' in "):
        find_study("x", tmp_path / "elsewhere").load_spec()


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a\nb", "$x"])
def test_names_that_cannot_be_folders(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot name a study; use letters"):
        find_study(name, tmp_path)
