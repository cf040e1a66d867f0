"""Watches the workers of a search: what they hold, when they were heard last, which nodes come and go.

OUT/STUDY/state.json is rewritten every few seconds for `lttune status --why`, wherever that is called.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from lttune.engine.checkpoint import write_json
from lttune.spec.search import Resources
from lttune.tuning.costs import Held, Ledger
from lttune.tuning.departure import draining_nodes
from lttune.tuning.events import EventLog
from lttune.tuning.jobs import Job
from lttune.tuning.placement import why_waiting
from lttune.tuning.restarts import Restarts, error_of, reason_of

# Between two looks at the cluster, and two slices of a trial that are written down.
_LOOK_EVERY_S, _SLICE_EVERY_S = 5.0, 10.0

logger = logging.getLogger(__name__)


@dataclass
class _Hold:
    """One trial in one worker, from its start to its end or its worker's."""

    job: Job
    began: float
    heard: float
    written: float = 0.0
    slices: int = 0
    worked: float = 0.0  # seconds, of training and evaluation
    node: str = ""
    actor: Any = None


class Watch(tune.Callback):
    """Writes down what workers do, restarts silent trials, and keeps the books.

    Args:
        state_file: rewritten every few seconds.
        resources: of one trial.
        on_restart: told of a trial, by its name, and why it starts again.
    """

    def __init__(
        self,
        state_file: Path,
        resources: Resources,
        *,
        restarts: Restarts,
        ledger: Ledger,
        events: EventLog,
        on_restart: Callable[[str], None],
    ) -> None:
        self._file = state_file
        self._resources = resources
        self._held = Held(resources.cpus * resources.workers, resources.gpus * resources.workers)
        self._restarts = restarts
        self._ledger = ledger
        self._events = events
        self._on_restart = on_restart
        self._holds: dict[str, _Hold] = {}
        self._attempts: dict[str, int] = {}
        self._waiting: dict[str, float] = {}
        self._nodes: set[str] = set()
        self._draining: set[str] = set()
        self._looked = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @property
    def gpu_hours(self) -> float:
        """Of this driver, running trials included."""
        now = time.monotonic()
        # What they have reported is in the books already.
        unwritten = sum(now - hold.began - hold.worked for hold in self._holds.values())
        return self._ledger.gpu_hours + unwritten * self._held.gpus / 3600

    @property
    def has_waiting(self) -> bool:
        """Whether something that was handed out has no worker."""
        return bool(self._waiting)

    def handed_out(self, job: Job) -> None:
        """The trial waits for a worker from now on."""
        self._waiting[job.name] = time.monotonic()

    # ---- Ray's events

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        self._look_at_nodes()
        self._end_silent(now)
        self.write_state()
        self._ledger.save()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        now = time.monotonic()
        self._close(trial)  # Ray told of no end where a worker died before its first slice
        self._waiting.pop(job.name, None)
        self._holds[trial.trial_id] = _Hold(job, now, now, actor=trial.temporary_state.ray_actor)
        attempt = self._attempts[trial.trial_id] = self._attempts.get(trial.trial_id, 0) + 1
        held = {"cpus": self._held.cpus, "gpus": self._held.gpus}
        self._events.write("start", run=job.name, attempt=attempt, **held)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        hold = self._holds.get(trial.trial_id)
        if hold is None:
            return
        now = time.monotonic()
        worked, evaluated = result.get("slice_seconds", 0.0), result.get("evaluation_seconds", 0.0)
        self._ledger.add("training", max(0.0, worked - evaluated), self._held)
        self._ledger.add("evaluation", evaluated, self._held)
        hold.worked += worked
        hold.slices += 1
        hold.heard, hold.node = now, result.get("node", "")
        self._restarts.progressed(hold.job.name)
        if now - hold.written >= _SLICE_EVERY_S:
            hold.written = now
            self._events.write(
                "slice",
                run=hold.job.name,
                epoch=result.get("epoch"),
                seconds=worked,
                node=hold.node or None,
                gpu_ids=result.get("gpu_ids") or None,
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Tune restarts none that fails between two trials of a worker; whoever is not given up is handed out again.
        self.on_trial_recover(iteration, trials, trial)
        if self._restarts.given_up(trial.config["job"].name):
            self._end(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = error_of(trial)
        cause = self._restarts.failed(trial, error)
        lost = self._close(trial, is_lost=cause != "moved")
        name = trial.config["job"].name
        self._waiting[name] = time.monotonic()
        why = None if cause in {"node lost", "moved", "silent"} else reason_of(error)[0]
        self._events.write("restart", run=name, cause=cause, lost_seconds=lost, why=why)
        self._on_restart(f"{name} starts again from its last slice: {cause if why is None else why}")

    # ---- the books

    def close(self) -> None:
        """The search is over or broken off: what trials still hold is counted, and nothing is running any more."""
        for hold in self._holds.values():
            self._ledger.add("idle", max(0.0, time.monotonic() - hold.began - hold.worked), self._held)
        self._holds.clear()
        self._ledger.save()
        self._file.unlink(missing_ok=True)

    def _end(self, trial: Any) -> None:
        name, hold, result = trial.config["job"].name, self._holds.get(trial.trial_id), trial.last_result or {}
        seconds = None if hold is None else time.monotonic() - hold.began
        given_up = self._restarts.given_up(name)
        why = given_up[0] if given_up else result.get("failure")
        self._events.write("end", run=name, held_seconds=seconds, epoch=result.get("epoch"), why=why)
        self._close(trial)
        self._waiting.pop(name, None)
        self._attempts.pop(trial.trial_id, None)

    def _close(self, trial: Any, *, is_lost: bool = False) -> float:
        """End a hold; gives the seconds of work that were lost."""
        hold = self._holds.pop(trial.trial_id, None)
        if hold is None:
            return 0.0
        now = time.monotonic()
        lost = now - hold.heard if is_lost else 0.0
        self._ledger.add("lost", lost, self._held)
        self._ledger.add("idle", max(0.0, now - hold.began - hold.worked - lost), self._held)
        return lost

    # ---- the cluster

    def _look_at_nodes(self) -> None:
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if self._nodes:
            for node in self._nodes - nodes:
                self._events.write("node_lost", node=node)
            for node in nodes - self._nodes:
                self._events.write("node_joined", node=node)
        self._nodes = nodes
        draining = set(draining_nodes())
        for node in draining - self._draining:
            self._events.write("node_draining", node=node)
        self._draining = draining

    def _end_silent(self, now: float) -> None:
        limit = self._resources.silent_s
        if limit is None:
            return
        for hold in self._holds.values():
            if now - hold.heard > limit and hold.actor is not None:
                self._restarts.silence(hold.job.name)
                logger.warning("%s reported nothing for %.0f s; its worker is killed.", hold.job.name, limit)
                ray.kill(hold.actor)
                hold.actor = None

    def write_state(self) -> None:
        now, clock = time.monotonic(), time.time()
        state = {
            "time": clock,
            "phase": "trials",
            "running": {
                hold.job.name: {
                    "since": clock - (now - hold.began),
                    "heard": clock - (now - hold.heard),
                    "slices": hold.slices,
                    "node": hold.node,
                }
                for hold in self._holds.values()
            },
            "waiting": {name: clock - (now - since) for name, since in self._waiting.items()},
            "why": why_waiting(self._resources) if self._waiting else None,
        }
        write_state(self._file, state)


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """A disk that refuses it costs the answers of `lttune status --why`."""
    try:
        write_json(state, file)
    except OSError as error:
        logger.warning("%s could not be written: %s", file, error)
