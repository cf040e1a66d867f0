"""Matching proposals with ground truth, drawing those that a step trains on, and the loss of their boxes.

Shape letters: P proposals of one image, M instances of one image, R drawn RoIs, n positives among them, C foreground
categories.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from lttune.detectors.scopes import seeded
from lttune.losses.base import at_least_float32
from lttune.losses.distributed import mean_over_all_rows
from lttune.types import Target


def match_rois(boxes: Tensor, target: Target, *, positive_iou: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Label each box by the ground truth it overlaps most.

    Low-quality matches are not added: an instance that no box reaches has no positive.

    Args:
        boxes: (P, 4).
        target: the image's ground truth, M may be 0.
        positive_iou: IoU from which a box is positive.
        num_classes: C, the label of background.

    Returns:
        labels (P,) int64 in [0, C] and instance ids (P,) int64 in [-1, M), -1 for background.
    """
    if len(target.boxes) == 0:
        background = torch.full((len(boxes),), num_classes, dtype=torch.int64, device=boxes.device)
        return background, torch.full_like(background, -1)
    best_iou, best = box_iou(boxes, target.boxes).max(dim=1)
    is_positive = best_iou >= positive_iou
    return torch.where(is_positive, target.labels[best], num_classes), torch.where(is_positive, best, -1)


def sample_rois(
    labels: Tensor, *, num_classes: int, num_rois: int, positive_fraction: float, generator: torch.Generator
) -> Tensor:
    """Indices (R,) of drawn rows, positives first; R is `num_rois` or all rows that may be drawn.

    Positives take at most `int(num_rois * positive_fraction)` places and background the rest; each kind is drawn
    uniformly without replacement.

    Args:
        labels: (P,) int64 in [0, C].
        num_classes: C, the label of background.
        num_rois: most rows to draw.
        positive_fraction: largest share of positives.
        generator: source of the draws.
    """

    def draw(rows: Tensor, num: int) -> Tensor:
        order = torch.randperm(len(rows), generator=generator, device=generator.device)
        return rows[order[:num].to(rows.device)]

    positives = draw(torch.nonzero(labels < num_classes)[:, 0], int(num_rois * positive_fraction))
    return torch.cat([positives, draw(torch.nonzero(labels == num_classes)[:, 0], num_rois - len(positives))])


class AnchorSampler:
    """torchvision's draw of the anchors that the RPN trains on, from the global generator.

    Args:
        draw: torchvision's own, a `BalancedPositiveNegativeSampler`.

    Attributes:
        seeds: of each image of the next call; None draws for one image after the other.
        num_drawn: anchors of the last call, which the RPN's losses are means over.
    """

    def __init__(self, draw: Callable[[list[Tensor]], tuple[list[Tensor], list[Tensor]]]) -> None:
        self._draw = draw
        self.seeds: Sequence[int] | None = None
        self.num_drawn = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positives, negatives = [], []
        for i, labels in enumerate(matched_idxs):
            with nullcontext() if self.seeds is None else seeded(self.seeds[i], labels.device):
                (positive,), (negative,) = self._draw([labels])
            positives.append(positive)
            negatives.append(negative)
        self.num_drawn = sum(int(mask.sum()) for mask in (*positives, *negatives))
        return positives, negatives


def image_numbers(num_rows: Sequence[int], *, device: torch.device) -> Tensor:
    """(N,) int64, of each row of a batch the number of its image.

    Args:
        num_rows: of each image, in the order of the rows.
        device: of the result.
    """
    return torch.arange(len(num_rows)).repeat_interleave(torch.tensor(num_rows, dtype=torch.int64)).to(device)


def box_regression_loss(deltas: Tensor, labels: Tensor, box_targets: Tensor, *, num_rows: int, beta: float) -> Tensor:
    """Smooth L1 summed over positives and divided by all rows, so that a positive weighs the same in every batch.

    Args:
        deltas: (n, 4), or (n, 4 C) where each category has its own.
        labels: (n,) int64 in [0, C).
        box_targets: (n, 4).
        num_rows: R, background included.
        beta: where the loss turns from square to straight, in encoded units; 0 is plain L1.
    """
    if deltas.shape[1] != 4:
        own = torch.arange(len(deltas), device=deltas.device)
        deltas = deltas.view(len(deltas), deltas.shape[1] // 4, 4)[own, labels]
    loss = F.smooth_l1_loss(at_least_float32(deltas), box_targets, beta=beta, reduction="sum") / max(num_rows, 1)
    return mean_over_all_rows(loss, num_rows)
