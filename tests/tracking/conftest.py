import importlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lttune.tracking.mlflow import _connect
from lttune.tracking.store import ENVIRONMENT


@pytest.fixture(scope="session")
def validation() -> ModuleType:
    """MLflow's own checks of names and values, imported as quietly as the tracker does it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return importlib.import_module("mlflow.utils.validation")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once: its migrations take seconds."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    _connect(f"sqlite:///{database}")
    return database


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    """An empty MLflow database of this test; the space in its path must not matter."""
    copy = tmp_path / "out put" / "mlflow.db"
    copy.parent.mkdir()
    shutil.copy(migrated, copy)
    return copy


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def study_runs() -> Callable[..., dict]:
    """Reads a study's runs back: trial number as text, or None for the parent, to the list of its runs."""

    def read(store: Path | str, study: str = "study") -> dict:
        client = _connect(store if isinstance(store, str) else f"sqlite:///{store}")
        experiment = client.get_experiment_by_name("experiment")
        runs: dict = {}
        for run in client.search_runs([experiment.experiment_id]) if experiment else []:
            assert run.data.tags["lttune.study"] == study
            runs.setdefault(run.data.tags.get("lttune.trial"), []).append(run)
        return runs

    return read


@pytest.fixture
def history() -> Callable[..., list]:
    """Reads the (step, value) pairs of one metric of a run back, in order."""

    def read(store: Path | str, run: object, metric: str) -> list[tuple[int, float]]:
        client = _connect(store if isinstance(store, str) else f"sqlite:///{store}")
        return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))

    return read
