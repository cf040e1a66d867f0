"""A trial of a method on cached features against one on images, and stage 1's speed.

python -m benchmarks.trials [--method loce] [--out FOLDER] [--runs 3]

Both trials run trial 0 with the same seed in this process on one thread, so that CPU seconds compare. ACSL, the
default, trains the same RoIs in both, its features cached or from the live frozen trunk, and evaluates each epoch. Of
other methods, the trial on images is the published recipe as the setting has it, and the cached one trains the heads
that stand on box features alone. FOLDER keeps data, stage 1 and caches for another run.
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
from trainables import recipe_of

_STAGE1_ITERS = 40
_METHODS = ("acsl", "ecm", "loce", "logit_adjustment", "rog", "seesaw")


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


def _config(method: str, fidelity: str) -> TrainConfig:
    """Trial 0 of a method on the embedded data."""
    spec = load_spec(method, overrides={"fidelity": fidelity}, recipe_of=recipe_of)
    return spec.resolve(spec.defaults())


def _told(what: str, config: TrainConfig) -> str:
    parts = config.recipe.parts
    return f"{what} ({parts if parts == 'all' else ', '.join(parts)}; {config.schedule.epochs} epochs)"


def measure_stage1(cache: Path, num_runs: int) -> None:
    """Print stage 1's speed by number of threads."""
    config = _config("acsl", "cached")
    assets = prepare(config, cache, _say, num_threads=os.cpu_count())
    for num_threads in range(1, (os.cpu_count() or 1) + 1):
        rates = [_stage1_images_per_s(config, assets, num_threads) for _ in range(num_runs)]
        spread = f"{min(rates):.1f} to {max(rates):.1f}"
        print(f"stage 1, {num_threads} thread(s): {median(rates):.1f} images per second ({spread})", flush=True)


def measure_trials(method: str, cache: Path, num_runs: int) -> None:
    """Print what a trial costs and gives, cached and on images."""
    config, on_images = _config(method, "cached"), _config(method, "full")
    assets = prepare(config, cache, _say, num_threads=os.cpu_count())
    torch.set_num_threads(1)
    _trial(config, assets)  # reads and indexes what later trials share
    cached = [_trial(config, assets) for _ in range(num_runs)]
    cached_times = [seconds for seconds, _ in cached]
    spread = f"{min(cached_times):.2f} to {max(cached_times):.2f}, {num_runs} runs"
    print(f"{_told('trial on cached features', config)}: {median(cached_times):.2f} CPU s ({spread})", flush=True)
    live_time, live = _trial(on_images, assets)
    print(f"{_told('trial on images', on_images)}: {live_time:.2f} CPU s (1 run)")
    ratios = sorted(live_time / seconds for seconds in cached_times)
    print(f"ratio {live_time / median(cached_times):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    for name in ("AP", "AP_r", "AP_c", "AP_f"):
        first, second = cached[0][1][name], live[name]
        print(f"{name:<5} cached {first:.3f}   on images {second:.3f}   difference {first - second:+.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=_METHODS, default="acsl")
    parser.add_argument("--out", type=Path, help="folder whose cache is used and kept")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")

    def measure(cache: Path) -> None:
        if arguments.method == "acsl":
            measure_stage1(cache, arguments.runs)
        measure_trials(arguments.method, cache, arguments.runs)

    if arguments.out:
        measure(arguments.out / "cache")
    else:
        with TemporaryDirectory() as folder:
            measure(Path(folder))


if __name__ == "__main__":
    main()
