"""One training run without a search, in a folder that ends as an export does.

run.json, run.pt   what is trained, and how far it has come; while it trains
train.lock         held by the process that trains
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lttune.engine.assets import Assets, Progress
from lttune.engine.checkpoint import write_json
from lttune.engine.config import TrainConfig, check_shares
from lttune.engine.local_ranks import local_ranks
from lttune.engine.parallel import ALONE, Ranks
from lttune.engine.prepare import prepare
from lttune.engine.run import EpochRecord, TrainingRun
from lttune.engine.stage1 import best_device
from lttune.engine.train import train_to_end
from lttune.errors import InputError, StudyError
from lttune.export.folder import MetricsByHalf, write_run
from lttune.spec.parameters import Scalar
from lttune.spec.search import SearchSpec
from lttune.types import TrialResult

_LOCK = "train.lock"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run.

    Attributes:
        folder: what `lttune evaluate` measures.
        metrics: by half of the validation images; NaN where nothing counts.
        was_finished: whether an earlier call had finished it, so that nothing was done.
    """

    folder: Path
    metrics: MetricsByHalf
    was_finished: bool


def train_in(
    folder: Path,
    spec: SearchSpec,
    params: Mapping[str, Scalar],
    *,
    cache: Path,
    progress: Progress,
    workers: int | None = None,
    on_start: Callable[[TrainConfig, Assets], None] = lambda config, assets: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> Trained:
    """Train one configuration, or go on with it, or find it finished.

    Args:
        folder: new, empty, or of the same run.
        params: values by dotted key; the rest is the spec's.
        cache: where data, stage-1 models and features are shared.
        workers: processes of this machine that train it together; `resources.workers` by default.
        on_start: told before training begins or goes on.
        on_epoch: told of every epoch since the run began.

    Raises:
        InputError: the folder holds something else, or a run of other values; or batches cannot be shared equally.
        StudyError: another process trains in it.
        TrialError: the run cannot go on.
        WorkerLostError: one of the workers is gone.
    """
    config = spec.resolve(params)
    check_shares(config.schedule, workers or spec.on.resources.workers)
    with _held(folder):
        is_known = _check_identity(folder, config)
        metrics_file = folder / "metrics.json"
        if is_known and metrics_file.is_file():
            return Trained(folder=folder, metrics=_read_metrics(metrics_file), was_finished=True)
        assets = prepare(config, cache, progress)
        write_json(config.to_dict(), folder / "run.json")
        on_start(config, assets)
        checkpoint = folder / "run.pt"
        with (
            _ranks(config, assets, checkpoint, workers, spec.on.resources.workers) as ranks,
            (ranks or ALONE).together(),
        ):
            run = TrainingRun(config, assets, device=best_device(), ranks=ranks)
            applied = run.prove_applied(params)
            train_to_end(run, checkpoint, what="training", progress=progress, on_epoch=on_epoch, ranks=ranks or ALONE)
        trial = TrialResult(
            number=0,
            state="COMPLETE",
            params=params,
            metrics=run.history[-1].metrics,
            seconds=run.seconds,
            fidelity=config.fidelity,
            applied_hash=applied,
        )
        metrics = write_run(
            run, spec, trial, title=f"run {folder.name}", folder=folder, name=folder.name, progress=progress
        )
        for leftover in folder.glob("run.*pt"):
            leftover.unlink()
        return Trained(folder=folder, metrics=metrics, was_finished=False)


def _ranks(
    config: TrainConfig, assets: Assets, checkpoint: Path, asked: int | None, of_setting: int
) -> AbstractContextManager[Ranks | None]:
    # One worker that was asked for draws as several do; otherwise it draws as the one worker of a search.
    size = asked or of_setting
    return nullcontext() if asked is None and size == 1 else local_ranks(config, assets, checkpoint, size=size)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StudyError(
            f"another process trains in {folder}; wait for it, or name another folder with --to."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_identity(folder: Path, config: TrainConfig) -> bool:
    """Whether the folder holds this run; raises where it holds anything else."""
    if not (folder / "run.json").is_file():
        if others := sorted(path.name for path in folder.iterdir() if path.name != _LOCK):
            raise InputError(f"{folder} holds {others[0]} and no run; name another folder with --to.")
        return False
    try:
        known = dict(_flat(json.loads((folder / "run.json").read_text(encoding="utf-8"))))
    except ValueError as error:
        raise InputError(f"{folder / 'run.json'}: not JSON ({error}); delete the folder to start again.") from error
    asked = dict(_flat(json.loads(json.dumps(config.to_dict()))))
    for key in {**asked, **known}:
        if asked.get(key) != known.get(key):
            raise InputError(
                f"{folder} holds a run with {key} = {known.get(key)}, not {asked.get(key)}; name another folder with "
                "--to."
            )
    return True


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_metrics(path: Path) -> MetricsByHalf:
    written: dict[str, dict[str, float | None]] = json.loads(path.read_text(encoding="utf-8"))
    return {
        half: {name: float("nan") if value is None else value for name, value in found.items()}
        for half, found in written.items()
    }
