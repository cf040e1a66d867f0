"""What a search adds to trials that do nothing but report: seconds per trial, and memory of the driver.

    python -m benchmarks.ray_overhead [--trials 100] [--reports 8] [--no-mlflow]

A whole search runs, two trials at a time: Ray, Optuna's journal, `trials.jsonl`, MLflow. Its trials report as many
epochs as they are asked to, with as many metrics as real ones, and end. Starting Ray and its workers is left out: the
time goes from the end of the first trial of each slot to that of the last trial. The exit code is 1 above the limits.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from benchmarks.drill import SPEC
from lttune.api.shared import tracker_opener
from lttune.spec.load import load_spec
from lttune.spec.search import METRICS
from lttune.tuning.jobs import TrialJob
from lttune.tuning.listener import SilentListener
from lttune.tuning.search import run_search
from lttune.tuning.study import StudyFolder
from lttune.types import TrialResult
from trainables import TRAINABLES, recipe_of

NUM_SLOTS = 2
MAX_SECONDS, MAX_KB = 0.35, 50.0
# The first trials fill caches of Ray's and Python's own.
_WARM = 20


class Reports(TRAINABLES["acsl"]):  # type: ignore[misc]
    """Reports an epoch per step, and trains nothing."""

    def setup(self, config: dict[str, Any]) -> None:
        self._job = config["job"]
        self._epoch = 0

    def step(self) -> dict[str, Any]:
        if not isinstance(self._job, TrialJob):
            return {"found": None, "failure": "nothing is confirmed", "failure_kind": None, "done": True}
        self._epoch += 1
        metrics = {name: float(self._job.number % 50) for name in METRICS}
        record = {
            "epoch": self._epoch,
            "loss": 1.0,
            "losses": {"loss_cls": 1.0},
            "lr": 0.01,
            "seconds": 0.0,
            "peak_memory_gb": 0.5,
            "metrics": metrics,
        }
        return {
            "number": self._job.number,
            "epoch": self._epoch,
            "epochs": [record],
            "seconds": 0.0,
            "metrics": tuple(metrics.items()),
            "objective": metrics[self._job.objective],
            "applied_hash": "",
            "failure": None,
            "failure_kind": None,
            "done": self._epoch >= self._job.config.schedule.epochs,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was kept."""

    def cleanup(self) -> None:
        """Nothing was built."""


class _Ends(SilentListener):
    """When each trial ended, and how large the driver was."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.kilobytes: list[float] = []

    def trial_ends(self, result: TrialResult) -> None:
        self.times.append(time.perf_counter())
        self.kilobytes.append(psutil.Process().memory_info().rss / 1e3)


def measure(folder: Path, num_trials: int, num_reports: int, *, mlflow: bool) -> tuple[float, float]:
    """Seconds and kilobytes of the driver per trial."""
    space = folder / "reports.yaml"
    space.write_text(SPEC)
    changed = {"search.trials": str(num_trials), "schedule.epochs": str(num_reports)}
    ends, out = _Ends(), folder / "out"
    run_search(
        load_spec(space, overrides=changed, recipe_of=recipe_of),
        StudyFolder(out / "reports"),
        trainable=Reports,
        cache=out / "cache",
        open_trackers=tracker_opener(out, mlflow=mlflow),
        listener=ends,
    )
    seconds = (ends.times[-1] - ends.times[NUM_SLOTS - 1]) / (len(ends.times) - NUM_SLOTS)
    known = np.array(ends.kilobytes[_WARM:])
    return seconds, float(np.polyfit(np.arange(len(known)), known, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--reports", type=int, default=8, help="of each trial")
    parser.add_argument("--no-mlflow", action="store_true")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with TemporaryDirectory() as folder:
        seconds, kilobytes = measure(Path(folder), arguments.trials, arguments.reports, mlflow=not arguments.no_mlflow)
    print(
        f"{arguments.trials} trials of {arguments.reports} reports, {NUM_SLOTS} at a time: {seconds:.3f} s per trial "
        f"(at most {MAX_SECONDS}), the driver grows by {kilobytes:.0f} KB per trial (at most {MAX_KB:.0f})"
    )
    sys.exit(0 if seconds <= MAX_SECONDS and kilobytes <= MAX_KB else 1)


if __name__ == "__main__":
    main()
