"""The search space's own scheduler, which also ends the trials that were given up."""

from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from lttune.spec.search import SearchSpec
from lttune.tuning.restarts import Restarts


class _EndsGivenUp:
    """Tune restarts a failed trial without asking; here alone it lets itself be asked to end one."""

    restarts: Restarts

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leave the choice to Tune, which takes what waits in order; going through all trials would be slower."""
        for trial in self.restarts.take_given_up():
            tune_controller.stop_trial(trial)


class _Fifo(_EndsGivenUp, FIFOScheduler):
    pass


class _Asha(_EndsGivenUp, AsyncHyperBandScheduler):
    pass


def scheduler_of(spec: SearchSpec, restarts: Restarts, *, max_epochs: int) -> FIFOScheduler:
    """ASHA where the space asks for it, else one that lets every trial end."""
    asha = spec.search.asha
    scheduler = (
        _Fifo()
        if asha is None
        else _Asha(
            time_attr="epoch",
            metric="objective",
            mode=spec.objective.mode,
            grace_period=asha.first_rung_epochs,
            reduction_factor=asha.reduction_factor,
            max_t=max_epochs,
        )
    )
    scheduler.restarts = restarts
    return scheduler
