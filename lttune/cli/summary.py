"""What is said at the end of a search: what was found, and whether it is more than chance."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lttune.cli.view import HEADLINE, duration, number, page, trial_table, value_text
from lttune.tuning.search import SearchEnd
from lttune.tuning.study import StudyFolder


def print_end(end: SearchEnd, folder: StudyFolder) -> None:
    """The trials, the confirmation on the report half, and the next commands, on standard output."""
    console = page()
    result = end.result
    console.print(trial_table(list(result.trials), best=result.best, width=console.width))
    best = result.best_trial
    if best is None:
        reasons = {trial.reason for trial in result.trials if trial.reason}
        console.print("\n[red]No trial is COMPLETE.[/red] " + "; ".join(sorted(reasons)))
        return
    console.print("AP in points, on the tune half of the validation images, by which the search selects.")
    values = ", ".join(f"{key} {value_text(value)}" for key, value in best.params.items())
    console.print(f"\n[bold]Best of {len(result.trials)}:[/bold] trial {best.number} ({values})")
    if end.confirmation:
        _print_confirmation(console, end.confirmation, best.number)
    console.print(f"\nStudy: {folder.path}   ({duration(end.seconds)})")
    name = folder.name
    console.print(f"Next:  lttune export {name} --to best_{name}   |   lttune status {name}   |   lttune ui")


def _print_confirmation(console: Console, confirmation: Mapping[str, Any], best: int) -> None:
    limits = list(confirmation)
    for limit in limits:
        console.print(f"\n[bold]Report half[/bold], which no decision saw, at {limit} detections per image:")
        console.print(_confirmation_table(confirmation[limit], best))
        console.print(verdict(confirmation[limit], best))
    if len(limits) == 2 and best != 0:
        own, lvis = (confirmation[limit]["difference"]["AP"]["is_shown"] for limit in limits)
        if own and not lvis:
            console.print(f"[yellow]The gain in AP exists at the setting's {limits[0]} detections only.[/yellow]")


def _confirmation_table(part: Mapping[str, Any], best: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in HEADLINE:
        table.add_column(name, justify="right")
    table.add_row("stage-1 model as it is", *(number(part["stage1"][name]) for name in HEADLINE))
    for key, title in (("trial_0", "trial 0: published values"), ("best", f"trial {best}: best of the search")):
        if key in part:
            table.add_row(title, *(_spread(part[key][n]) for n in HEADLINE))
    if "difference" in part:
        found = part["difference"]
        table.add_row(
            "difference, 95 % interval",
            *(f"{_signed(found[n]['low'])} to {_signed(found[n]['high'])}" for n in HEADLINE),
        )
    return table


def verdict(part: Mapping[str, Any], best: int) -> str:
    """One sentence on whether the best trial is better than trial 0, from five paired seeds."""
    if "difference" not in part:
        return "The best trial is trial 0, the published values: the search found nothing better."
    found = part["difference"]["AP"]
    if not found["is_shown"]:
        return f"AP: no difference shown between trial {best} and trial 0 (five paired seeds)."
    more = "above" if found["mean"] > 0 else "below"
    return f"AP: trial {best} is {abs(found['mean']):.1f} {more} trial 0 (five paired seeds, interval without 0)."


def _spread(found: Mapping[str, float]) -> str:
    return f"{number(found['mean'])} ± {number(found['std'])}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}"
