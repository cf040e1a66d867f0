"""What the ranks of data-parallel training have to know of each other, so that they train as one process would that has
all of their rows.

Ranks are those of torch.distributed's default process group; outside of one, and within `apart`, nothing is sent.
Every rank takes part in every exchange, so each has to call its losses as often as the others, rows or none.
Gradients are averaged over the ranks, and so each rank's loss is scaled such that the average is right.

Shape letters: R ranks, N rows of this rank, T rows of all ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

_IS_APART: ContextVar[bool] = ContextVar("is_apart", default=False)


def num_ranks() -> int:
    """R; 1 without a process group."""
    is_alone = _IS_APART.get() or not (dist.is_available() and dist.is_initialized())
    return 1 if is_alone else dist.get_world_size()


@contextmanager
def apart() -> Iterator[None]:
    """Each rank works for itself inside; nothing is sent."""
    token = _IS_APART.set(True)
    try:
        yield
    finally:
        _IS_APART.reset(token)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of this tensor over all ranks, in place; without a process group the tensor as it is."""
    if num_ranks() > 1:
        dist.all_reduce(values)
    return values


def count_over_ranks(labels: Tensor, num_columns: int) -> Tensor:
    """(num_columns,) int64, how many of all ranks' labels (N,) have each value in [0, num_columns)."""
    counts = torch.zeros(num_columns, dtype=torch.int64, device=labels.device)
    return sum_over_ranks(counts.index_add_(0, labels, torch.ones_like(labels)))


def mean_over_all_rows(mean: Tensor, num_rows: int) -> Tensor:
    """A mean over this rank's rows, scaled so that its average over the ranks is the mean over all rows.

    Args:
        mean: of any shape; what is taken over no rows is zero.
        num_rows: N, of this rank.
    """
    if num_ranks() == 1:
        return mean
    total = sum_over_ranks(torch.tensor(float(num_rows), dtype=torch.float64, device=mean.device))
    return mean * (num_rows * num_ranks() / total.clamp(min=1)).to(mean.dtype)


def gather_rows(rows: Tensor) -> Tensor:
    """(T, ...) the rows (N, ...) of all ranks in their order; N may differ. The ranks are to train the same loss of it.

    The gradient of this rank's rows is that of the sum of all ranks' losses.
    """
    if num_ranks() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def gather_numbers(numbers: Tensor) -> Tensor:
    """(T,) the numbers (N,) of all ranks, those that each rank counted from 0 counted over all of them; negative ones
    stay as they are."""
    if num_ranks() == 1:
        return numbers
    span = (numbers.max() + 1).clamp(min=0) if len(numbers) else numbers.new_zeros(())
    dist.all_reduce(span, dist.ReduceOp.MAX)
    return gather_rows(torch.where(numbers < 0, numbers, numbers + span * dist.get_rank()))


def own_share(rows: Tensor) -> Tensor:
    """This rank's contiguous share of rows (T, ...) that all ranks hold."""
    return rows if num_ranks() == 1 else rows.tensor_split(num_ranks())[dist.get_rank()]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(num_ranks())]
        dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
        lengths = torch.cat(sizes).tolist()
        # Of one size for all, since not every backend sends ragged ones.
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        ctx.start, ctx.length = sum(lengths[: dist.get_rank()]), len(rows)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        # Each rank trains the same loss, so the sum over the ranks is as many times this one's gradient.
        return upstream[ctx.start : ctx.start + ctx.length] * num_ranks()
