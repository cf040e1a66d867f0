"""`lttune train`: one configuration without a search."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, OUT_OPTION, load_runnable, print_json, spec_options


@click.command(epilog="CONFIG is an exported folder or its config.yaml, a search space, or the name of one.")
@click.argument("config", metavar="CONFIG")
@OUT_OPTION
@click.option("--to", type=click.Path(path_type=Path), help="The run's folder; OUT/trained/NAME by default.")
@click.option("--seed", type=click.IntRange(min=0), help="Of training.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Processes that train it together, each with a share of every batch."
)
@click.option("--track", is_flag=True, help="Send it to the MLflow store of OUT, too.")
@spec_options
@JSON_OPTION
def command(
    config: str,
    out: Path,
    to: Path | None,
    seed: int | None,
    workers: int | None,
    track: bool,
    on: str | None,
    overrides: dict[str, str],
    data_root: Path | None,
    as_json: bool,
) -> int:
    """Train the default values of a configuration, those of trial 0.

    The same command goes on where it was broken off.
    """
    from lttune.api.training import train
    from lttune.cli.view import HEADLINE, choose_view, number
    from lttune.spec.load import find_yaml
    from lttune.spec.yaml_text import read_yaml

    path = Path(config)
    file = path / "config.yaml" if path.is_dir() else path
    name = file.parent.name if file.name == "config.yaml" else file.stem
    if seed is not None:
        overrides = {**overrides, "search.seed": str(seed)}
    space = read_yaml(find_yaml(str(file), "search space")).get("space")
    if isinstance(space, dict) and space.keys() <= overrides.keys():
        overrides = {"search.trials": "1", **overrides}  # nothing is left to search
    spec = load_runnable(str(file), on=on, overrides=overrides, data_root=data_root)
    folder = to or out / "trained" / name
    try:
        with choose_view() as view:
            trained = train(spec, folder, out=out, mlflow=track, workers=workers, progress=view.progress)
    except KeyboardInterrupt:
        click.echo("Interrupted. The same command goes on with it.", err=True)
        raise
    halves = {half: trained.metrics[half] for half in ("tune", "report")}
    if as_json:
        shown = {h: {k: None if v != v else v for k, v in values.items()} for h, values in halves.items()}
        print_json({"folder": str(trained.folder), "was_finished": trained.was_finished, "metrics": shown})
        return 0
    click.echo(f"{'Finished before' if trained.was_finished else 'Trained'}: {folder}")
    for half, values in halves.items():
        click.echo(f"{half:<7} " + "  ".join(f"{metric} {number(values[metric], 2)}" for metric in HEADLINE))
    click.echo(f"Next:  lttune evaluate {folder}")
    return 0
