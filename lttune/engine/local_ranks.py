"""The ranks of a run on one machine: further processes that this one starts, and that end with it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from lttune.engine.assets import Assets
from lttune.engine.config import TrainConfig
from lttune.engine.parallel import LOOPBACK, Ranks, attend_meeting, open_meeting
from lttune.engine.run import TrainingRun
from lttune.errors import InputError, LttuneError, WorkerLostError

# From a process's start until it has imported torch and come to the meeting; a loaded machine takes its time.
_LONGEST_START_S = 300.0
_LONGEST_END_S = 10.0


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a later rank trains; all that its process is started with."""

    config: TrainConfig
    assets: Assets
    checkpoint: Path
    rank: int
    size: int
    port: int
    num_threads: int


@contextmanager
def local_ranks(config: TrainConfig, assets: Assets, checkpoint: Path, *, size: int) -> Iterator[Ranks]:
    """This process as the first of `size` ranks; the others follow it as `follow` says, until the block ends.

    The cores are shared equally meanwhile.

    Args:
        checkpoint: what the others restore where the first one does.
        size: of them all.

    Raises:
        InputError: there are GPUs, but not one for each.
        WorkerLostError: one of the others does not come.
    """
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < size:
        raise InputError(f"--workers is {size}, but this machine has {num_gpus} GPUs; use as many workers.")
    if size == 1:
        yield Ranks()
        return
    threads = torch.get_num_threads()
    store = open_meeting()
    shared = max(1, (os.cpu_count() or 1) // size)
    tasks = [
        _Task(
            config=config,
            assets=assets,
            checkpoint=checkpoint,
            rank=rank,
            size=size,
            port=store.port,
            num_threads=shared,
        )
        for rank in range(1, size)
    ]
    # Daemons end with this process; one that is killed is missed at the next exchange.
    processes = [multiprocessing.get_context("spawn").Process(target=_follow, args=(t,), daemon=True) for t in tasks]
    torch.set_num_threads(shared)
    ranks: Ranks | None = None
    try:
        with _interrupts_for_this_process_alone():
            for process in processes:
                process.start()
        deadline = time.monotonic() + _LONGEST_START_S
        while not store.check([_came(task.rank) for task in tasks]):
            if not all(process.is_alive() for process in processes) or time.monotonic() > deadline:
                raise WorkerLostError(f"not all of the {size - 1} further workers came; look above for what they said.")
            time.sleep(0.01)
        ranks = Ranks.join(store, rank=0, size=size, device=rank_device(0))
        yield ranks
    finally:
        if ranks is not None:
            ranks.leave()
        deadline = time.monotonic() + _LONGEST_END_S
        for process in processes:
            if process.pid is not None:
                process.join(max(0.0, deadline - time.monotonic()))
                process.kill()
        torch.set_num_threads(threads)


def rank_device(rank: int) -> torch.device:
    """Where a rank of this machine computes: a GPU of its own where there are any."""
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def follow(run: TrainingRun, ranks: Ranks, checkpoint: Path, *, stop_at_evaluation: bool = False) -> None:
    """Make the first rank's calls as a later one.

    The first one says whether it has restored the checkpoint, then before every slice that there is one, at last that
    there is none.
    """
    if ranks.from_first(lambda: None):
        run.restore(checkpoint)
    while ranks.from_first(lambda: None):
        run.advance(stop_at_evaluation=stop_at_evaluation)


def _follow(task: _Task) -> None:
    torch.set_num_threads(task.num_threads)
    store = attend_meeting(LOOPBACK, task.port)
    store.set(_came(task.rank), "")
    device = rank_device(task.rank)
    ranks = Ranks.join(store, rank=task.rank, size=task.size, device=device)
    try:
        with ranks.together():
            run = TrainingRun(task.config, task.assets, device=device, ranks=ranks)
            follow(run, ranks, task.checkpoint)
    except LttuneError:
        sys.exit(1)  # the first rank raises the same, or is what ended
    finally:
        ranks.leave()


def _came(rank: int) -> str:
    return f"came/{rank}"


@contextmanager
def _interrupts_for_this_process_alone() -> Iterator[None]:
    """Processes that start inside leave Ctrl-C, which a terminal sends to all, to this one, which then ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, own)
