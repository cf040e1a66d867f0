"""Matching and sampling of proposals."""

import pytest
import torch

from lttune.detectors.rois import match_rois, sample_rois
from lttune.types import Target


def test_a_box_takes_the_label_of_the_instance_it_overlaps_most() -> None:
    target = Target(boxes=torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]]), labels=torch.tensor([7, 2]))
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # IoU 1 and 1/3
            [4.0, 0.0, 14.0, 10.0],  # IoU 3/7 and 9/11
            [0.0, 0.0, 10.0, 20.0],  # IoU 1/2: at the threshold is positive
            [0.0, 0.0, 10.0, 20.1],  # just below
            [50.0, 50.0, 60.0, 60.0],
        ]
    )
    labels, ids = match_rois(boxes, target, positive_iou=0.5, num_classes=9)
    assert labels.tolist() == [7, 2, 7, 9, 9]
    assert ids.tolist() == [0, 1, 0, -1, -1]


def test_an_instance_that_no_box_reaches_has_no_positive() -> None:
    target = Target(boxes=torch.tensor([[0.0, 0.0, 10.0, 10.0]]), labels=torch.tensor([0]))
    labels, ids = match_rois(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), target, positive_iou=0.5, num_classes=3)
    assert (labels.tolist(), ids.tolist()) == ([3], [-1])


@pytest.mark.parametrize("num_boxes", [0, 2])
@pytest.mark.parametrize("num_instances", [0, 2])
def test_nothing_to_match_is_background(num_boxes: int, num_instances: int) -> None:
    target = Target(
        boxes=torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(num_instances, 4), labels=torch.zeros(num_instances).long()
    )
    boxes = torch.tensor([[20.0, 20.0, 30.0, 30.0]]).expand(num_boxes, 4)
    labels, ids = match_rois(boxes, target, positive_iou=0.5, num_classes=4)
    assert labels.tolist() == [4] * num_boxes
    assert ids.tolist() == [-1] * num_boxes
    assert labels.dtype == ids.dtype == torch.int64


@pytest.mark.parametrize(
    ("num_positives", "num_background", "drawn"),
    [(20, 100, (4, 12)), (2, 100, (2, 14)), (20, 3, (4, 3)), (0, 5, (0, 5)), (3, 0, (3, 0))],
)
def test_positives_come_first_and_take_no_more_than_their_share(
    num_positives: int, num_background: int, drawn: tuple[int, int]
) -> None:
    labels = torch.cat([torch.full((num_background,), 6), torch.arange(num_positives) % 6])
    rows = sample_rois(
        labels, num_classes=6, num_rois=16, positive_fraction=0.25, generator=torch.Generator().manual_seed(0)
    )
    is_positive = (labels[rows] < 6).tolist()
    assert is_positive == [True] * drawn[0] + [False] * drawn[1]
    assert len(set(rows.tolist())) == len(rows)


def test_each_row_is_drawn_equally_often() -> None:
    labels = torch.tensor([0, 5, 1, 5, 5, 2, 5, 3])
    generator = torch.Generator().manual_seed(0)
    hits = torch.zeros(8)
    num_draws = 2000
    for _ in range(num_draws):
        hits[sample_rois(labels, num_classes=5, num_rois=4, positive_fraction=0.5, generator=generator)] += 1
    # 2 of 4 positives and 2 of 4 background rows: 4 standard deviations of a fair coin.
    assert (hits / num_draws - 0.5).abs().max() < 4 * 0.5 / num_draws**0.5
