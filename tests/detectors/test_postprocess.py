"""Selection of detections against NMS over all candidates, one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lttune.detectors import postprocess
from lttune.detectors.postprocess import select_detections


def slow_selection(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_iou: float, max_dets: int
) -> list[tuple[int, int]]:
    """Pairs (row, label): walk all candidates down, drop those that overlap a kept one of their category."""
    num_rows, num_categories = scores.shape
    flat = [float(score) for score in scores.flatten()]
    walk = sorted(
        (i for i in range(num_rows * num_categories) if flat[i] >= score_threshold), key=lambda i: (-flat[i], i)
    )
    kept: list[tuple[int, int]] = []
    for candidate in walk:
        row, label = divmod(candidate, num_categories)
        box = box_of(boxes, row, label)
        if all(k_label != label or iou(box, box_of(boxes, k, k_label)) <= nms_iou for k, k_label in kept):
            kept.append((row, label))
    return kept[:max_dets]


def box_of(boxes: Tensor, row: int, label: int) -> list[float]:
    values: list[float] = (boxes[row] if boxes.dim() == 2 else boxes[row, label]).tolist()
    return values


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(0, 12),
    num_categories=st.integers(1, 5),
    own_boxes=st.booleans(),
    num_levels=st.sampled_from([1, 3, 1000]),
    score_threshold=st.sampled_from([0.0, 0.3, 1.1]),
    nms_iou=st.sampled_from([0.15, 0.55, 1.0]),
    max_dets=st.integers(1, 70),
)
def test_it_equals_nms_over_all_candidates(
    seed: int,
    num_rows: int,
    num_categories: int,
    own_boxes: bool,
    num_levels: int,
    score_threshold: float,
    nms_iou: float,
    max_dets: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_rows, num_categories) if own_boxes else (num_rows,)
    # Whole coordinates and few score levels give many equal boxes and equal scores.
    corner = torch.randint(0, 8, (*shape, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(1, 8, (*shape, 2), generator=generator)], dim=-1).float()
    scores = torch.randint(0, num_levels, (num_rows, num_categories), generator=generator) / num_levels
    rules = {"score_threshold": score_threshold, "nms_iou": nms_iou, "max_dets": max_dets}
    rows, labels, best = select_detections(boxes, scores, **rules)
    assert list(zip(rows.tolist(), labels.tolist(), strict=True)) == slow_selection(boxes, scores, **rules)
    assert torch.equal(best, scores[rows, labels])


def test_it_looks_further_where_the_best_candidates_suppress_each_other() -> None:
    crowd = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(500, 4)
    alone = torch.tensor([[20.0, 20.0, 30.0, 30.0]])
    scores = torch.cat([torch.linspace(0.9, 0.5, 500), torch.tensor([0.1])])[:, None]
    rows, _, _ = select_detections(torch.cat([crowd, alone]), scores, score_threshold=0.0, nms_iou=0.5, max_dets=2)
    assert rows.tolist() == [0, 500]


def test_a_million_equal_scores_are_not_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    whole = postprocess._nms_by_category

    def counted(boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float) -> Tensor:
        looked_at.append(len(boxes))
        return whole(boxes, scores, labels, nms_iou)

    monkeypatch.setattr(postprocess, "_nms_by_category", counted)
    corner = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) * 500
    boxes = torch.cat([corner, corner + 50], dim=1)
    scores = torch.full((1000, 1203), 0.01)
    rows, labels, _ = select_detections(boxes, scores, score_threshold=0.0, nms_iou=0.5, max_dets=300)
    assert rows.tolist() == [0] * 300
    assert labels.tolist() == list(range(300))
    assert sum(looked_at) <= 1500


def test_a_thousand_categories_do_not_blur_the_boxes() -> None:
    # IoU 0.4999 and 0.5001 with the first box and 0 with each other, in the last category.
    boxes = torch.tensor([[0.0, 0.0, 1000.0, 1.0], [0.0, 0.0, 499.9, 1.0], [499.9, 0.0, 1000.0, 1.0]])
    scores = torch.zeros(3, 1203)
    scores[:, -1] = torch.tensor([0.9, 0.8, 0.7])
    rows, labels, _ = select_detections(boxes, scores, score_threshold=0.5, nms_iou=0.5, max_dets=10)
    assert rows.tolist() == [0, 1]
    assert labels.tolist() == [1202, 1202]


def test_scores_that_are_no_numbers_are_left_out() -> None:
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0], [10.0, 10.0, 15.0, 15.0]])
    scores = torch.tensor([[float("nan"), 0.2], [0.4, float("nan")]])
    rows, labels, best = select_detections(boxes, scores, score_threshold=0.0, nms_iou=0.5, max_dets=1)
    assert (rows.tolist(), labels.tolist()) == ([1], [0])
    assert best.tolist() == [pytest.approx(0.4)]
