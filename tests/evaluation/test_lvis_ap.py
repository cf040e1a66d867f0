"""Worked by hand, against lvis-api, and by laws that any AP obeys."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from lttune.data.lvis import annotations_from_document
from lttune.errors import DataError
from lttune.evaluation import DetectionColumns, GroundTruth, IouPairs, Metrics, box_pairs, evaluate, evaluate_files
from lttune.types import Annotations

Case = tuple[dict[str, Any], list[dict[str, Any]]]
Row = tuple[int, int, float, list[float]]  # image number, category number, score, xywh


def document(
    annotations: list[dict[str, Any]], *, num_images: int = 1, frequencies: str = "f", **image: Any
) -> Annotations:
    """Images 1, 2, ... of 200 x 200 pixels; image fields are those of the first one."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    images = [{"id": i + 1, "height": 200, "width": 200, "file_name": f"{i}.png", **lists} for i in range(num_images)]
    images[0] |= image
    return annotations_from_document(
        {
            "images": images,
            "categories": [
                {"id": c + 1, "name": f"c{c}"} | ({"frequency": f} if f != "-" else {})
                for c, f in enumerate(frequencies)
            ],
            "annotations": [
                {"id": i + 1, "image_id": 1, "category_id": 1, "area": a["bbox"][2] * a["bbox"][3], **a}
                for i, a in enumerate(annotations)
            ],
        },
        "test",
    )


def evaluate_rows(annotations: Annotations, rows: list[Row], *, max_dets: int = 300) -> Metrics:
    ground_truth = GroundTruth(annotations)
    boxes = np.array([row[3] for row in rows], np.float64).reshape(-1, 4)
    columns = DetectionColumns(
        image=np.array([row[0] for row in rows], np.int64),
        category=np.array([row[1] for row in rows], np.int64),
        score=np.array([row[2] for row in rows], np.float64),
        area=boxes[:, 2] * boxes[:, 3],
    )
    pairs = box_pairs(ground_truth, columns.image, columns.category, boxes)
    return evaluate(ground_truth, columns, pairs, max_dets=max_dets)


def rows_of(case: Case) -> tuple[Annotations, list[Row]]:
    annotations = annotations_from_document(case[0], "test")
    number = {int(c): i for i, c in enumerate(annotations.category_ids)}
    rows = [
        (
            int(np.searchsorted(annotations.image_ids, e["image_id"])),
            number.get(e["category_id"], -1),
            e["score"],
            e["bbox"],
        )
        for e in case[1]
    ]
    return annotations, rows


FIRST, SECOND, NOWHERE = [10, 10, 20, 20], [60, 60, 20, 20], [120, 120, 20, 20]


def test_worked_by_hand() -> None:
    # Right, wrong, right: precision 1 up to recall 0.5 (51 of 101 points), then 2/3 (50 points).
    metrics = evaluate_rows(
        document([{"bbox": FIRST}, {"bbox": SECOND}]), [(0, 0, 0.9, FIRST), (0, 0, 0.8, NOWHERE), (0, 0, 0.7, SECOND)]
    )
    summary = metrics.summary()
    assert summary["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
    assert summary["AR"] == pytest.approx(1)
    assert summary["APs"] == summary["AP"] == summary["AP50"] == summary["AP_f"]
    assert math.isnan(summary["APm"])
    assert math.isnan(summary["AP_r"])
    np.testing.assert_allclose(metrics.per_category, [summary["AP"]])


def test_thresholds_by_hand() -> None:
    # 20 x 20 shifted by 4: IoU 16 * 20 / (2 * 400 - 320) = 2/3 reaches 0.5, 0.55, 0.6 and 0.65, four of ten.
    metrics = evaluate_rows(document([{"bbox": FIRST}]), [(0, 0, 0.9, [14, 10, 20, 20])])
    assert metrics.ap[0, :, 0] == pytest.approx([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    assert metrics.summary()["AP"] == pytest.approx(0.4)


@pytest.mark.parametrize(("second_x", "ap50"), [(6, 1.0), (18, 51 / 101)])
def test_of_equal_ious_the_later_annotation_is_taken(second_x: int, ap50: float) -> None:
    # The first detection lies in the middle; the second one overlaps only the left annotation, or only the right one.
    annotations = document([{"bbox": [10, 10, 20, 20]}, {"bbox": [14, 10, 20, 20]}])
    metrics = evaluate_rows(annotations, [(0, 0, 0.9, [12, 10, 20, 20]), (0, 0, 0.8, [second_x, 10, 20, 20])])
    assert metrics.summary()["AP50"] == pytest.approx(ap50)


@pytest.mark.parametrize("block", range(20))
def test_equals_lvis_api(
    block: int,
    random_case: Callable[[int], Case],
    official: Callable[..., tuple[dict[str, float], np.ndarray]],
    tmp_path: Path,
) -> None:
    """200 cases: boxes and masks in turn, with a cap that cuts and one that does not."""
    num_defined = 0
    for seed in range(10 * block, 10 * block + 10):
        iou_type: Any = ("bbox", "segm")[seed % 2]
        max_dets = (4, 300)[seed // 2 % 2]
        case = random_case(seed)
        (tmp_path / "dt.json").write_bytes(orjson.dumps(case[1]))
        report, _ = evaluate_files(
            annotations_from_document(case[0], "test"), tmp_path / "dt.json", iou_type=iou_type, max_dets=max_dets
        )
        metrics, per_category = official(case, iou_type=iou_type, max_dets=max_dets)
        expected = {f"{iou_type}/{name}": 100 * value for name, value in metrics.items()}
        assert report.metrics == pytest.approx(expected, abs=1e-9, nan_ok=True), seed
        np.testing.assert_allclose(list(report.per_category[iou_type].values()), 100 * per_category, atol=1e-9)
        num_defined += np.isfinite(per_category).sum()
    assert num_defined > 5


@pytest.mark.parametrize("seed", range(8))
def test_order_of_rows_only_decides_ties(seed: int, random_case: Callable[[int], Case]) -> None:
    annotations, rows = rows_of(random_case(seed))
    rng = np.random.default_rng(seed)
    scores = rng.permutation(len(rows)) / len(rows)
    rows = [(image, category, score, box) for (image, category, _, box), score in zip(rows, scores, strict=True)]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    one, other = (evaluate_rows(annotations, r, max_dets=5) for r in (rows, shuffled))
    np.testing.assert_array_equal(one.ap, other.ap)
    np.testing.assert_array_equal(one.recall, other.recall)


@pytest.mark.parametrize("seed", range(8))
def test_a_lowest_scored_false_positive_never_lifts_ap(seed: int, random_case: Callable[[int], Case]) -> None:
    annotations, rows = rows_of(random_case(seed))
    before = evaluate_rows(annotations, rows, max_dets=1000).ap
    for image in range(annotations.num_images):
        for category in range(annotations.num_categories):
            after = evaluate_rows(annotations, [*rows, (image, category, -1.0, [-50, -50, 20, 20])], max_dets=1000).ap
            np.testing.assert_array_equal(np.isnan(before), np.isnan(after))
            assert (np.nan_to_num(after) <= np.nan_to_num(before)).all()


@pytest.mark.parametrize("seed", range(4))
def test_only_the_order_of_scores_counts(seed: int, random_case: Callable[[int], Case]) -> None:
    annotations, rows = rows_of(random_case(seed))
    raised = [(image, category, 3 * score**3 - 7, box) for image, category, score, box in rows]
    np.testing.assert_array_equal(evaluate_rows(annotations, rows).ap, evaluate_rows(annotations, raised).ap)


def test_a_crowded_group_is_matched_as_one_by_one() -> None:
    # 40 annotations that all overlap and 200 detections: long turns in one group, against a loop.
    rng = np.random.default_rng(0)
    annotation_boxes = np.concatenate([rng.integers(40, 50, (40, 2)), rng.integers(35, 50, (40, 2))], axis=1)
    boxes = np.concatenate([rng.integers(38, 52, (200, 2)), rng.integers(33, 52, (200, 2))], axis=1)
    annotations = document([{"bbox": box, "ignore": i % 3 == 0} for i, box in enumerate(annotation_boxes.tolist())])
    rows = [(0, 0, 1 - i / 200, box) for i, box in enumerate(boxes.tolist())]
    ground_truth = GroundTruth(annotations)
    zeros = np.zeros(200, np.int64)
    pairs = box_pairs(ground_truth, zeros, zeros, boxes.astype(np.float64))
    overlap = np.zeros((200, 40))
    overlap[pairs.row, pairs.annotation] = pairs.iou
    found = evaluate_rows(annotations, rows).ap[0, :, 0]
    for t, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
        free, num_hits, num_wrong, precision = np.ones(40, bool), 0, 0, []
        for row in overlap:
            for is_ignored in (False, True):
                able = free & (row >= threshold) & (ground_truth.is_ignored[0] == is_ignored)
                if able.any():
                    free[np.flatnonzero(able & (row == row[able].max()))[-1]] = False
                    num_hits += not is_ignored
                    break
            else:
                num_wrong += 1
            precision.append((num_hits, num_hits / max(1, num_hits + num_wrong)))
        counted = (~ground_truth.is_ignored[0]).sum()
        points = [max((p for k, p in precision if k / counted >= r), default=0.0) for r in np.linspace(0, 1, 101)]
        assert found[t] == pytest.approx(np.mean(points), abs=1e-12)


def test_no_detections_give_zero() -> None:
    summary = evaluate_rows(document([{"bbox": FIRST}]), []).summary()
    assert summary["AP"] == summary["AR"] == summary["AP_f"] == 0
    assert math.isnan(summary["APl"])


def test_no_annotations_give_nan() -> None:
    summary = evaluate_rows(document([], neg_category_ids=[1]), [(0, 0, 0.5, FIRST)]).summary()
    assert all(math.isnan(value) for value in summary.values())


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_refuses_scores_that_cannot_be_ranked(score: float) -> None:
    with pytest.raises(DataError, match=f"detection 1 has score {score}"):
        evaluate_rows(document([{"bbox": FIRST}]), [(0, 0, 0.5, FIRST), (0, 0, score, FIRST)])


def test_annotation_id_zero_is_like_any_other() -> None:
    # lvis-api takes its match for a false positive.
    assert evaluate_rows(document([{"bbox": FIRST, "id": 0}]), [(0, 0, 0.5, FIRST)]).summary()["AP"] == pytest.approx(1)


def test_a_category_without_frequency_belongs_to_no_group() -> None:
    annotations = document([{"bbox": FIRST}, {"bbox": SECOND, "category_id": 2}], frequencies="f-")
    summary = evaluate_rows(annotations, [(0, 0, 0.5, FIRST)]).summary()
    assert (summary["AP"], summary["AP_f"]) == pytest.approx((0.5, 1))
    assert math.isnan(summary["AP_r"])


def test_unknown_categories_take_part_in_the_cap_only() -> None:
    annotations = document([{"bbox": FIRST}])
    rows: list[Row] = [(0, -1, 0.9, FIRST), (0, 0, 0.8, FIRST)]
    assert evaluate_rows(annotations, rows, max_dets=2).summary()["AP"] == pytest.approx(1)
    assert evaluate_rows(annotations, rows, max_dets=1).summary()["AP"] == 0


def test_a_float32_score_ranks_as_its_float64_twin(random_case: Callable[[int], Case]) -> None:
    annotations, rows = rows_of(random_case(3))
    ground_truth = GroundTruth(annotations)
    boxes = np.array([row[3] for row in rows], np.float64)
    image, category = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    pairs = box_pairs(ground_truth, image, category, boxes)
    assert isinstance(pairs, IouPairs)
    single = np.array([row[2] for row in rows], np.float32)
    one, other = (
        evaluate(
            ground_truth,
            DetectionColumns(image=image, category=category, score=score, area=boxes[:, 2] * boxes[:, 3]),
            pairs,
            max_dets=300,
        )
        for score in (single, single.astype(np.float64))
    )
    np.testing.assert_array_equal(one.ap, other.ap)
