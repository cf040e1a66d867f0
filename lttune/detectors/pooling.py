"""RoI pooling over a feature pyramid: torchvision's RoIAlign, and a fast one for the small detector.

Both take maps (B, C, h, w) by name and per image boxes (P, 4) in pixels, and give (R, C, s, s).
Shape letters: B images, C channels, R RoIs of all images, s side of the pooled map.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align


class AlignPool(nn.Module):
    """RoIAlign, each RoI on the map that suits its area.

    Equal to torchvision's `MultiScaleRoIAlign`, which guesses the strides from the first batch and keeps the guess.

    Args:
        strides: of each pooled map in pixels, finest first, keyed by its name.
        size: s.
        second_side: a RoI of at least the area of this square (pixels) goes to the second map, of twice its side to
            the third, and so on.
        samples: per bin and axis, 0 for as many as there are pixels.
        is_aligned: whether the middle of pixel 0 lies at 0.5, else at 0.
        margin: how many pixels boxes are wider and higher than their corners say.
    """

    def __init__(
        self,
        strides: Mapping[str, int],
        *,
        size: int,
        second_side: float,
        samples: int,
        is_aligned: bool = False,
        margin: int = 0,
    ) -> None:
        super().__init__()
        self.strides = dict(strides)
        self.size, self.second_side, self.samples = size, second_side, samples
        self.is_aligned, self.margin = is_aligned, margin

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        rois = widened(torch.cat(list(boxes)), self.margin)
        levels = _levels(rois, self.second_side, num_levels=len(self.strides))
        rows = torch.cat([_image_of(boxes)[:, None].to(rois), rois], dim=1)
        some_map = features[next(iter(self.strides))]
        pooled = some_map.new_zeros(len(rois), some_map.shape[1], self.size, self.size)
        for level, (name, stride) in enumerate(self.strides.items()):
            here = torch.nonzero(levels == level)[:, 0]
            pooled[here] = roi_align(features[name], rows[here], self.size, 1 / stride, self.samples, self.is_aligned)
        return pooled


class BilinearPool(nn.Module):
    """RoIAlign with one sample in the middle of each bin, half-pixel exact, over a feature pyramid.

    Equal to `torchvision.ops.roi_align(sampling_ratio=1, aligned=True)` up to rounding for boxes inside the image. That
    routine walks pixel by pixel and scatters one float at a time; here all maps are one table with a row per pixel, and
    a bin is a weighted sum of 4 rows: forward 2 times and backward 8 times as fast on a CPU.

    Args:
        strides: of each pooled map in pixels, finest first, keyed by its name.
        size: s.
        second_side: as in `AlignPool`.
    """

    def __init__(self, strides: Mapping[str, int], *, size: int, second_side: float) -> None:
        super().__init__()
        self.strides = dict(strides)
        self.size, self.second_side = size, second_side

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        maps = [features[name] for name in self.strides]
        rows, weights = self._bins(maps, boxes)
        table = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in maps])
        pooled: Tensor = _WeightedRows.apply(table, rows, weights)
        return pooled.view(sum(map(len, boxes)), self.size, self.size, table.shape[1]).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _bins(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Table rows and bilinear weights, (R * s * s, 4) each, of the four pixels around each bin's middle."""
        device = maps[0].device
        rois = torch.cat(list(boxes))
        sides = rois[:, 2:] - rois[:, :2]
        level = _levels(rois, self.second_side, num_levels=len(maps))

        shapes = [level_map.shape[-2:] for level_map in maps]
        heights, widths = (torch.tensor(column, device=device)[level] for column in zip(*shapes, strict=True))
        starts, start = [], 0
        for level_map in maps:
            starts.append(start)
            start += len(level_map) * level_map.shape[-2] * level_map.shape[-1]
        first = torch.tensor(starts, device=device)[level] + _image_of(boxes) * heights * widths
        stride = torch.tensor(list(self.strides.values()), device=device, dtype=rois.dtype)[level]

        middles = (torch.arange(self.size, device=device, dtype=rois.dtype) + 0.5) / self.size
        columns, x_weights = _neighbours(rois[:, 0], sides[:, 0], stride, middles, widths)
        lines, y_weights = _neighbours(rois[:, 1], sides[:, 1], stride, middles, heights)
        lines = lines * widths[:, None, None] + first[:, None, None]
        rows = lines[:, :, None, :, None] + columns[:, None, :, None, :]
        weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
        return rows.reshape(-1, 4), weights.reshape(-1, 4)


def widened(boxes: Tensor, margin: int) -> Tensor:
    """Boxes (R, 4) with the lower right corner moved outwards: mmdetection 1 counts the pixel that it lies in."""
    return boxes + boxes.new_tensor([0, 0, margin, margin]) if margin else boxes


def _image_of(boxes: Sequence[Tensor]) -> Tensor:
    """(R,) the image of each RoI."""
    return torch.cat([torch.full((len(own),), image, device=own.device) for image, own in enumerate(boxes)])


def _levels(rois: Tensor, second_side: float, *, num_levels: int) -> Tensor:
    """(R,) int64, the map of each RoI."""
    sides = (rois[:, 2:] - rois[:, :2]).prod(dim=1).sqrt()
    # The small constant keeps a RoI of exactly that side on the coarser map; torchvision adds the same.
    return (torch.log2(sides / second_side) + 1 + 1e-6).floor().clamp(0, num_levels - 1).long()


def _neighbours(start: Tensor, side: Tensor, stride: Tensor, middles: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis the two pixels next to each bin's middle and their weights, (R, s, 2) each."""
    # Half a pixel less because the middle of pixel 0 lies at 0.5; beyond the border its value goes on.
    at = (start[:, None] + side[:, None] * middles) / stride[:, None] - 0.5
    last = (length - 1)[:, None]
    at = at.clamp(min=0).minimum(last)
    low = at.floor()
    share = at - low
    index = low.long()
    return torch.stack([index, (index + 1).minimum(last)], dim=2), torch.stack([1 - share, share], dim=2)


class _WeightedRows(torch.autograd.Function):
    """`embedding_bag` in mode `sum` whose backward adds whole rows: twice as fast as the built-in one."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.table_length = len(table)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = ctx.saved_tensors
        (gradient,) = gradients
        out = gradient.new_zeros(ctx.table_length, gradient.shape[1])
        for corner in range(4):
            out.index_add_(0, rows[:, corner], gradient * weights[:, corner, None])
        return out, None, None
