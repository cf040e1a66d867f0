"""What a suggestion and a report take with many trials in the study, and how fast MLflow writes.

    python -m benchmarks.scale [--trials 1000 10000 100000] [--sampler tpe random]

A study is filled with finished trials, then its driver asks for more, reports epochs of each and ends it, in the way
a search does. No Ray is started, and nothing is trained.
"""

import argparse
import os
import platform
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from lttune.spec.load import load_spec
from lttune.spec.parameters import FloatRange
from lttune.spec.search import METRICS, SearchSpec
from lttune.tracking.mlflow import MlflowTracker
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import TrialResult
from trainables import recipe_of

T = TypeVar("T")
NUM_TIMED, NUM_MLFLOW = 5, 40


def fill(folder: StudyFolder, spec: SearchSpec, num_trials: int) -> float:
    """Put finished trials with drawn values into a study; gives the seconds."""
    began = time.perf_counter()
    sampler = optuna.samplers.RandomSampler(seed=0)
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    study = optuna.create_study(storage=storage, study_name=folder.name, direction="maximize", sampler=sampler)
    distributions = {
        draw.name: optuna.distributions.FloatDistribution(*draw.parameter.bounds, log=draw.parameter.log)
        for draw in spec.draws()
        if isinstance(draw.parameter, FloatRange)
    }
    draws, started = random.Random(0), datetime(2026, 1, 1)
    for number in range(num_trials):
        params = {name: draws.uniform(one.low, one.high) for name, one in distributions.items()}
        attributes = {"metrics": {"AP": draws.random()}, "seconds": 1.0, "fidelity": "cached"}
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=attributes["metrics"]["AP"],
            params=params,
            distributions=distributions,
            user_attrs=attributes,
        )
        trial.datetime_start = started + timedelta(seconds=number)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=1)
        study.add_trial(trial)
    return time.perf_counter() - began


def measure(out: Path, num_trials: int, sampler: str) -> tuple[float, float, float, float]:
    """Seconds to open the study, for a suggestion, for a report, and for the end of a trial."""
    spec = load_spec("acsl", overrides={"search.trials": str(num_trials + 100)}, recipe_of=recipe_of)
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"sampler": sampler})})
    folder = StudyFolder(out / f"scale{num_trials}")
    if not folder.exists:
        folder.create(spec)
        fill(folder, spec, num_trials)
    opened, store = timed(lambda: StudyStore(folder, spec, is_driver=True))
    asked, reported, told = [], [], []
    for _ in range(NUM_TIMED):
        seconds, number = timed(lambda: suggested(store))
        asked.append(seconds)
        for epoch in range(1, 4):
            reported.append(timed(lambda n=number, e=epoch: store.report(n, e, 1.0))[0])
        end = TrialResult(number=number, state="COMPLETE", params={}, metrics={"AP": 1.0}, seconds=1.0)
        told.append(timed(lambda r=end: store.tell(r))[0])
    return opened, median(asked), median(reported), median(told)


def suggested(store: StudyStore) -> int:
    """What the searcher does for one trial."""
    assert store.num_asked() < store.spec.search.trials
    number = store.ask()
    store.parameters(number)
    return number


def measure_mlflow(out: Path) -> float:
    """Epochs with every metric that MLflow takes per second, of a SQLite store."""
    folder = out / "mlflow-study"
    folder.mkdir(parents=True)
    tracker = MlflowTracker(f"sqlite:///{out / 'mlflow.db'}", experiment="scale", folder=folder)
    metrics = dict.fromkeys(METRICS, 1.0)
    tracker.start_study("mlflow-study", tags={})
    tracker.start_trial(0, params={"optim.lr": 0.1}, config={}, tags={})
    tracker.report(0, step=0, metrics=metrics)
    time.sleep(5)  # the store is made
    began = time.perf_counter()
    for step in range(1, NUM_MLFLOW + 1):
        tracker.report(0, step=step, metrics=metrics)
    left = tracker.close(120)
    assert left == 0, f"{left} events are left"
    return NUM_MLFLOW / (time.perf_counter() - began)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--sampler", nargs="+", choices=["tpe", "random"], default=["tpe", "random"])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("| trials | sampler | open s | suggest ms | report ms | end ms |\n|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for num_trials in arguments.trials:
            for sampler in arguments.sampler:
                opened, *others = measure(Path(folder), num_trials, sampler)
                cells = " | ".join(f"{1e3 * seconds:.1f}" for seconds in others)
                print(f"| {num_trials:,} | {sampler} | {opened:.2f} | {cells} |", flush=True)
        rate = measure_mlflow(Path(folder))
        print(
            f"MLflow, SQLite: {rate:.1f} epochs of {len(METRICS)} metrics per second ({rate * len(METRICS):.0f} values)"
        )


if __name__ == "__main__":
    main()
