"""Assembles a search: shared assets, Ray Tune, Optuna, trackers; and rebuilds a broken one from its own files."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from lttune.detectors import BACKENDS, resolve_backend
from lttune.engine.assets import Assets, Half
from lttune.engine.config import Recipe, TrainConfig
from lttune.engine.prepare import prepare, prepare_data
from lttune.errors import InputError
from lttune.spec.parameters import Scalar
from lttune.spec.search import Resources, SearchSpec
from lttune.tracking.base import Tracker
from lttune.tracking.jsonl import read_trials
from lttune.tuning.callback import StudyCallback
from lttune.tuning.confirm import confirm, is_confirmed, summarise
from lttune.tuning.listener import Listener, SilentListener
from lttune.tuning.ray_local import local_ray
from lttune.tuning.searcher import AskTellSearcher
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.tuning.trainable import MethodTrainable, TrialJob
from lttune.types import StudyResult

OpenTrackers = Callable[[Path], Sequence[Tracker]]
# How long the end of a search waits for trackers' stores, and an interrupted one.
_PATIENCE_S, _SHORT_PATIENCE_S = 60.0, 3.0


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """What a search leaves.

    Attributes:
        confirmation: trial 0, the best trial and the stage-1 model on the report half, by limit of detections; None
            where no trial is COMPLETE.
        num_untracked: events that no tracker's store has taken yet; they are kept in the study's folder.
    """

    result: StudyResult
    confirmation: Mapping[str, Any] | None
    seconds: float
    num_untracked: int


def run_search(
    spec: SearchSpec,
    folder: StudyFolder,
    *,
    trainable: type[MethodTrainable],
    cache: Path | None = None,
    open_trackers: OpenTrackers = lambda folder: (),
    listener: Listener | None = None,
) -> SearchEnd:
    """Run a new search.

    Args:
        folder: the study's folder, which must not hold a study.
        trainable: runs a trial; it must be importable by Ray's workers.
        cache: where data, stage-1 models and features are shared; `cache` beside the study by default.
        open_trackers: opens the trackers of a study's folder, once it exists and is ours.
        listener: told of progress.

    Raises:
        StudyError: the study exists, or another process is creating it.
        DataError: the setting's data are unusable; nothing was written.
    """
    folder.refuse_existing()
    _check_inputs(spec)
    folder.acquire()
    try:
        folder.create(spec)
        return _Search(spec, folder, trainable, cache, open_trackers, listener or SilentListener()).run()
    finally:
        folder.release()


def resume_search(
    folder: StudyFolder,
    *,
    trainable: type[MethodTrainable],
    cache: Path | None = None,
    open_trackers: OpenTrackers = lambda folder: (),
    listener: Listener | None = None,
) -> SearchEnd:
    """Go on with a search from its own files: finished trials stay, unfinished ones run on under their numbers.

    Raises:
        StudyError: there is no such study, or another process drives it.
    """
    folder.require()
    folder.acquire()
    try:
        spec = folder.load_spec()
        return _Search(spec, folder, trainable, cache, open_trackers, listener or SilentListener()).run()
    finally:
        folder.release()


def _check_inputs(spec: SearchSpec) -> None:
    """Look for the detector and read given annotations before anything is written, so that a bad one costs nothing."""
    if resolve_backend(spec.on.detector) == "detectron2":
        BACKENDS["detectron2"]()
    cpus = os.cpu_count() or 1
    if spec.on.resources.cpus > cpus:
        raise InputError(f"resources.cpus is {spec.on.resources.cpus:g}, but this machine has {cpus}; use fewer.")
    if spec.on.data.glyphs is None:
        assets = prepare_data(spec.on.data, Path(), lambda *_: None)
        for half in get_args(Half):
            assets.half(half)


class _Search:
    """One search while it runs."""

    def __init__(
        self,
        spec: SearchSpec,
        folder: StudyFolder,
        trainable: type[MethodTrainable],
        cache: Path | None,
        open_trackers: OpenTrackers,
        listener: Listener,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._trainable = trainable
        self._cache = cache or folder.path.parent / "cache"
        self._open_trackers = open_trackers
        self._trackers: Sequence[Tracker] = ()
        self._listener = listener
        self._recipe: Recipe = trainable.recipe(spec.method)

    def run(self) -> SearchEnd:
        began = time.monotonic()
        self._trackers = self._open_trackers(self._folder.path)
        patience = _SHORT_PATIENCE_S
        try:
            if self._folder.is_ended:
                result = StudyStore(self._folder, self._spec, is_driver=True).results()
                confirmation = self._known_confirmation(result)
            else:
                result, confirmation = self._search_and_confirm()
                self._folder.mark_ended()
            patience = _PATIENCE_S
        except KeyboardInterrupt:
            for tracker in self._trackers:
                tracker.end_study(state="STOPPED", metrics={}, tags={})
            raise
        finally:
            num_untracked = sum(tracker.close(patience) for tracker in self._trackers)
        return SearchEnd(
            result=result,
            confirmation=confirmation,
            seconds=time.monotonic() - began,
            num_untracked=num_untracked,
        )

    def _search_and_confirm(self) -> tuple[StudyResult, dict[str, Any] | None]:
        spec = self._spec
        store = StudyStore(self._folder, spec, is_driver=True)
        self._start_trackers(store)
        has_trials_left = bool(store.unfinished()) or store.num_asked() < spec.search.trials
        result, confirmation = store.results(), self._known_confirmation(store.results())
        if has_trials_left or (result.best is not None and confirmation is None):
            first = self._config(spec.defaults())
            assets = prepare(first, self._cache, self._listener.progress, num_threads=_idle_cores())
            with local_ray():
                if has_trials_left:
                    self._tune(store, assets)
                result = store.results()
                confirmation = self._confirm(result, assets) if result.best is not None else None
        best = result.best_trial
        for tracker in self._trackers:
            tracker.end_study(
                state="COMPLETE" if best else "FAIL",
                metrics=best.metrics if best else {},
                tags={"best": str(best.number)} if best else {},
            )
        return result, confirmation

    def _config(self, params: Mapping[str, Scalar]) -> TrainConfig:
        return self._spec.resolve(params, self._recipe)

    def _config_if_any(self, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """A trial's configuration as plain values; empty where its values do not go together."""
        try:
            return self._config(params).to_dict()
        except InputError:
            return {}

    def _start_trackers(self, store: StudyStore) -> None:
        spec = self._spec
        tags = {
            "method": spec.method,
            "setting": spec.on.description,
            "objective": f"{spec.objective.mode} {spec.objective.metric}",
            "sampler": spec.search.sampler,
            "seed": str(spec.search.seed),
        }
        # Trackers are told of an end one after the other, `trials.jsonl` last: what is in it, all of them know.
        known = {trial.number for trial in read_trials(self._folder.path)}
        ended = [trial for trial in store.results().trials if trial.state not in {"RUNNING", "WAITING"}]
        for tracker in self._trackers:
            tracker.start_study(
                self._folder.name, tags=tags, artifacts={"spec.yaml": self._folder.spec_path.read_text()}
            )
            # A driver that was killed between the storage and the trackers left these out.
            for trial in (trial for trial in ended if trial.number not in known):
                tracker.start_trial(
                    trial.number,
                    params=trial.params,
                    config=self._config_if_any(trial.params),
                    tags={"method": spec.method},
                )
                StudyCallback.end_in(tracker, trial)

    def _tune(self, store: StudyStore, assets: Assets) -> None:
        spec, resources = self._spec, self._spec.on.resources
        callback = StudyCallback(store, self._trackers, self._listener)

        def make_job(number: int, params: dict[str, Scalar]) -> TrialJob:
            return TrialJob(
                number=number,
                params=params,
                config=self._config(params),
                assets=assets,
                checkpoint=str(self._folder.checkpoint(number)),
                slice_s=resources.slice_s,
                stop_at_evaluation=spec.search.asha is not None,
                objective=spec.objective.metric,
                cpus=resources.cpus,
                gpus=resources.gpus,
            )

        self._listener.search_starts(
            study=self._folder.name,
            trials=spec.search.trials,
            epochs=spec.on.schedule.epochs,
            metric=spec.objective.metric,
            mode=spec.objective.mode,
            finished=store.results(),
        )
        remaining = spec.search.trials - store.num_asked() + len(store.unfinished())
        with _scratch(self._folder.path / "ray") as scratch:
            tune.Tuner(
                tune.with_resources(self._trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=AskTellSearcher(store, make_job, callback.record, spec.search.trials),
                    scheduler=self._scheduler(),
                    num_samples=remaining,
                    max_concurrent_trials=resources.max_concurrent or _as_many_as_fit(resources),
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=self._folder.name,
                    storage_path=str(scratch),
                    callbacks=[callback],
                    failure_config=tune.FailureConfig(max_failures=resources.max_failures),
                    verbose=0,
                ),
            ).fit()

    def _scheduler(self) -> TrialScheduler:
        asha = self._spec.search.asha
        if asha is None:
            return FIFOScheduler()
        return AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="objective",
            mode=self._spec.objective.mode,
            grace_period=asha.first_rung_epochs,
            reduction_factor=asha.reduction_factor,
            max_t=self._spec.on.schedule.epochs,
        )

    def _confirm(self, result: StudyResult, assets: Assets) -> dict[str, Any]:
        configs = self._to_confirm(result)
        if not self._folder.confirmation.exists():
            self._folder.look_at_report(by="search", what=f"confirmation of trial 0 and trial {result.best}")
        return summarise(confirm(configs, assets, self._spec.on.resources, self._folder.confirmation, self._listener))

    def _known_confirmation(self, result: StudyResult) -> dict[str, Any] | None:
        """What an ended search found on the report half; None where any of it is missing."""
        if result.best is None or not is_confirmed(self._folder.confirmation, self._to_confirm(result)):
            return None
        return summarise(json.loads(self._folder.confirmation.read_text()))

    def _to_confirm(self, result: StudyResult) -> dict[str, TrainConfig]:
        best = result.best_trial
        assert best is not None
        configs = {"trial_0": self._config(self._spec.defaults())}
        return configs if best.number == 0 else {**configs, "best": self._config(best.params)}


def _idle_cores() -> int:
    """Cores that nobody uses at present: threads that share a core with other work are slower than fewer threads."""
    cores = os.cpu_count() or 1
    return max(1, round(cores - os.getloadavg()[0]))


def _as_many_as_fit(resources: Resources) -> int:
    """Trials that the cluster holds at a time; left unsaid, Tune would start one at a time."""
    have = ray.cluster_resources()
    fits = [int(have.get(name, 0) / each) for name, each in (("CPU", resources.cpus), ("GPU", resources.gpus)) if each]
    return max(1, min(fits))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """What Ray writes beside our own files; nothing of it is read again."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
