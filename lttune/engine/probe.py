"""What a trial takes, measured before a search: memory on the images that need most of it, and speed side by side.

Nothing of the search is built for it: the model has random weights, and data are the worst images of the setting.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch

from lttune.engine.assets import Assets
from lttune.engine.config import ScheduleConfig, TrainConfig
from lttune.errors import InputError, LttuneError

# Trials side by side that are tried.
SIDE_BY_SIDE = (1, 2, 4)
# More trials on a device are worth it where all of them together gain so much.
_WORTH = 1.1
# Kept free of what a device has: fragments, and images that are worse in other ways.
_RESERVE = 0.9
_NUM_VAL_IMAGES = 4
_PATIENCE_S = 600.0
_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One method, so many trials of it side by side.

    Attributes:
        memory_gb: of one trial: of the device where there is a GPU, else of the process.
        iterations_per_s: of all trials together.
    """

    method: str
    num_trials: int
    memory_gb: float
    iterations_per_s: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What follows for a setting's resources.

    Attributes:
        num_trials: side by side on one GPU, or on this machine where there is none.
        memory_gb: of the most demanding method.
        total_gb: what the device, or this machine, has.
    """

    on_gpu: bool
    num_trials: int
    memory_gb: float
    total_gb: float

    @property
    def resources(self) -> dict[str, float | int]:
        """Keys of `resources` and their values."""
        if self.on_gpu:
            return {"gpus": 1 / self.num_trials if self.num_trials > 1 else 1}
        return {"cpus": 1, "gpus": 0, "max_concurrent": self.num_trials}


def worst_images(assets: Assets, number: int) -> list[int]:
    """Ids of the training images that need most memory: by their instances, then by their pixels."""
    train = assets.train
    instances = np.bincount(train.annotation_image, minlength=train.num_images)
    pixels = train.image_heights.astype(np.int64) * train.image_widths
    by_instances = np.lexsort((-pixels, -instances))
    by_pixels = np.lexsort((-instances, -pixels))
    # One of each in turn, so that a batch holds the extremes of both.
    order = dict.fromkeys(int(i) for pair in zip(by_instances, by_pixels, strict=True) for i in pair)
    return [int(train.image_ids[i]) for i in list(order)[:number]]


def probe(
    configs: Sequence[TrainConfig], assets: Assets, *, seconds: float, say: Callable[[str], None]
) -> tuple[list[Measured], Advice]:
    """Measure one trial of each method, and the most demanding one side by side.

    Args:
        configs: one of each method; each takes the loss's branch and the parts that it trains.
        assets: the data.
        seconds: of training for each measurement.
        say: told of every measurement.

    Raises:
        InputError: a trial does not fit the device.
    """
    on_gpu = torch.cuda.is_available()
    total = torch.cuda.mem_get_info()[1] / _GB if on_gpu else psutil.virtual_memory().total / _GB
    most = SIDE_BY_SIDE if on_gpu else [n for n in SIDE_BY_SIDE if n <= (psutil.cpu_count() or 1)]
    measured = []
    with TemporaryDirectory(prefix="lttune-probe-") as folder:
        small = {config.method: _small(config, assets, Path(folder) / config.method) for config in configs}
        for config in configs:
            measured.append(_measure(*small[config.method], 1, seconds, on_gpu=on_gpu))
            say(_line(measured[-1]))
        worst = max(measured, key=lambda found: found.memory_gb)
        if worst.memory_gb > _RESERVE * total:
            raise InputError(
                f"a trial of {worst.method} takes {worst.memory_gb:.1f} GB of {total:.1f} GB; use a smaller "
                "schedule.batch_size, schedule.accumulate or precision: bf16."
            )
        best = worst
        for number in most[1:]:
            if number * worst.memory_gb > _RESERVE * total:
                break
            found = _measure(*small[worst.method], number, seconds, on_gpu=on_gpu)
            measured.append(found)
            say(_line(found))
            if found.iterations_per_s < _WORTH * best.iterations_per_s:
                break
            best = found
    return measured, Advice(
        on_gpu=on_gpu, num_trials=best.num_trials, memory_gb=max(found.memory_gb for found in measured), total_gb=total
    )


def _line(found: Measured) -> str:
    trials = "1 trial" if found.num_trials == 1 else f"{found.num_trials} trials side by side"
    return (
        f"{found.method}, {trials}: {found.memory_gb:.2f} GB each, {found.iterations_per_s:.2f} iterations/s together"
    )


def _small(config: TrainConfig, assets: Assets, folder: Path) -> tuple[TrainConfig, Assets]:
    """The same run on the worst images alone, from random weights, its features made of them."""
    from lttune.engine.prepare import may_keep_memory
    from lttune.engine.stage1 import build_features, build_memory, frozen_detector

    batch = config.schedule.batch_size
    kept = worst_images(assets, 2 * batch)
    small = replace(
        assets,
        train_skipped=_all_but(assets.train.image_ids.tolist(), kept),
        val_skipped=_all_but(assets.val.image_ids.tolist(), assets.val.image_ids[: 2 * _NUM_VAL_IMAGES].tolist()),
    )
    detector = replace(config.detector, weights=None)
    config = replace(
        config,
        detector=detector,
        # Long enough to be measured, whatever the setting's length.
        schedule=replace(ScheduleConfig(epochs=10**6, batch_size=batch), accumulate=config.schedule.accumulate),
        recipe=replace(config.recipe, start="weights" if config.fidelity == "full" else "stage1"),
    )
    if config.fidelity != "cached":
        return config, small
    from lttune.engine.weights import save_weights

    folder.mkdir(parents=True)
    without = replace(config, recipe=replace(config.recipe, start="weights"))
    save_weights(frozen_detector(without, small), folder / "weights.safetensors")
    small = replace(small, stage1_weights=str(folder / "weights.safetensors"), features=str(folder / "features"))
    build_features(config, small, folder / "features", _silent)
    if may_keep_memory(config.loss):
        build_memory(config, small, folder / "memory", _silent)
        small = replace(small, memory=str(folder / "memory"))
    return config, small


def _silent(*_: object) -> None:
    """Hears of progress that nobody asked for."""


def _all_but(ids: list[int], kept: list[int]) -> tuple[int, ...]:
    stay = set(kept)
    return tuple(i for i in ids if i not in stay)


def _measure(config: TrainConfig, assets: Assets, number: int, seconds: float, *, on_gpu: bool) -> Measured:
    """Train in so many processes at once; each starts to count when all of them have made their first step."""
    free = torch.cuda.mem_get_info()[0] if on_gpu else 0
    context = multiprocessing.get_context("spawn")
    started = [context.Pipe() for _ in range(number)]
    processes = [context.Process(target=_train, args=(far, config, assets, seconds), daemon=True) for _, far in started]
    for process in processes:
        process.start()
    for _, far in started:
        far.close()
    ends = [near for near, _ in started]
    try:
        for _ in range(2):  # after the first step, and after the measured ones
            answers = [_answer(end, config.method) for end in ends]
            if on_gpu:
                used = (free - torch.cuda.mem_get_info()[0]) / number
            for end in ends:
                end.send(None)
    finally:
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()
    rates, resident = zip(*answers, strict=True)
    return Measured(
        method=config.method,
        num_trials=number,
        memory_gb=(used if on_gpu else max(resident)) / _GB,
        iterations_per_s=sum(rates),
    )


def _answer(end: Connection, method: str) -> tuple[float, float]:
    """What a process reports.

    Raises:
        InputError: it ended instead, mostly for want of memory.
    """
    try:
        if not end.poll(_PATIENCE_S):
            raise InputError(
                f"{method}: no step within {_PATIENCE_S:.0f} s; the setting is too large for this machine."
            )
        found = end.recv()
    except EOFError as error:
        raise InputError(f"{method}: a trial ended for want of memory; use a smaller schedule.batch_size.") from error
    if isinstance(found, str):
        raise InputError(f"{method}: {found}")
    rate, resident = found
    return float(rate), float(resident)


def _train(end: Connection, config: TrainConfig, assets: Assets, seconds: float) -> None:
    """One trial in a process of its own: a step, then steps for so long and an evaluation."""
    from lttune.engine.run import TrainingRun
    from lttune.engine.stage1 import best_device

    torch.set_num_threads(1)
    try:
        run = TrainingRun(config, assets, device=best_device(), judged_on=None)
        run.advance(max_iters=1)
        end.send((0.0, 0.0))
        end.recv()
        before, began = run.step, time.monotonic()
        run.advance(max_seconds=seconds)
        rate = (run.step - before) / (time.monotonic() - began)
        run.evaluate(run.judge("tune"))
        end.send((rate, psutil.Process().memory_info().rss))
        end.recv()
    except (LttuneError, torch.cuda.OutOfMemoryError) as error:
        end.send(str(error).partition("\n")[0])
