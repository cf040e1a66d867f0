"""What Ray Tune adds to a trial: the wall time of a slot per trial, beyond the time that the trial itself takes.

    python -m benchmarks.ray_overhead [--trials 40] [--repeats 3]

Trials do nothing but report; two run at a time in reused worker processes, as in a search on two cores. The first trial
of each worker, which waits for its process, is left out; starting Ray is shown apart.
"""

import argparse
import os
import platform
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import lttune.tuning  # noqa: F401  sets Ray's switches, as for a search
from lttune.tuning.ray_local import local_ray

NUM_SLOTS = 2


def measure(num_trials: int, num_reports: int) -> float:
    """Median seconds from one trial's last report to the next one's in the same slot, less the trials' own time."""
    from ray import tune

    class Reports(tune.Trainable):
        """Reports a number of times."""

        def setup(self, config: dict[str, Any]) -> None:
            self.began = time.perf_counter()
            self.num_reported = 0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            self.num_reported += 1
            return {"own_s": time.perf_counter() - self.began, "done": self.num_reported == num_reports}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing to keep."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing was kept."""

    class Ends(tune.Callback):
        """When each trial ended, and how long it says it took, by worker process."""

        def __init__(self) -> None:
            self.by_worker: dict[int, list[tuple[float, float]]] = {}

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            result = trial.last_result
            self.by_worker.setdefault(result["pid"], []).append((time.perf_counter(), result["own_s"]))

    ends = Ends()
    with TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(Reports, {"cpu": 1}),
            tune_config=tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=NUM_SLOTS, reuse_actors=True),
            run_config=tune.RunConfig(name="overhead", storage_path=str(Path(folder)), callbacks=[ends], verbose=0),
        ).fit()
    added = [
        later - earlier - own_s for pairs in ends.by_worker.values() for (earlier, _), (later, own_s) in pairwise(pairs)
    ]
    return median(added)


def main() -> None:
    parser = argparse.ArgumentParser(description="Wall time that Ray adds to a trial.")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    began = time.perf_counter()
    with local_ray(num_cpus=NUM_SLOTS):
        print(f"Ray starts in {time.perf_counter() - began:.1f} s; {arguments.trials} trials, {NUM_SLOTS} at a time")
        for num_reports in (1, 8):
            added = [measure(arguments.trials, num_reports) for _ in range(arguments.repeats)]
            print(
                f"{num_reports} reports a trial: {1e3 * median(added):.0f} ms added per trial "
                f"({1e3 * min(added):.0f} to {1e3 * max(added):.0f}), median of {arguments.repeats}",
                flush=True,
            )


if __name__ == "__main__":
    main()
