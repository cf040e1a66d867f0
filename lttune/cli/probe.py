"""`lttune probe`: what a trial takes, before a search."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, OUT_OPTION, load_runnable, print_json, spec_options


@click.command()
@click.argument("spec", metavar="SPEC")
@OUT_OPTION
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), help="Setting file whose `resources` are set; may be new."
)
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0.1), help="Of each measurement.")
@spec_options
@JSON_OPTION
def command(
    spec: str,
    out: Path,
    to: Path | None,
    seconds: float,
    on: str | None,
    overrides: dict[str, str],
    data_root: Path | None,
    as_json: bool,
) -> int:
    """Measure a trial on the worst images: the share of a GPU that it needs, or how many this machine holds."""
    from dataclasses import asdict

    from lttune.engine.cache import cache_folder
    from lttune.engine.prepare import prepare_data
    from lttune.engine.probe import probe
    from lttune.spec.resources_text import with_resources
    from lttune.spec.yaml_text import to_yaml

    loaded = load_runnable(spec, on=on, overrides=overrides, data_root=data_root)
    text = None
    if to is not None:
        # A file that cannot be changed is better told before minutes of measuring.
        text = to.read_text() if to.exists() else to_yaml(loaded.to_document()["on"])
        with_resources(text, {}, source=str(to))
    cache = cache_folder(out)
    cache.mkdir(parents=True, exist_ok=True)
    assets = prepare_data(loaded.on.data, cache, lambda *_: None)
    configs = [loaded.resolve(params) for params in loaded.initial()]
    measured, advice = probe(configs, assets, seconds=seconds, say=lambda line: click.echo(line, err=True))
    if to is not None and text is not None:
        to.write_text(with_resources(text, advice.resources, source=str(to)))
    if as_json:
        print_json({"measured": [asdict(found) for found in measured], "resources": advice.resources})
        return 0
    where = "GPU" if advice.on_gpu else "machine"
    click.echo(
        f"{advice.num_trials} at a time on this {where}: {advice.memory_gb:.2f} GB each of {advice.total_gb:.1f} GB."
    )
    pairs = ", ".join(f"{name}: {value:g}" for name, value in advice.resources.items())
    click.echo(f"resources: {{{pairs}}}" + (f"   in {to}" if to else ""))
    return 0
