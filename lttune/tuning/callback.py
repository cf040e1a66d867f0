"""Ray's trial events to the study's storage, the trackers and whoever watches."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune

from lttune.tracking.base import Tracker
from lttune.tuning.confirm import Confirmation
from lttune.tuning.jobs import ConfirmationJob, TrialJob
from lttune.tuning.listener import Listener
from lttune.tuning.study import StudyStore
from lttune.types import TrialResult, TrialState

logger = logging.getLogger(__name__)


class StudyCallback(tune.Callback):
    """Records every report and every end of a trial, once each, whatever was restarted in between."""

    def __init__(self, store: StudyStore, trackers: Sequence[Tracker], listener: Listener) -> None:
        self._store = store
        self._trackers = trackers
        self._listener = listener
        self._reported: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if not isinstance(job, TrialJob) or job.number in self._reported:
            return
        self._reported[job.number] = 0
        self._listener.trial_starts(job.number, job.params, epochs=job.config.schedule.epochs)
        differs = job.config.differs_from_published
        tags = {"method": job.config.method, "fidelity": job.config.fidelity, "differs": "; ".join(differs)}
        for tracker in self._trackers:
            tracker.start_trial(job.number, params=job.params, config=job.config.to_dict(), tags=tags)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        job = trial.config["job"]
        if not isinstance(job, TrialJob):
            return
        number, metric = job.number, self._store.spec.objective.metric
        for record in result["epochs"]:
            if record["epoch"] <= self._reported.get(number, 0):
                continue
            self._reported[number] = record["epoch"]
            metrics = {"loss": record["loss"], "lr": record["lr"], "seconds": record["seconds"], **record["metrics"]}
            self._store.report(number, record["epoch"], record["metrics"].get(metric, math.nan))
            for tracker in self._trackers:
                tracker.report(number, step=record["epoch"], metrics=metrics)
            self._listener.trial_reports(number, record["epoch"], record["metrics"], record["seconds"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if not isinstance(job, TrialJob):
            return
        result = trial.last_result or {}
        reason = result.get("failure")
        metrics: dict[str, float] = dict(result.get("metrics") or {})
        state: TrialState = "COMPLETE"
        if reason is None and not math.isfinite(metrics.get(self._store.spec.objective.metric, math.nan)):
            reason = f"the objective {self._store.spec.objective.metric} is undefined on this data"
        if reason is not None:
            state = "FAIL"
        elif result.get("epoch", 0) < job.config.schedule.epochs:
            state = "PRUNED"
        self.end(
            job,
            state,
            metrics=metrics,
            seconds=result.get("seconds"),
            reason=reason,
            applied=result.get("applied_hash"),
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if not isinstance(job, TrialJob):
            return
        result = trial.last_result or {}
        self.end(job, "FAIL", metrics={}, seconds=result.get("seconds"), reason=_reason(trial), applied=None)

    def end(
        self,
        job: TrialJob,
        state: TrialState,
        *,
        metrics: Mapping[str, float],
        seconds: float | None,
        reason: str | None,
        applied: str | None,
    ) -> None:
        """Record the end of a trial everywhere."""
        result = TrialResult(
            number=job.number,
            state=state,
            params=job.params,
            metrics=metrics,
            seconds=seconds,
            fidelity=job.config.fidelity,
            reason=reason,
            applied_hash=applied,
        )
        self.record(result)

    def record(self, result: TrialResult) -> None:
        """The same for a trial that no worker took."""
        self._store.tell(result)
        for tracker in self._trackers:
            self.end_in(tracker, result)
        self._listener.trial_ends(result)

    @staticmethod
    def end_in(tracker: Tracker, result: TrialResult) -> None:
        """Record the end of a trial in one tracker."""
        known = {"fidelity": result.fidelity, "reason": result.reason, "applied_hash": result.applied_hash}
        seconds = {} if result.seconds is None else {"seconds": result.seconds}
        tracker.end_trial(
            result.number,
            state=result.state,  # type: ignore[arg-type]
            metrics={**result.metrics, **seconds},
            tags={name: value for name, value in known.items() if value},
        )


class ConfirmationCallback(tune.Callback):
    """Records the end of every run of the confirmation, which is no trial and which no tracker hears of."""

    def __init__(self, confirmation: Confirmation) -> None:
        self._confirmation = confirmation

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job, result = trial.config["job"], trial.last_result or {}
        if isinstance(job, ConfirmationJob):
            failure = result.get("failure") or "it ended without a result"
            self._confirmation.record(job.arm, job.seed, found=result.get("found"), failure=failure)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if isinstance(job, ConfirmationJob):
            self._confirmation.record(job.arm, job.seed, failure=_reason(trial))


def _reason(trial: Any) -> str:
    """The last line of what ended a trial, without its traceback."""
    try:
        error = trial.get_error()
    except Exception:  # Ray could not unpickle the worker's exception
        error = None
    text = str(error or "its worker died").strip()
    return text.splitlines()[-1]
