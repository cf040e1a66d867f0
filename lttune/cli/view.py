"""What a person sees while a search runs: one live table on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lttune.types import StudyResult, TrialResult

HEADLINE = ("AP", "AP_r", "AP_c", "AP_f")
_STATE_STYLES = {"COMPLETE": "green", "RUNNING": "cyan", "PRUNED": "yellow", "FAIL": "red"}


def number(value: float | None, digits: int = 1) -> str:
    """A metric for a table; a dash where it is undefined."""
    if value is None or math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}"  # plus 0, so that no "-0.0" is left


def value_text(value: Any) -> str:
    """A sampled value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def short_names(keys: list[str]) -> dict[str, str]:
    """The last part of dotted keys, or the whole key where two would be the same."""
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}


def duration(seconds: float) -> str:
    """12 s, 3:04 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class _Watched:
    """What a view knows of the search."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.study, self.metric, self.mode = "", "AP", "max"
        self.num_trials, self.num_earlier = 0, 0
        self.epochs: int | None = None
        self.epochs_of: dict[int, int] = {}
        self.search_began = self.began
        self.results: dict[int, TrialResult] = {}
        self.running: dict[int, tuple[Mapping[str, Any], int, Mapping[str, float], float]] = {}

    def start(self, study: str, trials: int, epochs: int | None, metric: str, mode: str, finished: StudyResult) -> None:
        self.study, self.num_trials, self.epochs, self.metric, self.mode = study, trials, epochs, metric, mode
        self.search_began = time.monotonic()
        self.results = {trial.number: trial for trial in finished.trials if trial.state != "RUNNING"}
        self.num_earlier = len(self.results)

    def best(self) -> TrialResult | None:
        complete = [r for r in self.results.values() if r.state == "COMPLETE"]
        sign = 1 if self.mode == "max" else -1
        return max(complete, key=lambda r: (sign * r.metrics.get(self.metric, -math.inf), -r.number), default=None)

    def remaining_s(self) -> float | None:
        done = len(self.results) - self.num_earlier
        if not done:
            return None
        return (time.monotonic() - self.search_began) / done * (self.num_trials - len(self.results))


class LiveView:
    """One table that redraws itself, with a bar for whatever is no trial."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._watched = _Watched()
        self._bars = Progress(
            TextColumn("[bold]{task.description:<13}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._tasks: dict[str, Any] = {}
        self._shows_table = False
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)

    def __enter__(self) -> "LiveView":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def progress(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    def search_starts(
        self, *, study: str, trials: int, epochs: int | None, metric: str, mode: str, finished: StudyResult
    ) -> None:
        self._watched.start(study, trials, epochs, metric, mode, finished)
        self._shows_table = True

    def trial_starts(self, number: int, params: Mapping[str, Any], *, epochs: int) -> None:
        self._watched.epochs_of[number] = epochs
        self._watched.running[number] = (params, 0, {}, time.monotonic())

    def trial_reports(self, number: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        params, _, known, began = self._watched.running.get(number, ({}, 0, {}, time.monotonic()))
        self._watched.running[number] = (params, epoch, metrics or known, began)

    def trial_ends(self, result: TrialResult) -> None:
        self._watched.running.pop(result.number, None)
        self._watched.results[result.number] = result

    def note(self, line: str) -> None:
        self._console.print(line)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [self._bars]
        if self._shows_table:
            parts += [self._table(), self._footer()]
        return Group(*parts)

    def _table(self) -> Table:
        watched = self._watched
        best = watched.best()
        rows: dict[int, TrialResult] = dict(watched.results)
        for n, (params, _, metrics, began) in watched.running.items():
            rows[n] = TrialResult(
                number=n, state="RUNNING", params=params, metrics=metrics, seconds=time.monotonic() - began
            )
        room = max(6, self._console.height - len(self._tasks) - 8)
        shown = sorted(rows)[-room:]
        if best and best.number not in shown:
            shown = [best.number, *shown[1:]]
        return trial_table(
            [rows[n] for n in shown],
            best=best.number if best else None,
            epochs={n: self._epochs_text(n, rows[n].state) for n in shown},
            width=self._console.width,
        )

    def _epochs_text(self, n: int, state: str) -> str:
        """`3/8`; empty where a trial was stopped, or ended before this command and may have had any number."""
        watched = self._watched
        of = watched.epochs_of.get(n, watched.epochs)
        done = of if state == "COMPLETE" else watched.running[n][1] if n in watched.running else None
        return "" if of is None or done is None else f"{done}/{of}"

    def _footer(self) -> Text:
        watched = self._watched
        best, remaining = watched.best(), watched.remaining_s()
        elapsed = duration(time.monotonic() - watched.began)
        text = f"{len(watched.results)} of {watched.num_trials} trials, {elapsed} so far"
        if remaining is not None and len(watched.results) < watched.num_trials:
            text += f", about {duration(remaining)} to go"
        if best:
            text += f"; best: trial {best.number} with {watched.metric} {number(best.metrics.get(watched.metric), 2)}"
        return Text(text)


class PlainView:
    """A line per event, for logs and pipes."""

    def __init__(self) -> None:
        self._watched = _Watched()
        self._shares: dict[str, int] = {}

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *_: object) -> None: ...

    def _say(self, line: str) -> None:
        print(f"[{duration(time.monotonic() - self._watched.began):>6}] {line}", file=sys.stderr, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        share = 10 * done // max(1, total)
        if self._shares.get(what) != share:
            self._shares[what] = share
            self._say(f"{what}: {done} of {total}")

    def search_starts(
        self, *, study: str, trials: int, epochs: int | None, metric: str, mode: str, finished: StudyResult
    ) -> None:
        self._watched.start(study, trials, epochs, metric, mode, finished)
        earlier = f", {self._watched.num_earlier} of them finished" if self._watched.num_earlier else ""
        each = f" of {epochs} epoch{'s' if epochs > 1 else ''}" if epochs else ""
        self._say(f"study {study}: {trials} trials{each}{earlier}")

    def trial_starts(self, number: int, params: Mapping[str, Any], *, epochs: int) -> None:
        names = short_names(list(params))
        values = ", ".join(f"{names[key]} {value_text(value)}" for key, value in params.items())
        self._say(f"trial {number} starts: {values}")

    def trial_reports(self, number: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None: ...

    def trial_ends(self, result: TrialResult) -> None:
        self._watched.results[result.number] = result
        found = ", ".join(f"{name} {number(result.metrics.get(name))}" for name in HEADLINE)
        best = self._watched.best()
        tail = f"; best: trial {best.number}" if best else ""
        what = found if result.metrics else result.reason or ""
        self._say(f"trial {result.number} {result.state}: {what} ({duration(result.seconds or 0)}){tail}")

    def note(self, line: str) -> None:
        self._say(line)


def trial_table(
    trials: list[TrialResult], *, best: int | None, epochs: Mapping[int, str] | None = None, width: int = 1000
) -> Table:
    """Trials with their state, metrics of the tune half and as many sampled values as fit into the width."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    if epochs is not None:
        table.add_column("epoch", justify="right", no_wrap=True)
    for name in HEADLINE:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    # Where methods differ in what they sample, what most trials share comes first: the method, the learning rate.
    counts = Counter(key for trial in trials for key in trial.params)
    keys = sorted(counts, key=lambda key: -counts[key])
    names = short_names(keys)
    width -= 47 + 7 * (epochs is not None)
    for key in list(keys):
        width -= 2 + max(7, *map(len, names[key].split("_")))
        if width < 0:
            keys = keys[: keys.index(key)]
            break
        # One word per line: names of values are long, the values themselves are not.
        table.add_column(names[key].replace("_", "\n"), justify="right", no_wrap=True)
    for trial in trials:
        style = "bold" if trial.number == best else ""
        cells: list[RenderableType] = [
            f"{trial.number}{' *' if trial.number == best else '  '}",
            Text(trial.state, _STATE_STYLES.get(trial.state, "")),
        ]
        if epochs is not None:
            cells.append(epochs.get(trial.number, ""))
        cells += [number(trial.metrics.get(name)) for name in HEADLINE]
        cells.append(duration(trial.seconds or 0))
        cells += [value_text(trial.params[key]) if key in trial.params else "" for key in keys]
        table.add_row(*cells, style=style)
    return table


def page() -> Console:
    """Standard output for tables: as wide as the terminal, and wide enough for any table where there is none."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=140)


def choose_view() -> LiveView | PlainView:
    """A live table on a terminal, plain lines elsewhere; both write to standard error."""
    return LiveView() if sys.stderr.isatty() else PlainView()
