"""`lttune validate`: check a search space; needs neither GPU nor images."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lttune.cli.options import JSON_OPTION, load_runnable, print_json, spec_options

if TYPE_CHECKING:
    from lttune.spec.search import SearchSpec


@click.command()
@click.argument("spec", metavar="SPEC")
@spec_options
@JSON_OPTION
def command(spec: str, on: str | None, overrides: dict[str, str], data_root: Path | None, as_json: bool) -> int:
    """Check a search space and its setting without running anything."""
    loaded = load_runnable(spec, on=on, overrides=overrides, data_root=data_root)
    initial = loaded.initial()
    if as_json:
        print_json(
            {
                "method": ", ".join(loaded.methods),
                "trials": loaded.search.trials,
                "trial_0": initial[0],
                "initial": initial,
                "notes": loaded.notes(),
            }
        )
        return 0
    setting = loaded.on.description or "its setting"
    click.echo(f"{spec}: valid. {', '.join(loaded.methods)} on {setting}, {loaded.search.trials} trials.")
    for number in range(len(initial)):
        for line in _trial_lines(loaded, number):
            click.echo(line)
    for line in loaded.notes():
        click.echo(line)
    return 0


def _trial_lines(spec: "SearchSpec", number: int) -> Iterator[str]:
    """What a method's first trial is: what trains, on what, what that leaves out, and its place in each range."""
    values = spec.initial()[number]
    config = spec.resolve(values)
    parts = "everything" if config.recipe.parts == "all" else ", ".join(config.recipe.parts)
    basis = "cached features" if config.fidelity == "cached" else "images"
    yield f"{config.method}: trains {parts}, on {basis} (fidelity {config.fidelity})"
    for line in config.differs_from_published:
        yield f"  differs from what was published: {line}"
    for draw in spec.draws():
        if draw.is_active(values) and draw.key != "method":
            scale = ", log" if getattr(draw.parameter, "log", False) else ""
            ends = ", ".join(map(str, draw.parameter.ends))
            yield f"  {draw.key}: {ends}{scale}; trial {number} has {values[draw.key]}"
