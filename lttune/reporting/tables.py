"""A comparison as tables of text, and these as Markdown, LaTeX and CSV."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lttune.reporting.compare import BASELINES, Comparison, Difference, StudySummary
from lttune.reporting.records import Arm
from lttune.reporting.statistics import Estimate
from lttune.reporting.text import DASH, duration, number

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    DASH: "--",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells of text; the first `num_words` columns hold words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_words: int


def tables(comparison: Comparison) -> list[Table]:
    """What `lttune compare` shows, most telling first; a table without a row is left out."""
    found = [_measured(comparison), *_differences(comparison), _gains(comparison), _searches(comparison)]
    return [table for table in found if table.rows]


def spread(found: Estimate | None) -> str:
    """A mean with its interval, where there is one."""
    if found is None or math.isnan(found.low):
        return DASH if found is None else number(found.mean)
    return f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]"


def change(found: Estimate | None) -> str:
    """A difference with its interval, or that none is shown."""
    if found is None or math.isnan(found.mean):
        return DASH
    if math.isnan(found.low):
        return f"{found.mean:+.1f} (one seed)"
    if found.low == found.high == 0:
        return "0, the same values"
    interval = f"[{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f} {interval}" if found.is_shown else f"no difference shown {interval}"


def _measured(comparison: Comparison) -> Table:
    is_ranked = comparison.refusal is None and len(comparison.studies) > 1
    rows = []
    stage1 = {_cells(study.stage1[name] for name in comparison.metrics) for study in comparison.studies}
    for cells in sorted(stage1 - {(DASH,) * len(comparison.metrics)}):
        rows.append((*([""] if is_ranked else []), "stage-1 model", "", "as it is", *cells))
    for study in comparison.studies:
        for arm, what in _arms(study):
            cells = tuple(spread(study.arms[arm][name]) for name in comparison.metrics)
            rows.append((*([str(study.rank)] if is_ranked else []), study.name, study.method, what, *cells))
    return Table(
        title=f"Report half, at most {comparison.max_dets} detections per image: mean and 95 % interval over the seeds",
        columns=(*(["rank"] if is_ranked else []), "study", "method", "values", *comparison.metrics),
        rows=tuple(rows),
        num_words=3 + is_ranked,
    )


def _arms(study: StudySummary) -> Iterator[tuple[Arm, str]]:
    # Nobody published a baseline.
    first = "default" if study.method in BASELINES else "published"
    yield "trial_0", f"{first} and best (trial 0)" if study.best == 0 else f"{first} (trial 0)"
    if study.best != 0:
        yield "optimiser_only", "optimiser only"
        yield "best", "best" if study.best is None else f"best (trial {study.best})"


def _differences(comparison: Comparison) -> Iterator[Table]:
    for control in comparison.controls:
        rows = tuple(_difference(found, comparison) for found in comparison.differences if found.control == control)
        yield Table(
            title=f"Best trial minus the best of {control}, the control, paired by seed",
            columns=("study", *comparison.metrics),
            rows=rows,
            num_words=1,
        )


def _difference(found: Difference, comparison: Comparison) -> tuple[str, ...]:
    if found.reason is not None:
        return (found.study, found.reason, *[DASH] * (len(comparison.metrics) - 1))
    return (found.study, *(change(found.values[name]) for name in comparison.metrics))


def _gains(comparison: Comparison) -> Table:
    return Table(
        title="What each search gained in AP over trial 0, paired by seed, and whose values brought it",
        columns=("study", "whole gain", "of the optimiser", "of the loss"),
        rows=tuple(
            (study.name, *(change(study.gains[part]["AP"]) for part in ("total", "optimiser", "loss")))
            for study in comparison.studies
            if study.gains["total"]["AP"] is not None
        ),
        num_words=1,
    )


def _searches(comparison: Comparison) -> Table:
    n, metric = comparison.common_trials, comparison.objective
    return Table(
        title=f"Searches; {metric} is of the tune half, by which each search selected",
        columns=(
            "study",
            "trains",
            "fidelity",
            "trials",
            "a trial",
            "all trials",
            f"best {metric}",
            f"expected best of {n}",
        ),
        rows=tuple(
            (
                study.name,
                study.trains,
                study.fidelity,
                f"{study.num_complete} of {study.num_asked}",
                DASH if study.trial_s is None else duration(study.trial_s),
                duration(study.total_s),
                number(study.best_tuned),
                number(study.expected_best[n - 1] if 0 < n <= len(study.expected_best) else None),
            )
            for study in comparison.studies
        ),
        num_words=3,
    )


def _cells(values: Iterator[float | None]) -> tuple[str, ...]:
    return tuple(number(value) for value in values)


# ---- as text


def markdown(comparison: Comparison) -> str:
    """GitHub's tables, with titles, refusal and notes."""
    parts = []
    for table in tables(comparison):
        marks = ["---"] * table.num_words + ["---:"] * (len(table.columns) - table.num_words)
        lines = [_markdown_row(row) for row in (table.columns, *table.rows)]
        parts.append("\n".join([f"**{_markdown(table.title)}**", "", lines[0], f"|{'|'.join(marks)}|", *lines[1:]]))
    parts += [_markdown(line) for line in remarks(comparison)]
    return "\n\n".join(parts) + "\n"


def latex(comparison: Comparison) -> str:
    r"""One `table` for each, for the package booktabs."""
    parts = ["% \\usepackage{booktabs}"]
    for table in tables(comparison):
        alignment = "l" * table.num_words + "r" * (len(table.columns) - table.num_words)
        body = [" & ".join(map(_latex, row)) + r" \\" for row in table.rows]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_latex(table.title)}.}}",
                    rf"\begin{{tabular}}{{{alignment}}}",
                    r"\toprule",
                    " & ".join(map(_latex, table.columns)) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    parts += [f"% {line}" for line in remarks(comparison)]
    return "\n\n".join(parts) + "\n"


def remarks(comparison: Comparison) -> list[str]:
    """What stands below the tables, a line each."""
    lines = [comparison.refusal] if comparison.refusal else []
    if len(comparison.studies) > 1 and comparison.refusal is None:
        lines.append("Ranked by mean AP; whether two studies differ is said by the intervals of their differences.")
    if not comparison.controls:
        lines.append("No control: name one with --control. Without one, no method may be called better.")
    return [*lines, *comparison.notes]


def csv_text(comparison: Comparison) -> str:
    """One number per line, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["study", "method", "rank", "what", "against", "max_dets", "metric", "mean", "low", "high", "seeds"]
    )
    for study in comparison.studies:
        first = [study.name, study.method, "" if study.rank is None else study.rank]
        for what, against, max_dets, metric, found in _numbers(comparison, study):
            values = ["" if math.isnan(value) else value for value in (found.mean, found.low, found.high)]
            writer.writerow([*first, what, against, max_dets, metric, *values, found.num or ""])
    return text.getvalue()


def _numbers(comparison: Comparison, study: StudySummary) -> Iterator[tuple[str, str, int | str, str, Estimate]]:
    limit = comparison.max_dets
    measured = [(str(arm), "", values) for arm, values in study.arms.items()]
    measured += [(f"gain_{part}", "", values) for part, values in study.gains.items()]
    measured += [("difference", d.control, d.values) for d in comparison.differences if d.study == study.name]
    for metric, value in study.stage1.items():
        if value is not None:
            yield "stage1", "", limit, metric, _alone(value)
    for what, against, values in measured:
        for metric, found in values.items():
            if found is not None:
                yield what, against, limit, metric, found
    for n, value in enumerate(study.expected_best, 1):
        yield f"expected_best_of_{n}", "", "", comparison.objective, _alone(value)
    yield "trials", "", "", "complete", _alone(study.num_complete)
    if study.trial_s is not None:
        yield "trial", "", "", "seconds", _alone(study.trial_s)
    yield "all_trials", "", "", "seconds", _alone(study.total_s)


def _alone(value: float) -> Estimate:
    return Estimate(mean=value, low=math.nan, high=math.nan, num=0)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, cells)) + " |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>])", r"\\\1", text)


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<!\w)([+-][\d.]+)", r"$\1$", escaped)
