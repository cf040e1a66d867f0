"""What a study has cost so far, in hours of CPUs and GPUs, by what they did."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal, get_args

from lttune.engine.checkpoint import value_digest, write_json
from lttune.engine.config import TrainConfig

# `lost` is what failures cost: work since the last slice. `idle` is what trials held without training or evaluating:
# the start of a process, reading what they share, waiting to be told what comes next.
Kind = Literal["stage 1", "caches", "training", "evaluation", "lost", "idle"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE_NAME = "costs.json"
_RECORDED = "trial_seconds.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """CPUs and GPUs that something holds."""

    cpus: float
    gpus: float


class Ledger:
    """Hours of a study by kind, those of its earlier drivers included.

    Args:
        folder: the study's, where the hours are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        known = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._seconds: dict[str, dict[Kind, float]] = {
            of: {kind: 3600 * known.get(of, {}).get(kind, 0.0) for kind in KINDS} for of in ("cpu_hours", "gpu_hours")
        }
        self._gpu_seconds_before = sum(self._seconds["gpu_hours"].values())

    def add(self, kind: Kind, seconds: float, held: Held) -> None:
        self._seconds["cpu_hours"][kind] += seconds * held.cpus
        self._seconds["gpu_hours"][kind] += seconds * held.gpus

    @contextmanager
    def timing(self, kind: Kind, held: Held) -> Iterator[None]:
        """Add the time of the block."""
        began = monotonic()
        try:
            yield
        finally:
            self.add(kind, monotonic() - began, held)

    @property
    def gpu_hours(self) -> float:
        """Of this driver alone, which is what a budget is for."""
        return (sum(self._seconds["gpu_hours"].values()) - self._gpu_seconds_before) / 3600

    def hours(self) -> dict[str, dict[Kind, float]]:
        """`cpu_hours` and `gpu_hours` of the study by kind."""
        return {of: {kind: s / 3600 for kind, s in seconds.items()} for of, seconds in self._seconds.items()}

    def save(self) -> None:
        """A disk that refuses it costs the figures of a driver that is killed later."""
        try:
            write_json(self.hours(), self._file)
        except OSError as error:
            logger.warning("%s could not be written: %s", self._file, error)


def read_hours(folder: Path) -> Mapping[str, Mapping[str, float]]:
    """`cpu_hours` and `gpu_hours` by kind, as the study's driver last kept them; nothing where there are none."""
    file = folder / FILE_NAME
    found: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def recorded_seconds(cache: Path, config: TrainConfig, held: Held) -> float | None:
    """What trials like this one took in earlier searches, on as many CPUs and GPUs; None where nobody knows."""
    found = _recorded(cache).get(_digest(config, held))
    return float(found) if isinstance(found, int | float) else None


def record_seconds(cache: Path, config: TrainConfig, held: Held, seconds: float) -> None:
    """Keep it for later searches."""
    try:
        write_json({**_recorded(cache), _digest(config, held): round(seconds, 3)}, cache / _RECORDED)
    except OSError as error:
        logger.warning("%s could not be written: %s", cache / _RECORDED, error)


def _recorded(cache: Path) -> dict[str, Any]:
    try:
        found = json.loads((cache / _RECORDED).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(config: TrainConfig, held: Held) -> str:
    """Of all that a trial's time depends on; values of the loss and of the optimiser are not among it."""
    values = config.to_dict()
    for section in ("loss", "optim", "seed", "stage1"):
        values.pop(section, None)
    return str(value_digest([values, held.cpus, held.gpus])[:12])
