"""Searches in very many values, several times faster than torch's own on a CPU."""

import numpy as np
import torch
from torch import Tensor

# Far more cells than edges, so that few values share a cell with one; the table still fits a core's cache.
_NUM_CELLS = 1 << 16
# In cells: beyond the rounding of a float32 place in the grid, so that no value lands on the wrong side of an edge.
_MARGIN = 1 / 16


def true_entries(mask: Tensor) -> Tensor:
    """Index of the true entries of a mask (n,) on a CPU; NumPy finds them in a fifth of torch's time."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def count_edges_reached(x: Tensor, edges: Tensor) -> Tensor:
    """(n,) int32, the number of edges at or below each value: `torch.bucketize(x, edges, right=True)`.

    On a CPU a grid of equal cells gives the answer in one look-up, but for the few values in a cell with an edge.

    Args:
        x: (n,) float32 or float64; infinite values are allowed.
        edges: (E,) float64, ascending, finite on a CPU.
    """
    if x.device.type != "cpu" or len(x) < _NUM_CELLS or len(edges) == 0:
        return _search(x, edges)
    # The grid starts at a number of x's own precision, so that rounding is relative to the place in the grid.
    start = float(edges[0].to(x.dtype))
    cells_per_unit = (_NUM_CELLS - 1) / max(float(edges[-1]) - start, torch.finfo(torch.float32).tiny)

    def cell(x: Tensor, shift: float = 0.0) -> Tensor:
        places = (x - start).mul_(cells_per_unit).add_(shift)
        # Clamped from below as integers only: casting turns nan into some integer.
        return places.clamp_(max=_NUM_CELLS - 1).to(torch.int32).clamp_(min=0)

    reached = cell(edges).bincount(minlength=_NUM_CELLS).cumsum(0, dtype=torch.int32)
    reached[torch.cat([cell(edges, -_MARGIN), cell(edges, _MARGIN)]).long()] = -1
    count = reached.index_select(0, cell(x))
    unsure = true_entries(count < 0)
    return count.index_copy_(0, unsure, _search(x.index_select(0, unsure), edges))


def _search(x: Tensor, edges: Tensor) -> Tensor:
    return torch.bucketize(x.to(edges.dtype), edges, right=True, out_int32=True)
