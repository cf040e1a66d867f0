"""Ends a search in order before its last trial: its budget is spent, or somebody asked for it from elsewhere.

Trials keep their last slice and stay unfinished, so that `lttune resume` goes on with them.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Stopper

from lttune.tuning.budget import Budget

_LOOK_EVERY_S = 0.5


class Halt(Stopper):
    """Asked by Tune after every event.

    Args:
        stop_file: asks for the end by being there.
        budget: what the search may take.
        spent: seconds and GPU hours so far.
    """

    def __init__(self, stop_file: Path, budget: Budget, spent: Callable[[], tuple[float, float]]) -> None:
        self.reason: str | None = None
        self.is_asked = False
        self._stop_file = stop_file
        self._budget = budget
        self._spent = spent
        self._looked = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.reason is None and time.monotonic() - self._looked >= _LOOK_EVERY_S:
            self._looked = time.monotonic()
            self.is_asked = self._stop_file.exists()
            seconds, gpu_hours = self._spent()
            asked = "lttune stop" if self.is_asked else None
            self.reason = asked or self._budget.spent(seconds=seconds, gpu_hours=gpu_hours)
        return self.reason is not None
