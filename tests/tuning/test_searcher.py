"""Trials are handed out in order: unfinished ones first, then new ones, until there are enough."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.tune.search import Searcher

from lttune.errors import SpecError
from lttune.spec.search import SearchSpec
from lttune.tuning.searcher import AskTellSearcher
from lttune.tuning.study import StudyStore
from lttune.types import TrialResult

OpenStore = Callable[..., StudyStore]


def numbers(searcher: AskTellSearcher) -> list[int]:
    """Numbers of the trials that are handed out until there is none."""
    found = []
    while (config := searcher.suggest("ray's own id")) != Searcher.FINISHED:
        assert isinstance(config, dict)
        found.append(config["job"].number)
    return found


def refuse_none(result: TrialResult) -> None:
    pytest.fail(f"trial {result.number} was refused: {result.reason}")


def test_new_trials_until_there_are_enough(open_store: OpenStore, spec: SearchSpec, make_job: Any) -> None:
    store = open_store(spec)
    assert numbers(AskTellSearcher(store, make_job, refuse_none, 4)) == [0, 1, 2, 3]
    assert store.num_asked() == 4
    assert store.unfinished() == [0, 1, 2, 3]


def test_jobs_carry_the_drawn_values(open_store: OpenStore, spec: SearchSpec, make_job: Any) -> None:
    store = open_store(spec)
    config = AskTellSearcher(store, make_job, refuse_none, 1).suggest("id")
    assert isinstance(config, dict)
    assert config["job"].params == store.results().trials[0].params == spec.defaults()
    assert config["job"].config.optim.lr == 0.01


def test_unfinished_trials_come_first(
    open_store: OpenStore, spec: SearchSpec, make_job: Any, result_of: Callable[..., TrialResult]
) -> None:
    store = open_store(spec)
    numbers(AskTellSearcher(store, make_job, refuse_none, 4))
    values = {number: store.parameters(number) for number in range(4)}
    store.tell(result_of(1, 10.0))
    store.tell(result_of(2, None, "FAIL"))
    again = open_store(spec)
    searcher = AskTellSearcher(again, make_job, refuse_none, 6)
    first = searcher.suggest("id")
    assert isinstance(first, dict)
    assert (first["job"].number, first["job"].params) == (0, values[0])
    assert numbers(searcher) == [3, 4, 5]


def test_values_that_do_not_go_together_fail_their_trial_and_the_next_is_asked(
    open_store: OpenStore, spec: SearchSpec, make_job: Any
) -> None:
    store = open_store(spec)
    refused: list[TrialResult] = []

    def record(result: TrialResult) -> None:
        refused.append(result)
        store.tell(result)

    def make(number: int, params: Any) -> Any:
        # A combination that no range alone shows.
        values = {**params, "loss.score_threshold": 2.0} if number in {1, 2} else params
        return make_job(number, values)

    assert numbers(AskTellSearcher(store, make, record, 5)) == [0, 3, 4]
    assert [result.number for result in refused] == [1, 2]
    assert refused[0].reason == (
        "these values do not go together: loss.score_threshold is 2.0; ACSL compares it with a sigmoid score, use a "
        "value in (0, 1)."
    )
    states = [trial.state for trial in store.results().trials]
    assert states == ["RUNNING", "FAIL", "FAIL", "RUNNING", "RUNNING"]
    with pytest.raises(SpecError):
        make(1, spec.defaults())


def test_nothing_of_ours_is_pickled(open_store: OpenStore, spec: SearchSpec, make_job: Any) -> None:
    assert AskTellSearcher(open_store(spec), make_job, refuse_none, 1).__getstate__() == {}
