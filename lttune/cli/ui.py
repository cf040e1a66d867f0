"""`lttune ui`: MLflow's pages for an output folder, or Optuna's for one of its studies, on this machine only."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from lttune.cli.options import MLFLOW_OPTION, OUT_OPTION


@click.command()
@click.argument("study", required=False)
@OUT_OPTION
@MLFLOW_OPTION
@click.option("--optuna", "is_optuna", is_flag=True, help="Optuna's dashboard of STUDY, on a copy: read only.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def command(study: str | None, out: Path, mlflow: str | None, is_optuna: bool, port: int) -> int:
    """Open MLflow's pages for the store in OUT, or for another one, on 127.0.0.1 until Ctrl-C.

    With --optuna, Optuna's dashboard of STUDY, a name under OUT or a path.
    """
    if is_optuna != (study is not None):
        raise click.UsageError("--optuna needs a STUDY, and only it takes one: lttune ui --optuna STUDY")
    return _show_mlflow(out, mlflow, port) if study is None else _show_optuna(study, out, port)


def _show_mlflow(out: Path, mlflow: str | None, port: int) -> int:
    from lttune.errors import StudyError
    from lttune.tracking.store import ENVIRONMENT, database_file, study_store, ui_command

    store = study_store(out, out, mlflow)
    file = database_file(store)
    if file is not None and not file.is_file():
        raise StudyError(f"there is no MLflow store {file}; start a search first: lttune search acsl")
    return _serve(ui_command(store, port), port, ENVIRONMENT)


def _show_optuna(study: str, out: Path, port: int) -> int:
    from lttune.errors import MissingExtraError
    from lttune.tuning.study import find_study

    folder = find_study(study, out)
    folder.require()
    beside_python = sysconfig.get_path("scripts")
    dashboard = shutil.which("optuna-dashboard", path=f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}")
    if dashboard is None:
        raise MissingExtraError(
            f"optuna-dashboard is not installed; run: {sys.executable} -m pip install optuna-dashboard"
        )
    with TemporaryDirectory(prefix="lttune-ui-") as scratch:
        # The dashboard can rename studies and change trials; whatever it does, it does to the copy.
        copy = Path(scratch, folder.journal.name)
        copy_journal(folder.journal, copy)
        return _serve([dashboard, str(copy), "--host", "127.0.0.1", "--port", str(port)], port)


def copy_journal(journal: Path, to: Path) -> None:
    """Copy the whole lines of a journal, to which a search may be writing; without one the copy is empty."""
    data = journal.read_bytes() if journal.is_file() else b""
    to.write_bytes(data[: data.rfind(b"\n") + 1])


def _serve(server: Sequence[str], port: int, environment: Mapping[str, str] | None = None) -> int:
    """Run a server until Ctrl-C or SIGTERM; it does not outlive this process."""
    click.echo(f"http://127.0.0.1:{port}   (Ctrl-C ends it)")
    process = subprocess.Popen(server, env={**os.environ, **(environment or {})})
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
        process.terminate()
        process.wait()
