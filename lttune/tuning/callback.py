"""Ray's trial events to the study's storage, the trackers and whoever watches."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.exceptions import RayActorError, RayTaskError

from lttune.tracking.base import NOTHING, Tracker
from lttune.tuning.categories import read_categories
from lttune.tuning.confirm import Confirmation
from lttune.tuning.facts import config_tags
from lttune.tuning.jobs import ConfirmationJob, TrialJob
from lttune.tuning.listener import Listener
from lttune.tuning.study import StudyFolder, StudyStore
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
        tags = config_tags(job.config, job.assets)
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
            metrics = _tracked(record, job)
            self._store.report(number, record["epoch"], record["metrics"].get(metric, math.nan))
            for tracker in self._trackers:
                tracker.report(number, step=record["epoch"], metrics=metrics)
            self._listener.trial_reports(number, record["epoch"], record["metrics"], record["seconds"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if not isinstance(job, TrialJob):
            return
        result = trial.last_result or {}
        reason, failure = result.get("failure"), result.get("failure_kind")
        metrics: dict[str, float] = dict(result.get("metrics") or {})
        state: TrialState = "COMPLETE"
        if reason is None and not math.isfinite(metrics.get(self._store.spec.objective.metric, math.nan)):
            reason = f"the objective {self._store.spec.objective.metric} is undefined on this data"
            failure = "UndefinedObjective"
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
            failure=failure,
            applied=result.get("applied_hash"),
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if not isinstance(job, TrialJob):
            return
        result = trial.last_result or {}
        reason, failure = _reason(trial)
        seconds = result.get("seconds")
        self.end(job, "FAIL", metrics={}, seconds=seconds, reason=reason, failure=failure, applied=None)

    def end(
        self,
        job: TrialJob,
        state: TrialState,
        *,
        metrics: Mapping[str, float],
        seconds: float | None,
        reason: str | None,
        failure: str | None,
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
            failure=failure,
        )
        self.record(result)

    def record(self, result: TrialResult) -> None:
        """The same for a trial that no worker took."""
        self._store.tell(result)
        for tracker in self._trackers:
            self.end_in(tracker, result, self._store.folder)
        self._listener.trial_ends(result)

    @staticmethod
    def end_in(tracker: Tracker, result: TrialResult, folder: StudyFolder) -> None:
        """Record the end of a trial in one tracker."""
        known = {
            "fidelity": result.fidelity,
            "reason": result.reason,
            "applied_hash": result.applied_hash,
            "failure": result.failure,
        }
        categories = read_categories(folder.checkpoint(result.number)) if tracker.keeps_artifacts else None
        seconds = {} if result.seconds is None else {"seconds": result.seconds}
        tracker.end_trial(
            result.number,
            state=result.state,  # type: ignore[arg-type]
            metrics={**result.metrics, **seconds},
            tags={name: value for name, value in known.items() if value},
            artifacts=NOTHING if categories is None else {"per_category.csv": categories},
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
            self._confirmation.record(job.arm, job.seed, failure=_reason(trial)[0])


def _tracked(record: Mapping[str, Any], job: TrialJob) -> dict[str, float]:
    """What trackers are told of an epoch; seconds and GPU hours count from the trial's begin."""
    return {
        "loss": record["loss"],
        **{f"loss/{name}": value for name, value in record["losses"].items()},
        "lr": record["lr"],
        "seconds": record["seconds"],
        "gpu_hours": record["seconds"] * job.gpus / 3600,
        "peak_memory_gb": record["peak_memory_gb"],
        **record["metrics"],
    }


def _reason(trial: Any) -> tuple[str, str]:
    """The last line of what ended a trial, without its traceback, and the kind of that."""
    try:
        error = trial.get_error()
    except Exception:  # Ray could not unpickle the worker's exception
        error = None
    text = str(error or "its worker died").strip()
    if error is None or isinstance(error, RayActorError):
        return text.splitlines()[-1], "WorkerDied"
    return text.splitlines()[-1], type(error.cause if isinstance(error, RayTaskError) else error).__name__
