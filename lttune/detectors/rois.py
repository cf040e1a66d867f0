"""Matching proposals with ground truth, and drawing those that a step trains on.

Shape letters: P proposals of one image, M instances of one image, R drawn RoIs, C foreground categories.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou

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
