"""`lttune search`: a new study."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, MLFLOW_OPTION, OUT_OPTION, load_runnable, place_options, spec_options


@click.command(epilog="SPEC is a file, or the name of a space that comes with lttune: `lttune search acsl`.")
@click.argument("spec", metavar="SPEC")
@OUT_OPTION
@click.option("--study", metavar="NAME", help="Name of the study; by default the file's.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials, failed ones included.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the sampler and of training.")
@click.option("--backend", type=click.Choice(["auto", "torchvision", "detectron2"]), help="Detector backend.")
@click.option("--build-stage1", is_flag=True, help="Train stage 1 here even if that takes more than a GPU hour.")
@MLFLOW_OPTION
@place_options
@spec_options
@JSON_OPTION
def command(
    spec: str,
    out: Path,
    study: str | None,
    trials: int | None,
    seed: int | None,
    backend: str | None,
    build_stage1: bool,
    mlflow: str | None,
    address: str | None,
    max_gpus: float | None,
    max_concurrent: int | None,
    seconds: float | None,
    gpu_hours: float | None,
    on: str | None,
    overrides: dict[str, str],
    data_root: Path | None,
    as_json: bool,
) -> int:
    """Search a space: a new study in OUT/NAME."""
    from lttune.cli.drive import drive
    from lttune.tuning.budget import Budget
    from lttune.tuning.search import Place
    from lttune.tuning.study import find_study

    given = {
        "search.trials": trials,
        "search.seed": seed,
        "detector.backend": backend,
        "stage1.build": True if build_stage1 else None,
        "resources.max_gpus": max_gpus,
        "resources.max_concurrent": max_concurrent,
    }
    overrides = {**overrides, **{key: str(value) for key, value in given.items() if value is not None}}
    loaded = load_runnable(spec, on=on, overrides=overrides, data_root=data_root)
    if len(loaded.methods) > 1:
        click.echo(
            f"{len(loaded.methods)} methods in one search: an exploration, not a ranking, since methods get different "
            "numbers of trials. To rank them, search each by itself and use: lttune compare",
            err=True,
        )
    place = Place(address=address, budget=Budget(seconds=seconds, gpu_hours=gpu_hours))
    folder = find_study(study or Path(spec).stem, out)
    return drive(folder, out, loaded, place=place, as_json=as_json, mlflow=mlflow)
