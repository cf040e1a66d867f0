"""Says what a search will cost before it starts, and again when that turns out otherwise."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from ray import tune

from lttune.engine.config import TrainConfig
from lttune.tuning.budget import Budget, Projection
from lttune.tuning.confirm import NUM_SEEDS, Confirmation
from lttune.tuning.costs import Held, record_seconds, recorded_seconds
from lttune.tuning.jobs import TrialJob
from lttune.tuning.study import StudyStore

# A projection is worth another line where it is off by so much, and by more than a minute.
_OFF, _WORTH_S = 0.3, 60.0
# Runs of the confirmation that a search may have: trial 0, the best, the best with its loss as published.
_MOST_RUNS = 3 * NUM_SEEDS


class Projector(tune.Callback):
    """Learns what trials take, from earlier searches at first.

    Args:
        configs: what the first trials run, one of each method.
        cache: where seconds of earlier searches are kept.
        say: told a line.
        spent: seconds and GPU hours so far.
    """

    def __init__(
        self,
        store: StudyStore,
        confirmation: Confirmation,
        configs: list[TrainConfig],
        cache: Path,
        *,
        held: Held,
        at_a_time: int,
        budget: Budget,
        say: Callable[[str], None],
        spent: Callable[[], tuple[float, float]],
    ) -> None:
        self._store = store
        self._confirmation = confirmation
        self._configs = {config.method: config for config in configs}
        self._cache = cache
        self._held = held
        self._at_a_time = at_a_time
        self._budget = budget
        self._say = say
        self._spent = spent
        self._seconds: dict[str, list[float]] = {}
        self._said_s: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def say(self) -> None:
        """What the rest of the search will take, if anybody knows."""
        own = [t.seconds for t in self._store.results().trials if t.seconds is not None and t.state == "COMPLETE"]
        known = [recorded_seconds(self._cache, config, self._held) for config in self._configs.values()]
        earlier = [seconds for seconds in known if seconds is not None]
        if own or len(earlier) == len(known):
            self._tell(median(own or earlier))
        else:
            self._say("projected cost: unknown until the first trial has ended")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job, result = trial.config["job"], trial.last_result or {}
        if not isinstance(job, TrialJob) or result.get("epoch", 0) < job.config.schedule.epochs:
            return
        self._seconds.setdefault(job.config.method, []).append(result["seconds"])
        each = median(seconds for of in self._seconds.values() for seconds in of)
        if self._said_s is None or abs(each - self._said_s) * self._units / self._at_a_time > max(
            _WORTH_S, _OFF * self._said_s * self._units / self._at_a_time
        ):
            self._tell(each)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for method, seconds in self._seconds.items():
            if method in self._configs:
                record_seconds(self._cache, self._configs[method], self._held, median(seconds))

    @property
    def _num_trials(self) -> int:
        return self._store.spec.search.trials - self._store.num_asked() + len(self._store.unfinished())

    @property
    def _num_runs(self) -> int:
        state = self._confirmation.state
        done = [*state["runs"].values(), *state["failures"].values()]
        return max(0, _MOST_RUNS - sum(map(len, done)))

    @property
    def _units(self) -> int:
        return self._num_trials + self._num_runs

    def _tell(self, trial_seconds: float) -> None:
        self._said_s = trial_seconds
        seconds, gpu_hours = self._spent()
        projection = Projection(
            trial_seconds=trial_seconds,
            num_trials=self._num_trials,
            num_runs=self._num_runs,
            at_a_time=self._at_a_time,
            cpus=self._held.cpus,
            gpus=self._held.gpus,
        )
        self._say(projection.text(self._budget, spent_seconds=seconds, spent_gpu_hours=gpu_hours))
