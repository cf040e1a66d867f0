"""`lttune sync`: send MLflow what it missed."""

from pathlib import Path

import click

from lttune.cli.options import MLFLOW_OPTION, OUT_OPTION


@click.command()
@click.argument("study", required=False)
@OUT_OPTION
@MLFLOW_OPTION
def command(study: str | None, out: Path, mlflow: str | None) -> int:
    """Send MLflow the events that it missed; without STUDY, those of every study of OUT."""
    from lttune.tracking.mlflow import sync
    from lttune.tracking.store import study_store
    from lttune.tuning.study import find_study, known_studies

    folders = [find_study(study, out)] if study else list(known_studies(out))
    remaining = 0
    for folder in folders:
        folder.require()
        if folder.is_driven():
            click.echo(f"{folder.name}: driven by {folder.holder()}, which sends its events itself.")
            continue
        result = sync(folder.path, study_store(folder.path, out, mlflow))
        remaining += result.remaining
        refused = f", {result.refused} refused" if result.refused else ""
        why = f" ({result.reason})" if result.reason else ""
        click.echo(f"{folder.name}: {result.sent} events sent{refused}, {result.remaining} left{why}.")
    return 1 if remaining else 0
