"""`lttune search`: a new study."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, MLFLOW_OPTION, OUT_OPTION, load_runnable, spec_options


@click.command(epilog="SPEC is a file, or the name of a space that comes with lttune: `lttune search acsl`.")
@click.argument("spec", metavar="SPEC")
@OUT_OPTION
@click.option("--study", metavar="NAME", help="Name of the study; by default the file's.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials, failed ones included.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the sampler and of training.")
@click.option("--backend", type=click.Choice(["auto", "torchvision", "detectron2"]), help="Detector backend.")
@MLFLOW_OPTION
@spec_options
@JSON_OPTION
def command(
    spec: str,
    out: Path,
    study: str | None,
    trials: int | None,
    seed: int | None,
    backend: str | None,
    mlflow: str | None,
    on: str | None,
    overrides: dict[str, str],
    data_root: Path | None,
    as_json: bool,
) -> int:
    """Search a space: a new study in OUT/NAME."""
    from lttune.cli.drive import drive
    from lttune.tuning.study import find_study

    given = {"search.trials": trials, "search.seed": seed, "detector.backend": backend}
    overrides = {**overrides, **{key: str(value) for key, value in given.items() if value is not None}}
    loaded = load_runnable(spec, on=on, overrides=overrides, data_root=data_root)
    if len(loaded.methods) > 1:
        click.echo(
            f"{len(loaded.methods)} methods in one search: an exploration, not a ranking, since methods get different "
            "numbers of trials. To rank them, search each by itself and use: lttune compare",
            err=True,
        )
    return drive(find_study(study or Path(spec).stem, out), out, loaded, as_json=as_json, mlflow=mlflow)
