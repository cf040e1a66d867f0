"""A training run behind Ray's class API: one actor carries trial after trial, and the confirmation after them."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ray import tune

from lttune.engine.config import Recipe, TrainConfig
from lttune.errors import CacheError, InputError, TrialError
from lttune.evaluation.report import headline
from lttune.tuning.categories import write_categories
from lttune.tuning.jobs import ConfirmationJob, Job, TrialJob

if TYPE_CHECKING:
    import torch

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

    @classmethod
    def recipe(cls, method: str) -> Recipe:
        """The published recipe of a method: what trains, and at which fidelity."""
        return cls.recipes[method]

    def setup(self, config: dict[str, Any]) -> None:
        # The driver imports this module to name the class; what trains is imported by workers alone.
        import torch

        self._job: Job = config["job"]
        self._failure: TrialError | InputError | None = None
        self._run: TrainingRun | None = None
        self._applied = ""
        self._reported = 0
        torch.set_num_threads(max(1, int(self._job.cpus)))
        device = torch.device("cuda" if self._job.gpus > 0 and torch.cuda.is_available() else "cpu")
        try:
            self._run = self._build(device)
        except (TrialError, InputError) as error:
            self._failure = error

    def _build(self, device: "torch.device") -> "TrainingRun":
        from lttune.engine.run import TrainingRun

        job = self._job
        config = job.config if job.is_trained else _stage1_as_it_is(job.config)
        run = TrainingRun(config, job.assets, device=device, judged_on=job.judged_on)
        if job.is_trained:
            self._applied = run.prove_applied(job.params)
        if self._checkpoint.exists():
            self._resume(run)
        return run

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        run, job = self._run, self._job
        if self._failure is None and run is not None and job.is_trained:
            try:
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
            "metrics": metrics,
            "objective": metrics.get(job.objective, math.nan),
            "applied_hash": self._applied,
        }

    def _measure(self, limits: tuple[int, ...]) -> dict[str, dict[str, float]] | None:
        """Headline metrics on the report half by limit of detections; None where the run failed."""
        run = self._run
        if run is None or self._failure is not None:
            return None
        judge = run.judge("report")
        return {str(limit): headline(run.evaluate(judge, max_dets=limit).metrics) for limit in limits}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self._run is not None:
            self._run.save(Path(checkpoint_dir) / "run.pt")

    def load_checkpoint(self, checkpoint: Any) -> None:
        if self._run is not None:
            self._run.restore(Path(checkpoint) / "run.pt")

    def cleanup(self) -> None:
        """Leave nothing of this trial behind in a reused worker."""
        import torch

        self._run = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _checkpoint(self) -> Path:
        return Path(self._job.checkpoint)

    def _resume(self, run: "TrainingRun") -> None:
        try:
            run.restore(self._checkpoint)
        except CacheError:
            # A checkpoint that cannot be read is set aside, and the trial runs again from its start.
            shutil.move(self._checkpoint, self._checkpoint.with_suffix(".damaged"))


def _last_metrics(history: list["EpochRecord"]) -> dict[str, float]:
    """Of the last evaluated epoch, never the best one."""
    return next((record.metrics for record in reversed(history) if record.metrics), {})


def _stage1_as_it_is(config: TrainConfig) -> TrainConfig:
    """The stage-1 classifier with its own activation, on what the trials stand on."""
    from lttune.engine.stage1 import stage1_config

    softmax, recipe = stage1_config(config), replace(config.recipe, classifier_start="stage1")
    return replace(config, method=softmax.method, loss=softmax.loss, own_loss=None, recipe=recipe)
