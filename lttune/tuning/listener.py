"""What a search tells whoever watches it."""

from collections.abc import Mapping
from typing import Any, Protocol

from lttune.types import StudyResult, TrialResult


class Listener(Protocol):
    """Hears of a search as it goes; calls come from the driver's one thread."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Some work that is no trial: data, stage 1, features, confirmation."""

    def search_starts(
        self, *, study: str, trials: int, epochs: int | None, metric: str, mode: str, finished: StudyResult
    ) -> None:
        """Trials are about to run, of so many epochs unless they differ; `finished` holds those of a resumed study."""

    def trial_starts(self, number: int, params: Mapping[str, Any], *, epochs: int) -> None:
        """A worker took the trial."""

    def trial_reports(self, number: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """An epoch ended; metrics are empty where it was not evaluated."""

    def trial_ends(self, result: TrialResult) -> None:
        """The trial has its final state."""

    def note(self, line: str) -> None:
        """Something a person watching should know."""


class SilentListener:
    """Hears everything and says nothing."""

    def progress(self, what: str, done: int, total: int) -> None: ...

    def search_starts(
        self, *, study: str, trials: int, epochs: int | None, metric: str, mode: str, finished: StudyResult
    ) -> None: ...

    def trial_starts(self, number: int, params: Mapping[str, Any], *, epochs: int) -> None: ...

    def trial_reports(self, number: int, epoch: int, metrics: Mapping[str, float], seconds: float) -> None: ...

    def trial_ends(self, result: TrialResult) -> None: ...

    def note(self, line: str) -> None: ...
