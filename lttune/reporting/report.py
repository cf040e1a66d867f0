"""Writes the report of one or several studies."""

import time
from collections.abc import Sequence
from pathlib import Path

from lttune.engine.assets import Progress
from lttune.engine.checkpoint import replacing
from lttune.reporting.compare import compare
from lttune.reporting.models import Findings, inspect_models
from lttune.reporting.page import Chapter, page
from lttune.reporting.plots import Plot, study_plots
from lttune.reporting.records import StudyRecord
from lttune.reporting.tables import Table, remarks, tables
from lttune.reporting.text import number
from lttune.reporting.trials import read_trials


def write_report(
    records: Sequence[StudyRecord],
    to: Path,
    *,
    controls: Sequence[StudyRecord] = (),
    with_models: bool = True,
    with_png: bool = False,
    progress: Progress = lambda *_: None,
) -> list[Path]:
    """Write `report.html`, in the place of an earlier one, and where asked a PNG file for every plot.

    Args:
        records: the studies, at least one.
        to: a folder, made where it does not exist.
        controls: see `compare`.
        with_models: whether to evaluate trained models for AP of each category and sample detections.
        progress: told of every evaluation.

    Returns:
        The files.

    Raises:
        InputError: see `compare`.
    """
    comparison = compare(records, controls=controls)
    to.mkdir(parents=True, exist_ok=True)
    chapters, files = [], [to / "report.html"]
    for record in {record.folder.path: record for record in (*records, *controls)}.values():
        found = inspect_models(record, progress) if with_models and record.complete else Findings()
        plots = list(study_plots(record, read_trials(record), found.categories))
        chapters.append(_chapter(record, plots, found))
        for plot in plots if with_png else ():
            files.append(to / f"{record.name}-{plot.name}.png")
            plot.write_png(files[-1])
    names = ", ".join(record.name for record in records)
    document = page(
        f"lttune: {names}",
        f"Written {time.strftime('%Y-%m-%d %H:%M')}. AP in points; the report half is images that no search has seen, "
        "the tune half those by which it selected.",
        tables(comparison),
        remarks(comparison),
        chapters,
    )
    with replacing(files[0]) as temporary:
        temporary.write_text(document, encoding="utf-8")
    return files


def _chapter(record: StudyRecord, plots: Sequence[Plot], found: Findings) -> Chapter:
    spec, result, best = record.spec, record.result, record.result.best_trial
    failed = sum(trial.state == "FAIL" for trial in result.trials)
    pruned = sum(trial.state == "PRUNED" for trial in result.trials)
    facts = [
        ("method", record.method),
        ("setting", spec.on.description),
        ("trains", f"{record.trains}, fidelity {record.fidelity}"),
        ("objective", f"{spec.objective.mode} {spec.objective.metric} of the tune half"),
        ("trials", f"{len(record.complete)} COMPLETE, {pruned} PRUNED, {failed} FAIL of {spec.search.trials}"),
        ("sampler", f"{spec.search.sampler}, seed {spec.search.seed}"),
        ("differs from published", "; ".join(record.config.differs_from_published)),
    ]
    notes = list(found.notes)
    if not plots:
        notes.append("No trial is COMPLETE yet, so there is nothing to draw.")
    return Chapter(
        name=record.name,
        facts=[(name, value) for name, value in facts if value],
        values=Table(
            title="Values" if best is None else f"Values of the best trial, {best.number}",
            columns=("parameter", "published", *(() if best is None else ("best",))),
            rows=tuple(_values(record)),
            num_words=1,
        ),
        plots=plots,
        pairs=found.pairs,
        notes=notes,
    )


def _values(record: StudyRecord) -> list[tuple[str, ...]]:
    best = record.result.best_trial
    published = record.spec.defaults(record.method)
    keys = list(published if best is None else dict.fromkeys([*best.params, *published]))
    columns = [published] if best is None else [published, best.params]
    return [(key, *(_value(column.get(key)) for column in columns)) for key in keys]


def _value(value: object) -> str:
    return number(value, ".4g") if isinstance(value, float) else str(value)
