"""Assembles a search: shared assets, Ray Tune, Optuna, trackers; and rebuilds a broken one from its own files."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from ray import tune

from lttune.detectors import BACKENDS, resolve_backend
from lttune.engine.assets import Assets, Half
from lttune.engine.cache import cache_folder, leased
from lttune.engine.config import TrainConfig
from lttune.engine.prepare import check_costs, prepare, prepare_data
from lttune.errors import InputError
from lttune.losses import LOSSES
from lttune.spec.parameters import Scalar
from lttune.spec.search import Resources, SearchSpec
from lttune.spec.yaml_text import to_yaml
from lttune.tracking import figures
from lttune.tracking.base import StudyEnd, Tracker
from lttune.tracking.jsonl import read_trials
from lttune.tracking.names import short_names
from lttune.tuning.budget import Budget
from lttune.tuning.callback import ConfirmationCallback, StudyCallback
from lttune.tuning.confirm import ArmRun, Confirmation
from lttune.tuning.costs import Held, Kind, Ledger
from lttune.tuning.events import EventLog
from lttune.tuning.facts import code_version, config_tags
from lttune.tuning.halt import Halt
from lttune.tuning.jobs import ConfirmationJob, TrialJob
from lttune.tuning.listener import Listener, SilentListener
from lttune.tuning.node_cache import offered
from lttune.tuning.placement import check_fits, num_concurrent, placement, reachable
from lttune.tuning.preparation import Preparation, prepare_on_cluster
from lttune.tuning.projection import Projector
from lttune.tuning.ray_local import local_ray, shared_ray
from lttune.tuning.restarts import Restarts
from lttune.tuning.scheduler import scheduler_of
from lttune.tuning.searcher import AskTellSearcher
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.tuning.summary import summarise
from lttune.tuning.thrift import Thrift
from lttune.tuning.trainable import MethodTrainable
from lttune.tuning.watch import Watch
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
        stopped: which budget ended it before its last trial; None where it is complete.
        hours: `cpu_hours` and `gpu_hours` of the study by kind, earlier drivers included.
    """

    result: StudyResult
    confirmation: Mapping[str, Any] | None
    failed_runs: Mapping[str, Mapping[str, str]]
    seconds: float
    num_untracked: int
    stopped: str | None = None
    hours: Mapping[str, Mapping[Kind, float]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one driver runs its trials, and what they may take; a driver that resumes has one of its own.

    Attributes:
        address: of a Ray cluster that exists, `auto` or HOST:PORT; by default Ray runs on this machine for the search.
        budget: of time and GPU hours.
    """

    address: str | None = None
    budget: Budget = field(default_factory=Budget)


def run_search(
    spec: SearchSpec,
    folder: StudyFolder,
    *,
    trainable: type[MethodTrainable],
    cache: Path | None = None,
    open_trackers: OpenTrackers = lambda folder: (),
    listener: Listener | None = None,
    place: Place | None = None,
) -> SearchEnd:
    """Run a new search.

    Args:
        folder: the study's folder, which must not hold a study.
        trainable: runs a trial; it must be importable by Ray's workers.
        cache: where data, stage-1 models and features are shared; `cache` beside the study by default.
        open_trackers: opens the trackers of a study's folder, once it exists and is ours.
        listener: told of progress.
        place: where trials run, and what they may take; this machine, without a limit, by default.

    Raises:
        StudyError: the study exists, or another process is creating it.
        DataError: the setting's data are unusable; no study was made.
        InputError: stage 1 is long and was not asked for, or the disk is too small; no study was made.
        ClusterError: the cluster of `place` cannot be joined.
    """
    folder.refuse_existing()
    listener, place = listener or SilentListener(), place or Place()
    cache = cache or _shared_cache(folder)
    _check_inputs(spec, cache, listener, place)
    configs = [spec.resolve(params, trainable.recipe) for params in spec.initial()]
    check_costs(configs, cache, out=folder.path, num_trials=spec.search.trials, progress=listener.progress)
    folder.acquire()
    try:
        folder.create(spec)
        return _Search(spec, folder, trainable, cache, open_trackers, listener, place).run()
    finally:
        folder.release()


def resume_search(
    folder: StudyFolder,
    *,
    trainable: type[MethodTrainable],
    cache: Path | None = None,
    open_trackers: OpenTrackers = lambda folder: (),
    listener: Listener | None = None,
    place: Place | None = None,
    resources: Mapping[str, float] | None = None,
) -> SearchEnd:
    """Go on with a search from its own files: finished trials stay, unfinished ones run on under their numbers.

    Args:
        resources: keys of the setting's resources that are another value from now on, such as `max_gpus`.

    Raises:
        StudyError: there is no such study, or another process drives it.
        ClusterError: the cluster of `place` cannot be joined.
    """
    folder.require()
    listener, place = listener or SilentListener(), place or Place()
    cache = cache or _shared_cache(folder)
    folder.acquire()
    try:
        spec = folder.load_spec(recipe_of=trainable.recipe, losses={**LOSSES, **trainable.losses})
        spec = _with_resources(spec, resources or {})
        _check_budget(spec, place.budget)
        return _Search(spec, folder, trainable, cache, open_trackers, listener, place).run()
    finally:
        folder.release()


def _shared_cache(folder: StudyFolder) -> Path:
    return cache_folder(folder.path.parent)


def _with_resources(spec: SearchSpec, changed: Mapping[str, float]) -> SearchSpec:
    resources = Resources(**{**spec.on.resources.model_dump(), **changed})
    return spec.model_copy(update={"on": spec.on.model_copy(update={"resources": resources})})


def _check_budget(spec: SearchSpec, budget: Budget) -> None:
    if budget.gpu_hours is not None and not spec.on.resources.gpus:
        raise InputError(
            f"--gpu-hours {budget.gpu_hours:g}: trials of this setting take no GPU (resources.gpus is 0); use --time."
        )


def _check_inputs(spec: SearchSpec, cache: Path, listener: Listener, place: Place) -> None:
    """Look for the detector and read given annotations before there is a study, so that a bad one costs nothing."""
    _check_budget(spec, place.budget)
    if place.address is not None:
        reachable(place.address)
    detector = spec.on.detector
    backend = resolve_backend(detector)
    if backend == "detectron2":
        BACKENDS[backend]()
    if detector.backend == "auto":
        listener.note(f"detector: {detector.name} on {backend}")
    cpus = os.cpu_count() or 1
    if place.address is None and spec.on.resources.cpus > cpus:
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
        place: Place,
    ) -> None:
        self._spec = spec.with_recipes(trainable.recipe)
        self._folder = folder
        self._trainable = trainable
        self._cache = cache
        self._open_trackers = open_trackers
        self._trackers: Sequence[Tracker] = ()
        self._listener = listener
        self._place = place
        self._resources = spec.on.resources
        self._held = Held(
            self._resources.cpus * self._resources.workers, self._resources.gpus * self._resources.workers
        )
        self._began = time.monotonic()
        self._events = EventLog(folder.path)
        self._ledger = Ledger(folder.path)
        self._stopped: str | None = None

    def run(self) -> SearchEnd:
        self._folder.stop_file.unlink(missing_ok=True)
        self._trackers = self._open_trackers(self._folder.path)
        patience = _SHORT_PATIENCE_S
        try:
            store = StudyStore(self._folder, self._spec, is_driver=True)
            confirmation = Confirmation(self._folder, self._spec, self._listener)
            # An older version ended without some arm of the confirmation.
            if not (self._folder.is_ended and confirmation.is_whole(store.results())):
                self._search(store, confirmation)
                if self._stopped is None:
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
            seconds=time.monotonic() - self._began,
            num_untracked=num_untracked,
            stopped=self._stopped,
            hours=self._ledger.hours(),
        )

    def _search(self, store: StudyStore, confirmation: Confirmation) -> None:
        self._start_trackers(store)
        has_trials_left = bool(store.unfinished()) or store.num_asked() < self._spec.search.trials
        if has_trials_left or not confirmation.is_whole(store.results()):
            state = "STOPPED"
            self._events.write(
                "search_start",
                study=self._folder.name,
                version=code_version(),
                trials=self._spec.search.trials,
                asked=store.num_asked(),
                address=self._place.address or "local",
                resources=self._resources.model_dump(exclude_none=True),
                budget={name: value for name, value in asdict(self._place.budget).items() if value is not None},
            )
            try:
                self._prepare_and_tune(store, confirmation)
                state = "COMPLETE" if self._stopped is None else "STOPPED"
            except Exception:
                state = "FAIL"
                raise
            finally:
                self._ledger.save()
                self._folder.state_file.unlink(missing_ok=True)
                hours = self._ledger.hours()
                self._events.write("search_end", state=state, why=self._stopped, **hours)
        if self._stopped is not None:
            self._end_trackers(store.results(), state="STOPPED")
            return
        shutil.rmtree(self._folder.confirmation_runs, ignore_errors=True)
        result = store.results()
        self._end_trackers(result, state="COMPLETE" if result.best_trial else "FAIL")

    def _end_trackers(self, result: StudyResult, *, state: StudyEnd) -> None:
        best, artifacts = result.best_trial, self._end_artifacts(result)
        for tracker in self._trackers:
            tracker.end_study(
                state=state,
                metrics=best.metrics if best else {},
                tags={"best": str(best.number)} if best else {},
                artifacts=artifacts,
            )

    def _prepare_and_tune(self, store: StudyStore, confirmation: Confirmation) -> None:
        address, resources = self._place.address, self._resources
        if address is None:
            # Before Ray starts: it needs every core for itself.
            threads = _idle_cores()
            with self._preparing(Held(threads, 0)) as preparation:
                assets = {
                    config.method: prepare(config, self._cache, preparation.progress, num_threads=threads)
                    for config in self._initial_configs()
                }
            with local_ray(), leased(self._cache, assets.values()):
                check_fits(resources, is_shared=False)
                self._tune(store, confirmation, assets)
            return
        with shared_ray(address, namespace=f"lttune-{self._folder.name}"):
            if missing := check_fits(resources, is_shared=True):
                self._listener.note(missing)
            one = replace(self._held, cpus=resources.cpus, gpus=resources.gpus)
            with self._preparing(one) as preparation:
                assets, node = prepare_on_cluster(self._initial_configs(), self._cache, resources, preparation)
            with offered(assets.values(), node):
                self._tune(store, confirmation, assets)

    @contextmanager
    def _preparing(self, held: Held) -> Iterator[Preparation]:
        preparation = Preparation(
            self._listener.progress,
            held,
            ledger=self._ledger,
            events=self._events,
            state_file=self._folder.state_file,
            stop_file=self._folder.stop_file,
        )
        try:
            yield preparation
        finally:
            preparation.close()

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
        spec, resources = self._spec, self._resources
        restarts = Restarts(max_failures=resources.max_failures)
        watch = Watch(
            self._folder.state_file,
            resources,
            restarts=restarts,
            ledger=self._ledger,
            events=self._events,
            on_restart=self._listener.note,
        )

        def spent() -> tuple[float, float]:
            return time.monotonic() - self._began, watch.gpu_hours

        halt = Halt(self._folder.stop_file, self._place.budget, spent)
        at_a_time = num_concurrent(resources, is_shared=self._place.address is not None)
        projector = Projector(
            store,
            confirmation,
            self._initial_configs(),
            self._cache,
            held=self._held,
            at_a_time=at_a_time,
            budget=self._place.budget,
            say=self._listener.note,
            spent=spent,
        )
        shared: dict[str, Any] = {
            "slice_s": resources.slice_s,
            "cpus": resources.cpus,
            "gpus": resources.gpus,
            "workers": resources.workers,
        }

        def make_job(number: int, params: dict[str, Scalar]) -> TrialJob:
            config = spec.resolve(params)
            job = TrialJob(
                number=number,
                params=params,
                config=config,
                assets=assets[config.method],
                checkpoint=str(self._folder.checkpoint(number)),
                stop_at_evaluation=spec.search.asha is not None,
                objective=spec.objective.metric,
                **shared,
            )
            watch.handed_out(job)
            return job

        def make_run(run: ArmRun) -> ConfirmationJob:
            config = spec.resolve(run.params)
            job = ConfirmationJob(
                arm=run.arm,
                seed=run.seed,
                params=run.params,
                config=replace(config, seed=run.seed),
                assets=assets[config.method],
                checkpoint=str(confirmation.checkpoint(run)),
                limits=confirmation.limits,
                **shared,
            )
            watch.handed_out(job)
            return job

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
        callback = StudyCallback(store, self._trackers, self._listener, restarts, lambda job: searcher.again(job))
        searcher = AskTellSearcher(
            store,
            make_job=make_job,
            on_refused=callback.record,
            confirmation=confirmation,
            make_run=make_run,
            has_waiting=lambda: watch.has_waiting,
        )
        projector.say()
        try:
            with _scratch(self._folder.path / "ray") as scratch:
                tune.Tuner(
                    tune.with_resources(self._trainable, placement(resources)),
                    tune_config=tune.TuneConfig(
                        search_alg=searcher,
                        scheduler=scheduler_of(spec, restarts, max_epochs=max(self._epochs())),
                        num_samples=-1,  # the searcher says when it has no more
                        max_concurrent_trials=at_a_time,
                        reuse_actors=True,
                    ),
                    run_config=tune.RunConfig(
                        name=self._folder.name,
                        storage_path=str(scratch),
                        callbacks=[
                            watch,
                            callback,
                            ConfirmationCallback(confirmation, restarts, searcher.again),
                            projector,
                            Thrift(),
                        ],
                        stop=halt,
                        # `restarts` counts, because it knows what is a trial's own fault.
                        failure_config=tune.FailureConfig(max_failures=-1),
                        verbose=0,
                    ),
                ).fit()
        finally:
            watch.close()
        if halt.is_asked:
            raise KeyboardInterrupt
        self._stopped = halt.reason
        if halt.reason:
            self._events.write("budget", why=halt.reason)

    def _epochs(self) -> set[int]:
        """Numbers of epochs that trials may have: each method's own, and the ends of what is sampled."""
        sampled = [end for draw in self._spec.draws() if draw.key == "schedule.epochs" for end in draw.parameter.ends]
        own = {config.schedule.epochs for config in self._initial_configs()}
        return own | {end for end in sampled if isinstance(end, int)}


def _idle_cores() -> int:
    """Cores that nobody uses at present: threads that share a core with other work are slower than fewer threads."""
    cores = os.cpu_count() or 1
    return max(1, round(cores - os.getloadavg()[0]))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """What Ray writes beside our own files; nothing of it is read again."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
