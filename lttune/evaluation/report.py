"""What an evaluation found, under the flat names that trials report, in AP points from 0 to 100."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lttune.evaluation.lvis_ap import Metrics
from lttune.types import IntArray

IouType = Literal["bbox", "segm"]

HEADLINE = ("AP", "AP_r", "AP_c", "AP_f")


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationReport:
    """Metrics of boxes, masks or both; NaN where no annotation counts.

    Attributes:
        metrics: `segm/AP`, `segm/AP50`, `segm/AP75`, `segm/APs`, `segm/APm`, `segm/APl`, `segm/AP_r`, `segm/AP_c`,
            `segm/AP_f`, `segm/AR`, `segm/ARs`, `segm/ARm`, `segm/ARl`, and the same with `bbox/`.
        per_category: AP by IoU type and category id.
    """

    metrics: dict[str, float]
    per_category: dict[IouType, dict[int, float]]

    @classmethod
    def from_metrics(cls, metrics: Mapping[IouType, Metrics], *, category_ids: IntArray) -> "EvaluationReport":
        """The report of one or two IoU types; `category_ids` (C,) as in the annotations."""
        return cls(
            metrics={
                f"{iou_type}/{name}": 100 * value
                for iou_type, found in metrics.items()
                for name, value in found.summary().items()
            },
            per_category={
                iou_type: dict(zip(category_ids.tolist(), (100 * found.per_category).tolist(), strict=True))
                for iou_type, found in metrics.items()
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold: None for NaN, text for category ids."""
        return {
            "metrics": _without_nan(self.metrics),
            "per_category": {iou_type: _without_nan(values) for iou_type, values in self.per_category.items()},
        }


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """`AP`, `AP_r`, `AP_c` and `AP_f` of masks where there are masks, else of boxes."""
    iou_type = "segm" if "segm/AP" in metrics else "bbox"
    return {name: metrics[f"{iou_type}/{name}"] for name in HEADLINE}


def _without_nan(values: Mapping[Any, float]) -> dict[str, float | None]:
    return {str(key): None if math.isnan(value) else value for key, value in values.items()}
