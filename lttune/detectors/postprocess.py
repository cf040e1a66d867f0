"""From scores of all proposals to the best detections of one image.

Shape letters: P proposals, C foreground categories, D detections. A candidate is a pair (proposal, category); its flat
index is `proposal * C + category`.
"""

import torch
from torch import Tensor
from torchvision.ops import nms

# Candidates looked at first for each detection wanted: several proposals crowd on one object. 3 to 10 cost the same.
_CANDIDATES_PER_DETECTION = 5


def select_detections(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_iou: float, max_dets: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `max_dets` best candidates that greedy NMS within each category leaves over.

    Equal to NMS over all candidates, but walks down the scores only as far as needed: whether a candidate survives
    depends on better ones alone. Equal scores are ordered by flat index, so that the result is a function of the input.

    Args:
        boxes: (P, 4), or (P, C, 4) where each category has its own.
        scores: (P, C).
        score_threshold: candidates below it are dropped; NaN scores are, too.
        nms_iou: IoU above which the worse of two boxes of a category goes.
        max_dets: most detections to return.

    Returns:
        rows (D,) int64 in [0, P), labels (D,) int64 in [0, C) and scores (D,), by descending score.
    """
    num_categories = scores.shape[1]
    flat_scores = scores.flatten()
    above = torch.nonzero(flat_scores >= score_threshold)[:, 0]
    values = flat_scores[above]
    num_candidates = max_dets * _CANDIDATES_PER_DETECTION
    while True:
        is_last = num_candidates >= len(values)
        best = above if is_last else above[_best(values, num_candidates)]
        # A stable sort of ascending flat indices keeps that order among equal scores, as does NMS itself.
        best_scores, order = flat_scores[best].sort(descending=True, stable=True)
        best = best[order]
        rows = best.div(num_categories, rounding_mode="floor")
        labels = best - rows * num_categories
        best_boxes = boxes[rows] if boxes.dim() == 2 else boxes[rows, labels]
        kept = _nms_by_category(best_boxes, best_scores, labels, nms_iou)[:max_dets]
        if is_last or len(kept) == max_dets:
            return rows[kept], labels[kept], best_scores[kept]
        num_candidates *= 2


def _best(values: Tensor, num: int) -> Tensor:
    """Indices of the `num` greatest values, the first ones among equals, those of each value in ascending order."""
    least = values.topk(num, sorted=False).values.min()
    greater = torch.nonzero(values > least)[:, 0]
    return torch.cat([greater, torch.nonzero(values == least)[: num - len(greater), 0]])


def _nms_by_category(boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float) -> Tensor:
    if len(boxes) == 0:
        return labels
    # Categories are moved apart so that one call serves all. In float32 the offsets of a thousand categories would
    # round the coordinates to a tenth of a pixel.
    boxes = boxes.double()
    low, high = boxes.aminmax()
    return torch.as_tensor(nms(boxes + labels[:, None] * (high - low + 1), scores.double(), nms_iou))
