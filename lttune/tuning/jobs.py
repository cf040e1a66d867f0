"""What the driver sends to a worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lttune.engine.assets import Assets, Half
from lttune.engine.config import TrainConfig
from lttune.spec.parameters import Scalar

# The arm that does not train: the stage-1 model as it is.
STAGE1 = "stage1"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to run one configuration, or to go on with it.

    Attributes:
        params: sampled values, by key, which the built run must carry.
        checkpoint: file in the study's folder, where a restarted worker and a resumed search go on.
        slice_s: seconds between two reports.
        stop_at_evaluation: a slice ends there too, so that a scheduler can stop the run.
        cpus, gpus: what the worker has.
        workers: processes that train it together, each with as much.
    """

    # The half of the validation images that evaluations in training use.
    judged_on: ClassVar[Half | None] = None

    params: Mapping[str, Scalar]
    config: TrainConfig
    assets: Assets
    checkpoint: str
    slice_s: float
    stop_at_evaluation: bool = False
    cpus: float
    gpus: float
    workers: int = 1

    @property
    def is_trained(self) -> bool:
        return True

    @property
    def name(self) -> str:
        """For people and events."""
        return "job"


@dataclass(frozen=True, kw_only=True)
class TrialJob(Job):
    """One trial, judged on the tune half.

    Attributes:
        objective: the metric that it reports as `objective`.
    """

    judged_on: ClassVar[Half | None] = "tune"

    number: int
    objective: str

    @property
    def name(self) -> str:
        return f"trial {self.number}"


@dataclass(frozen=True, kw_only=True)
class ConfirmationJob(Job):
    """One run of one arm of the confirmation, judged on the report half once it has ended.

    Attributes:
        arm: `stage1`, `trial_0`, `best` or `optimiser_only`.
        limits: detections per image, each of which is evaluated.
    """

    arm: str
    seed: int
    limits: tuple[int, ...]

    @property
    def is_trained(self) -> bool:
        return self.arm != STAGE1

    @property
    def name(self) -> str:
        return f"confirmation {self.arm}, seed {self.seed}"
