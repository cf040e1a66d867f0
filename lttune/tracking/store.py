"""Where MLflow keeps its runs, and how to look at them."""

import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from lttune.errors import InputError

# Set for our own process and its children before MLflow is imported, unless the user set them.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Outages are waited out by the spool; MLflow's own defaults would wait for minutes within one call.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The page needs no job runner, which is a second process that outlives a killed server.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}

# Names a store and an experiment where the command line does not.
URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_CHOSEN = "mlflow_store.txt"

_USER_INFO = re.compile(r"(?<=://)[^\s'\"/][^\s'\"]*@")
_SECRET_FIELD = re.compile(r"(?i)((?:password|passwd|pwd|token|secret|signature|sig|api_?key)=)[^&\s'\"]+")


def redact(text: str) -> str:
    """The text with the credentials of every URI in it replaced by `***`."""
    return _SECRET_FIELD.sub(r"\1***", _USER_INFO.sub("***@", text))


def store_uri(where: str | Path) -> str:
    """MLflow's URI of a store: a path becomes a SQLite database, any URI stays as it is.

    Raises:
        InputError: a URI of a scheme that holds no runs.
    """
    text = str(where)
    if re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://|https?://|databricks(://|$)", text):
        return text
    if "://" in text:
        raise InputError(
            f"MLflow store '{redact(text)}': not a store of runs. Use a path, sqlite:///PATH or http://HOST:PORT."
        )
    return f"sqlite:///{Path(text).expanduser().resolve()}"


def out_store(out: Path) -> str:
    """The store of an output folder, used where nobody names another one."""
    return f"sqlite:///{(out / 'mlflow.db').absolute()}"


def study_store(folder: Path, out: Path, given: str | None = None) -> str:
    """The store that a study's runs go to: the given one, MLFLOW_TRACKING_URI, that of last time, or that of `out`.

    Raises:
        InputError: the chosen one holds no runs; or that of last time needs a password, which is not kept.
    """
    if chosen := given or os.environ.get(URI_VARIABLE):
        uri = store_uri(chosen)
        if (database := database_file(uri)) and database.is_dir():
            raise InputError(f"MLflow store {chosen} is a folder; name a database in it: {database / 'mlflow.db'}")
        return uri
    file = folder / _CHOSEN
    if not file.is_file():
        return out_store(out)
    chosen = file.read_text(encoding="utf-8").strip()
    if "***" in chosen:
        raise InputError(
            f"study '{folder.name}' goes to the MLflow store {chosen}, whose password is not kept; give --mlflow or "
            f"{URI_VARIABLE} again."
        )
    return store_uri(chosen)


def remember_store(folder: Path, uri: str) -> None:
    """Keep, without a password, where a study's runs go, for its next `resume` or `sync`.

    The store beside the study is not kept: it is found again wherever the two are moved.
    """
    chosen = folder / _CHOSEN
    if database_file(uri) == (folder.parent / "mlflow.db").resolve():
        chosen.unlink(missing_ok=True)
    else:
        chosen.write_text(f"{redact(uri)}\n", encoding="utf-8")


def experiment_name() -> str:
    """The MLflow experiment of all studies: what MLFLOW_EXPERIMENT_NAME says, else lttune."""
    return os.environ.get(EXPERIMENT_VARIABLE) or "lttune"


def database_file(uri: str) -> Path | None:
    """The file of a SQLite store; None where the store is a server."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def artifact_folder(uri: str, *, out: Path) -> Path | None:
    """The folder of artifacts: beside a SQLite store, in `out` for another database; None where a server decides."""
    if re.match(r"https?://|databricks(://|$)", uri):
        return None
    file = database_file(uri)
    return (out if file is None else file.parent) / "mlflow_artifacts"


def check_database(uri: str) -> None:
    """Fail at once where a SQLite store cannot be opened: MLflow itself would try again for minutes.

    Raises:
        OSError: its folder cannot be made.
        sqlite3.Error: it cannot be opened, or is another kind of file.
    """
    file = database_file(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA schema_version")


def ui_command(where: str | Path, port: int) -> list[str]:
    """The command that shows a store's runs on http://127.0.0.1:PORT; run it with `ENVIRONMENT` added.

    Raises:
        InputError: the store is a server, which has its own page, or its URI carries a password.
    """
    uri = store_uri(where)
    if not re.match(r"sqlite|postgresql|mysql|mssql", uri):
        raise InputError(f"MLflow store {redact(uri)}: a server shows its runs itself. Open this address in a browser.")
    if redact(uri) != uri:
        raise InputError(
            f"MLflow store {redact(uri)}: a command line would show the password to every user of this machine. Set "
            "MLFLOW_BACKEND_STORE_URI to the whole URI and start `mlflow server --host 127.0.0.1` yourself."
        )
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if (file := database_file(uri)) and (folder := artifact_folder(uri, out=file.parent)):
        command += ["--artifacts-destination", folder.as_uri()]
    return command
