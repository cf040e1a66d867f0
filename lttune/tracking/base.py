"""What every tracker promises."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

TrialEnd = Literal["COMPLETE", "PRUNED", "FAIL"]
StudyEnd = Literal["COMPLETE", "STOPPED", "FAIL"]

NOTHING: Mapping[str, str] = MappingProxyType({})


class Tracker(ABC):
    """Records what happens in one search, from the search's driver only.

    No method raises for trouble with the store behind it or waits for it: such trouble is logged, and the search goes
    on. Trials are known by their number in the study. A driver that attaches again after a crash repeats `start_study`
    and the `start_trial` of every trial that it resumes or ends; what is recorded already is kept.

    Metrics that are not finite are left out. Tags say what happened to a trial: `fidelity`, `reason` (why it failed),
    `failure` (the kind of that) and `applied_hash` are known names, others are kept as they are. Artifacts map file
    names to their text.
    """

    # Whether artifacts go anywhere; what takes time to make need not be made for others.
    keeps_artifacts: ClassVar[bool] = True

    @abstractmethod
    def start_study(
        self,
        name: str,
        *,
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
        param_names: Mapping[str, str] = NOTHING,
    ) -> None:
        """The search begins or goes on.

        Args:
            name: the study.
            tags: facts about all of it.
            artifacts: its own files.
            param_names: shorter names of params, for people; a study keeps to the same ones.
        """

    @abstractmethod
    def start_trial(
        self, number: int, *, params: Mapping[str, object], config: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        """A trial begins or goes on.

        Args:
            number: the trial.
            params: the sampled values, nested or with dotted keys.
            config: everything that the trial runs with.
            tags: facts known at its start.
        """

    @abstractmethod
    def report(self, number: int, *, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics at one step, at least 0; steps of a trial ascend."""

    @abstractmethod
    def end_trial(
        self,
        number: int,
        *,
        state: TrialEnd,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
    ) -> None:
        """A trial is over, with the metrics it ended with."""

    @abstractmethod
    def end_study(
        self,
        *,
        state: StudyEnd,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
    ) -> None:
        """The search is over or was stopped, with the metrics of its best trial."""

    @abstractmethod
    def close(self, timeout_s: float) -> int:
        """Deliver what is left within the time, then stop; gives the number of events that are not delivered yet."""


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The finite metrics, as plain floats: stores keep NaN and infinity as other numbers, if at all."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def epoch_metrics(record: Mapping[str, Any], *, gpus: float) -> dict[str, float]:
    """What trackers are told of an epoch; seconds and GPU hours count from the run's begin.

    Args:
        record: the fields of an `EpochRecord`.
        gpus: of all workers of the run together.
    """
    return {
        "loss": record["loss"],
        **{f"loss/{name}": value for name, value in record["losses"].items()},
        "lr": record["lr"],
        "seconds": record["seconds"],
        "gpu_hours": record["seconds"] * gpus / 3600,
        "peak_memory_gb": record["peak_memory_gb"],
        **record["metrics"],
    }
