"""What MLflow shows of searches that were broken off again and again, and of one whose server went away."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from lttune.tracking.store import ENVIRONMENT, ui_command

pytestmark = pytest.mark.slow

NUM_TRIALS, EPOCHS = 4, 24
# Sixty images have no frequent category, hence no AP_f.
METRICS = ("AP", "AP_r", "AP_c", "segm/AP", "bbox/AP", "loss", "loss/loss_cls", "lr", "seconds", "gpu_hours")


def wait_until_it_answers(server: "Server") -> None:
    deadline = time.monotonic() + 60
    while not server.answers():
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)


def num_reports(place: Any, study: str) -> int:
    """Epochs that the study's storage knows, over all trials."""
    return sum(len(trial.intermediate_values) for trial in place.optuna_trials(study))


def check_whole(client: Any, study: str) -> None:
    """One parent and one finished run per trial, every metric once per epoch and in order."""
    experiment = client.get_experiment_by_name("lttune")
    found = client.search_runs([experiment.experiment_id], f"tags.`lttune.study` = '{study}'")
    parents = [run for run in found if "lttune.trial" not in run.data.tags]
    runs = {int(run.data.tags["lttune.trial"]): run for run in found if "lttune.trial" in run.data.tags}
    assert len(parents) == 1
    assert len(found) == 1 + NUM_TRIALS
    assert sorted(runs) == list(range(NUM_TRIALS))
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.metrics["AP"] == max(run.data.metrics["AP"] for run in runs.values())
    for run in runs.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["lttune.state"] == "COMPLETE"
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        for metric in METRICS:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, metric)]
            assert steps == list(range(1, EPOCHS + 1)), (run.info.run_name, metric)
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert files >= {"config.yaml", "per_category.csv"}
    files = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert files >= {"spec.yaml", "best_config.yaml", "history.svg"}


def test_killed_and_resumed_three_times(prepared: Any) -> None:
    from mlflow import MlflowClient

    driver = prepared.search("thrice")
    for part in (1, 2, 3):
        goal = part * NUM_TRIALS * EPOCHS // 4
        driver.wait_for(lambda goal=goal: num_reports(prepared, "thrice") >= goal, f"{goal} reports")
        driver.end(signal.SIGKILL)
        assert num_reports(prepared, "thrice") < NUM_TRIALS * EPOCHS
        driver = prepared.start("resume", "thrice")
    driver.finish()

    assert [trial.number for trial in prepared.optuna_trials("thrice")] == list(range(NUM_TRIALS))
    check_whole(MlflowClient(f"sqlite:///{prepared.out / 'mlflow.db'}"), "thrice")


class Server:
    """An MLflow tracking server on this machine, which can be killed and started again on the same store."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._command = ui_command(folder / "server.db", self._port)
        self._log = folder / "server.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | ENVIRONMENT, start_new_session=True
            )

    def answers(self) -> bool:
        with suppress(URLError, OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(prepared: Any, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def test_a_server_killed_for_the_middle_third_of_a_search(
    prepared: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    total = NUM_TRIALS * EPOCHS
    server.start()
    wait_until_it_answers(server)
    driver = prepared.search("away", "--mlflow", server.uri)
    driver.wait_for(lambda: num_reports(prepared, "away") >= total // 3, "the first third")
    server.kill()
    driver.wait_for(lambda: num_reports(prepared, "away") >= 2 * total // 3, "the middle third")
    server.start()
    driver.finish()
    assert "does not take events" in driver.stderr

    # What the search has not brought home by its end, `sync` does; it knows the server from the study.
    wait_until_it_answers(server)
    stdout, _ = prepared.run("sync", "away")
    assert "0 left" in stdout
    check_whole(MlflowClient(server.uri), "away")
    assert not (prepared.out / "mlflow.db").exists()
