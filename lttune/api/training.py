"""Training without a search, and evaluating what was trained."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lttune.api.shared import OUT, losses_with, open_mlflow, say_nothing
from lttune.engine.assets import Assets, Half, Progress
from lttune.engine.cache import cache_folder
from lttune.engine.config import TrainConfig
from lttune.engine.run import EpochRecord
from lttune.engine.stage1 import best_device
from lttune.export.folder import evaluate_folder
from lttune.export.run_folder import Trained, train_in
from lttune.spec.parameters import Scalar
from lttune.spec.search import SearchSpec
from lttune.tracking.base import Tracker, epoch_metrics
from lttune.tuning.facts import config_tags
from lttune.tuning.study import StudyFolder

if TYPE_CHECKING:
    from lttune.tuning.trainable import MethodTrainable


def train(
    spec: SearchSpec,
    to: str | Path,
    *,
    params: Mapping[str, Scalar] | None = None,
    out: str | Path = OUT,
    mlflow: bool = False,
    workers: int | None = None,
    progress: Progress = say_nothing,
) -> Trained:
    """Train one configuration without a search: the same engine, going on where an earlier call was broken off.

    Args:
        spec: of `load_spec`.
        to: the run's folder, in the end an exported one.
        params: values by dotted key; the spec's defaults, which are trial 0, where left out.
        mlflow: also send everything to the MLflow store of `out`.
        workers: processes of this machine that train it together, each with a share of every batch; the setting's
            `resources.workers` by default. They are spawned, so a script calls this under `if __name__ == "__main__"`.
        progress: told of every unit of work.

    Raises:
        InputError: the folder holds something else, or a run of other values.
        TrialError: the run cannot go on.
        WorkerLostError: one of the workers is gone; the same call goes on.
    """
    folder, out = Path(to).absolute(), Path(out).absolute()
    values = {**spec.defaults(), **(params or {})}
    num_gpus = (workers or spec.on.resources.workers) if best_device().type == "cuda" else 0
    tracked = _TrackedRun(folder, spec, values, store=out if mlflow else None, gpus=num_gpus)
    with tracked:
        trained = train_in(
            folder,
            spec,
            values,
            cache=cache_folder(out),
            progress=progress,
            workers=workers,
            on_start=tracked.start,
            on_epoch=tracked.report,
        )
        tracked.end(trained)
    if not trained.was_finished:
        StudyFolder(folder).look_at_report(by="train", what="the finished run")
    return trained


def evaluate(
    folder: str | Path,
    *,
    split: Half = "report",
    max_dets: int | None = None,
    out: str | Path = OUT,
    data_root: str | Path | None = None,
    trainable: "type[MethodTrainable] | None" = None,
    progress: Progress = say_nothing,
) -> dict[str, float]:
    """The metrics of an exported folder on a half of its validation images, from its weights and the images.

    Args:
        max_dets: another limit of detections per image than the setting's.
        data_root: where relative data paths start; else LTTUNE_DATA.
        trainable: of a method of one's own.

    Raises:
        InputError: the folder is not an exported one.
    """
    metrics = evaluate_folder(
        Path(folder),
        split=split,
        cache=cache_folder(Path(out)),
        progress=progress,
        max_dets=max_dets,
        data_root=None if data_root is None else Path(data_root),
        losses=losses_with(trainable),
    )
    if split != "tune":
        StudyFolder(Path(folder)).look_at_report(by="evaluate", what=f"split {split}")
    return metrics


class _TrackedRun:
    """A run without a search in the MLflow store: a study of one trial."""

    def __init__(
        self, folder: Path, spec: SearchSpec, params: Mapping[str, Scalar], *, store: Path | None, gpus: int
    ) -> None:
        self._gpus = gpus
        self._folder, self._spec, self._params, self._store = folder, spec, params, store
        self._tracker: Tracker | None = None

    def __enter__(self) -> "_TrackedRun":
        return self

    def start(self, config: TrainConfig, assets: Assets) -> None:
        if self._store is None:
            return
        self._tracker = tracker = open_mlflow(self._store, self._folder)
        known = {"setting": self._spec.on.description, "seed": str(config.seed)}
        tags = config_tags(config, assets)
        study_tags = {**known, "method": config.method, "version": tags["version"], "kind": "train"}
        tracker.start_study(self._folder.name, tags=study_tags)
        tracker.start_trial(0, params=self._params, config=config.to_dict(), tags={**known, **tags})

    def report(self, record: EpochRecord) -> None:
        if self._tracker is not None:
            self._tracker.report(0, step=record.epoch, metrics=epoch_metrics(asdict(record), gpus=self._gpus))

    def end(self, trained: Trained) -> None:
        if self._tracker is not None:
            metrics = trained.metrics["report"]
            self._tracker.end_trial(0, state="COMPLETE", metrics=metrics, tags={})
            self._tracker.end_study(state="COMPLETE", metrics=metrics, tags={})

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if self._tracker is None:
            return
        if error is not None:
            is_stopped = isinstance(error, KeyboardInterrupt)
            if not is_stopped:
                self._tracker.end_trial(0, state="FAIL", metrics={}, tags={"reason": str(error)})
            self._tracker.end_study(state="STOPPED" if is_stopped else "FAIL", metrics={}, tags={})
        self._tracker.close(3.0 if error is not None else 60.0)
