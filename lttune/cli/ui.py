"""`lttune ui`: MLflow's pages for the store of an output folder, on this machine only."""

import os
import subprocess
from pathlib import Path

import click

from lttune.cli.options import OUT_OPTION


@click.command()
@OUT_OPTION
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def command(out: Path, port: int) -> int:
    """Open MLflow's pages for the store in OUT, on 127.0.0.1 until Ctrl-C."""
    from lttune.cli.drive import store_uri
    from lttune.errors import StudyError
    from lttune.tracking.store import ENVIRONMENT, ui_command

    if not (out / "mlflow.db").is_file():
        raise StudyError(f"there is no MLflow store in {out}; start a search first: lttune search acsl")
    click.echo(f"http://127.0.0.1:{port}   (Ctrl-C ends it)")
    try:
        return subprocess.run(
            ui_command(store_uri(out), port), check=False, env={**os.environ, **ENVIRONMENT}
        ).returncode
    except KeyboardInterrupt:
        return 0
