"""A study's trials as Optuna draws them: a copy in memory, under short names."""

from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from lttune.reporting.records import StudyRecord
from lttune.reporting.text import short_names


def read_trials(record: StudyRecord) -> list[FrozenTrial]:
    """The trials as the study's storage holds them; none before its driver made it."""
    journal = record.folder.journal
    if not journal.is_file():
        return []
    storage = JournalStorage(JournalFileBackend(str(journal)))
    known = [study for study in storage.get_all_studies() if study.study_name == record.name]
    return storage.get_all_trials(known[0]._study_id, deepcopy=False) if known else []


def drawable(trials: Sequence[FrozenTrial], mode: str) -> optuna.Study:
    """A study in memory of the trials that have ended or run; numbers stay, parameters have short names."""
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    shown = [trial for trial in trials if trial.state != TrialState.WAITING]
    names = short_names(sorted({name for trial in shown for name in trial.distributions}))
    for trial in shown:
        study.add_trial(
            create_trial(
                state=trial.state,
                value=trial.value,
                params={names[name]: value for name, value in trial.params.items()},
                distributions={names[name]: found for name, found in trial.distributions.items()},
                intermediate_values=trial.intermediate_values,
                user_attrs=trial.user_attrs,
            )
        )
    return study


def two_metrics(trials: Sequence[FrozenTrial], first: str, second: str) -> optuna.Study:
    """A study of two objectives, both maximised, of the COMPLETE trials that have both metrics."""
    study = optuna.create_study(directions=["maximize", "maximize"])
    for trial in trials:
        metrics = trial.user_attrs.get("metrics", {})
        values = [metrics.get(name) for name in (first, second)]
        if trial.state == TrialState.COMPLETE and None not in values:
            study.add_trial(create_trial(values=values, user_attrs={"number": trial.number}))
    return study


def varied(study: optuna.Study) -> tuple[list[str], list[str]]:
    """Parameters of which the COMPLETE trials hold two values or more, the most important first.

    Returns:
        Those that every COMPLETE trial has, and all: a conditional one is missing in some.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values: dict[str, list[object]] = {}
    for trial in complete:
        for name, value in trial.params.items():
            values.setdefault(name, []).append(value)
    names = [name for name, found in values.items() if len(set(found)) > 1]
    common = [name for name in names if len(values[name]) == len(complete)]
    ranked = importances(study, common)
    common.sort(key=lambda name: -ranked[name])
    return common, [*common, *(name for name in names if name not in common)]


def importances(study: optuna.Study, names: Sequence[str]) -> dict[str, float]:
    """Share of each parameter in what sets the best tenth of the trials apart, by PED-ANOVA."""
    if not names:
        return {}
    return optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=list(names))
