import csv
import math
from pathlib import Path

import numpy as np
import orjson
import pytest

from lttune.data.lvis import annotations_from_document
from lttune.evaluation import CategoryTable, EvaluationReport, GroundTruth, Metrics, headline

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP_r", "AP_c", "AP_f", "AR", "ARs", "ARm", "ARl"]


def metrics(scale: float) -> Metrics:
    """Two categories, rare and frequent, each with one AP over all thresholds; nothing medium or large."""
    ap = np.full((4, 10, 2), np.nan)
    ap[:2] = np.array([0.2, 0.6]) * scale
    return Metrics(ap=ap, recall=ap / 2, frequency_group=np.array([0, 2]))


def test_flat_names_in_points() -> None:
    report = EvaluationReport.from_metrics({"bbox": metrics(1), "segm": metrics(0.5)}, category_ids=np.array([4, 11]))
    assert list(report.metrics) == [f"{iou_type}/{name}" for iou_type in ("bbox", "segm") for name in NAMES]
    nan = math.nan
    expected = [40, 40, 40, 40, nan, nan, 20, nan, 60, 20, 20, nan, nan]
    assert list(report.metrics.values())[:13] == pytest.approx(expected, nan_ok=True)
    assert report.metrics["segm/AP_r"] == pytest.approx(10)
    assert report.per_category["bbox"] == pytest.approx({4: 20, 11: 60})


def test_headline_prefers_masks() -> None:
    both = EvaluationReport.from_metrics({"bbox": metrics(1), "segm": metrics(0.5)}, category_ids=np.array([4, 11]))
    boxes = EvaluationReport.from_metrics({"bbox": metrics(1)}, category_ids=np.array([4, 11]))
    nan = math.nan
    assert headline(both.metrics) == pytest.approx({"AP": 20, "AP_r": 10, "AP_c": nan, "AP_f": 30}, nan_ok=True)
    assert headline(boxes.metrics) == pytest.approx({"AP": 40, "AP_r": 20, "AP_c": nan, "AP_f": 60}, nan_ok=True)


def test_json_has_null_for_nan() -> None:
    report = EvaluationReport.from_metrics({"bbox": metrics(1)}, category_ids=np.array([4, 11]))
    read = orjson.loads(orjson.dumps(report.to_json()))
    assert read["metrics"]["bbox/AP_c"] is None
    assert read["metrics"]["bbox/AP"] == report.metrics["bbox/AP"]
    assert read["per_category"] == {"bbox": {"4": pytest.approx(20), "11": pytest.approx(60)}}


def test_fixed_ap_stands_beside_the_13_metrics() -> None:
    report = EvaluationReport.from_metrics(
        {"bbox": metrics(1)}, category_ids=np.array([4, 11]), fixed={"bbox": metrics(0.5)}
    )
    assert len(report.metrics) == 13
    expected = {"bbox/AP_fixed": 20, "bbox/AP_fixed_r": 10, "bbox/AP_fixed_c": math.nan, "bbox/AP_fixed_f": 30}
    assert report.fixed == pytest.approx(expected, nan_ok=True)
    assert report.to_json()["metrics"]["bbox/AP_fixed_c"] is None


def test_a_table_tells_each_category(tmp_path: Path) -> None:
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    image = {"height": 9, "width": 9, "file_name": "1.png", **lists}
    box = {"bbox": [1, 1, 5, 5], "area": 25, "category_id": 4}
    annotations = annotations_from_document(
        {
            "images": [{"id": 1, **image}, {"id": 2, **image}],
            "categories": [{"id": 11, "name": "cup, red", "frequency": "f"}, {"id": 4, "name": "owl"}],
            "annotations": [{"id": i, "image_id": image_id, **box} for i, image_id in enumerate((1, 1, 2))],
        },
        "test",
    )
    ap = np.full((4, 10, 2), np.nan)
    ap[0, :, 0] = np.linspace(0.9, 0, 10)
    found = Metrics(ap=ap, recall=ap, frequency_group=annotations.frequency_group)
    table = CategoryTable.from_metrics(found, GroundTruth(annotations), fixed=found)
    owl, cup = table.rows()
    assert owl == pytest.approx(
        {"id": 4, "name": "owl", "group": "", "images": 2, "annotations": 3}
        | {"AP": 45, "AP50": 90, "AP75": 40, "AR": 45, "AP_fixed": 45}
    )
    assert (cup["group"], cup["annotations"], math.isnan(cup["AP"])) == ("f", 0, True)
    table.write_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["name"] for row in read] == ["owl", "cup, red"]
    assert [row["AP"] for row in read] == [str(owl["AP"]), ""]
