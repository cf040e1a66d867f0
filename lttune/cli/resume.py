"""`lttune resume`: go on with a study."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, MLFLOW_OPTION, OUT_OPTION


@click.command()
@click.argument("study")
@OUT_OPTION
@MLFLOW_OPTION
@JSON_OPTION
def command(study: str, out: Path, mlflow: str | None, as_json: bool) -> int:
    """Go on with a study that was broken off; STUDY is a name under OUT or a path."""
    from lttune.cli.drive import drive
    from lttune.tuning.study import find_study

    return drive(find_study(study, out), out, None, as_json=as_json, mlflow=mlflow)
