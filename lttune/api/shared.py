"""What the public functions share: methods of one's own, and the trackers of an output folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lttune.engine.config import Recipe
from lttune.losses import LOSSES
from lttune.spec.search import Losses, RecipeOf
from lttune.tracking.base import Tracker
from lttune.tracking.jsonl import JsonlTracker

if TYPE_CHECKING:
    from lttune.tuning.trainable import MethodTrainable

OUT = "lttune_runs"


def say_nothing(what: str, done: int, total: int) -> None: ...


def recipes_with(trainable: "type[MethodTrainable] | None") -> RecipeOf:
    def recipe_of(method: str) -> Recipe:
        if trainable is not None and method in trainable.recipes:
            return trainable.recipe(method)
        from trainables import recipe_of

        return recipe_of(method)

    return recipe_of


def losses_with(trainable: "type[MethodTrainable] | None") -> Losses:
    return LOSSES if trainable is None else {**LOSSES, **trainable.losses}


def trainable_or_own(trainable: "type[MethodTrainable] | None", methods: Sequence[str]) -> "type[MethodTrainable]":
    if trainable is not None:
        return trainable
    from trainables import trainable_for

    return trainable_for(methods)


def tracker_opener(out: Path, *, mlflow: bool) -> Callable[[Path], Sequence[Tracker]]:
    def open_trackers(folder: Path) -> list[Tracker]:
        # `trials.jsonl` comes last: a resumed search takes a trial that is in it for known to all.
        return [*([open_mlflow(out, folder)] if mlflow else []), JsonlTracker(folder)]

    return open_trackers


def open_mlflow(out: Path, folder: Path) -> Tracker:
    from lttune.tracking.mlflow import MlflowTracker
    from lttune.tracking.store import experiment_name, study_store

    return MlflowTracker(study_store(folder, out), experiment=experiment_name(), folder=folder)
