import math

import numpy as np
import orjson
import pytest

from lttune.evaluation import EvaluationReport, Metrics, headline

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
