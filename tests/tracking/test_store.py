import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from lttune.errors import InputError
from lttune.tracking.store import (
    ENVIRONMENT,
    artifact_folder,
    check_database,
    experiment_name,
    redact,
    remember_store,
    store_uri,
    study_store,
    ui_command,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://ann:pass@host/path", "https://***@host/path"),
        ("postgresql+psycopg2://ann:p@ss:w/rd@db:5432/x", "postgresql+psycopg2://***@db:5432/x"),
        ("cannot reach http://ann:pass@host/a or http://tok@b", "cannot reach http://***@host/a or http://***@b"),
        ("mysql://db/x?user=ann&password=pass&ssl=1", "mysql://db/x?user=ann&password=***&ssl=1"),
        ("https://host/x?api_key=pass Token=pass", "https://host/x?api_key=*** Token=***"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_path_is_a_sqlite_database(tmp_path: Path) -> None:
    assert store_uri(tmp_path / "mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert store_uri(str(tmp_path / "databricks.db")) == f"sqlite:///{tmp_path}/databricks.db"


@pytest.mark.parametrize("uri", ["sqlite:////x/mlflow.db", "http://h:1", "postgresql+psycopg://h/x", "databricks"])
def test_a_uri_stays_as_it_is(uri: str) -> None:
    assert store_uri(uri) == uri


def test_a_uri_that_holds_no_runs_is_refused_without_its_password() -> None:
    with pytest.raises(InputError, match=r"s3://\*\*\*@bucket") as raised:
        store_uri("s3://ann:pass@bucket")
    assert "pass@" not in str(raised.value)


def test_artifacts_lie_beside_a_database_and_where_a_server_wants_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert artifact_folder(store_uri(tmp_path / "mlflow.db"), out=out) == tmp_path / "mlflow_artifacts"
    assert artifact_folder("postgresql://db/runs", out=out) == out / "mlflow_artifacts"
    assert artifact_folder("http://127.0.0.1:5000", out=out) is None


def test_a_study_goes_where_it_is_told_and_then_where_it_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = tmp_path / "study"
    study.mkdir()
    assert study_store(study, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"

    remember_store(study, "http://127.0.0.1:5000")
    assert study_store(study, tmp_path) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5001")
    assert study_store(study, tmp_path) == "http://127.0.0.1:5001"
    assert study_store(study, tmp_path, "http://127.0.0.1:5002") == "http://127.0.0.1:5002"


def test_the_store_beside_a_study_moves_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "study").mkdir(parents=True)
    remember_store(old / "study", "http://127.0.0.1:5000")
    remember_store(old / "study", study_store(old / "other", old))
    old.rename(new)
    assert study_store(new / "study", new) == f"sqlite:///{new}/mlflow.db"


def test_a_password_is_not_kept_and_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    remember_store(tmp_path, "postgresql://ann:pass@db/runs")
    assert not [file for file in tmp_path.iterdir() if "pass" in file.read_text()]
    with pytest.raises(InputError, match=r"give --mlflow or MLFLOW_TRACKING_URI again"):
        study_store(tmp_path, tmp_path)


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; name a database in it"):
        study_store(tmp_path, tmp_path, str(tmp_path))


def test_the_experiment_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert experiment_name() == "lttune"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "birds")
    assert experiment_name() == "birds"


def test_a_database_that_cannot_be_opened_fails_at_once(tmp_path: Path) -> None:
    check_database("http://127.0.0.1:1")
    check_database(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        check_database(f"sqlite:///{tmp_path}/new")
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        check_database(f"sqlite:///{tmp_path}/text.db")


def test_the_page_is_for_this_machine_only(tmp_path: Path) -> None:
    command = ui_command(tmp_path / "mlflow.db", 5001)
    assert command[:3] == [sys.executable, "-m", "mlflow"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["--host"] == "127.0.0.1"
    assert options["--port"] == "5001"
    assert options["--backend-store-uri"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_page_is_refused_for_servers_and_passwords() -> None:
    with pytest.raises(InputError, match="in a browser"):
        ui_command("http://127.0.0.1:5000", 5001)
    with pytest.raises(InputError, match="password") as raised:
        ui_command("postgresql://ann:pass@db/x", 5001)
    assert "ann:pass" not in str(raised.value)


@pytest.mark.slow
def test_the_page_answers_on_loopback_and_stops(
    database: Path, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with subprocess.Popen(ui_command(database, free_port), cwd=tmp_path) as server:
        page = b""
        deadline = time.monotonic() + 90
        while not page and server.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/", timeout=5) as answer:
                    page = answer.read()
            except URLError:
                time.sleep(0.2)
        server.terminate()
        server.wait(timeout=30)
    assert b"MLflow" in page
    with pytest.raises(URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{free_port}/", timeout=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out put"], "nothing is left in the working folder"
