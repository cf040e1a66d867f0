"""`lttune report`: studies as one page of tables and plots."""

from pathlib import Path

import click

from lttune.cli.options import OUT_OPTION


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option("--to", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write into.")
@click.option("--control", "controls", multiple=True, metavar="STUDY", help="A study that the others have to beat.")
@click.option("--png", "with_png", is_flag=True, help="Write each plot as a PNG file, too.")
@click.option("--no-models", is_flag=True, help="Leave out what needs the trained models evaluated again.")
@OUT_OPTION
def command(
    studies: tuple[str, ...], to: Path, controls: tuple[str, ...], with_png: bool, no_models: bool, out: Path
) -> int:
    """Write report.html, one page that needs no network: tables, plots of each search, detections in images."""
    from lttune.cli.view import choose_view
    from lttune.reporting.records import read_record
    from lttune.reporting.report import write_report
    from lttune.tuning.study import find_study
    from trainables import recipe_of

    records, control_records = (
        [read_record(find_study(study, out), recipe_of) for study in names] for names in (studies, controls)
    )
    with choose_view() as view:
        files = write_report(
            records,
            to,
            controls=control_records,
            with_models=not no_models,
            with_png=with_png,
            progress=view.progress,
        )
    more = f" and {len(files) - 1} PNG files beside it" if with_png else ""
    click.echo(f"The report is {files[0]}{more}.")
    return 0
