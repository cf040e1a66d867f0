"""`lttune compare`: methods side by side on the same data."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lttune.cli.options import OUT_OPTION, print_json

if TYPE_CHECKING:
    from lttune.reporting.compare import Comparison


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option("--control", "controls", multiple=True, metavar="STUDY", help="A study that the others have to beat.")
@click.option("--max-dets", type=click.IntRange(min=1), help="Detections per image; the smallest limit measured.")
@click.option("--json", "form", flag_value="json", help="Print one JSON object, every curve and interval in it.")
@click.option("--csv", "form", flag_value="csv", help="Print one number per line, comma-separated.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown tables.")
@click.option("--latex", "form", flag_value="latex", help="Print LaTeX tables, for booktabs.")
@OUT_OPTION
def command(studies: tuple[str, ...], controls: tuple[str, ...], max_dets: int | None, form: str, out: Path) -> int:
    """Compare studies: what each search found, on images that none of them has seen, and against which control.

    Studies whose method is cross_entropy, sigmoid_cross_entropy or logit_adjustment are controls.
    """
    from lttune.reporting.compare import compare
    from lttune.reporting.records import read_record
    from lttune.reporting.tables import csv_text, latex, markdown
    from lttune.tuning.study import find_study
    from trainables import recipe_of

    records, control_records = (
        [read_record(find_study(study, out), recipe_of) for study in names] for names in (studies, controls)
    )
    comparison = compare(records, controls=control_records, max_dets=max_dets)
    if form == "json":
        print_json(comparison.to_json())
    elif form:
        write = {"csv": csv_text, "markdown": markdown, "latex": latex}[form]
        sys.stdout.write(write(comparison))
    else:
        _show(comparison)
    return 0


def _show(comparison: "Comparison") -> None:
    from rich.table import Table
    from rich.text import Text

    from lttune.cli.view import page
    from lttune.reporting.tables import remarks, tables

    console = page()
    for found in tables(comparison):
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for place, column in enumerate(found.columns):
            shown.add_column(Text(column), justify="left" if place < found.num_words else "right")
        for row in found.rows:
            shown.add_row(*map(Text, row))
        console.print(Text(found.title, "bold"))
        console.print(shown, "")
    for line in remarks(comparison):
        console.print(Text(line))
