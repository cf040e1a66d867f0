"""The confirmation: what a search found, on images that none of its decisions has seen.

Trial 0, the best trial, and the best trial with its loss values put back to the published ones are trained with the
same five new seeds, so that their differences are paired; the stage-1 model is measured as it is. These runs share the
workers of the trials: those that need no winner fill the wait for the last trials, the others follow when all have
ended.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lttune.engine.checkpoint import write_json
from lttune.spec.parameters import Scalar
from lttune.spec.search import SearchSpec
from lttune.tuning.jobs import STAGE1
from lttune.tuning.listener import Listener
from lttune.tuning.study import StudyFolder
from lttune.types import StudyResult

NUM_SEEDS = 5
# LVIS's own limit: a gain that exists at a setting's lower limit alone is flagged.
LVIS_MAX_DETS = 300


@dataclass(frozen=True)
class ArmRun:
    """One run of an arm: what it trains, and with which seed."""

    arm: str
    params: Mapping[str, Scalar]
    seed: int


class Confirmation:
    """Which runs are wanted, which are done, and the file that keeps them.

    A run that fails, as one whose loss becomes NaN, is kept with its reason and not repeated.

    Args:
        folder: the study's folder; what its file holds of a broken-off confirmation counts.
        spec: what is searched.
    """

    def __init__(self, folder: StudyFolder, spec: SearchSpec, listener: Listener) -> None:
        self._folder = folder
        self._spec = spec
        self._listener = listener
        self._published = spec.initial()[0]
        self._has_stage1 = spec.resolve(self._published).recipe.start == "stage1"
        path = folder.confirmation
        self._state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self._state |= {"seeds": [spec.search.seed + 1 + i for i in range(NUM_SEEDS)], "limits": list(self.limits)}
        self._runs: dict[str, dict[str, Any]] = self._state.setdefault("runs", {})
        self._failures: dict[str, dict[str, str]] = self._state.setdefault("failures", {})
        self._wanted: list[ArmRun] = []
        self._taken: set[tuple[str, int]] = set()

    @property
    def state(self) -> Mapping[str, Any]:
        """What the file holds: `seeds`, `limits`, `stage1`, `runs` (by arm, seed and limit of detections), `failures`
        (reasons by arm and seed)."""
        return self._state

    @property
    def limits(self) -> tuple[int, ...]:
        """Detections per image at which every run is measured."""
        return tuple(sorted({self._spec.on.evaluation.max_dets, LVIS_MAX_DETS}))

    def next_run(self, result: StudyResult, *, is_final: bool) -> ArmRun | None:
        """A run that is neither done nor handed out; None where there is none for now.

        Args:
            result: the study as it stands; without a COMPLETE trial there is nothing to confirm.
            is_final: whether every trial has ended, so that the best one is known.
        """
        self._wanted = list(self._all_runs(result, is_final))
        for run in self._wanted:
            if (run.arm, run.seed) not in self._taken and not self._is_done(run):
                self._taken.add((run.arm, run.seed))
                self._open("trial_0" if run.arm == STAGE1 else run.arm, result)
                return run
        return None

    def again(self, arm: str, seed: int) -> None:
        """A run that was handed out has been lost, and is to be handed out anew."""
        self._taken.discard((arm, seed))

    def is_whole(self, result: StudyResult) -> bool:
        """Whether nothing is left to run once every trial has ended."""
        return all(map(self._is_done, self._all_runs(result, True)))

    def record(self, arm: str, seed: int, *, found: Mapping[str, Any] | None = None, failure: str = "") -> None:
        """Keep what a run found, by limit of detections, or why it failed; its checkpoint is of no more use."""
        if found is None:
            self._failures.setdefault(arm, {})[str(seed)] = failure
        elif arm == STAGE1:
            self._state[STAGE1] = found
        else:
            self._runs.setdefault(arm, {})[str(seed)] = found
        write_json(self._state, self._folder.confirmation)
        shutil.rmtree(self._folder.run_checkpoint(arm, seed).parent, ignore_errors=True)
        self._tell()

    def checkpoint(self, run: ArmRun) -> Path:
        return self._folder.run_checkpoint(run.arm, run.seed)

    def _all_runs(self, result: StudyResult, is_final: bool) -> Iterator[ArmRun]:
        best = result.best_trial
        if best is None:
            return
        arms: dict[str, Mapping[str, Scalar] | None] = {"trial_0": self._published}
        if is_final and best.number != 0:
            arms |= {"best": best.params, "optimiser_only": self._spec.optimiser_only(best.params)}
        if self._has_stage1:
            yield ArmRun(STAGE1, self._published, self._spec.search.seed)
        for arm, params in arms.items():
            if params is not None:
                yield from (ArmRun(arm, params, seed) for seed in self._state["seeds"])

    def _is_done(self, run: ArmRun) -> bool:
        if str(run.seed) in self._failures.get(run.arm, {}):
            return True
        return STAGE1 in self._state if run.arm == STAGE1 else str(run.seed) in self._runs.get(run.arm, {})

    def _open(self, arm: str, result: StudyResult) -> None:
        """Write down, before an arm's first run, that it looks at the report half."""
        if arm in self._runs:
            return
        what = {
            "trial_0": "the stage-1 model and trial 0",
            "best": f"trial {result.best}",
            "optimiser_only": f"trial {result.best} with published loss values",
        }
        self._folder.look_at_report(by="search", what=f"confirmation of {what[arm]}")
        self._runs[arm] = {}
        write_json(self._state, self._folder.confirmation)
        self._tell()

    def _tell(self) -> None:
        self._listener.progress("confirmation", sum(map(self._is_done, self._wanted)), len(self._wanted))
