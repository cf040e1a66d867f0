"""Ray's trial events to the study's storage, the trackers and whoever watches."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from lttune.tracking.base import NOTHING, Tracker, epoch_metrics
from lttune.tuning.categories import read_categories
from lttune.tuning.confirm import Confirmation
from lttune.tuning.facts import config_tags
from lttune.tuning.jobs import ConfirmationJob, Job, TrialJob
from lttune.tuning.listener import Listener
from lttune.tuning.restarts import Restarts, error_of, reason_of
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult, TrialState

logger = logging.getLogger(__name__)


class StudyCallback(tune.Callback):
    """Records every report and every end of a trial, once each, whatever was restarted in between.

    Args:
        restarts: which trials were given up.
        again: hands out a job that Tune has ended and that was not given up.
    """

    def __init__(
        self,
        store: StudyStore,
        trackers: Sequence[Tracker],
        listener: Listener,
        restarts: Restarts | None = None,
        again: Callable[[Job], None] | None = None,
    ) -> None:
        self._store = store
        self._trackers = trackers
        self._listener = listener
        self._restarts = restarts or Restarts(max_failures=0)
        self._again = again
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
            metrics = epoch_metrics(record, gpus=job.gpus * job.workers)
            self._store.report(number, record["epoch"], record["metrics"].get(metric, math.nan))
            for tracker in self._trackers:
                tracker.report(number, step=record["epoch"], metrics=metrics)
            self._listener.trial_reports(number, record["epoch"], record["metrics"], record["seconds"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if not isinstance(job, TrialJob):
            return
        result = trial.last_result or {}
        given_up = self._restarts.given_up(job.name)
        reason, failure = given_up or (result.get("failure"), result.get("failure_kind"))
        self._restarts.forget(job.name)
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
        given_up = self._restarts.given_up(job.name)
        if given_up is None and self._again is not None:
            self._again(job)
            return
        reason, failure = given_up or reason_of(error_of(trial))
        self._restarts.forget(job.name)
        seconds = (trial.last_result or {}).get("seconds")
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

    def __init__(
        self,
        confirmation: Confirmation,
        restarts: Restarts | None = None,
        again: Callable[[Job], None] | None = None,
    ) -> None:
        self._confirmation = confirmation
        self._restarts = restarts or Restarts(max_failures=0)
        self._again = again

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job, result = trial.config["job"], trial.last_result or {}
        if isinstance(job, ConfirmationJob):
            found, given_up = result.get("found"), self._restarts.given_up(job.name)
            failure = given_up[0] if given_up else result.get("failure") or "it ended without a result"
            self._restarts.forget(job.name)
            self._confirmation.record(job.arm, job.seed, found=dict(found) if found else None, failure=failure)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = trial.config["job"]
        if not isinstance(job, ConfirmationJob):
            return
        given_up = self._restarts.given_up(job.name)
        if given_up is None and self._again is not None:
            self._again(job)
            return
        self._restarts.forget(job.name)
        self._confirmation.record(job.arm, job.seed, failure=(given_up or reason_of(error_of(trial)))[0])
