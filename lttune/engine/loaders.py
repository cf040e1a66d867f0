"""Processes that load images ahead of training, where one thread beside it is too slow.

They live as long as the source that they load for, over epochs and slices. What a process loads depends on nothing but
the image and the epoch, so any number of them gives the same batches. Tensors come back through shared memory.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import torch
import torch.multiprocessing  # its import lets tensors travel through shared memory

from lttune.types import Target

Load = Callable[[int, int], tuple[torch.Tensor, Target]]
# Of this process, where it is one of the loaders.
_LOAD: list[Load] = []


class Loaders:
    """Some processes and the images that were asked of them.

    Args:
        num: processes.
        open_source: gives, in each process, what loads an image of an epoch; it is sent there.
    """

    def __init__(self, num: int, open_source: Callable[[], Load]) -> None:
        # Not forked: a process with threads, as Ray's workers are, may hold locks that nobody would release.
        context: Any = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(num, mp_context=context, initializer=_open, initargs=(open_source,))

    def submit(self, image: int, epoch: int) -> "Future[tuple[torch.Tensor, Target]]":
        """Let the next free process load an image."""
        return self._pool.submit(_load, image, epoch)


def _open(open_source: Callable[[], Load]) -> None:
    torch.set_num_threads(1)
    _LOAD.append(open_source())


def _load(image: int, epoch: int) -> tuple[torch.Tensor, Target]:
    return _LOAD[0](image, epoch)
