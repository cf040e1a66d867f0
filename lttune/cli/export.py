"""`lttune export`: the best configuration and its weights."""

from pathlib import Path

import click

from lttune.cli.options import OUT_OPTION


@click.command()
@click.argument("study")
@OUT_OPTION
@click.option("--trial", default="best", show_default=True, metavar="best|N", help="Which trial.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder to write; new or empty.")
def command(study: str, out: Path, trial: str, to: Path) -> int:
    """Write a trial's configuration, weights and metrics to a folder that stands alone."""
    from lttune.cli.view import HEADLINE, choose_view, number
    from lttune.engine.prepare import prepare
    from lttune.export.folder import check_export, export_trial
    from lttune.tuning.study import find_study
    from trainables import TRAINABLES

    folder = find_study(study, out)
    spec = folder.load_spec()
    chosen = folder.read_trial(spec, trial)
    checkpoint = folder.checkpoint(chosen.number)
    check_export(chosen, study=folder.name, checkpoint=checkpoint, to=to)
    recipe = TRAINABLES[spec.method].recipe(spec.method)
    with choose_view() as view:
        config = spec.resolve(chosen.params, recipe)
        assets = prepare(config, out.absolute() / "cache", view.progress)
        folder.look_at_report(by="export", what=f"trial {chosen.number} to {to.name}")
        metrics = export_trial(
            spec,
            chosen,
            study=folder.name,
            recipe=recipe,
            assets=assets,
            checkpoint=checkpoint,
            to=to,
            progress=view.progress,
        )
    found = ", ".join(f"{name} {number(metrics['report'][name], 2)}" for name in HEADLINE)
    click.echo(f"Trial {chosen.number} of {folder.name} is in {to}; on the report half: {found}")
    return 0
