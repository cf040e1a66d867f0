"""`lttune export`: a trial as files that other work goes on from."""

from pathlib import Path
from typing import Any

import click

from lttune.cli.options import OUT_OPTION


def _number(_: Any, __: Any, value: str) -> Any:
    if value != "best" and not value.isdigit():
        raise click.BadParameter(f"'{value}' is not a trial; use its number, or best.")
    return value if value == "best" else int(value)


@click.command()
@click.argument("study")
@OUT_OPTION
@click.option("--trial", default="best", show_default=True, metavar="best|N", callback=_number, help="Which trial.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder to write; new or empty.")
@click.option(
    "--format",
    type=click.Choice(["lttune", "detectron2", "mmdet"]),
    default="lttune",
    show_default=True,
    help="For whom.",
)
@click.option("--on", metavar="SETTING", help="Write the values for another setting; needs --transfer.")
@click.option("--transfer", is_flag=True, help="Write values for what they were not found on, and say so in the file.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where relative data paths start; else LTTUNE_DATA.")
def command(
    study: str, out: Path, trial: Any, to: Path, format: Any, on: str | None, transfer: bool, data_root: Path | None
) -> int:
    """Write a trial to a folder that stands alone: for lttune with weights and metrics, for detectron2's training
    script, or for the official repository of its method, all of which are mmdetection's."""
    from lttune.api.exporting import export_best
    from lttune.cli.view import HEADLINE, choose_view, number

    with choose_view() as view:
        made = export_best(
            study,
            to,
            trial=trial,
            format=format,
            on=on,
            transfer=transfer,
            out=out,
            data_root=data_root,
            progress=view.progress,
        )
    if made.left_out:
        click.echo("Not in it, or not the same there:")
        for line in made.left_out:
            click.echo(f"  {line}")
    found = ""
    if made.metrics is not None:
        found = "; on the report half: " + ", ".join(f"{n} {number(made.metrics['report'][n], 2)}" for n in HEADLINE)
    click.echo(f"Trial {made.trial} of {Path(study).name} is in {to}{found}")
    return 0
