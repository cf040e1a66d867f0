"""Sums over the ranks of data-parallel training, so that running statistics are the same on all of them.

Outside a process group of torch.distributed nothing is sent. Every rank takes part in every sum, so each has to call
its losses once a step, rows or none.
"""

import torch
from torch import Tensor
from torch import distributed as dist


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of this tensor over all ranks, in place; without a process group the tensor as it is."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def count_over_ranks(labels: Tensor, num_columns: int) -> Tensor:
    """(num_columns,) int64, how many of all ranks' labels (N,) have each value in [0, num_columns)."""
    counts = torch.zeros(num_columns, dtype=torch.int64, device=labels.device)
    return sum_over_ranks(counts.index_add_(0, labels, torch.ones_like(labels)))
