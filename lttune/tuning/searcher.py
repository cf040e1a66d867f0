"""A Ray searcher around Optuna's ask and tell; the study's storage is the truth and nothing of ours is pickled."""

import logging
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from lttune.errors import InputError
from lttune.spec.parameters import Scalar
from lttune.tuning.confirm import ArmRun, Confirmation
from lttune.tuning.jobs import ConfirmationJob, Job, TrialJob
from lttune.tuning.study import StudyStore
from lttune.types import TrialResult

logger = logging.getLogger(__name__)

JobMaker = Callable[[int, dict[str, Scalar]], TrialJob]
RunMaker = Callable[[ArmRun], ConfirmationJob]


class AskTellSearcher(Searcher):
    """Hands out trials that a broken search left unfinished, then asks for new ones, then confirms what they found.

    Args:
        store: the study.
        make_job: a trial's job from its number and parameters; an InputError fails that trial.
        on_refused: told of a trial whose parameters do not go together.
        confirmation: what is left of it is handed out once every trial has been asked for.
        make_run: the job of one of its runs; an InputError fails that run.
        has_waiting: whether a trial that was handed out has no worker, as after the loss of a node; it goes first.
    """

    def __init__(
        self,
        store: StudyStore,
        *,
        make_job: JobMaker,
        on_refused: Callable[[TrialResult], None],
        confirmation: Confirmation,
        make_run: RunMaker,
        has_waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(metric=store.spec.objective.metric, mode=store.spec.objective.mode)
        self._store = store
        self._make_job = make_job
        self._on_refused = on_refused
        self._confirmation = confirmation
        self._make_run = make_run
        self._has_waiting = has_waiting
        self._unfinished = store.unfinished()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        while self._unfinished or self._store.num_asked() < self._store.spec.search.trials:
            number = self._unfinished.pop(0) if self._unfinished else self._store.ask()
            params = self._store.parameters(number)
            try:
                return {"job": self._make_job(number, params)}
            except InputError as error:
                reason = f"these values do not go together: {error}"
                refused = TrialResult(
                    number=number,
                    state="FAIL",
                    params=params,
                    metrics={},
                    reason=reason,
                    failure=type(error).__name__,
                )
                self._on_refused(refused)
        return self._suggest_run()

    def _suggest_run(self) -> dict[str, Any] | str | None:
        is_final = not self._store.unfinished()
        if not is_final and self._has_waiting():
            return None
        while run := self._confirmation.next_run(self._store.results(), is_final=is_final):
            try:
                return {"job": self._make_run(run)}
            except InputError as error:
                self._confirmation.record(run.arm, run.seed, failure=f"these values do not go together: {error}")
        # None is asked again; which runs the best trial needs is known when the last trial has ended.
        return str(Searcher.FINISHED) if is_final else None

    def again(self, job: Job) -> None:
        """Hand out a job anew, before others: its worker was lost."""
        if isinstance(job, TrialJob):
            self._unfinished.insert(0, job.number)
        elif isinstance(job, ConfirmationJob):
            self._confirmation.again(job.arm, job.seed)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The callback records ends, because it alone learns why a trial failed."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a search is rebuilt from its own files."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
