"""Studies side by side: what was measured on the report half, against what, and at what cost."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lttune.errors import InputError
from lttune.evaluation.report import HEADLINE
from lttune.reporting.identity import MEASURED_ON, Identity, identity, what_differs
from lttune.reporting.records import ARMS, Arm, StudyRecord
from lttune.reporting.statistics import Estimate, difference, estimate, expected_best
from lttune.types import Fidelity

# Methods that every other one has to beat.
BASELINES = ("cross_entropy", "sigmoid_cross_entropy", "logit_adjustment")
# What a search gained, and the share of the optimiser's and of the loss's values in it: second arm minus first.
GAINS: Mapping[str, tuple[Arm, Arm]] = {
    "total": ("trial_0", "best"),
    "optimiser": ("trial_0", "optimiser_only"),
    "loss": ("optimiser_only", "best"),
}

# By headline metric; None where it was not measured.
Estimates = Mapping[str, Estimate | None]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Best trial of a study minus best trial of a control, by seed; `reason` says why there is none."""

    study: str
    control: str
    values: Estimates
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """One study's row.

    Attributes:
        best: number of the best trial.
        arms: on the report half.
        stage1: the stage-1 model as it is, on the report half; None where it was not measured.
        gains: see `GAINS`.
        best_tuned: objective of the best trial on the tune half.
        expected_best: objective of the best of n of its trials, on average, n from 1.
        trial_s: median seconds of a COMPLETE trial.
        total_s: seconds of all trials.
    """

    name: str
    method: str
    fidelity: Fidelity
    trains: str
    num_asked: int
    num_ended: int
    num_complete: int
    best: int | None
    arms: Mapping[Arm, Estimates]
    stage1: Mapping[str, float | None]
    gains: Mapping[str, Estimates]
    best_tuned: float | None
    expected_best: tuple[float, ...]
    trial_s: float | None
    total_s: float
    rank: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `lttune compare` shows.

    Attributes:
        studies: best first where they are ranked, else as given.
        refusal: why they are not ranked, in one line.
        max_dets: detections per image at which everything here was measured.
        common_trials: smallest number of COMPLETE trials.
        objective: metric by which trials were selected.
    """

    studies: tuple[StudySummary, ...]
    controls: tuple[str, ...]
    differences: tuple[Difference, ...]
    refusal: str | None
    max_dets: int
    common_trials: int
    objective: str
    metrics: tuple[str, ...] = field(default=HEADLINE)

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables must know, a line each."""
        return [f"{study.name}: {note}" for study in self.studies for note in study.notes]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is None."""
        document: dict[str, Any] = _plain(asdict(self))
        gains = [values for study in document["studies"] for values in study["gains"].values()]
        for values in [*gains, *(found["values"] for found in document["differences"])]:
            for found in filter(None, values.values()):
                found["is_shown"] = found["low"] is not None and (found["low"] > 0 or found["high"] < 0)
        return document


def compare(
    records: Sequence[StudyRecord], *, controls: Sequence[StudyRecord] = (), max_dets: int | None = None
) -> Comparison:
    """Compare studies, at least one.

    Args:
        records: the studies; those whose method is a baseline are controls, too.
        controls: more controls.
        max_dets: detections per image, one of the limits at which confirmations measured; by default the smallest.

    Raises:
        InputError: a study is given twice, or no confirmation measured at `max_dets`.
    """
    everybody = list({record.folder.path: record for record in (*records, *controls)}.values())
    names = [record.name for record in everybody]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two studies are called '{twice[0]}'; rename the folder of one of them.")
    limit = _limit(everybody, max_dets)
    identities = {record.name: identity(record) for record in everybody}
    summaries = [_summary(record, limit) for record in everybody]
    refusal = _refusal(summaries, list(identities.values()))
    if refusal is None and len(summaries) > 1:
        by_rank = sorted(summaries, key=lambda study: -_best_ap(study))
        summaries = [replace(study, rank=place) for place, study in enumerate(by_rank, 1)]
    chosen = [r for r in everybody if r in controls or r.method in BASELINES]
    return Comparison(
        studies=tuple(summaries),
        controls=tuple(control.name for control in chosen),
        differences=tuple(
            _difference(record, control, identities, limit)
            for control in chosen
            for record in everybody
            if record is not control
        ),
        refusal=refusal,
        max_dets=limit,
        common_trials=min(study.num_complete for study in summaries),
        objective=everybody[0].spec.objective.metric,
    )


def _limit(records: Sequence[StudyRecord], asked: int | None) -> int:
    measured = [set(record.confirmation.limits) for record in records if record.confirmation]
    common = sorted(set.intersection(*measured)) if measured else []
    if asked is not None and measured and asked not in common:
        known = ", ".join(map(str, common)) or "none in common"
        raise InputError(f"--max-dets {asked}: the studies were measured at other limits of detections; use {known}.")
    if asked is not None:
        return asked
    return common[0] if common else records[0].config.evaluation.max_dets


def _summary(record: StudyRecord, limit: int) -> StudySummary:
    spec, result = record.spec, record.result
    values = {arm: {metric: record.values(arm, limit, metric) for metric in HEADLINE} for arm in ARMS}
    seconds = [trial.seconds or 0.0 for trial in result.trials]
    tuned, best = record.tuned_values(), result.best_trial
    mode = spec.objective.mode
    return StudySummary(
        name=record.name,
        method=record.method,
        fidelity=record.fidelity,
        trains=record.trains,
        num_asked=spec.search.trials,
        num_ended=sum(trial.state not in {"RUNNING", "WAITING"} for trial in result.trials),
        num_complete=len(record.complete),
        best=result.best,
        arms={arm: {key: estimate([*found.values()]) for key, found in values[arm].items()} for arm in ARMS},
        stage1={metric: record.stage1(limit, metric) for metric in HEADLINE},
        gains={
            name: {metric: difference(values[first][metric], values[second][metric]) for metric in HEADLINE}
            for name, (first, second) in GAINS.items()
        },
        best_tuned=None if best is None else best.metrics.get(spec.objective.metric),
        expected_best=tuple(expected_best(tuned, n, mode=mode) for n in range(1, len(tuned) + 1)),
        trial_s=statistics.median(trial.seconds or 0.0 for trial in record.complete) if record.complete else None,
        total_s=sum(seconds),
        notes=tuple(_notes(record, limit)),
    )


def _notes(record: StudyRecord, limit: int) -> Iterator[str]:
    best, trials = record.result.best_trial, record.result.trials
    if len(trials) < record.spec.search.trials or any(trial.state == "RUNNING" for trial in trials):
        yield f"its search is not complete, {len(record.complete)} of {record.spec.search.trials} trials are"
    if best is None:
        yield "no trial is COMPLETE"
    elif not record.values("best", limit, "AP"):
        yield f"not confirmed on the report half at {limit} detections; lttune resume {record.name}"
    else:
        assert record.confirmation is not None
        num, asked = len(record.values("best", limit, "AP")), record.confirmation.num_seeds
        if num < asked:
            yield f"confirmed with {num} of {asked} seeds"
        if best.number == 0:
            yield "its best trial is trial 0, the published values"
        yield from _limits_note(record)
    if record.fidelity != record.config.fidelity:
        yield (
            f"its trials ran at fidelity {record.fidelity}, and {record.method} runs at {record.config.fidelity} now; "
            "what they trained is not known"
        )


def _limits_note(record: StudyRecord) -> Iterator[str]:
    assert record.confirmation is not None
    limits = record.confirmation.limits
    found = [difference(*(record.values(arm, limit, "AP") for arm in GAINS["total"])) for limit in limits]
    if found[0] and found[-1] and found[0].is_shown and found[0].mean > 0 and not found[-1].is_shown:
        yield f"its gain in AP exists at {limits[0]} detections per image, not at {limits[-1]}"


def _refusal(summaries: Sequence[StudySummary], identities: Sequence[Identity]) -> str | None:
    differing = what_differs(identities)
    unconfirmed = [study.name for study in summaries if not _is_confirmed(study)]
    if len(summaries) < 2:
        return None
    if differing:
        counts = sorted({study.num_complete for study in summaries})
        said = [f"{name} ({', '.join(map(str, counts))})" if name == "number of trials" else name for name in differing]
        return f"Not ranked: the studies differ in {', '.join(said)}."
    if unconfirmed:
        return f"Not ranked: no confirmation of {', '.join(unconfirmed)}."
    return None


def _is_confirmed(study: StudySummary) -> bool:
    return math.isfinite(_best_ap(study))


def _best_ap(study: StudySummary) -> float:
    found = study.arms["best"]["AP"]
    return math.nan if found is None else found.mean


def _difference(
    record: StudyRecord, control: StudyRecord, identities: Mapping[str, Identity], limit: int
) -> Difference:
    differing = what_differs([identities[record.name], identities[control.name]], MEASURED_ON)
    values: dict[str, Estimate | None] = dict.fromkeys(HEADLINE)
    reason = f"they differ in {', '.join(differing)}" if differing else None
    if reason is None:
        values = {
            metric: difference(control.values("best", limit, metric), record.values("best", limit, metric))
            for metric in HEADLINE
        }
        if values["AP"] is None:
            reason = "no seed in common yet"
    return Difference(study=record.name, control=control.name, values=values, reason=reason)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
