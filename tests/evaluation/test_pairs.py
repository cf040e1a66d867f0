from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from lttune.data.lvis import annotations_from_document
from lttune.evaluation import (
    DetectionColumns,
    GroundTruth,
    IouPairs,
    box_iou_table,
    box_pairs,
    evaluate,
    mask_areas,
    mask_iou_table,
    mask_pairs,
    pairs,
    table_pairs,
)
from lttune.masks import decode, to_rle
from lttune.types import FloatArray, IntArray

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def columns_of(case: Case) -> tuple[GroundTruth, IntArray, IntArray, FloatArray]:
    truth = GroundTruth(annotations_from_document(case[0], "test"))
    ids = truth.annotations.category_ids.tolist()
    image = np.searchsorted(truth.annotations.image_ids, [e["image_id"] for e in case[1]])
    category = np.array([ids.index(e["category_id"]) if e["category_id"] in ids else -1 for e in case[1]], np.int64)
    return truth, image, category, np.array([e["bbox"] for e in case[1]], np.float64)


def by_pycocotools(truth: GroundTruth, image: IntArray, category: IntArray, things: Any, others: Any) -> set[Any]:
    return {
        (row, other, iou)
        for row in range(len(image))
        for other in range(len(truth))
        if (truth.image[other], truth.category[other]) == (image[row], category[row])
        and (iou := float(coco_mask.iou(things[row : row + 1], others[other : other + 1], [0])[0, 0])) >= 0.5
    }


def as_set(found: IouPairs) -> set[Any]:
    return set(zip(found.row.tolist(), found.annotation.tolist(), found.iou.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_pairs_equal_pycocotools(seed: int, random_case: Callable[[int], Case]) -> None:
    case = random_case(seed)
    truth, image, category, boxes = columns_of(case)
    expected = by_pycocotools(truth, image, category, boxes, truth.boxes_xywh)
    assert as_set(box_pairs(truth, image, category, boxes)) == expected
    rles = [{**e["segmentation"], "counts": e["segmentation"]["counts"].encode()} for e in case[1]]
    expected = by_pycocotools(truth, image, category, rles, truth.rles)
    assert as_set(mask_pairs(truth, image, category, rles)) == expected


def test_no_detections_and_no_annotations_have_no_pairs(random_case: Callable[[int], Case]) -> None:
    document, entries = random_case(0)
    truth, *_ = columns_of((document, entries))
    none, no_boxes = np.zeros(0, np.int64), np.zeros((0, 4))
    assert as_set(box_pairs(truth, none, none, no_boxes)) == as_set(mask_pairs(truth, none, none, [])) == set()
    truth, image, category, boxes = columns_of((document | {"annotations": []}, entries))
    assert as_set(box_pairs(truth, image, category, boxes)) == set()


@pytest.mark.parametrize("seed", range(6))
def test_tables_give_the_pairs_of_boxes_and_masks(seed: int, random_case: Callable[[int], Case]) -> None:
    """The cached path: detections name a proposal of their image, in random order and more than once."""
    case = random_case(seed)
    truth, image, _, boxes = columns_of(case)
    rng = np.random.default_rng(seed)
    proposals = [np.flatnonzero(image == i) for i in range(truth.num_images)]
    row = rng.integers(len(image), size=3 * len(image))
    image_of, category = image[row], rng.integers(truth.num_categories, size=len(row))
    proposal = np.array([np.flatnonzero(proposals[i] == r)[0] for i, r in zip(image_of, row, strict=True)])

    rles = [to_rle(e["segmentation"], *e["segmentation"]["size"]) for e in case[1]]
    xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    box_tables, mask_tables = [], []
    for i, rows in enumerate(proposals):
        annotations = truth.image_annotations(i)
        box_tables.append(box_iou_table(xyxy[rows], truth.boxes_xywh[annotations]))
        size = truth.annotations.image_heights[i], truth.annotations.image_widths[i]
        masks = np.array([decode(rles[r]) for r in rows], np.bool_).reshape(-1, *size)
        true_masks = np.array([decode(truth.rles[a]) for a in annotations], np.bool_).reshape(-1, *size)
        mask_tables.append(mask_iou_table(masks, true_masks))

    table_start = np.cumsum([0] + [table.size for table in box_tables[:-1]])
    from_boxes, from_masks = (
        table_pairs(
            truth,
            image_of,
            category,
            proposal,
            tables=np.concatenate([table.ravel() for table in tables]),
            table_start=table_start,
        )
        for tables in (box_tables, mask_tables)
    )
    direct = box_pairs(truth, image_of, category, boxes[row])
    assert as_set(from_boxes) == as_set(direct)
    assert as_set(from_masks) == as_set(mask_pairs(truth, image_of, category, [rles[r] for r in row]))
    columns = DetectionColumns(
        image=image_of, category=category, score=rng.random(len(row)), area=(boxes[:, 2] * boxes[:, 3])[row]
    )
    one, other = (evaluate(truth, columns, found, max_dets=300) for found in (from_boxes, direct))
    np.testing.assert_array_equal(one.ap, other.ap)
    np.testing.assert_array_equal(one.recall, other.recall)


def test_box_table_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [3, 3, 3, 9]], np.float32)
    table = box_iou_table(boxes, np.array([[0.0, 0, 10, 10], [10, 0, 5, 10], [3, 3, 0, 6]]))
    np.testing.assert_allclose(table, [[1, 0, 0], [50 / 150, 0.5, 0], [0, 0, 0]])
    assert table.dtype == np.float64
    assert box_iou_table(boxes[:0], np.zeros((3, 4))).shape == (0, 3)


@pytest.mark.parametrize("mask_values", [1, 1000, 1 << 25])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_mask_table_is_exact_in_chunks_of_any_size(
    mask_values: int, as_tensor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_MASK_VALUES", mask_values)
    rng = np.random.default_rng(0)
    masks, others = rng.random((5, 17, 13)) < 0.6, rng.random((3, 17, 13)) < 0.3
    masks[0] = False
    others[0] = False
    expected = [[(m & o).sum() / max(1, (m | o).sum()) for o in others] for m in masks]
    given = (torch.from_numpy(masks), torch.from_numpy(others)) if as_tensor else (masks, others)
    np.testing.assert_array_equal(mask_iou_table(*given), expected)
    np.testing.assert_array_equal(mask_areas(given[0]), masks.sum(axis=(1, 2)))
    assert mask_iou_table(masks[:0], others).shape == (0, 3)
    assert mask_iou_table(masks, others[:0]).shape == (5, 0)


def test_mask_table_counts_beyond_the_whole_numbers_of_float32() -> None:
    masks = torch.ones((1, 4099, 4097), dtype=torch.bool)
    less = masks.clone()
    less[0, 0, 0] = False
    assert mask_iou_table(masks, less)[0, 0] == (4099 * 4097 - 1) / (4099 * 4097)
