"""A study as a comparison reads it: its spec, its trials, and what its confirmation measured on the report half."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lttune.engine.cache import cache_folder
from lttune.engine.config import TrainConfig
from lttune.errors import StudyError
from lttune.spec.search import RecipeOf, SearchSpec
from lttune.tuning.study import StudyFolder, StudyStore
from lttune.types import Fidelity, StudyResult, TrialResult

# What a confirmation trains with each seed.
Arm = Literal["trial_0", "best", "optimiser_only"]
ARMS: tuple[Arm, ...] = ("trial_0", "optimiser_only", "best")
# By seed.
Values = dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What `confirmation.json` holds so far; an interrupted confirmation lacks arms, seeds, or the stage-1 model."""

    num_seeds: int  # asked for
    limits: tuple[int, ...]  # of detections per image, ascending
    runs: Mapping[str, Mapping[str, Any]]  # metrics by arm, seed and limit
    stage1: Mapping[str, Mapping[str, float | None]]  # metrics by limit

    def values(self, arm: str, limit: int, metric: str) -> Values:
        """A metric on the report half by seed; NaN where it has no ground truth, empty where it was not measured."""
        return {
            int(seed): _number(found[str(limit)][metric])
            for seed, found in self.runs.get(arm, {}).items()
            if str(limit) in found
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyRecord:
    """One study.

    Attributes:
        config: of the best trial, or of trial 0 while none is COMPLETE.
        confirmation: None before anything of it is measured.
    """

    folder: StudyFolder
    spec: SearchSpec
    config: TrainConfig
    result: StudyResult
    confirmation: Confirmation | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def method(self) -> str:
        return self.config.method

    @property
    def fidelity(self) -> Fidelity:
        """As the trials ran, which may have been with another version of lttune."""
        best = self.result.best_trial
        return (best and best.fidelity) or self.config.fidelity

    @property
    def trains(self) -> str:
        """What the trials trained, in words."""
        parts = self.config.recipe.parts
        if self.fidelity != self.config.fidelity:
            return f"unknown ({self.name})"
        return "everything" if parts == "all" else ", ".join(sorted(parts))

    @property
    def published(self) -> TrainConfig:
        """The best trial's method with its published values."""
        return self.spec.resolve(self.spec.defaults(self.method))

    @property
    def cache(self) -> Path:
        """Where the study's data, stage-1 model and features lie, if they still do."""
        return cache_folder(self.folder.path.parent)

    @property
    def complete(self) -> list[TrialResult]:
        return [trial for trial in self.result.trials if trial.state == "COMPLETE"]

    def trial(self, number: int) -> TrialResult | None:
        """A COMPLETE trial by number."""
        return next((trial for trial in self.complete if trial.number == number), None)

    def tuned_values(self) -> list[float]:
        """The objective of every COMPLETE trial, on the tune half."""
        values = [trial.metrics.get(self.spec.objective.metric, math.nan) for trial in self.complete]
        return [value for value in values if math.isfinite(value)]

    def values(self, arm: Arm, limit: int, metric: str) -> Values:
        """A metric on the report half by seed; empty where it was not measured."""
        if self.confirmation is None:
            return {}
        return self.confirmation.values(self._measured_as(arm), limit, metric)

    def stage1(self, limit: int, metric: str) -> float | None:
        """A metric of the stage-1 model as it is, on the report half; None where it was not measured."""
        found = self.confirmation.stage1.get(str(limit)) if self.confirmation else None
        return None if found is None else _number(found[metric])

    def _measured_as(self, arm: Arm) -> str:
        """The arm under which a configuration was measured: one that equals another is trained once."""
        best, runs = self.result.best_trial, self.confirmation.runs if self.confirmation else {}
        if arm in runs or best is None or arm == "trial_0":
            return arm
        if best.number == 0:
            return "trial_0"
        published = self.spec.defaults()
        is_same_method = self.spec.method_of(best.params) == self.spec.method_of(published)
        if arm == "optimiser_only" and is_same_method and self.spec.optimiser_only(best.params) is None:
            keys = {key for key in {*best.params, *published} if not key.startswith("loss.")}
            has_moved = any(best.params.get(key) != published.get(key) for key in keys)
            return "best" if has_moved else "trial_0"
        return arm


def read_record(folder: StudyFolder, recipe_of: RecipeOf) -> StudyRecord:
    """Read a study, finished or not, without changing it.

    Args:
        recipe_of: what each method trains.

    Raises:
        StudyError: there is no such study, or its confirmation is damaged.
    """
    spec = folder.load_spec(needs_files=False, recipe_of=recipe_of)
    has_trials = folder.journal.is_file()
    objective = {"metric": spec.objective.metric, "mode": spec.objective.mode}
    result = (
        StudyStore(folder, spec, is_driver=False).results()
        if has_trials
        else StudyResult(study=folder.name, objective=objective, best=None)
    )
    best = result.best_trial
    return StudyRecord(
        folder=folder,
        spec=spec,
        config=spec.resolve(best.params if best else spec.defaults()),
        result=result,
        confirmation=_read_confirmation(folder.confirmation),
    )


def _read_confirmation(path: Path) -> Confirmation | None:
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return Confirmation(
            num_seeds=len(state["seeds"]),
            limits=tuple(sorted(map(int, state["limits"]))),
            runs=state.get("runs", {}),
            stage1=state.get("stage1", {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{path}: not a confirmation ({error!r}); delete it and measure again: lttune resume {path.parent.name}"
        ) from error


def _number(value: float | None) -> float:
    return math.nan if value is None else value
