"""Runs `lttune` as a person does: as processes of its own, on a real machine with real Ray, Optuna and MLflow."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
import psutil
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

T = TypeVar("T")

SPEC = Path(__file__).with_name("small.yaml")
# A loaded machine takes several times as long as an idle one; nothing waits longer than it must.
PATIENCE_S = 150.0


def wait_until(find: Callable[[], T | None], what: str, *, patience_s: float = PATIENCE_S) -> T:
    """The first true answer of `find`, asked again and again."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {patience_s:.0f} s")


class Driver:
    """A running `lttune`, in a process group of its own as a shell starts it."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from lttune.cli import main; main()", *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
                process_group=0,
                # What a shell starts in the background ignores SIGINT, and so would all that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    def wait_for(self, find: Callable[[], T | None], what: str) -> T:
        """The first true answer of `find`; fails at once where the driver has ended."""

        def look() -> T | None:
            found = find()
            assert found or self.process.poll() is None, f"{what}: the driver ended first\n{self.stderr}"
            return found

        return wait_until(look, what)

    def family(self) -> list[psutil.Process]:
        """The driver's children, all the way down."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def command_lines(self) -> dict[psutil.Process, str]:
        """The command line of each child; Ray writes what a worker does into it."""
        found = {}
        for process in self.family():
            with suppress(psutil.Error):  # it ended while it was asked
                found[process] = " ".join(process.cmdline())
        return found

    def ray_processes(self) -> set[str]:
        """The command lines of Ray's own processes."""
        return {line for line in self.command_lines().values() if "raylet" in line or "gcs_server" in line}

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        # Ray titles them by Tune's own subclass while they step, and by ours in between.
        return [process for process, line in self.command_lines().items() if re.match(r"ray::\w*Trainable", line)]

    def end(self, sent: signal.Signals, *, whole_group: bool = False) -> int:
        """Send a signal, wait for the end of the driver and of all that it started; gives the exit code."""
        family = self.family()
        assert self.process.poll() is None, f"the driver had ended before {sent.name}\n{self.stderr}"
        if whole_group:
            os.killpg(self.process.pid, sent)
        else:
            self.process.send_signal(sent)
        code = self.process.wait(20)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, f"still there after {sent.name}: {alive}"
        return code

    def finish(self, *, code: int = 0) -> str:
        """Wait for the end; gives standard output."""
        stdout, _ = self.process.communicate(timeout=2 * PATIENCE_S)
        assert self.process.returncode == code, f"exit code {self.process.returncode}\n{stdout}\n{self.stderr}"
        return str(stdout)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        assert self.process.stdout
        self.process.stdout.close()


class Workplace:
    """An output folder, a home folder, and the commands that are run on them, in an environment of their own."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.environment: dict[str, str] = {}
        self._folder = folder
        self._drivers: list[Driver] = []

    def start(self, *arguments: str) -> Driver:
        """Start a command and leave it running."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "MLFLOW_", "LTTUNE_", "OMP_", "MKL_"))
        }
        environment |= {"HOME": str(self.home), "LTTUNE_OUT": str(self.out), **self.environment}
        log = self._folder / f"stderr_{len(self._drivers)}.txt"
        driver = Driver(list(arguments), environment, log)
        self._drivers.append(driver)
        return driver

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a command to its end; gives standard output and standard error."""
        driver = self.start(*arguments)
        return driver.finish(code=code), driver.stderr

    def search(self, study: str, *arguments: str) -> Driver:
        """Start a search of the small space."""
        return self.start("search", str(SPEC), "--study", study, *arguments)

    def study(self, name: str) -> Path:
        return self.out / name

    def optuna_trials(self, name: str) -> list[optuna.trial.FrozenTrial]:
        """What Optuna itself reads in the study's journal; nothing before there is one."""
        journal = self.study(name) / "optuna.journal"
        if not journal.is_file():
            return []
        storage = JournalStorage(JournalFileBackend(str(journal)))
        names = [study.study_name for study in optuna.get_all_study_summaries(storage)]
        return optuna.load_study(storage=storage, study_name=name).get_trials() if name in names else []

    def trial_in_its_middle(self, name: str, *, epochs: int) -> optuna.trial.FrozenTrial | None:
        """A running trial with so many epochs behind it, once another one is finished."""
        trials = self.optuna_trials(name)
        if not any(trial.state.is_finished() for trial in trials):
            return None
        return next((t for t in trials if not t.state.is_finished() and len(t.intermediate_values) >= epochs), None)

    def history(self, name: str, number: int) -> list[tuple[int, float, float]]:
        """The epochs in a trial's checkpoint, with their loss and the seconds that they had taken."""
        state = torch.load(self.study(name) / "checkpoints" / f"{number:04d}.pt", weights_only=True)
        return [(epoch["epoch"], epoch["loss"], epoch["seconds"]) for epoch in state["history"]]

    def lines(self, name: str, file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.study(name) / file).read_text().splitlines()]

    def mlflow_runs(self, name: str) -> dict[int | None, Any]:
        """MLflow's runs of a study by trial number, the parent under None; fails where two runs share a number."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.out / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("lttune")
        assert experiment is not None
        runs: dict[int | None, Any] = {}
        for run in client.search_runs([experiment.experiment_id], f"tags.`lttune.study` = '{name}'"):
            tag = run.data.tags.get("lttune.trial")
            number = None if tag is None else int(tag)
            assert number not in runs, f"two MLflow runs of trial {number}"
            runs[number] = run
        return runs

    def mlflow_steps(self, run: Any, metric: str) -> list[int]:
        """The steps of a metric in the order in which they were logged."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.out / 'mlflow.db'}")
        return [point.step for point in client.get_metric_history(run.info.run_id, metric)]

    def close(self) -> None:
        for driver in self._drivers:
            driver.kill()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workplace, str, Path]]:
    """An undisturbed search: where it ran, what it printed, and a copy of the cache that it made."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    folder = tmp_path_factory.mktemp("whole")
    place = Workplace(folder)
    printed = place.search("whole", "--json").finish()
    cache = folder / "cache"
    shutil.copytree(place.out / "cache", cache)
    yield place, printed, cache
    place.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Workplace]:
    """A workplace without anything."""
    place = Workplace(tmp_path)
    yield place
    place.close()


@pytest.fixture
def prepared(whole: tuple[Workplace, str, Path], tmp_path: Path) -> Iterator[Workplace]:
    """A workplace that has data, stage 1 and features already."""
    place = Workplace(tmp_path)
    shutil.copytree(whole[2], place.out / "cache")
    yield place
    place.close()
