"""One ACSL trial on cached features against the same trial with the live frozen trunk, and stage 1's speed.

python -m benchmarks.trials [--out FOLDER] [--runs 3]

Both trials train the same RoIs with the same seed, evaluate the tune half after each epoch, and run in this process on
one thread, so that CPU seconds compare. FOLDER keeps data, stage 1 and features for another run.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from lttune.engine.assets import Assets
from lttune.engine.config import TrainConfig
from lttune.engine.prepare import prepare
from lttune.engine.run import TrainingRun
from lttune.engine.stage1 import stage1_config
from lttune.spec.load import load_spec
from trainables import TRAINABLES

_STAGE1_ITERS = 40


def _say(what: str, done: int, total: int) -> None:
    if done == total:
        print(f"  {what}: done", flush=True)


def _cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _trial(config: TrainConfig, assets: Assets) -> tuple[float, dict[str, float]]:
    """CPU seconds of a whole trial, built from nothing, and its last metrics."""
    run: list[TrainingRun] = []

    def work() -> None:
        run.append(TrainingRun(config, assets))
        run[0].advance()

    seconds = _cpu_seconds(work)
    return seconds, run[0].history[-1].metrics


def _stage1_images_per_s(config: TrainConfig, assets: Assets, num_threads: int) -> float:
    """Training images per wall second, after a warm-up."""
    torch.set_num_threads(num_threads)
    run = TrainingRun(stage1_config(config), replace(assets, stage1_weights=None), judged_on=None)
    run.advance(max_iters=5)
    began = time.monotonic()
    run.advance(max_iters=_STAGE1_ITERS)
    return _STAGE1_ITERS * run.config.schedule.batch_size / (time.monotonic() - began)


def measure(cache: Path, num_runs: int) -> None:
    """Print everything."""
    spec = load_spec("acsl")
    config = spec.resolve(spec.defaults(), TRAINABLES["acsl"].recipe("acsl"))
    assets = prepare(config, cache, _say, num_threads=os.cpu_count())
    for num_threads in range(1, (os.cpu_count() or 1) + 1):
        rates = [_stage1_images_per_s(config, assets, num_threads) for _ in range(num_runs)]
        spread = f"{min(rates):.1f} to {max(rates):.1f}"
        print(f"stage 1, {num_threads} thread(s): {median(rates):.1f} images per second ({spread})", flush=True)
    torch.set_num_threads(1)
    _trial(config, assets)  # reads and indexes what later trials share
    cached = [_trial(config, assets) for _ in range(num_runs)]
    cached_times = [seconds for seconds, _ in cached]
    spread = f"{min(cached_times):.2f} to {max(cached_times):.2f}"
    print(f"trial, cached features:   {median(cached_times):8.2f} CPU s ({spread}, {num_runs} runs)", flush=True)
    live_time, live = _trial(replace(config, fidelity="full"), assets)
    print(f"trial, live frozen trunk: {live_time:8.2f} CPU s (1 run)")
    ratios = sorted(live_time / seconds for seconds in cached_times)
    print(f"ratio {live_time / median(cached_times):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    for name in ("AP", "AP_r", "AP_c", "AP_f"):
        first, second = cached[0][1][name], live[name]
        print(f"{name:<5} cached {first:.3f}   live {second:.3f}   difference {first - second:+.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder whose cache is used and kept")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    if arguments.out:
        measure(arguments.out / "cache", arguments.runs)
    else:
        with TemporaryDirectory() as folder:
            measure(Path(folder), arguments.runs)


if __name__ == "__main__":
    main()
