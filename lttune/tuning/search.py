"""Assembles a search: shared assets, Ray Tune, Optuna, trackers; and rebuilds a broken one from its own files."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from lttune.detectors import BACKENDS, resolve_backend
from lttune.engine.assets import Assets, Half
from lttune.engine.config import TrainConfig
from lttune.engine.prepare import prepare, prepare_data
from lttune.errors import InputError
from lttune.losses import LOSSES
from lttune.spec.parameters import Scalar
from lttune.spec.search import Resources, SearchSpec
from lttune.spec.yaml_text import to_yaml
from lttune.tracking import figures
from lttune.tracking.base import Tracker
from lttune.tracking.jsonl import read_trials
from lttune.tracking.names import short_names
from lttune.tuning.callback import ConfirmationCallback, StudyCallback
from lttune.tuning.confirm import ArmRun, Confirmation
from lttune.tuning.facts import code_version, config_tags
from lttune.tuning.jobs import ConfirmationJob, TrialJob
from lttune.tuning.listener import Listener, SilentListener
from lttune.tuning.ray_local import local_ray
from lttune.tuning.searcher import AskTellSearcher
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.tuning.summary import summarise
from lttune.tuning.trainable import MethodTrainable
from lttune.types import StudyResult

OpenTrackers = Callable[[Path], Sequence[Tracker]]
# How long the end of a search waits for trackers' stores, and an interrupted one.
_PATIENCE_S, _SHORT_PATIENCE_S = 60.0, 3.0


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """What a search leaves.

    Attributes:
        confirmation: the stage-1 model, trial 0, the best trial and what the optimiser alone gives on the report half,
            by limit of detections, as `summarise` tells it; None where no trial is COMPLETE.
        failed_runs: why runs of the confirmation failed, by arm and seed; `confirmation` is without them.
        num_untracked: events that no tracker's store has taken yet; they are kept in the study's folder.
    """

    result: StudyResult
    confirmation: Mapping[str, Any] | None
    failed_runs: Mapping[str, Mapping[str, str]]
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
        DataError: the setting's data are unusable; no study was made.
    """
    folder.refuse_existing()
    listener = listener or SilentListener()
    cache = cache or _shared_cache(folder)
    _check_inputs(spec, cache, listener)
    folder.acquire()
    try:
        folder.create(spec)
        return _Search(spec, folder, trainable, cache, open_trackers, listener).run()
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
    listener = listener or SilentListener()
    cache = cache or _shared_cache(folder)
    folder.acquire()
    try:
        spec = folder.load_spec(recipe_of=trainable.recipe, losses={**LOSSES, **trainable.losses})
        return _Search(spec, folder, trainable, cache, open_trackers, listener).run()
    finally:
        folder.release()


def _shared_cache(folder: StudyFolder) -> Path:
    return folder.path.parent / "cache"


def _check_inputs(spec: SearchSpec, cache: Path, listener: Listener) -> None:
    """Look for the detector and read given annotations before there is a study, so that a bad one costs nothing."""
    if resolve_backend(spec.on.detector) == "detectron2":
        BACKENDS["detectron2"]()
    cpus = os.cpu_count() or 1
    if spec.on.resources.cpus > cpus:
        raise InputError(f"resources.cpus is {spec.on.resources.cpus:g}, but this machine has {cpus}; use fewer.")
    if spec.on.data.glyphs is None:
        assets = prepare_data(spec.on.data, cache, listener.progress)
        for half in get_args(Half):
            assets.half(half)


class _Search:
    """One search while it runs."""

    def __init__(
        self,
        spec: SearchSpec,
        folder: StudyFolder,
        trainable: type[MethodTrainable],
        cache: Path,
        open_trackers: OpenTrackers,
        listener: Listener,
    ) -> None:
        self._spec = spec.with_recipes(trainable.recipe)
        self._folder = folder
        self._trainable = trainable
        self._cache = cache
        self._open_trackers = open_trackers
        self._trackers: Sequence[Tracker] = ()
        self._listener = listener

    def run(self) -> SearchEnd:
        began = time.monotonic()
        self._trackers = self._open_trackers(self._folder.path)
        patience = _SHORT_PATIENCE_S
        try:
            store = StudyStore(self._folder, self._spec, is_driver=True)
            confirmation = Confirmation(self._folder, self._spec, self._listener)
            # An older version ended without some arm of the confirmation.
            if not (self._folder.is_ended and confirmation.is_whole(store.results())):
                self._search(store, confirmation)
                self._folder.mark_ended()
            result = store.results()
            patience = _PATIENCE_S
        except KeyboardInterrupt:
            for tracker in self._trackers:
                tracker.end_study(state="STOPPED", metrics={}, tags={})
            raise
        finally:
            num_untracked = sum(tracker.close(patience) for tracker in self._trackers)
        return SearchEnd(
            result=result,
            confirmation=None if result.best is None else summarise(confirmation.state),
            failed_runs=confirmation.state["failures"],
            seconds=time.monotonic() - began,
            num_untracked=num_untracked,
        )

    def _search(self, store: StudyStore, confirmation: Confirmation) -> None:
        self._start_trackers(store)
        has_trials_left = bool(store.unfinished()) or store.num_asked() < self._spec.search.trials
        if has_trials_left or not confirmation.is_whole(store.results()):
            assets = {
                config.method: prepare(config, self._cache, self._listener.progress, num_threads=_idle_cores())
                for config in self._initial_configs()
            }
            with local_ray():
                self._tune(store, confirmation, assets)
        shutil.rmtree(self._folder.confirmation_runs, ignore_errors=True)
        result = store.results()
        best, artifacts = result.best_trial, self._end_artifacts(result)
        for tracker in self._trackers:
            tracker.end_study(
                state="COMPLETE" if best else "FAIL",
                metrics=best.metrics if best else {},
                tags={"best": str(best.number)} if best else {},
                artifacts=artifacts,
            )

    @property
    def _keeps_artifacts(self) -> bool:
        return any(tracker.keeps_artifacts for tracker in self._trackers)

    def _end_artifacts(self, result: StudyResult) -> dict[str, str]:
        """The best trial's configuration and the study's figures."""
        if not self._keeps_artifacts:
            return {}
        best = result.best_trial
        config = {} if best is None else {"best_config.yaml": to_yaml(self._spec.resolve(best.params).to_dict())}
        return {**config, **figures.study_figures(result, self._cache)}

    def _initial_configs(self) -> list[TrainConfig]:
        """What the trials that are run first run, one of each method."""
        return [self._spec.resolve(params) for params in self._spec.initial()]

    def _config_if_any(self, params: Mapping[str, Scalar]) -> TrainConfig | None:
        """A trial's configuration; None where its values do not go together."""
        try:
            return self._spec.resolve(params)
        except InputError:
            return None

    def _start_trackers(self, store: StudyStore) -> None:
        spec = self._spec
        tags = {
            "method": ", ".join(spec.methods),
            "setting": spec.on.description,
            "objective": f"{spec.objective.mode} {spec.objective.metric}",
            "sampler": spec.search.sampler,
            "seed": str(spec.search.seed),
            "version": code_version(),
        }
        # Trackers are told of an end one after the other, `trials.jsonl` last: what is in it, all of them know.
        known = {trial.number for trial in read_trials(self._folder.path)}
        ended = [trial for trial in store.results().trials if trial.state not in {"RUNNING", "WAITING"}]
        for tracker in self._trackers:
            tracker.start_study(
                self._folder.name,
                tags=tags,
                artifacts={"spec.yaml": self._folder.spec_path.read_text()},
                param_names=short_names(draw.key for draw in spec.draws()),
            )
            # A driver that was killed between the storage and the trackers left these out.
            for trial in (trial for trial in ended if trial.number not in known):
                config = self._config_if_any(trial.params)
                tracker.start_trial(
                    trial.number,
                    params=trial.params,
                    config=config.to_dict() if config else {},
                    tags=config_tags(config) if config else {"method": spec.method_of(trial.params)},
                )
                StudyCallback.end_in(tracker, trial, self._folder)

    def _tune(self, store: StudyStore, confirmation: Confirmation, assets: Mapping[str, Assets]) -> None:
        spec, resources = self._spec, self._spec.on.resources
        callback = StudyCallback(store, self._trackers, self._listener)
        shared: dict[str, Any] = {"slice_s": resources.slice_s, "cpus": resources.cpus, "gpus": resources.gpus}

        def make_job(number: int, params: dict[str, Scalar]) -> TrialJob:
            config = spec.resolve(params)
            return TrialJob(
                number=number,
                params=params,
                config=config,
                assets=assets[config.method],
                checkpoint=str(self._folder.checkpoint(number)),
                stop_at_evaluation=spec.search.asha is not None,
                objective=spec.objective.metric,
                **shared,
            )

        def make_run(run: ArmRun) -> ConfirmationJob:
            config = spec.resolve(run.params)
            return ConfirmationJob(
                arm=run.arm,
                seed=run.seed,
                params=run.params,
                config=replace(config, seed=run.seed),
                assets=assets[config.method],
                checkpoint=str(confirmation.checkpoint(run)),
                limits=confirmation.limits,
                **shared,
            )

        epochs = self._epochs()
        self._listener.search_starts(
            study=self._folder.name,
            trials=spec.search.trials,
            epochs=epochs.pop() if len(epochs) == 1 else None,
            metric=spec.objective.metric,
            mode=spec.objective.mode,
            finished=store.results(),
        )
        if self._keeps_artifacts:
            # While the first trials run; at the end the search would wait for it.
            threading.Thread(target=figures.preload, args=(self._cache,), name="lttune-figures", daemon=True).start()
        with _scratch(self._folder.path / "ray") as scratch:
            tune.Tuner(
                tune.with_resources(self._trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=AskTellSearcher(
                        store,
                        make_job=make_job,
                        on_refused=callback.record,
                        confirmation=confirmation,
                        make_run=make_run,
                    ),
                    scheduler=self._scheduler(),
                    num_samples=-1,  # the searcher says when it has no more
                    max_concurrent_trials=resources.max_concurrent or _as_many_as_fit(resources),
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=self._folder.name,
                    storage_path=str(scratch),
                    callbacks=[callback, ConfirmationCallback(confirmation)],
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
            max_t=max(self._epochs()),
        )

    def _epochs(self) -> set[int]:
        """Numbers of epochs that trials may have: each method's own, and the ends of what is sampled."""
        sampled = [end for draw in self._spec.draws() if draw.key == "schedule.epochs" for end in draw.parameter.ends]
        own = {config.schedule.epochs for config in self._initial_configs()}
        return own | {end for end in sampled if isinstance(end, int)}


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
