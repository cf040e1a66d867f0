"""Lets go of what Ray keeps of every trial that has ended; otherwise a driver grows by 100 KB with each."""

from typing import Any

from ray import tune


class Thrift(tune.Callback):
    """Empties ended trials between two events, when nobody looks at them any more."""

    def __init__(self) -> None:
        self._ended: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended.append(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended.append(trial)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for trial in self._ended:
            trial.config, trial.evaluated_params = {}, {}
            # Ray keeps the configuration twice: also as it stood before references in it were resolved.
            getattr(trial, "_Trial__unresolved_config", {}).clear()
            known = trial.run_metadata
            known.last_result = {}
            known.metric_analysis.clear()
            known.metric_n_steps.clear()
        self._ended.clear()
