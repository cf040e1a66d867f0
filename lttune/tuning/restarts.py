"""Which failures count against a trial, and when it is given up.

| what happened | counts as |
|---|---|
| a node was lost, drained or preempted, a worker got SIGTERM | nothing: the trial moves |
| a worker died otherwise (killed, out of memory, crashed), or was silent | one failure, until a slice comes |
| an exception in the trial's own code | the same, and one of `max_failures` for good |
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayActorError, RayTaskError

from lttune.errors import LttuneError, WorkerLostError

Cause = Literal["node lost", "moved", "worker died", "silent", "error"]
# Failures in a row, without a slice in between, that end a trial whatever they were.
MAX_WITHOUT_PROGRESS = 3

logger = logging.getLogger(__name__)


class WorkerLeavesError(LttuneError):
    """Raised by a worker that has saved its trial and has to go: its node is drained, or it was told to end."""


@dataclass
class _Record:
    errors: int = 0
    without_progress: int = 0
    silenced: bool = False
    given_up: str | None = None
    kind: str = ""


@dataclass
class Restarts:
    """What every trial has been through; by the name of its job.

    Attributes:
        max_failures: restarts after errors of a trial's own.
    """

    max_failures: int
    _records: dict[str, _Record] = field(default_factory=dict)
    _to_end: list[Any] = field(default_factory=list)

    def progressed(self, name: str) -> None:
        """A slice came."""
        if name in self._records:
            self._records[name].without_progress = 0

    def silence(self, name: str) -> None:
        """The trial's worker is about to be killed, because it reported nothing for too long."""
        self._record(name).silenced = True

    def failed(self, trial: Any, error: Any) -> Cause:
        """Count a failure; a trial that has had too many waits in `take_given_up`.

        Args:
            trial: Ray's.
            error: what ended its worker; None where Ray could not read it.
        """
        record = self._record(trial.config["job"].name)
        cause: Cause = "silent" if record.silenced else _cause(trial, error)
        record.silenced = False
        if cause in {"node lost", "moved"}:
            return cause
        record.without_progress += 1
        record.errors += cause == "error"
        reason, record.kind = reason_of(error)
        if cause == "silent":
            reason, record.kind = "it reported nothing for longer than resources.silent_s", "Silent"
        if record.errors > self.max_failures:
            record.given_up = f"{reason} (the same after {self.max_failures} restarts)" if self.max_failures else reason
        elif record.without_progress >= MAX_WITHOUT_PROGRESS:
            record.given_up = f"{reason} ({MAX_WITHOUT_PROGRESS} failures in a row without progress)"
        if record.given_up:
            self._to_end.append(trial)
        return cause

    def take_given_up(self) -> list[Any]:
        """The trials that are to end now, each once."""
        taken, self._to_end = self._to_end, []
        return taken

    def given_up(self, name: str) -> tuple[str, str] | None:
        """Why a trial was given up, and the kind of that; None where it was not."""
        record = self._records.get(name)
        return None if record is None or record.given_up is None else (record.given_up, record.kind)

    def forget(self, name: str) -> None:
        """The trial has ended."""
        self._records.pop(name, None)

    def _record(self, name: str) -> _Record:
        return self._records.setdefault(name, _Record())


def reason_of(error: Any) -> tuple[str, str]:
    """The last line of what ended a trial, without its traceback, and the kind of that."""
    text = str(error or "its worker died").strip()
    if error is None or isinstance(error, RayActorError):
        return text.splitlines()[-1], "WorkerDied"
    return text.splitlines()[-1], type(error.cause if isinstance(error, RayTaskError) else error).__name__


def error_of(trial: Any) -> Any:
    """What ended a trial's worker last: an exception, its text where Ray cannot unpickle it, or None."""
    # Ray's own `get_error` looks in the storage, where the files come when the whole search has ended.
    if trial.pickled_error_file:
        try:
            return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        except Exception as error:
            logger.debug("The exception of %s cannot be read: %s", trial, error)
    return Path(trial.error_file).read_text() if trial.error_file and Path(trial.error_file).is_file() else None


def _cause(trial: Any, error: Any) -> Cause:
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, WorkerLostError):  # one of several that train the trial together
            return "worker died"
        return "moved" if isinstance(error.cause, WorkerLeavesError) else "error"
    if isinstance(error, NodeDiedError | ActorUnavailableError):
        return "node lost"
    if not isinstance(error, RayActorError):
        return "worker died" if error is None else "error"
    text = str(error)
    if error.preempted or "node has died" in text or _is_node_gone(trial):
        return "node lost"
    if "SIGTERM" in text:
        return "moved"
    return "error" if error.actor_init_failed else "worker died"


def _is_node_gone(trial: Any) -> bool:
    """Whether the node that the trial last reported from is not in the cluster any more."""
    node = (trial.last_result or {}).get("node")
    return bool(node) and ray.is_initialized() and not any(n["NodeID"] == node and n["Alive"] for n in ray.nodes())
