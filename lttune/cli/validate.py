"""`lttune validate`: check a search space; needs neither GPU nor images."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, load_runnable, print_json, spec_options


@click.command()
@click.argument("spec", metavar="SPEC")
@spec_options
@JSON_OPTION
def command(spec: str, on: str | None, overrides: dict[str, str], data_root: Path | None, as_json: bool) -> int:
    """Check a search space and its setting without running anything."""
    loaded = load_runnable(spec, on=on, overrides=overrides, data_root=data_root)
    if as_json:
        print_json({"method": loaded.method, "trials": loaded.search.trials, "trial_0": loaded.defaults()})
        return 0
    click.echo(
        f"{spec}: valid. {loaded.method} on {loaded.on.description or 'its setting'}, {loaded.search.trials} trials."
    )
    for key, value in loaded.defaults().items():
        parameter = loaded.space[key]
        scale = ", log" if getattr(parameter, "log", False) else ""
        click.echo(f"  {key}: {', '.join(map(str, parameter.ends))}{scale}; trial 0 has {value}")
    return 0
