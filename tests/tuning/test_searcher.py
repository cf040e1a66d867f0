"""Trials are handed out in order: unfinished ones first, new ones until there are enough, then the confirmation."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.tune.search import Searcher

from lttune.errors import SpecError
from lttune.spec.search import SearchSpec
from lttune.tuning.confirm import ArmRun, Confirmation
from lttune.tuning.jobs import ConfirmationJob, TrialJob
from lttune.tuning.searcher import AskTellSearcher
from lttune.tuning.study import StudyStore
from lttune.types import TrialResult

OpenStore = Callable[..., StudyStore]
Open = Callable[..., AskTellSearcher]


def refuse_none(result: TrialResult) -> None:
    pytest.fail(f"trial {result.number} was refused: {result.reason}")


@pytest.fixture
def searcher_of(
    make_job: Any, make_run: Any, confirmation_of: Callable[[StudyStore], Confirmation]
) -> Callable[..., AskTellSearcher]:
    """The searcher of a study, as its driver makes one."""

    def make(store: StudyStore, **changes: Any) -> AskTellSearcher:
        values: dict[str, Any] = {
            "make_job": make_job,
            "on_refused": refuse_none,
            "confirmation": confirmation_of(store),
            "make_run": lambda run: make_run(run.arm, run.seed, run.params),
        }
        return AskTellSearcher(store, **{**values, **changes})

    return make


def suggest(searcher: AskTellSearcher) -> Any:
    """The next job, None where there is none for now, or FINISHED."""
    suggested = searcher.suggest("ray's own id")
    return suggested["job"] if isinstance(suggested, dict) else suggested


def numbers(searcher: AskTellSearcher) -> list[int]:
    """Numbers of the trials that are handed out until there is none."""
    found = []
    while isinstance(job := suggest(searcher), TrialJob):
        found.append(job.number)
    return found


def with_trials(spec: SearchSpec, trials: int) -> SearchSpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update={"trials": trials})})


def test_new_trials_until_there_are_enough(open_store: OpenStore, spec: SearchSpec, searcher_of: Open) -> None:
    store = open_store(with_trials(spec, 4))
    assert numbers(searcher_of(store)) == [0, 1, 2, 3]
    assert store.num_asked() == 4
    assert store.unfinished() == [0, 1, 2, 3]


def test_jobs_carry_the_drawn_values(open_store: OpenStore, spec: SearchSpec, searcher_of: Open) -> None:
    store = open_store(spec)
    job = suggest(searcher_of(store))
    assert job.params == store.results().trials[0].params == spec.defaults()
    assert job.config.optim.lr == 0.01


def test_unfinished_trials_come_first(
    open_store: OpenStore, spec: SearchSpec, searcher_of: Open, result_of: Callable[..., TrialResult]
) -> None:
    store = open_store(with_trials(spec, 4))
    numbers(searcher_of(store))
    values = {number: store.parameters(number) for number in range(4)}
    store.tell(result_of(1, None, "PRUNED"))
    store.tell(result_of(2, None, "FAIL"))
    searcher = searcher_of(open_store(with_trials(spec, 6)))
    first = suggest(searcher)
    assert (first.number, first.params) == (0, values[0])
    assert numbers(searcher) == [3, 4, 5]


def test_values_that_do_not_go_together_fail_their_trial_and_the_next_is_asked(
    open_store: OpenStore, spec: SearchSpec, make_job: Any, searcher_of: Open
) -> None:
    store = open_store(with_trials(spec, 5))
    refused: list[TrialResult] = []

    def record(result: TrialResult) -> None:
        refused.append(result)
        store.tell(result)

    def make(number: int, params: Any) -> Any:
        # A combination that no range alone shows.
        values = {**params, "loss.score_threshold": 2.0} if number in {1, 2} else params
        return make_job(number, values)

    assert numbers(searcher_of(store, make_job=make, on_refused=record)) == [0, 3, 4]
    assert [result.number for result in refused] == [1, 2]
    assert refused[0].reason == (
        "these values do not go together: loss.score_threshold is 2.0; ACSL compares it with a sigmoid score, use a "
        "value in (0, 1)."
    )
    assert store.results().trials[1].failure == refused[0].failure == "SpecError"
    states = [trial.state for trial in store.results().trials]
    assert states == ["RUNNING", "FAIL", "FAIL", "RUNNING", "RUNNING"]
    with pytest.raises(SpecError):
        make(1, spec.defaults())


def test_the_confirmation_follows_the_trials(
    open_store: OpenStore, spec: SearchSpec, searcher_of: Open, result_of: Callable[..., TrialResult]
) -> None:
    store = open_store(with_trials(spec, 3))
    searcher = searcher_of(store)
    assert numbers(searcher) == [0, 1, 2]
    assert suggest(searcher) is None  # no trial is COMPLETE
    store.tell(result_of(0, 10.0))
    runs = [suggest(searcher) for _ in range(6)]
    assert [(run.arm, run.config.seed) for run in runs] == [
        ("stage1", 7),
        *(("trial_0", seed) for seed in range(8, 13)),
    ]
    assert suggest(searcher) is None  # which one is best is not known
    store.tell(result_of(1, 20.0))
    store.tell(result_of(2, None, "FAIL"))
    runs = [suggest(searcher) for _ in range(10)]
    assert [(run.arm, run.config.seed) for run in runs] == [
        (arm, seed) for arm in ("best", "optimiser_only") for seed in range(8, 13)
    ]
    assert [run.params == store.results().trials[1].params for run in runs] == [True] * 5 + [False] * 5
    assert runs[5].config.loss == runs[0].config.loss.__class__()
    assert suggest(searcher) == Searcher.FINISHED


def test_a_search_without_a_complete_trial_is_not_confirmed(
    open_store: OpenStore, spec: SearchSpec, searcher_of: Open, result_of: Callable[..., TrialResult]
) -> None:
    store = open_store(with_trials(spec, 2))
    searcher = searcher_of(store)
    for number in numbers(searcher):
        store.tell(result_of(number, None, "FAIL"))
    assert suggest(searcher) == Searcher.FINISHED


def test_runs_whose_values_do_not_go_together_fail_alone(
    open_store: OpenStore,
    spec: SearchSpec,
    make_run: Any,
    searcher_of: Open,
    confirmation_of: Callable[[StudyStore], Confirmation],
    result_of: Callable[..., TrialResult],
) -> None:
    store = open_store(with_trials(spec, 1))
    confirmation = confirmation_of(store)

    def make(run: ArmRun) -> ConfirmationJob:
        params = {**run.params, "loss.score_threshold": 2.0} if run.seed in {8, 9} else run.params
        job: ConfirmationJob = make_run(run.arm, run.seed, params)
        return job

    searcher = searcher_of(store, confirmation=confirmation, make_run=make)
    numbers(searcher)
    store.tell(result_of(0, 10.0))
    runs = [suggest(searcher) for _ in range(4)]
    assert [run.config.seed for run in runs] == [7, 10, 11, 12]
    assert suggest(searcher) == Searcher.FINISHED
    reasons = confirmation.state["failures"]["trial_0"]
    assert list(reasons) == ["8", "9"]
    assert reasons["8"].startswith("these values do not go together: loss.score_threshold is 2.0")


def test_nothing_of_ours_is_pickled(open_store: OpenStore, spec: SearchSpec, searcher_of: Open) -> None:
    assert searcher_of(open_store(spec)).__getstate__() == {}


def test_a_trial_that_lost_its_worker_goes_before_the_confirmation(
    open_store: OpenStore, spec: SearchSpec, searcher_of: Open, result_of: Callable[..., TrialResult]
) -> None:
    store = open_store(with_trials(spec, 2))
    waiting = [True]
    searcher = searcher_of(store, has_waiting=lambda: waiting[0])
    first, second = suggest(searcher), suggest(searcher)
    store.tell(result_of(0, 10.0))
    assert suggest(searcher) is None
    waiting[0] = False
    assert isinstance(suggest(searcher), ConfirmationJob)
    # Tune has ended it without restarting it.
    searcher.again(second)
    assert suggest(searcher).number == second.number
    assert first.number == 0


def test_a_run_of_the_confirmation_that_was_lost_is_handed_out_again(
    open_store: OpenStore, spec: SearchSpec, searcher_of: Open, result_of: Callable[..., TrialResult]
) -> None:
    store = open_store(with_trials(spec, 1))
    searcher = searcher_of(store)
    suggest(searcher)
    store.tell(result_of(0, 10.0))
    lost = suggest(searcher)
    assert suggest(searcher).name != lost.name
    searcher.again(lost)
    assert suggest(searcher).name == lost.name
