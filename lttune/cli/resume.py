"""`lttune resume`: go on with a study."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, MLFLOW_OPTION, OUT_OPTION, place_options


@click.command()
@click.argument("study")
@OUT_OPTION
@MLFLOW_OPTION
@place_options
@JSON_OPTION
def command(
    study: str,
    out: Path,
    mlflow: str | None,
    address: str | None,
    max_gpus: float | None,
    max_concurrent: int | None,
    seconds: float | None,
    gpu_hours: float | None,
    as_json: bool,
) -> int:
    """Go on with a study that was broken off; STUDY is a name under OUT or a path."""
    from lttune.cli.drive import drive
    from lttune.tuning.budget import Budget
    from lttune.tuning.search import Place
    from lttune.tuning.study import find_study

    place = Place(address=address, budget=Budget(seconds=seconds, gpu_hours=gpu_hours))
    given = {"max_gpus": max_gpus, "max_concurrent": max_concurrent}
    resources = {key: value for key, value in given.items() if value is not None}
    return drive(find_study(study, out), out, None, place=place, resources=resources, as_json=as_json, mlflow=mlflow)
