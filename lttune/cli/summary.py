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
        other = best.params.get("method") != next(t for t in result.trials if t.number == 0).params.get("method")
        _print_confirmation(console, end.confirmation, best.number, of_another_method=other)
    for line in failed_runs(end.failed_runs):
        console.print(f"[yellow]{line}[/yellow]")
    console.print(f"\nStudy: {folder.path}   ({duration(end.seconds)})")
    name = folder.name
    console.print(f"Next:  lttune export {name} --to best_{name}   |   lttune status {name}   |   lttune ui")


def _print_confirmation(
    console: Console, confirmation: Mapping[str, Any], best: int, *, of_another_method: bool
) -> None:
    limits = list(confirmation)
    for limit in limits:
        console.print(f"\n[bold]Report half[/bold], which no decision saw, at {limit} detections per image:")
        console.print(_confirmation_table(confirmation[limit], best))
        for line in verdict(confirmation[limit], best, of_another_method=of_another_method):
            console.print(line)
    if len(limits) == 2 and best != 0:
        own, lvis = (confirmation[limit]["difference"]["AP"]["is_shown"] for limit in limits)
        if own and not lvis:
            console.print(f"[yellow]The gain in AP exists at the setting's {limits[0]} detections only.[/yellow]")


def _confirmation_table(part: Mapping[str, Any], best: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in HEADLINE:
        table.add_column(name, justify="right")
    if not math.isnan(part["stage1"]["AP"]):  # a method may start without one
        table.add_row("stage-1 model as it is", *(number(part["stage1"][name]) for name in HEADLINE))
    rows = {
        "trial_0": "trial 0: published values",
        "optimiser_only": f"trial {best}, its loss as published",
        "best": f"trial {best}: best of the search",
    }
    for key, title in rows.items():
        if key in part:
            table.add_row(title, *(_spread(part[key][n]) for n in HEADLINE))
    if "difference" in part:
        found = part["difference"]
        table.add_row(
            "best - trial 0, 95 % interval",
            *(f"{_signed(found[n]['low'])} to {_signed(found[n]['high'])}" for n in HEADLINE),
        )
    return table


def verdict(part: Mapping[str, Any], best: int, *, of_another_method: bool = False) -> list[str]:
    """Whether the best trial is better than trial 0, and how much of that is the loss's, from paired seeds.

    Args:
        of_another_method: whether trial 0 runs another method, whose choice then is part of the gain.
    """
    if "difference" not in part:
        return ["The best trial is trial 0, the published values: the search found nothing better."]
    found = part["difference"]["AP"]
    if math.isnan(found["mean"]):
        return [f"AP: too few runs of trial {best} and trial 0 ended well to compare them."]
    if not found["is_shown"]:
        lines = [f"AP: no difference shown between trial {best} and trial 0 (five paired seeds)."]
    else:
        more = "above" if found["mean"] > 0 else "below"
        lines = [
            f"AP: trial {best} is {abs(found['mean']):.1f} {more} trial 0 (five paired seeds, interval without 0)."
        ]
    return lines + ([_split(part, of_another_method)] if "difference_loss" in part else [])


def _split(part: Mapping[str, Any], of_another_method: bool) -> str:
    """How much of the best trial's gain in AP is there with the published loss values already."""
    whole, optimiser, loss = (part[f"difference{of}"]["AP"] for of in ("", "_optimiser", "_loss"))
    kind = "gain" if whole["mean"] > 0 else "difference"
    names = ("method's and the optimiser's", "loss values'") if of_another_method else ("optimiser's", "loss's")
    shown = [name for name, found in zip(names, (optimiser, loss), strict=True) if found["is_shown"]]
    said = {
        0: "no difference shown for either",
        1: f"only the {shown[0]} is shown" if shown else "",
        2: "both are shown",
    }
    return (
        f"Of the {kind} of {whole['mean']:.1f}, {_with_interval(optimiser)} is the {names[0]}, "
        f"{_with_interval(loss)} the {names[1]}: {said[len(shown)]}."
    )


def failed_runs(reasons: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A line per arm of the confirmation whose runs failed; nothing counts them."""
    names = {
        "stage1": "stage-1 model",
        "trial_0": "trial 0",
        "best": "the best trial",
        "optimiser_only": "the best trial with its loss as published",
    }
    return [
        f"Confirmation of {names[arm]}: {len(by_seed)} run{'s' if len(by_seed) > 1 else ''} failed and "
        f"{'are' if len(by_seed) > 1 else 'is'} left out: {'; '.join(sorted(set(by_seed.values())))}"
        for arm, by_seed in reasons.items()
    ]


def _with_interval(found: Mapping[str, float]) -> str:
    return f"{number(found['mean'])} [{number(found['low'])}, {number(found['high'])}]"


def _spread(found: Mapping[str, float]) -> str:
    return f"{number(found['mean'])} ± {number(found['std'])}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{round(value, 1) + 0.0:+.1f}"
