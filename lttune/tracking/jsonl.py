"""`trials.jsonl` in the study's folder: one line per finished trial, kept whatever other tracker is used."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lttune.tracking import lines
from lttune.tracking.base import NOTHING, StudyEnd, Tracker, TrialEnd, finite

if TYPE_CHECKING:
    from lttune.types import TrialResult

FILE_NAME = "trials.jsonl"
# Tags that are fields of a TrialResult and therefore of a line.
FIELDS = ("fidelity", "reason", "applied_hash", "failure")

log = logging.getLogger(__name__)


class JsonlTracker(Tracker):
    """Writes each trial once, when it ends; a trial that is in the file already stays as it is.

    Args:
        folder: the study's folder, made where it does not exist.

    Raises:
        OSError: the folder cannot be made or the file not be read.
    """

    keeps_artifacts = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / FILE_NAME
        lines.repair(self._file)
        self._finished = {record["number"] for record, _ in lines.read(self._file)}
        self._started: dict[int, tuple[float, Mapping[str, object], Mapping[str, str]]] = {}
        self._num_lost = 0

    def start_study(
        self,
        name: str,
        *,
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
        param_names: Mapping[str, str] = NOTHING,
    ) -> None:
        """Nothing to write: the study's own files lie beside `trials.jsonl`."""

    def start_trial(
        self, number: int, *, params: Mapping[str, object], config: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        self._started[number] = time.monotonic(), params, tags

    def report(self, number: int, *, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing to write: the line of a trial holds what it ended with."""

    def end_trial(
        self,
        number: int,
        *,
        state: TrialEnd,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
    ) -> None:
        if number in self._finished:
            return
        since, params, first_tags = self._started.pop(number, (None, {}, NOTHING))
        all_tags = {**first_tags, **tags}
        # A resumed trial knows its own time; this driver has seen only a part of it.
        seconds = metrics.get("seconds", None if since is None else round(time.monotonic() - since, 3))
        record: dict[str, object] = {
            "number": number,
            "state": state,
            "params": params,
            "metrics": finite({name: value for name, value in metrics.items() if name != "seconds"}),
            "seconds": seconds,
            **{field: all_tags.pop(field, None) for field in FIELDS},
            "tags": all_tags,
        }
        try:
            lines.append(self._file, record)
        except (OSError, TypeError) as error:
            self._num_lost += 1
            log.warning("%s: trial %d could not be written: %s", self._file, number, error)
        else:
            self._finished.add(number)

    def end_study(
        self,
        *,
        state: StudyEnd,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str] = NOTHING,
    ) -> None:
        """Nothing to write: the study's state is its storage's."""

    def close(self, timeout_s: float) -> int:
        return self._num_lost


def read_trials(folder: Path) -> "tuple[TrialResult, ...]":
    """The finished trials of a study's folder by number; also while a search writes them."""
    from lttune.types import TrialResult  # brings torch, which the one who only writes does without

    results: dict[int, TrialResult] = {}
    for record, _ in lines.read(folder / FILE_NAME):
        record.pop("tags")
        results.setdefault(record["number"], TrialResult(**record))
    return tuple(results[number] for number in sorted(results))
