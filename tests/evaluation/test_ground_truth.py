import tracemalloc
from typing import Any

import numpy as np
import pytest

from lttune.data.lvis import annotations_from_document
from lttune.errors import DataError
from lttune.evaluation import GroundTruth
from lttune.evaluation.ground_truth import EVALUATED, NOT_EXHAUSTIVE
from lttune.masks import decode
from lttune.types import Annotations


def annotation(image_id: int, category_id: int, *, area: float = 100.0, **fields: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [1, 2, 10, 10], "area": area, **fields}


def load(annotations: list[dict[str, Any]]) -> Annotations:
    """Images 3 and 7 of 6 x 8 pixels, categories 2, 5 and 9; image 3 lacks 9 for sure and may hold more of 5."""
    return annotations_from_document(
        {
            "images": [
                {
                    "id": image_id,
                    "height": 6,
                    "width": 8,
                    "file_name": f"{image_id}.png",
                    "neg_category_ids": [9] if image_id == 3 else [],
                    "not_exhaustive_category_ids": [5] if image_id == 3 else [],
                }
                for image_id in (7, 3)
            ],
            "categories": [{"id": c, "name": str(c), "frequency": "c"} for c in (2, 5, 9)],
            "annotations": [{"id": 10 + i, **fields} for i, fields in enumerate(annotations)],
        },
        "truth.json",
    )


def test_annotations_are_ordered_by_image_category_and_place_in_the_file() -> None:
    truth = GroundTruth(
        load([annotation(7, 9), annotation(3, 5), annotation(7, 2), annotation(3, 5), annotation(3, 2)])
    )
    assert len(truth) == 5
    assert truth.annotations.annotation_ids[truth.index].tolist() == [14, 11, 13, 12, 10]
    assert truth.image.tolist() == [0, 0, 0, 1, 1]
    assert truth.category.tolist() == [0, 1, 1, 0, 2]
    assert [truth.image_annotations(i).tolist() for i in (0, 1)] == [[0, 1, 2], [3, 4]]
    assert truth.group.tolist() == [0, 1, 1, 2, 3]
    assert truth.group_start.tolist() == [0, 1, 3, 4, 5]
    assert truth.groups(np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2])).tolist() == [1, -1, -1, 3]


def test_federated_labels() -> None:
    truth = GroundTruth(load([annotation(7, 2)]))
    image, category = (table.ravel() for table in np.indices((2, 3)))
    labels = truth.labels(image, category)
    assert (labels & EVALUATED > 0).tolist() == [False, False, True, True, False, False]
    assert (labels & NOT_EXHAUSTIVE > 0).tolist() == [False, True, False, False, False, False]
    assert truth.labels(np.array([0, 1]), np.array([-1, -1])).tolist() == [0, 0]


def test_an_annotation_without_area_does_not_exist() -> None:
    truth = GroundTruth(load([annotation(3, 2, area=0), annotation(3, 2, area=-4), annotation(7, 2, area=0.25)]))
    assert (len(truth), truth.num_dropped) == (1, 2)
    assert (truth.labels(np.array([0, 1]), np.array([0, 0])) & EVALUATED > 0).tolist() == [False, True]


def test_area_ranges_include_both_ends_and_ignored_ones_are_not_counted() -> None:
    areas = [1023.0, 1024.0, 1025.0, 9216.0, 9217.0, 1e10, 1e11]
    truth = GroundTruth(
        load([*(annotation(3, 2, area=a) for a in areas), annotation(3, 2, ignore=1), annotation(3, 5)])
    )
    counted = [[True] * 6 + [False], [True, True] + [False] * 5, [False, True, True, True] + [False] * 3]
    counted.append([False] * 3 + [True] * 3 + [False])
    np.testing.assert_array_equal(~truth.is_ignored[:, :7], counted)
    assert truth.is_ignored[:, 7].all()
    assert truth.num_counted.tolist() == [[6, 1, 0], [2, 1, 0], [3, 0, 0], [3, 0, 0]]


def test_recall_weights_spread_the_101_recalls_over_the_matches() -> None:
    truth = GroundTruth(load([annotation(3, 2), annotation(7, 2), annotation(3, 9), annotation(7, 5, ignore=1)]))
    # Of two annotations the first match reaches recalls 0 to 0.5, the second the other 50; a single one reaches all.
    assert [weights.tolist() for weights in truth.recall_weights] == [[51, 50, 101], [51, 50, 101], [], []]
    assert truth.num_images_of_category.tolist() == [2, 0, 1]


def test_ignored_areas_are_the_bits_of_is_ignored() -> None:
    truth = GroundTruth(load([annotation(3, 2, area=1024.0), annotation(3, 2, ignore=1), annotation(3, 2, area=1e5)]))
    assert truth.ignored_areas.tolist() == [0b1000, 0b1111, 0b0110]


def test_masks_follow_the_order_of_annotations() -> None:
    polygon, runs = [[1, 1, 3, 1, 3, 4, 1, 4]], {"size": [6, 8], "counts": [0, 48]}
    truth = GroundTruth(load([annotation(7, 2, segmentation=polygon), annotation(3, 2, segmentation=runs)]))
    assert [int(decode(rle).sum()) for rle in truth.rles] == [48, 6]
    assert truth.rles is truth.rles


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"truth\.json: annotation 10 has no segmentation; evaluate boxes"),
        ({"segmentation": [[1, 2]]}, r"truth\.json: annotation 10: segmentation has the polygon \[1, 2\]"),
    ],
)
def test_masks_name_the_annotation_that_has_none(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _ = GroundTruth(load([annotation(3, 2, **fields)])).rles


def test_an_index_of_lvis_size_fits_in_200_mb() -> None:
    pairs = np.zeros((0, 2), np.int64)
    annotations = Annotations(
        source="large",
        image_ids=np.arange(20_000),
        image_heights=np.full(20_000, 480),
        image_widths=np.full(20_000, 640),
        file_names=("",) * 20_000,
        category_ids=np.arange(1203),
        category_names=("",) * 1203,
        frequency_group=np.zeros(1203, np.int64),
        annotation_ids=np.arange(50_000),
        annotation_image=np.arange(50_000) % 20_000,
        annotation_category=np.arange(50_000) % 1203,
        boxes_xywh=np.ones((50_000, 4)),
        areas=np.ones(50_000),
        is_ignored=np.zeros(50_000, np.bool_),
        segmentations=[None] * 50_000,
        negative=pairs,
        not_exhaustive=pairs,
    )
    tracemalloc.start()
    try:
        truth = GroundTruth(annotations)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(truth) == 50_000
    assert held < peak < 200e6
