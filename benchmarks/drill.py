"""Kills parts of a search at random moments, resumes it, and compares what it found with an undisturbed one.

    python -m benchmarks.drill [--kills 10] [--seed 0] [--out FOLDER]

A search of 12 short trials with the random sampler is killed (kill -9) once: a worker that trains, the driver, or one
of two nodes of a cluster on this machine. It has to end with the trials 0 to 11, each COMPLETE once in Optuna and in
MLflow, with the parameters and metrics of the search that nobody disturbed. The exit code is 1 where one does not.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

Kind = Literal["worker", "driver", "node"]
KINDS: tuple[Kind, ...] = ("worker", "driver", "node")
NUM_TRIALS = 12
_PATIENCE_S = 240.0
# A kill comes within so long after a start: a trial takes longer.
_WITHIN_S = 0.5
# Eight categories, images of 64 px: a trial is a second.
SPEC = """\
schema: 1
method: acsl
search: {trials: 12, sampler: random, seed: 5}
space:
  loss.score_threshold: {float: [0.05, 0.95], default: 0.7}
  optim.lr: {float: [0.003, 0.03], log: true, default: 0.01}
on:
  data: {glyphs: {num_categories: 8, num_train_images: 60, num_val_images: 40, size_px: 64, seed: 1}}
  detector:
    name: tiny_mask_rcnn_fpn
    class_agnostic_box: true
    class_agnostic_mask: true
    num_train_proposals: 30
    num_test_proposals: 30
    num_rois: 16
    positive_fraction: 0.5
    score_threshold: 0.0
  stage1:
    optim: {name: adamw, lr: 2.0e-3, weight_decay: 0.05, clip_norm: 5}
    schedule: {epochs: 4, batch_size: 4, policy: one_cycle}
  optim: {name: adamw, lr: 0.01, weight_decay: 1.0e-4}
  schedule: {epochs: 16, batch_size: 2, policy: one_cycle}
  evaluation: {max_dets: 20}
  resources: {slice_s: 0.05, max_concurrent: 2}
"""
_CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass(frozen=True)
class Row:
    """One kill, and what became of the search."""

    kind: Kind
    at_start: int
    victim: str
    recovered_s: float | None
    faults: tuple[str, ...]

    def text(self, number: int) -> str:
        recovered = "–" if self.recovered_s is None else f"{self.recovered_s:.1f}"
        result = "; ".join(self.faults) or "as undisturbed"
        return f"| {number} | {self.kind} | {self.at_start} | {self.victim} | {recovered} | {result} |"


class Bench:
    """A folder of studies with one cache and one MLflow store."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self._folder = folder
        self.out.mkdir(parents=True, exist_ok=True)
        self.spec = folder / "drill.yaml"
        self.spec.write_text(SPEC)
        stripped = ("RAY_", "MLFLOW_", "LTTUNE_")
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(stripped)}
        self._environment |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `lttune` in a process group of its own."""
        with (self._folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "lttune", *arguments, "--out", str(self.out)],
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,
            )

    @contextmanager
    def cluster(self) -> Iterator[str]:
        """The address of a head without resources and two nodes with a CPU each."""
        environment = {**self._environment, "RAY_AUTH_MODE": "disabled"}
        with (self._folder / "cluster.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _CLUSTER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        children = psutil.Process(process.pid).children
        try:
            yield process.stdout.readline().strip()
        finally:
            left = children(recursive=True)
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            for child in left:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()
            process.stdout.close()

    def events(self, study: str) -> list[dict[str, Any]]:
        file = self.out / study / "events.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def optuna_trials(self, study: str) -> list[optuna.trial.FrozenTrial]:
        storage = JournalStorage(JournalFileBackend(str(self.out / study / "optuna.journal")))
        return optuna.load_study(storage=storage, study_name=study).get_trials()

    def mlflow_runs(self, study: str) -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.out / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("lttune")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], f"tags.`lttune.study` = '{study}'"))


def run_drill(num_kills: int, seed: int, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """An undisturbed search, then one for each kill."""
    bench, draws = Bench(folder), random.Random(seed)
    began = time.monotonic()
    assert finish(bench.start("search", str(bench.spec), "--study", "undisturbed")) == 0, "see log.txt"
    num_starts = sum(line["event"] == "start" for line in bench.events("undisturbed"))
    say(f"undisturbed: {time.monotonic() - began:.0f} s, {num_starts} trials and runs of the confirmation start\n")
    say("| kill | what | at start | died | recovered after s | result |\n|---|---|---|---|---|---|")
    kinds = [KINDS[i % len(KINDS)] for i in range(num_kills)]
    draws.shuffle(kinds)
    rows = []
    for number, kind in enumerate(kinds, 1):
        rows.append(one_kill(bench, f"drill{number}", kind, draws.randint(1, num_starts), draws))
        say(rows[-1].text(number))
    return rows


def one_kill(bench: Bench, study: str, kind: Kind, at_start: int, draws: random.Random) -> Row:
    """Search, kill at the moment of a start that has this number, let it end or resume it, and compare."""
    if kind != "node":
        return _kill(bench, study, kind, at_start, draws, [], raylets=list)
    with bench.cluster() as address:

        def raylets() -> list[psutil.Process]:
            # The head has no CPU, and is not a node that a trial can lose.
            of_ours = [process for process in _processes("raylet") if f"--gcs-address={address} " in _command(process)]
            return [process for process in of_ours if ",CPU,1," in _command(process)]

        return _kill(bench, study, kind, at_start, draws, ["--address", address], raylets=raylets)


def _kill(
    bench: Bench,
    study: str,
    kind: Kind,
    at_start: int,
    draws: random.Random,
    place: list[str],
    *,
    raylets: Callable[[], list[psutil.Process]],
) -> Row:
    driver = bench.start("search", str(bench.spec), "--study", study, *place)
    deadline = time.monotonic() + _PATIENCE_S
    while sum(line["event"] == "start" for line in bench.events(study)) < at_start and driver.poll() is None:
        assert time.monotonic() < deadline, "the search stands still; see log.txt"
        time.sleep(0.02)
    time.sleep(draws.uniform(0, _WITHIN_S))
    candidates = {
        "worker": lambda: _workers(driver.pid),
        "driver": lambda: [psutil.Process(driver.pid)] if driver.poll() is None else [],
        "node": raylets,
    }[kind]()
    victim = "nothing: the search had ended"
    killed = time.time()
    if candidates:
        chosen = draws.choice(sorted(candidates, key=lambda process: process.pid))
        victim = _title(chosen, kind)
        # A node takes its workers with it; what a dead driver leaves has to end by itself.
        family = [] if kind == "worker" else chosen.children(recursive=True)
        for process in [chosen, *(family if kind == "node" else [])]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=30)
    code = finish(driver)
    if code != 0:
        code = finish(bench.start("resume", study, *place))
    after = [line for line in bench.events(study) if when(line) > killed]
    restarted = {line["run"]: when(line) for line in after if line["event"] == "restart"}
    slices = [line for line in after if line["event"] == "slice"]
    if kind != "driver":
        slices = [line for line in slices if when(line) > restarted.get(line["run"], math.inf)]
    recovered_s = max((when(line) - killed for line in slices[:1]), default=None)
    faults = ([f"exit code {code}"] if code else []) + list(differences(bench, study))
    return Row(kind, at_start, victim, recovered_s, tuple(faults))


def differences(bench: Bench, study: str) -> Iterator[str]:
    """What is not as in the undisturbed search."""
    trials, wanted = bench.optuna_trials(study), bench.optuna_trials("undisturbed")
    if [trial.number for trial in trials] != list(range(NUM_TRIALS)):
        yield f"Optuna's numbers are {[trial.number for trial in trials]}"
        return
    for trial, same in zip(trials, wanted, strict=True):
        if trial.state.name != "COMPLETE":
            yield f"trial {trial.number} is {trial.state.name}"
        elif trial.params != same.params or trial.value != same.value:
            yield f"trial {trial.number} has other values"
    runs: dict[str, Any] = {}
    for run in bench.mlflow_runs(study):
        number = run.data.tags.get("lttune.trial", "parent")
        if number in runs:
            yield f"MLflow has two runs of {number}"
        runs[number] = run
        if run.info.status != "FINISHED":
            yield f"MLflow's run of {number} is {run.info.status}"
    if set(runs) != {"parent", *map(str, range(NUM_TRIALS))}:
        yield f"MLflow has runs of {sorted(runs)}"
    lines = (bench.out / study / "trials.jsonl").read_text().splitlines()
    if sorted(json.loads(line)["number"] for line in lines) != list(range(NUM_TRIALS)):
        yield "trials.jsonl has other trials"


def finish(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end; gives the exit code."""
    return process.wait(_PATIENCE_S)


def when(line: Mapping[str, Any]) -> float:
    """The time of an event in seconds since the epoch."""
    return datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


def _workers(pid: int) -> list[psutil.Process]:
    """Processes that train, of a Ray on this machine for the search alone."""
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid).children(recursive=True)
        return [process for process in found if re.match(r"ray::\w*Trainable", _command(process))]
    return []


def _processes(name: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _name(process) == name]


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _title(process: psutil.Process, kind: Kind) -> str:
    return {"worker": _command(process).split("(")[0].strip(), "driver": "lttune search", "node": "raylet"}[kind]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the kinds, moments and victims")
    parser.add_argument("--out", type=Path, help="an empty folder that is kept, for a look at what went wrong")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    if arguments.out:
        shutil.rmtree(arguments.out, ignore_errors=True)
        arguments.out.mkdir(parents=True)
        rows = run_drill(arguments.kills, arguments.seed, arguments.out, say)
    else:
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            rows = run_drill(arguments.kills, arguments.seed, Path(folder), say)
    sys.exit(1 if any(row.faults for row in rows) else 0)


if __name__ == "__main__":
    main()
