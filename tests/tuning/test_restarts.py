"""What counts against a trial, and when it is given up."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, RayActorError, RayTaskError

from lttune.errors import WorkerLostError
from lttune.tuning.restarts import MAX_WITHOUT_PROGRESS, Restarts, WorkerLeavesError

TRIAL = SimpleNamespace(config={"job": SimpleNamespace(name="one")}, last_result=None)


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("step", f"Traceback:\n{type(error).__name__}: {error}", error)


def died(text: str, **known: Any) -> RayActorError:
    return RayActorError("an actor", text, **known)


NODE = died("The actor died because its node has died. Node Id: 12")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (NODE, "node lost"),
        (NodeDiedError("gone"), "node lost"),
        (ActorUnavailableError("away", None), "node lost"),
        (died("its worker process has died", preempted=True), "node lost"),
        (died("Worker exits with an exit code 1. The process receives a SIGTERM."), "moved"),
        (raised(WorkerLeavesError("the trial goes on elsewhere")), "moved"),
        (ActorDiedError(), "worker died"),
        (raised(WorkerLostError("rank 1 is gone")), "worker died"),
        (None, "worker died"),
        (died("The actor died because of an error raised in its creation task", actor_init_failed=True), "error"),
        (raised(KeyError("x")), "error"),
        ("KeyError: 'x'", "error"),
    ],
)
def test_causes(error: Any, cause: str) -> None:
    assert Restarts(max_failures=2).failed(TRIAL, error) == cause


@pytest.mark.parametrize("error", [NODE, raised(WorkerLeavesError("drained"))])
def test_what_is_not_its_fault_never_ends_a_trial(error: Any) -> None:
    restarts = Restarts(max_failures=0)
    for _ in range(20):
        restarts.failed(TRIAL, error)
    assert restarts.take_given_up() == []
    assert restarts.given_up("one") is None


def test_errors_of_its_own_count_though_it_progresses() -> None:
    restarts = Restarts(max_failures=2)
    for _ in range(2):
        restarts.failed(TRIAL, raised(KeyError("x")))
        restarts.progressed("one")
        assert restarts.take_given_up() == []
    restarts.failed(TRIAL, raised(KeyError("x")))
    assert restarts.take_given_up() == [TRIAL]
    assert restarts.take_given_up() == []
    assert restarts.given_up("one") == ("KeyError: 'x' (the same after 2 restarts)", "KeyError")


def test_workers_that_die_end_a_trial_without_progress_alone() -> None:
    restarts = Restarts(max_failures=0)
    for _ in range(10):
        restarts.failed(TRIAL, ActorDiedError())
        restarts.progressed("one")
    for _ in range(MAX_WITHOUT_PROGRESS - 1):
        restarts.failed(TRIAL, ActorDiedError())
    assert restarts.given_up("one") is None
    restarts.failed(TRIAL, ActorDiedError())
    reason, kind = restarts.given_up("one") or ("", "")
    assert "3 failures in a row without progress" in reason
    assert kind == "WorkerDied"


def test_silence_counts_once() -> None:
    restarts = Restarts(max_failures=2)
    restarts.silence("one")
    assert restarts.failed(TRIAL, ActorDiedError()) == "silent"
    assert restarts.failed(TRIAL, ActorDiedError()) == "worker died"
    restarts.forget("one")
    assert restarts.given_up("one") is None
