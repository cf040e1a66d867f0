"""Trials that were given up are ended; the rest is Tune's business."""

from types import SimpleNamespace
from typing import Any

from ray.exceptions import RayTaskError
from ray.tune.schedulers import AsyncHyperBandScheduler

from lttune.spec.search import Asha, SearchSpec
from lttune.tuning.restarts import Restarts
from lttune.tuning.scheduler import scheduler_of
from lttune.tuning.thrift import Thrift


def test_given_up_trials_are_stopped_once(spec: SearchSpec) -> None:
    restarts = Restarts(max_failures=0)
    scheduler = scheduler_of(spec, restarts, max_epochs=4)
    stopped: list[Any] = []
    controller = SimpleNamespace(stop_trial=stopped.append)
    trial = SimpleNamespace(config={"job": SimpleNamespace(name="trial 1")}, last_result=None)
    assert scheduler.choose_trial_to_run(controller) is None
    assert stopped == []
    restarts.failed(trial, RayTaskError("step", "KeyError", KeyError()))
    for _ in range(2):
        assert scheduler.choose_trial_to_run(controller) is None
    assert stopped == [trial]


def test_asha_where_the_space_asks_for_it(spec: SearchSpec) -> None:
    asked = spec.model_copy(update={"search": spec.search.model_copy(update={"asha": Asha(first_rung_epochs=2)})})
    assert isinstance(scheduler_of(asked, Restarts(0), max_epochs=4), AsyncHyperBandScheduler)
    assert not isinstance(scheduler_of(spec, Restarts(0), max_epochs=4), AsyncHyperBandScheduler)


def test_ended_trials_are_emptied_between_events() -> None:
    known = SimpleNamespace(last_result={"a": 1}, metric_analysis={"a": {}}, metric_n_steps={"a": {}})
    trial = SimpleNamespace(config={"job": "large"}, evaluated_params={"job": "large"}, run_metadata=known)
    thrift = Thrift()
    thrift.on_trial_complete(0, [], trial)
    assert trial.config == {"job": "large"}
    thrift.on_step_begin(1, [])
    assert (trial.config, trial.evaluated_params) == ({}, {})
    assert (known.last_result, known.metric_analysis, known.metric_n_steps) == ({}, {}, {})
