"""A training run behind Ray's class API: one actor carries trial after trial, and the confirmation after them."""

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ray import tune

from lttune.engine.config import Recipe, TrainConfig
from lttune.errors import CacheError, InputError, TrialError
from lttune.evaluation.report import headline
from lttune.tuning.categories import write_categories
from lttune.tuning.departure import Departure
from lttune.tuning.jobs import ConfirmationJob, Job, TrialJob
from lttune.tuning.ranks import Followers
from lttune.tuning.restarts import WorkerLeavesError

if TYPE_CHECKING:
    import torch

    from lttune.engine.parallel import Ranks
    from lttune.engine.run import EpochRecord, TrainingRun
    from lttune.losses.base import ClassificationLoss


class MethodTrainable(tune.Trainable):
    """One trial, or one run of the confirmation, of one method.

    A step is a slice: it trains for `slice_s` seconds, saves, and reports the epochs completed since the last report.
    The checkpoint lies in the study's folder, so that a restarted worker and a resumed search both go on from it. A run
    of the confirmation reports nothing by which a scheduler could stop it, until it has been measured.
    """

    # What each method trains, by its name; a subclass names its own.
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    # Losses of methods that are not lttune's own, by method; a trial's configuration carries the class to the worker.
    losses: ClassVar[Mapping[str, "type[ClassificationLoss]"]] = {}

    _next_config: dict[str, Any] | None = None
    # As long as this worker lives they serve its trials.
    _followers: Followers | None = None

    @classmethod
    def recipe(cls, method: str) -> Recipe:
        """The published recipe of a method: what trains, and at which fidelity."""
        return cls.recipes[method]

    def setup(self, config: dict[str, Any]) -> None:
        # The driver imports this module to name the class; what trains is imported by workers alone.
        import torch

        from lttune.tuning.node_cache import present

        job: Job = config["job"]
        self._job = replace(job, assets=present(job.assets, job.config.data))
        self._failure: TrialError | InputError | None = None
        self._run: TrainingRun | None = None
        self._applied = ""
        self._reported = 0
        # One for all trials of this worker.
        self._departure = getattr(self, "_departure", None) or Departure()
        torch.set_num_threads(max(1, int(self._job.cpus)))
        device = torch.device("cuda" if self._job.gpus > 0 and torch.cuda.is_available() else "cpu")
        try:
            self._run = self._build(device)
        except (TrialError, InputError) as error:
            self._failure = error

    def _build(self, device: "torch.device") -> "TrainingRun":
        from lttune.engine.parallel import ALONE
        from lttune.engine.run import TrainingRun

        job = self._job
        config = job.config if job.is_trained else _stage1_as_it_is(job.config)
        ranks = self._meet_followers(device)
        with (ranks or ALONE).together():
            run = TrainingRun(config, job.assets, device=device, judged_on=job.judged_on, ranks=ranks)
            if job.is_trained:
                self._applied = run.prove_applied(job.params)
            is_restored = self._checkpoint.exists() and self._resume(run)
            if self._followers is not None:
                self._followers.restored(is_restored)
        return run

    def _meet_followers(self, device: "torch.device") -> "Ranks | None":
        """This worker's place among those that train the job; None where it does so alone."""
        job = self._job
        if job.workers == 1 or not job.is_trained:
            return None
        if self._followers is None:
            self._followers = Followers(job.workers, cpus=job.cpus, gpus=job.gpus)
        return self._followers.begin(job, device)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._let_go()
        # Whatever may fail, or die with its node, waits for the first slice: Tune restarts no trial that fails here.
        self._next_config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run one slice.

        Raises:
            WorkerLeavesError: the slice is saved, and another worker has to go on.
        """
        began = time.monotonic()
        if self._next_config is not None:
            config, self._next_config = self._next_config, None
            self.setup(config)
        evaluated = self._run.evaluation_seconds if self._run else 0.0
        with self._departure.after_slice():
            report = self._slice()
        if not report["done"] and (reason := self._departure.reason()):
            raise WorkerLeavesError(f"the trial goes on elsewhere: {reason}.")
        times = {
            "slice_seconds": time.monotonic() - began,
            "evaluation_seconds": self._run.evaluation_seconds - evaluated if self._run else 0.0,
        }
        return {**report, **times, "node": self._departure.node, "gpu_ids": self._departure.gpu_ids}

    def _slice(self) -> dict[str, Any]:
        run, job = self._run, self._job
        if self._failure is None and run is not None and job.is_trained:
            try:
                if self._followers is not None:
                    self._followers.slice()
                run.advance(max_seconds=job.slice_s, stop_at_evaluation=job.stop_at_evaluation)
                if isinstance(job, TrialJob) and run.last_report is not None:
                    write_categories(self._checkpoint, job.assets, run.last_report.per_category)
                run.save(self._checkpoint)
            except TrialError as error:
                self._failure = error
        is_done = self._failure is not None or run is None or run.is_finished or not job.is_trained
        if isinstance(job, TrialJob):
            report = self._trial_report(job)
        else:
            assert isinstance(job, ConfirmationJob)
            report = {"found": self._measure(job.limits) if is_done else None}
        # As text: an error may be one that the driver cannot unpickle.
        failure, kind = (None, None) if self._failure is None else (str(self._failure), type(self._failure).__name__)
        return {**report, "failure": failure, "failure_kind": kind, "done": is_done}

    def _trial_report(self, job: TrialJob) -> dict[str, Any]:
        run = self._run
        records = run.history[self._reported :] if run else []
        self._reported += len(records)
        metrics = _last_metrics(run.history) if run else {}
        return {
            "number": job.number,
            "epoch": run.epoch if run else 0,
            "epochs": [asdict(record) for record in records],
            "seconds": run.seconds if run else 0.0,
            # As pairs: of each number in a mapping Ray keeps a history, 100 KB for a trial.
            "metrics": tuple(metrics.items()),
            "objective": metrics.get(job.objective, math.nan),
            "applied_hash": self._applied,
        }

    def _measure(self, limits: tuple[int, ...]) -> tuple[tuple[str, dict[str, float]], ...] | None:
        """Pairs of a limit of detections and headline metrics on the report half; None where the run failed."""
        run = self._run
        if run is None or self._failure is not None:
            return None
        judge = run.judge("report")
        return tuple((str(limit), headline(run.evaluate(judge, max_dets=limit).metrics)) for limit in limits)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self._run is not None:
            self._run.save(Path(checkpoint_dir) / "run.pt")

    def load_checkpoint(self, checkpoint: Any) -> None:
        if self._run is not None:
            self._run.restore(Path(checkpoint) / "run.pt")

    def cleanup(self) -> None:
        self._let_go()
        if self._followers is not None:
            self._followers.stop()

    def _let_go(self) -> None:
        """Leave nothing of this trial behind in a reused worker."""
        import torch

        if self._followers is not None:
            self._followers.end()
        self._run = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _checkpoint(self) -> Path:
        return Path(self._job.checkpoint)

    def _resume(self, run: "TrainingRun") -> bool:
        try:
            run.restore(self._checkpoint)
            return True
        except CacheError:
            # A checkpoint that cannot be read is set aside, and the trial runs again from its start.
            shutil.move(self._checkpoint, self._checkpoint.with_suffix(".damaged"))
            return False


def _last_metrics(history: list["EpochRecord"]) -> dict[str, float]:
    """Of the last evaluated epoch, never the best one."""
    return next((record.metrics for record in reversed(history) if record.metrics), {})


def _stage1_as_it_is(config: TrainConfig) -> TrainConfig:
    """The stage-1 classifier with its own activation, on what the trials stand on."""
    from lttune.engine.stage1 import stage1_config

    softmax, recipe = stage1_config(config), replace(config.recipe, classifier_start="stage1")
    return replace(config, method=softmax.method, loss=softmax.loss, own_loss=None, recipe=recipe)
