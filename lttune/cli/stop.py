"""`lttune stop`: end a running search in order, from any terminal."""

from pathlib import Path

import click

from lttune.cli.options import OUT_OPTION


@click.command()
@click.argument("study")
@OUT_OPTION
@click.option(
    "--wait",
    "patience_s",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Seconds to wait for the end.",
)
def command(study: str, out: Path, patience_s: float) -> int:
    """End a running search; its trials keep their last slice, and `lttune resume` goes on with them."""
    from lttune.tuning.study import find_study

    folder = find_study(study, out)
    folder.require()
    who = folder.holder()
    if not folder.stop(patience_s):
        click.echo(f"{folder.name} was asked to end and is still driven by {who}; see: lttune status {folder.name}")
        return 1
    click.echo(f"{folder.name} has ended. Go on with: lttune resume {folder.name}")
    return 0
