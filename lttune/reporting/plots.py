"""The plots of a study: Optuna's own where it has them, drawn by plotly for a page and by Matplotlib for a file."""

import html
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from lttune.reporting.models import CategoryPrecision
from lttune.reporting.records import StudyRecord
from lttune.reporting.trials import drawable, two_metrics, varied

# With fewer trials an importance is mostly chance.
MIN_TRIALS_OF_IMPORTANCE = 50
# Parameters of the contour plot, which has a panel for each pair.
_NUM_IN_CONTOUR = 4
_BEST, _FIRST, _OTHER = "#c2410c", "#1d4ed8", "#94a3b8"
_PNG_PX, _DPI = (1000, 560), 120
# Characters of a line of an axis title, in a plot of its own and in one of many panels.
_LINE, _SHORT_LINE = 28, 14

# Draws with `optuna.visualization` or with `optuna.visualization.matplotlib`, which share their functions' names.
Draw = Callable[[ModuleType], Any]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot.

    Attributes:
        name: unique in its study, part of the names of files.
        size_px: the least width at which it can be read, and its height.
        is_grid: whether it has many small panels.
        is_spaced: whether Matplotlib can lay its axes out; it cannot where one has no height of its own.
    """

    name: str
    title: str
    caption: str
    draw: Draw
    size_px: tuple[int, int] = (320, 420)
    is_grid: bool = False
    is_spaced: bool = True

    def figure(self) -> go.Figure:
        """For a page, in its style."""
        figure: go.Figure = self.draw(optuna.visualization)
        figure.update_layout(
            template="plotly_white",
            title=None,
            width=None,
            height=self.size_px[1],
            margin={"l": 60, "r": 20, "t": 30, "b": 60},
            font={"family": "system-ui, sans-serif", "size": 13, "color": "#1e293b"},
            hoverlabel={"namelength": -1},
        )
        for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
            axis.update(automargin=True, title_text=self._wrapped(axis.title.text or "", "<br>"))
        return figure

    def write_png(self, path: Path) -> None:
        """Draw into a file, without a display."""
        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
        from matplotlib.ticker import NullFormatter

        with warnings.catch_warnings(), plt.rc_context():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.draw(optuna.visualization.matplotlib)
            figure = plt.gcf()
            width, height = max(self.size_px[0], _PNG_PX[0]), max(self.size_px[1], _PNG_PX[1])
            figure.set_size_inches(width / _DPI, height / _DPI)
            figure.set_layout_engine("constrained" if self.is_spaced else None)
            figure.suptitle(self.title)
            for axes in figure.axes:
                axes.set_title("")
                axes.set_title("", loc="left")
                axes.set(facecolor="white", xlabel=self._wrapped(axes.get_xlabel()))
                axes.set(ylabel=self._wrapped(axes.get_ylabel()))
                axes.grid(visible=None, color="#e2e8f0")
                if self.is_grid:
                    axes.xaxis.set_minor_formatter(NullFormatter())
                    axes.yaxis.set_minor_formatter(NullFormatter())
            figure.savefig(path, dpi=_DPI, facecolor="white", bbox_inches="tight")
            plt.close(figure)

    def _wrapped(self, title: str, end: str = "\n") -> str:
        return _wrapped(title, _SHORT_LINE if self.is_grid else _LINE, end)


def study_plots(
    record: StudyRecord, trials: Sequence[FrozenTrial], categories: Sequence[CategoryPrecision]
) -> Iterator[Plot]:
    """The plots that a study has enough trials for.

    Args:
        trials: as its storage holds them.
        categories: AP of each, where it is known.
    """
    objective = record.spec.objective
    target = f"{objective.metric}, tune half"
    study = drawable(trials, objective.mode)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return
    common, names = varied(study)
    yield Plot(
        name="history",
        title="Optimisation history",
        caption="Each point is a trial, the line the best so far. Trial 0 runs the published values.",
        draw=lambda module: _tidy(module.plot_optimization_history(study, target_name=target), module),
    )
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        best = record.result.best
        yield Plot(
            name="learning-curves",
            title="Learning curves",
            caption="The objective after each epoch, on the tune half.",
            draw=lambda module: _curves(module.plot_intermediate_values(study), module, best, target),
        )
    front = two_metrics(trials, "AP_r", "AP_f")
    if front.get_trials(deepcopy=False):
        yield Plot(
            name="pareto",
            title="Rare against frequent",
            caption="AP of rare and of frequent categories, on the tune half. No trial is better in both than one on "
            "the front.",
            draw=lambda module: _pareto(
                module.plot_pareto_front(front, target_names=["AP_r, tune half", "AP_f, tune half"]), module, front
            ),
        )
    if common:
        too_few = f"Too few trials: with {len(complete)}, below {MIN_TRIALS_OF_IMPORTANCE}, this is mostly chance. "
        yield Plot(
            name="importance",
            title="Importance of each hyperparameter",
            caption=(too_few if len(complete) < MIN_TRIALS_OF_IMPORTANCE else "")
            + "Share of each in what sets the best tenth of the trials apart (PED-ANOVA).",
            draw=lambda module: _tidy(
                module.plot_param_importances(
                    study, evaluator=PedAnovaImportanceEvaluator(), params=common, target_name=target
                ),
                module,
            ),
        )
    if len(common) > 1:
        yield Plot(
            name="parallel",
            title="Parallel coordinates",
            caption="Each line is a trial; darker is better.",
            draw=lambda module: _parallel(
                module.plot_parallel_coordinate(study, params=common, target_name=target), module, common
            ),
            size_px=(120 * (len(common) + 1), 420),
            is_spaced=False,
        )
    if names:
        yield Plot(
            name="slice",
            title="Slices",
            caption="Each trial against each of its values; darker trials came later.",
            draw=lambda module: module.plot_slice(study, params=names, target_name=target),
            size_px=(220 * len(names) + 80, 420),
            is_grid=True,
            is_spaced=len(names) > 1,
        )
    if len(common) > 1:
        pairs = common[:_NUM_IN_CONTOUR]
        yield Plot(
            name="contour",
            title="Contours",
            caption="The objective over pairs of hyperparameters, interpolated between the trials (points).",
            draw=lambda module: _contour(module.plot_contour(study, params=pairs, target_name=target), module),
            size_px=(230 * len(pairs) + 100, 220 * len(pairs) + 60),
            is_grid=True,
        )
    if categories:
        yield Plot(
            name="categories",
            title="AP of each category",
            caption="Against the training images that contain it. On the tune half, by which the best trial was "
            "selected: its points flatter it a little.",
            draw=lambda module: _categories(categories, module),
        )


def _is_plotly(module: ModuleType) -> bool:
    return module is optuna.visualization


def _tidy(drawn: Any, module: ModuleType) -> Any:
    """The legend below a page's plot, where it takes no width from it."""
    if _is_plotly(module):
        drawn.update_layout(legend={"orientation": "h", "y": -0.2, "x": 0})
    return drawn


def _wrapped(title: str, line: int, end: str = "\n") -> str:
    return end.join(textwrap.wrap(title, line, break_long_words=False))


def _parallel(drawn: Any, module: ModuleType, names: Sequence[str]) -> Any:
    """Whole names, which Optuna sorts and cuts short."""
    if not _is_plotly(module):
        cut = [label.get_text() for label in drawn.get_xticklabels()]
        drawn.set_xticks(range(len(cut)), _whole(cut, names, "\n"), rotation=0, ha="center")
    elif drawn.layout.xaxis.ticktext:
        drawn.update_xaxes(ticktext=_whole(drawn.layout.xaxis.ticktext, names, "<br>"), tickangle=0)
    else:  # Optuna below 5
        dimensions = drawn.data[0].dimensions
        whole = _whole([dimension.label for dimension in dimensions], names, "<br>")
        for dimension, label in zip(dimensions, whole, strict=True):
            dimension.label = label
    return drawn


def _whole(cut: Sequence[str], names: Sequence[str], end: str) -> list[str]:
    """Labels of the objective and of the parameters with the latter's whole names."""
    labels = [cut[0], *sorted(names)]
    assert all(whole.startswith(label.removesuffix("...")) for whole, label in zip(labels, cut, strict=True))
    return [_wrapped(label, _SHORT_LINE, end) for label in labels]


def _contour(drawn: Any, module: ModuleType) -> Any:
    """Names of parameters at the left and at the bottom only."""
    if not _is_plotly(module) and isinstance(drawn, np.ndarray):
        for axes in drawn[:, 1:].flat:
            axes.set(ylabel="")
        for axes in drawn[:-1].flat:
            axes.set(xlabel="")
    return drawn


def _curves(drawn: Any, module: ModuleType, best: int | None, target: str) -> Any:
    """Trial 0 and the best trial in colour before the others in grey."""
    colours = {0: _FIRST} | ({} if best is None else {best: _BEST})
    if _is_plotly(module):
        for line in drawn.data:
            number = int(line.name.removeprefix("Trial"))
            line.update(
                mode="lines+markers" if number in colours else "lines",
                line={"color": colours.get(number, _OTHER), "width": 3 if number in colours else 1},
                marker={"size": 5},
                name=f"trial {number}" + (", the best" if number == best else ""),
                showlegend=number in colours,
            )
        drawn.data = sorted(drawn.data, key=lambda line: line.showlegend)
        drawn.update_layout(showlegend=True)
        drawn.update_xaxes(title_text="epoch")
        drawn.update_yaxes(title_text=target)
    else:
        for line in drawn.lines:
            number = int(str(line.get_label()).removeprefix("Trial"))
            line.set(color=colours.get(number, _OTHER), linewidth=2 if number in colours else 0.8)
            line.set(zorder=3 if number in colours else 2, marker="o", markersize=3 if number in colours else 0)
            line.set_label(f"trial {number}" + (", the best" if number == best else ""))
        shown = [line for line in drawn.lines if line.get_zorder() == 3]
        drawn.legend(handles=shown)
        drawn.set(xlabel="epoch", ylabel=target)
    return _tidy(drawn, module)


def _pareto(drawn: Any, module: ModuleType, front: optuna.Study) -> Any:
    """Two colours, and the numbers that trials have in their own study."""
    best = {trial.number for trial in front.best_trials}
    styles = {False: ("trial", _OTHER), True: ("on the front", _BEST)}
    if _is_plotly(module):
        trials = front.get_trials(deepcopy=False)
        for points in drawn.data:
            # Optuna writes a trial as JSON beside its point.
            numbers = [int(text.split('"number": ')[1].split(",")[0]) for text in points.text]
            name, colour = styles[best.issuperset(numbers)]
            texts = [f"trial {trials[number].user_attrs['number']}" for number in numbers]
            points.update(name=name, text=texts, hovertemplate="%{text}: %{x:.2f}, %{y:.2f}", showlegend=True)
            points.marker = {"color": colour, "size": 9}
    else:
        handles, names = drawn.get_legend_handles_labels()
        shown = [styles[name.startswith("Best")] for name in names]
        for points, (_, colour) in zip(handles, shown, strict=True):
            points.set_color(colour)
        drawn.legend(handles, [name for name, _ in shown], loc="best")
    return _tidy(drawn, module)


def _categories(categories: Sequence[CategoryPrecision], module: ModuleType) -> Any:
    """AP of each category against the training images that contain it."""
    known = sorted(categories, key=lambda found: found.num_images)
    x = [max(1, found.num_images) for found in known]
    styles = {"published": ("trial 0, published values", _FIRST), "best": ("best trial", _BEST)}
    title_x, title_y = "training images", "AP, tune half"
    if not _is_plotly(module):
        from matplotlib import pyplot as plt

        axes = plt.subplots()[1]
        for what, (label, colour) in styles.items():
            if what in known[0].values:
                axes.scatter(x, [found.values[what] for found in known], s=18, color=colour, label=label, alpha=0.75)
        axes.set(xscale="log", xlabel=title_x, ylabel=title_y)
        axes.legend()
        return axes
    figure = go.Figure()
    # Plotly takes names for a small HTML.
    names = [f"{html.escape(found.name)} ({found.group})" for found in known]
    for what, (label, colour) in styles.items():
        if what in known[0].values:
            figure.add_scatter(
                x=x,
                y=[found.values[what] for found in known],
                text=names,
                mode="markers",
                name=label,
                marker={"color": colour, "size": 8, "opacity": 0.75},
                hovertemplate="%{text}<br>%{x} images, AP %{y:.1f}",
            )
    figure.update_xaxes(type="log", title_text=title_x)
    figure.update_yaxes(title_text=title_y)
    return _tidy(figure, module)
