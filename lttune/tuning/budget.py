"""What a search may take, what it will take, and when it ends because of that."""

import re
from dataclasses import dataclass

from lttune.errors import InputError

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_UNITS_S = (86_400, 3_600, 60, 1)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one driver of a search may take; a driver that resumes has one of its own.

    Attributes:
        seconds: of wall time.
        gpu_hours: of stage 1, caches, trials and confirmation together.
    """

    seconds: float | None = None
    gpu_hours: float | None = None

    @property
    def is_unlimited(self) -> bool:
        return self.seconds is None and self.gpu_hours is None

    def spent(self, *, seconds: float, gpu_hours: float) -> str | None:
        """Which limit has been reached, in words; None while there is something left."""
        if self.seconds is not None and seconds >= self.seconds:
            return f"--time {duration_text(self.seconds)} is over"
        if self.gpu_hours is not None and gpu_hours >= self.gpu_hours:
            return f"--gpu-hours {self.gpu_hours:g} are spent"
        return None


def parse_duration(text: str) -> float:
    """Seconds of `2h30m`, `45m`, `90s`, `1d12h`; a bare number is seconds.

    Raises:
        InputError: it is none of these, or nothing.
    """
    compact = text.strip().lower().replace(" ", "")
    found = _TIME.fullmatch(f"{compact}s" if re.fullmatch(r"\d+(\.\d+)?", compact) else compact)
    seconds = 0.0 if found is None else sum(float(g) * u for g, u in zip(found.groups(), _UNITS_S, strict=True) if g)
    if not seconds:
        raise InputError(f"'{text}' is not a length of time; write it like 2h30m, 45m or 90s.")
    return seconds


def duration_text(seconds: float) -> str:
    """2h30m; parts that are 0 are left out."""
    rest, parts = round(seconds), []
    for unit, name in zip(_UNITS_S, "dhms", strict=True):
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0s"


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What the rest of a search will take.

    Attributes:
        trial_seconds: of one trial on one slot.
        num_trials: still to run.
        num_runs: of the confirmation, still to run; one takes as long as a trial.
        at_a_time: slots.
        gpus, cpus: of one slot.
    """

    trial_seconds: float
    num_trials: int
    num_runs: int
    at_a_time: int
    gpus: float
    cpus: float

    @property
    def seconds(self) -> float:
        return self.trial_seconds * (self.num_trials + self.num_runs) / self.at_a_time

    @property
    def hours(self) -> tuple[float, float]:
        """Of CPUs and of GPUs."""
        busy = self.trial_seconds * (self.num_trials + self.num_runs) / 3600
        return busy * self.cpus, busy * self.gpus

    def text(self, budget: Budget, *, spent_seconds: float = 0.0, spent_gpu_hours: float = 0.0) -> str:
        """One line for a person; it says where the budget will end the search early."""
        cpu_hours, gpu_hours = self.hours
        cost = f"{gpu_hours:.3g} GPU hours" if self.gpus else f"{cpu_hours:.3g} CPU hours"
        line = (
            f"projected: {self.num_trials} trials and {self.num_runs} runs of the confirmation, "
            f"{duration_text(self.trial_seconds) if self.trial_seconds >= 1 else '1s'} each, {self.at_a_time} at a "
            f"time: {duration_text(max(1.0, self.seconds))}, {cost}"
        )
        parts = [line]
        if budget.seconds is not None and budget.seconds - spent_seconds < self.seconds:
            parts.append(f"--time is enough for about {self._share(budget.seconds - spent_seconds, self.seconds)}")
        if budget.gpu_hours is not None and budget.gpu_hours - spent_gpu_hours < gpu_hours:
            parts.append(
                f"--gpu-hours are enough for about {self._share(budget.gpu_hours - spent_gpu_hours, gpu_hours)}"
            )
        return "; ".join(parts)

    def _share(self, left: float, needed: float) -> str:
        units = self.num_trials + self.num_runs
        return f"{max(0, int(units * left / needed))} of these {units}"
