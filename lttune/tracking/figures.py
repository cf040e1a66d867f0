"""Two figures of a finished study, as SVG text."""

import io
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lttune.types import StudyResult, TrialResult

BEST, FIRST, OTHER = "#c2410c", "#1d4ed8", "#64748b"
# With more points than this they become an image within the figure, whose size no longer grows with them.
MAX_DRAWN = 2000
# Text stays text, and the same study gives the same file.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "lttune", "font.size": 10, "axes.grid": True, "grid.color": "#e2e8f0"}


def preload(cache: Path) -> None:
    """Import Matplotlib, which takes half a second, and on its first use with a cache many, to look for fonts.

    Args:
        cache: where it keeps what it found, in the place of the home folder; a folder that the environment names counts
            more.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def study_figures(result: "StudyResult", cache: Path) -> dict[str, str]:
    """`history.svg`, and `ap_by_frequency.svg` where trials have AP of both groups; none without a finite objective."""
    preload(cache)
    metric = result.objective["metric"]
    ended = (trial for trial in result.trials if trial.state in ("COMPLETE", "PRUNED"))
    judged = [trial for trial in ended if math.isfinite(trial.metrics.get(metric, math.nan))]
    figures = {}
    if judged:
        figures["history.svg"] = _history(result, judged)
    if both := [t for t in judged if all(math.isfinite(t.metrics.get(name, math.nan)) for name in ("AP_r", "AP_f"))]:
        figures["ap_by_frequency.svg"] = _by_frequency(result, both)
    return figures


def _history(result: "StudyResult", trials: "Sequence[TrialResult]") -> str:
    metric, mode = result.objective["metric"], result.objective["mode"]
    numbers, best_so_far = [], list[float]()
    for trial in trials:
        if trial.state == "COMPLETE":
            better = max if mode == "max" else min
            numbers.append(trial.number)
            best_so_far.append(better([trial.metrics[metric], *best_so_far[-1:]]))

    def draw(axes: Any) -> None:
        _points(axes, result, trials, lambda trial: (trial.number, trial.metrics[metric]))
        axes.step(numbers, best_so_far, where="post", color=BEST, linewidth=1.2, label="best so far", zorder=2)
        axes.set(xlabel="trial", ylabel=f"{metric}, tune half", title=f"{result.study}: objective of each trial")
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _svg(draw)


def _by_frequency(result: "StudyResult", trials: "Sequence[TrialResult]") -> str:
    def draw(axes: Any) -> None:
        _points(axes, result, trials, lambda trial: (trial.metrics["AP_f"], trial.metrics["AP_r"]))
        axes.set(xlabel="AP_f, frequent categories, tune half", ylabel="AP_r, rare categories, tune half")
        axes.set_title(f"{result.study}: rare against frequent")

    return _svg(draw)


def _points(axes: Any, result: "StudyResult", trials: "Sequence[TrialResult]", position: Any) -> None:
    """The trials; the best one, trial 0 and those that were stopped early can be told from the rest."""
    rest = [trial for trial in trials if trial.number not in (0, result.best)]
    first = "trial 0, the best" if result.best == 0 else "trial 0"
    kinds: list[tuple[str, list[TrialResult], dict[str, Any]]] = [
        ("trial", [t for t in rest if t.state == "COMPLETE"], {"color": OTHER, "s": 18}),
        ("stopped early", [t for t in rest if t.state != "COMPLETE"], {"edgecolor": OTHER, "color": "none", "s": 18}),
        (first, [t for t in trials if t.number == 0], {"color": FIRST, "s": 46, "marker": "s"}),
        (
            f"trial {result.best}, the best",
            [t for t in trials if t.number == result.best != 0],
            {"color": BEST, "s": 60},
        ),
    ]
    for label, members, style in kinds:
        if members:
            x, y = zip(*map(position, members), strict=True)
            axes.scatter(x, y, label=label, zorder=3, rasterized=len(members) > MAX_DRAWN, **style)


def _svg(draw: Any) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7, 4.2), dpi=100, facecolor="white")
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.1, 0.13, 0.87, 0.78))
        draw(axes)
        axes.set_axisbelow(True)
        axes.legend(loc="best", framealpha=0.85)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
