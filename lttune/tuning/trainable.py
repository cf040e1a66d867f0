"""A training run behind Ray's class API: one actor carries trial after trial."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ray import tune

from lttune.engine.assets import Assets
from lttune.engine.config import Recipe, TrainConfig
from lttune.errors import CacheError, InputError, TrialError
from lttune.spec.parameters import Scalar

if TYPE_CHECKING:
    from lttune.engine.run import EpochRecord, TrainingRun


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """All that a worker needs to run one trial, or to go on with it."""

    number: int
    params: Mapping[str, Scalar]
    config: TrainConfig
    assets: Assets
    checkpoint: str
    slice_s: float
    stop_at_evaluation: bool  # so that a scheduler can stop the trial there
    objective: str
    cpus: float
    gpus: float


class MethodTrainable(tune.Trainable):
    """One trial of one method.

    A step is a slice: it trains for `slice_s` seconds, saves, and reports the epochs completed since the last report.
    The checkpoint lies in the study's folder under the trial's number, so that a restarted worker and a resumed
    search both go on from it.
    """

    # What each method trains, by its name; a subclass names its own.
    recipes: ClassVar[Mapping[str, Recipe]] = {}

    @classmethod
    def recipe(cls, method: str) -> Recipe:
        """The published recipe of a method: what trains, and at which fidelity."""
        return cls.recipes[method]

    def setup(self, config: dict[str, Any]) -> None:
        # The driver imports this module to name the class; what trains is imported by workers alone.
        import torch

        from lttune.engine.run import TrainingRun

        self._job: TrialJob = config["job"]
        self._failure: str | None = None
        self._run: TrainingRun | None = None
        self._applied = ""
        self._reported = 0
        torch.set_num_threads(max(1, int(self._job.cpus)))
        device = torch.device("cuda" if self._job.gpus > 0 and torch.cuda.is_available() else "cpu")
        try:
            self._run = TrainingRun(self._job.config, self._job.assets, device=device)
            self._applied = self._run.prove_applied(self._job.params)
            if self._checkpoint.exists():
                self._resume(self._run)
        except (TrialError, InputError) as error:
            self._failure = str(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        run, job = self._run, self._job
        if self._failure is None and run is not None:
            try:
                run.advance(max_seconds=job.slice_s, stop_at_evaluation=job.stop_at_evaluation)
                run.save(self._checkpoint)
            except TrialError as error:
                self._failure = str(error)
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
            "failure": self._failure,
            "done": self._failure is not None or run is None or run.is_finished,
        }

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
