"""Processes that train one run together: each has its share of every batch, and all make the same step.

They are the ranks of torch.distributed's default process group: gloo for tensors of the CPU, NCCL for those of a GPU.
What is to be decided together goes through gloo, so that no GPU is waited for. What takes its time on the first rank
alone (judging, reading a checkpoint) is waited for at the store where the ranks met, without a limit: a store whose
process is gone is noticed at once.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lttune import errors
from lttune.errors import LttuneError, WorkerLostError
from lttune.losses.distributed import num_ranks
from lttune.types import IntArray

logger = logging.getLogger(__name__)

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
# The longest that one rank waits for another in training: reading a batch is the slowest thing there.
TIMEOUT_S = 600.0
# Values of one message of gradients: large enough that its start costs nothing, small beside a model.
_BUCKET = 8 << 20
_FAILURE = "failure"
_SHORTEST_NAP_S, _LONGEST_NAP_S = 0.001, 0.05


def open_meeting(address: str = LOOPBACK, *, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """Where ranks meet, held by the first of them, on a free port of this machine (`port`).

    Args:
        address: of this machine, as the other ranks reach it.
        timeout_s: the longest that the ranks wait for each other.
    """
    # By itself the store would listen on every address of the machine.
    listener = socket.create_server((address, 0))
    return TCPStore(
        address,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),
    )


def attend_meeting(address: str, port: int, *, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """The same for a later rank."""
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))


class Ranks:
    """This process among those that train a run together; by default there is no other.

    Attributes:
        rank: counted from 0.
        size: how many there are.
        has_failed: whether something has ended the training together; the others are left then.
    """

    def __init__(self, *, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._num_told = self._num_met = 0
        self.has_failed = False

    @classmethod
    def join(
        cls, store: TCPStore, *, rank: int, size: int, device: torch.device, timeout_s: float = TIMEOUT_S
    ) -> "Ranks":
        """Wait for the other ranks, then be one of them until `leave`.

        Args:
            store: of `open_meeting` or `attend_meeting`.
            device: where this rank computes.
            timeout_s: the longest that one rank waits for another in training.

        Raises:
            WorkerLostError: not all came.
        """
        # Gloo binds to the address of the host's name, which need not be one that the others reach.
        is_local = ip_address(socket.gethostbyname(store.host)).is_loopback
        ranks = cls(rank=rank, size=size, store=store)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with ranks.together(), _gloo_on_loopback() if is_local else nullcontext():
            dist.init_process_group(
                backend,
                store=PrefixStore("ranks", store),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_s),
            )
        return ranks

    def leave(self) -> None:
        """Let go of the other ranks; what they still wait for ends with an error."""
        if self.size > 1 and dist.is_initialized():
            abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
            if self.has_failed and abort is not None and torch.cuda.is_available():
                abort()  # NCCL would wait for what never ends
            else:
                dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    # ---- sharing work

    def own_order(self, order: IntArray, batch_size: int) -> IntArray:
        """This rank's contiguous share of each whole batch of `order`, one after the other."""
        if self.size == 1:
            return order
        whole = len(order) // batch_size
        shares = order[: whole * batch_size].reshape(whole, self.size, batch_size // self.size)
        return np.ascontiguousarray(shares[:, self.rank]).ravel()

    def own_part(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's contiguous part of a list that all ranks hold; parts differ by one item at most."""
        bounds = [len(items) * rank // self.size for rank in (self.rank, self.rank + 1)]
        return items[slice(*bounds)]

    # ---- exchanging

    def average(self, parameters: Iterable[nn.Parameter], values: Iterable[Tensor], *, is_over: bool) -> bool:
        """Give every rank the averages over the ranks of gradients and of 0-d `values`, in place.

        Args:
            is_over: of the first rank, whether the slice ends after this step.

        Returns:
            What the first rank said.
        """
        if self.size == 1:
            return is_over
        gradients = [p.grad for p in parameters if p.grad is not None]
        says = torch.tensor([self.is_first and is_over, len(gradients), -len(gradients)], dtype=torch.int64)
        dist.all_reduce(says, dist.ReduceOp.MAX)
        assert says[1] == -says[2], "ranks have gradients of other parameters"
        for bucket in _buckets([*gradients, *values]):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, own in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                tensor.copy_(own.view(tensor.shape))
        return bool(says[0])

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first rank makes, a plain value of JSON, for all; the others wait as long as it takes."""
        if self._store is None:
            return make()
        self._num_told += 1
        key = f"told/{self._num_told}"
        if self.is_first:
            made = make()
            self._store.set(key, json.dumps(made))
            return made
        self._wait_for([key])
        return json.loads(self._store.get(key))

    def join_rows(self, rows: Tensor) -> Tensor:
        """(T, ...) the rows (N, ...) of all ranks in their order, in host memory; on later ranks nothing."""
        if self.size == 1:
            return rows
        self._meet()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(rows)]))
        longest = int(max(lengths))
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.is_first else None
        dist.gather(padded, parts)
        if parts is None:
            return rows[:0]
        return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the first one's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def _meet(self) -> None:
        """Wait until all ranks have come here, however long each takes."""
        assert self._store is not None
        self._num_met += 1
        here = [f"here/{self._num_met}/{rank}" for rank in range(self.size)]
        self._store.set(here[self.rank], "")
        self._wait_for(here)

    def _wait_for(self, keys: list[str]) -> None:
        assert self._store is not None
        nap_s = _SHORTEST_NAP_S
        while not self._store.check(keys):
            if self._store.check([_FAILURE]):
                raise self._published()
            time.sleep(nap_s)
            nap_s = min(2 * nap_s, _LONGEST_NAP_S)

    # ---- failing

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one rank raises inside ends all of them, with the same error.

        Raises:
            WorkerLostError: another rank is gone, or failed with an error that is none of ours.
        """
        try:
            yield
        except BaseException as error:
            if self._store is None or self.has_failed:
                raise
            self.has_failed = True
            raised = self._reason(error)
            self.leave()
            if raised is error:
                raise
            raise raised from error

    def _reason(self, error: BaseException) -> BaseException:
        """What this rank is to raise, and what the others then learn of it."""
        assert self._store is not None
        if _is_of_a_peer(error):
            with suppress(RuntimeError):
                if self._store.check([_FAILURE]):
                    return self._published()
            return WorkerLostError(
                f"worker {self.rank} of {self.size} lost another one ({str(error).splitlines()[0][:200]}); look for "
                "what ended that one, above all for a lack of memory."
            )
        with suppress(RuntimeError):
            told = json.dumps([type(error).__name__, str(error), self.rank])
            self._store.compare_set(_FAILURE, "", told)
        return error

    def _published(self) -> LttuneError:
        assert self._store is not None
        kind, text, rank = json.loads(self._store.get(_FAILURE))
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, LttuneError):
            return known(text)
        return WorkerLostError(f"worker {rank} of {self.size} ended with {kind}: {text}")


ALONE = Ranks()


class RankBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all ranks' images; torch's own of this kind is for GPUs alone."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or num_ranks() == 1:
            return super().forward(input)
        x = input.float()
        size = _SumOverRanks.apply(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _SumOverRanks.apply(x.sum(dim=(0, 2, 3))) / size
        centred = x - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum(dim=(0, 2, 3))) / size
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            assert self.momentum is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * size / (size - 1), self.momentum)
        normalised: Tensor = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            normalised = normalised * self.weight[:, None, None] + self.bias[:, None, None]
        return normalised.to(input.dtype)


def synchronise_batch_norm(module: nn.Module) -> None:
    """Let every batch normalisation in training take the statistics of all ranks' images."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            # In place: others hold the layer, too, and another one would escape them.
            child.__class__ = RankBatchNorm2d


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _total(values)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return _total(upstream)


def _total(values: Tensor) -> Tensor:
    total: Tensor = values.clone()
    dist.all_reduce(total)
    return total


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, those of one type together, as many as one message holds."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        room = _BUCKET
        for tensor in (t for t in tensors if t.dtype == dtype):
            if bucket and tensor.numel() > room:
                yield bucket
                bucket, room = [], _BUCKET
            bucket.append(tensor)
            room -= tensor.numel()
        yield bucket


@contextmanager
def _gloo_on_loopback() -> Iterator[None]:
    name = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if name is None or "GLOO_SOCKET_IFNAME" in os.environ:
        yield
        return
    os.environ["GLOO_SOCKET_IFNAME"] = name
    try:
        yield
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]


def _is_of_a_peer(error: BaseException) -> bool:
    """Whether the error says no more than that another rank does not answer."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
